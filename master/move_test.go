package master

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/meta/slots"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/rpc/route"
)

// movePoints are the points of a move, from BeginLeave until the move is over, at which nodes are
// stopped.
var movePoints = []string{
	"move begins", "leaving", "taking", "batch", "move copied", "closed", "released", "move activates", "expecting",
	"activated", "move ended", "left",
}

// undoPoints are those of a move that is undone.
var undoPoints = []string{"move undone here", "move undone there"}

// router is a client of all masters that goes where the slot map says.
type router struct {
	*testCluster
	*route.Masters
	client *rpc.Client
}

func (c *testCluster) router() *router {
	c.t.Helper()
	r := &router{testCluster: c}
	r.client = rpc.NewClient(rpc.ClientConfig{Network: c.net, Clock: clock.Simulated(), Identity: func() rpc.Identity { return rpc.Identity{Role: rpc.RoleClient} }})
	var addresses []string
	for _, n := range c.nodes {
		addresses = append(addresses, n.address)
	}
	var err error
	r.Masters, err = route.New(route.Options{Addresses: addresses, Clock: clock.Simulated(), Dial: func(a string) (quarry.Master, error) { return r.client.Master(a), nil }})
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

func (r *router) close() {
	_ = r.Masters.Close()
	_ = r.client.Close()
}

// stopAt stops the nodes that lead groups when a move comes to a point for the nth time, and
// starts them again after a while. The function it returns ends that, and tells whether it came
// about.
func (c *testCluster) stopAt(point string, nth int, groups ...quarry.ShardID) (end func() bool) {
	hit, stopped, over, done := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{})
	var count atomic.Int32
	for _, n := range c.nodes {
		f := func(at string) {
			if at != point || count.Add(1) != int32(nth) {
				return
			}
			ctx := n.Master.ctx
			close(hit)
			if slices.Contains(appliedSteps, point) {
				return
			}
			select {
			case <-ctx.Done():
			case <-stopped:
			}
		}
		n.failpoint.Store(&f)
	}
	came := false
	go func() {
		defer close(done)
		select {
		case <-hit:
			came = true
		case <-over:
			return
		}
		var down []*testNode
		for _, g := range groups {
			for _, n := range c.nodes {
				if n.Master != nil && n.Master == c.leaderNow(g) && !slices.Contains(down, n) {
					down = append(down, n)
				}
			}
		}
		for _, n := range down {
			n.stop()
		}
		close(stopped)
		c.sleep(500 * time.Millisecond)
		for _, n := range down {
			n.start()
		}
	}()
	return func() bool {
		close(over)
		<-done
		for _, n := range c.nodes {
			n.failpoint.Store(nil)
		}
		return came
	}
}

// namer makes directories and renames them, each under one Op, in a session that goes where its
// slot goes, until it is stopped.
type namer struct {
	r       *router
	session quarry.SessionID
	dir     quarry.Inode
	made    int
	stop    chan struct{}
	wg      sync.WaitGroup
}

func (r *router) namer(dir quarry.Inode, session quarry.SessionID) *namer {
	n := &namer{r: r, dir: dir, session: session, stop: make(chan struct{})}
	n.wg.Go(func() {
		for sequence := quarry.Sequence(1); ; sequence += 2 {
			select {
			case <-n.stop:
				return
			default:
			}
			if n.made%20 == 0 { // sessions of tests live for seconds only
				if _, err := r.Session(context.Background(), &quarry.SessionRequest{Session: session}); err != nil {
					r.t.Errorf("keep the session: %v", err)
					return
				}
			}
			name := fmt.Sprintf("n%d", n.made)
			op := quarry.Op{Session: session, Sequence: sequence, Oldest: sequence}
			if _, err := r.Make(context.Background(), &quarry.MakeRequest{Op: op, Parent: dir, Name: name, Kind: quarry.KindDir, Placed: true, Slot: dir.Slot()}); err != nil {
				r.t.Errorf("make %s: %v", name, err)
				return
			}
			op.Sequence, op.Oldest = sequence+1, sequence+1
			if _, err := r.Rename(context.Background(), &quarry.RenameRequest{Op: op, Parent: dir, Name: name, ToParent: dir, ToName: name + "x"}); err != nil {
				r.t.Errorf("rename %s: %v", name, err)
				return
			}
			n.made++
			r.sleep(20 * time.Millisecond)
		}
	})
	return n
}

// check stops the namer and looks whether each name is there once.
func (n *namer) check() {
	n.r.t.Helper()
	close(n.stop)
	n.wg.Wait()
	var got []string
	for after := ""; ; {
		reply, err := n.r.List(n.r.t.Context(), &quarry.ListRequest{Dir: n.dir, After: after, Max: 1000})
		if err != nil {
			n.r.t.Fatal(err)
		}
		for _, e := range reply.Entries {
			if after = e.Name; strings.HasPrefix(after, "n") {
				got = append(got, after)
			}
		}
		if !reply.More {
			break
		}
	}
	var want []string
	for i := range n.made {
		want = append(want, fmt.Sprintf("n%dx", i))
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		n.r.t.Errorf("%d names are there, want %d", len(got), len(want))
	}
}

// moved waits until slots are at a shard and nothing of a move is left, and checks that every slot
// is at one shard, at that which the map says.
func (r *router) moved(to quarry.ShardID, set []quarry.SlotRange) {
	r.t.Helper()
	r.until("slots have not moved", func() bool {
		reply, err := r.MoveSlots(r.t.Context(), &quarry.MoveSlotsRequest{To: to, Slots: set})
		return err == nil && reply.Left == 0 && len(reply.Moves) == 0
	})
	r.rest()
}

// rest waits until nothing of moves is left at the shards, and compares their slots.
func (r *router) rest() {
	r.t.Helper()
	all := []quarry.SlotRange{{Last: quarry.Slots - 1}}
	r.until("something is left of a move, or slots are at two shards or at none", func() bool {
		var own []quarry.SlotRange
		n := int64(0)
		for id := quarry.ShardID(1); id <= testShards; id++ {
			m := r.leaderNow(id)
			if m == nil {
				return false
			}
			clean := false
			_ = m.group(id).read(r.t.Context(), func(v meta.View) error {
				st, mine := meta.MovingOf(v), meta.Slots(v)
				clean = st.Leaving == nil && st.Taking == nil && len(st.Remains) == 0
				n += slots.Count(mine)
				own = slots.Join(own, mine)
				for slot := range quarry.Slot(quarry.Slots) {
					if known := m.root.known.Load(); slots.Has(mine, slot) && known.owners[slot] != id {
						clean = false
					}
				}
				return nil
			})
			if !clean {
				return false
			}
		}
		return n == quarry.Slots && slices.Equal(own, all)
	})
}

// totals returns what all shards count.
func (r *router) totals() (n meta.Counters) {
	for id := quarry.ShardID(1); id <= testShards; id++ {
		_ = r.leader(id).group(id).local(func(v meta.View) error {
			t := meta.Totals(v)
			n.Dirs, n.Files, n.Sessions, n.Transactions, n.Intents = n.Dirs+t.Dirs, n.Files+t.Files, n.Sessions+t.Sessions, n.Transactions+t.Transactions, n.Intents+t.Intents
			return nil
		})
	}
	return n
}

// TestMovesSurviveCrashes stops the leaders of the shard that slots leave, of the one they come to,
// of the root group, or of all, at each step of a move, while names are changed in the slots. In
// the end the slots are where they should be, and nothing is lost or left.
func TestMovesSurviveCrashes(t *testing.T) {
	who := map[string][]quarry.ShardID{"source": {1}, "target": {2}, "root": {0}, "all": {1, 2, 0}}
	for _, point := range movePoints {
		for name, groups := range who {
			if name == "root" && !slices.Contains([]string{"move begins", "leaving", "activated", "move ended"}, point) {
				continue // the root group has nothing to say between these
			}
			t.Run(fmt.Sprintf("%s/%s", point, name), func(t *testing.T) {
				moveThroughCrash(t, point, 1, groups)
			})
		}
	}
	t.Run("batch/source/2", func(t *testing.T) { moveThroughCrash(t, "batch", 2, who["source"]) })
	t.Run("batch/all/2", func(t *testing.T) { moveThroughCrash(t, "batch", 2, who["all"]) })
}

func moveThroughCrash(t *testing.T, point string, nth int, groups []quarry.ShardID) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		r := c.router()
		defer r.close()
		call := c.caller()
		for i := range 200 {
			_, err := call.touch(quarry.RootInode, fmt.Sprintf("file-%03d-%s", i, strings.Repeat("x", 200)))
			call.check("make a file", err, 0)
		}
		n := r.namer(quarry.RootInode, c.session(1))
		set := []quarry.SlotRange{{First: 0, Last: 200}, {First: 300, Last: 310}}
		end := c.stopAt(point, nth, groups...)
		r.moved(2, set)
		if !end() {
			t.Errorf("no move comes to %q", point)
		}
		c.sleep(time.Second)
		r.moved(1, set[:1])
		n.check()
		r.rest()
		list, err := r.List(t.Context(), &quarry.ListRequest{Dir: quarry.RootInode, After: "file", Max: 1000})
		if err != nil || len(list.Entries) < 200 {
			t.Errorf("%d entries, %v", len(list.Entries), err)
		}
		if got := r.totals(); got.Files != 200 || got.Dirs != int64(1+n.made) || got.Transactions != 0 || got.Intents != 0 {
			t.Errorf("%d files, %d directories, %d transactions, %d intents; want 200 files, %d directories", got.Files, got.Dirs, got.Transactions, got.Intents, 1+n.made)
		}
	})
}

// TestMovesAreUndone undoes a move that is copying, with leaders stopped on the way; what has come
// is removed again.
func TestMovesAreUndone(t *testing.T) {
	for _, point := range append([]string{""}, undoPoints...) {
		for _, groups := range [][]quarry.ShardID{{1}, {2}, {0}, {1, 2, 0}} {
			t.Run(fmt.Sprintf("%s/%v", point, groups), func(t *testing.T) {
				inBubble(t, 3, func(t *testing.T, c *testCluster) {
					r := c.router()
					defer r.close()
					n := r.namer(quarry.RootInode, c.session(1))
					f := func(at string) {
						if at == "move copied" {
							c.sleep(2 * time.Second)
						}
					}
					for _, n := range c.nodes {
						n.failpoint.Store(&f)
					}
					reply, err := r.MoveSlots(t.Context(), &quarry.MoveSlotsRequest{To: 2, Slots: []quarry.SlotRange{{First: 0, Last: 9}}})
					if err != nil || len(reply.Moves) != 1 {
						t.Fatalf("%+v, %v", reply, err)
					}
					c.sleep(time.Second)
					for _, n := range c.nodes {
						n.failpoint.Store(nil)
					}
					end := c.stopAt(point, 1, groups...)
					if _, err := r.MoveSlots(t.Context(), &quarry.MoveSlotsRequest{Cancel: reply.Moves[0].Move}); err != nil {
						t.Fatal(err)
					}
					r.until("the move is not undone", func() bool {
						reply, err := r.MoveSlots(t.Context(), &quarry.MoveSlotsRequest{})
						return err == nil && len(reply.Moves) == 0
					})
					if came := end(); came != (point != "") {
						t.Errorf("a move comes to %q: %v", point, came)
					}
					n.check()
					r.rest()
					_ = c.leader(1).group(1).local(func(v meta.View) error {
						if !slots.Has(meta.Slots(v), 0) {
							t.Error("the slots have moved")
						}
						return nil
					})
					r.moved(2, []quarry.SlotRange{{First: 0, Last: 9}})
				})
			})
		}
	}
}

// TestClosedSlotsOpenAgain has the leader of the shard that slots are to go to answer no more when
// they have been closed: after a while the move is undone, once, though others hear of it later.
func TestClosedSlotsOpenAgain(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		r := c.router()
		defer r.close()
		closed, silent := make(chan struct{}), atomic.Bool{}
		defer func() {
			silent.Store(false)
			c.sleep(2 * time.Second) // who is asked
		}()
		var undone atomic.Int32
		f := func(at string) {
			switch at {
			case "closed":
				if m := c.leaderNow(1); silent.CompareAndSwap(false, true) {
					close(closed)
					<-m.ctx.Done()
				}
			case "moves asked":
				for silent.Load() && c.leaderNow(2) != nil {
					c.sleep(time.Second)
				}
			case "move undone there":
				undone.Add(1)
			}
		}
		for _, n := range c.nodes {
			n.failpoint.Store(&f)
		}
		set := []quarry.SlotRange{{First: 0, Last: 9}}
		if _, err := r.MoveSlots(t.Context(), &quarry.MoveSlotsRequest{To: 2, Slots: set, Balance: quarry.SwitchOff}); err != nil {
			t.Fatal(err)
		}
		<-closed
		for _, n := range c.nodes {
			if n.Master == c.leaderNow(1) { // its successor does not release them before it has asked
				n.stop()
				n.start()
				n.failpoint.Store(&f)
				break
			}
		}
		for _, want := range []bool{true, false} {
			r.until("closed slots stay closed", func() (is bool) {
				if m := c.leaderNow(1); m != nil {
					_ = m.group(1).local(func(v meta.View) error {
						l := meta.MovingOf(v).Leaving
						is = (l != nil && l.Closed) == want
						return nil
					})
				}
				return is
			})
		}
		c.sleep(5 * time.Second)
		for _, n := range c.nodes {
			n.failpoint.Store(nil)
		}
		silent.Store(false)
		if n := undone.Load(); n != 1 {
			t.Errorf("the move was undone %d times", n)
		}
		r.rest()
		r.moved(2, set)
	})
}

// TestStrangersAreFreed moves a slot with a chunk away from the session that owns it: the chunk
// stays while the session lives at the other shard, and is freed when that is over.
func TestStrangersAreFreed(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		r := c.router()
		defer r.close()
		session := c.session(1)
		const slot = 9
		sh := c.leader(1).group(1)
		reserved, err := sh.propose(t.Context(), quarry.Op{}, &meta.ReserveHandles{Term: sh.lead.Load().number, Count: 1})
		if err != nil {
			t.Fatal(err)
		}
		handle := quarry.MakeHandle(slot, reserved.Range.First)
		op := quarry.Op{Session: session, Sequence: 1, Oldest: 1}
		if _, err := sh.propose(t.Context(), op, &meta.OpenOwned{Chunks: []meta.NewChunk{{
			Handle: handle, Wanted: 1, Members: []meta.NewMember{{Server: 1, Incarnation: 1, Disk: quarry.DiskID{1}}},
		}}}); err != nil {
			t.Fatal(err)
		}
		r.moved(2, []quarry.SlotRange{{First: slot, Last: slot}})
		owner := func() (owner quarry.SessionID) {
			err := c.leader(2).group(2).read(t.Context(), func(v meta.View) error {
				rec, err := meta.ChunkOf(v, handle)
				if err == nil {
					owner = rec.Owner
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return owner
		}
		for range 4 {
			c.sleep(3 * time.Second)
			if _, err := r.Session(t.Context(), &quarry.SessionRequest{Session: session}); err != nil {
				t.Fatal(err)
			}
			if owner() != session {
				t.Fatal("a chunk was taken from a session that lives")
			}
		}
		if _, err := r.Session(t.Context(), &quarry.SessionRequest{Session: session, Close: true}); err != nil {
			t.Fatal(err)
		}
		r.until("the chunk of a session that is over stays", func() bool { return owner() == 0 })
	})
}
