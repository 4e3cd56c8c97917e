package master

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/meta/root"
	"github.com/quarryfs/quarry/raft"
)

// farSlot is a slot of shard 2; the root directory is in shard 1.
const farSlot = 3000

// caller is a client of both shards, which asks until it has an answer.
type caller struct {
	*testCluster
	sessions map[quarry.ShardID]quarry.SessionID
	sequence quarry.Sequence
	crashes  int // that came about
}

func (c *testCluster) caller() *caller {
	return &caller{testCluster: c, sessions: map[quarry.ShardID]quarry.SessionID{}}
}

func shardOf(slot quarry.Slot) quarry.ShardID {
	return quarry.ShardID(1 + int(slot)*testShards/quarry.Slots)
}

// once does an operation at the shard of a directory, under one Op, however often it must ask.
func (c *caller) once(dir quarry.Inode, do func(m *Master, op quarry.Op) error) error {
	c.t.Helper()
	id := shardOf(dir.Slot())
	c.keep(id)
	c.sequence++
	op := quarry.Op{Session: c.sessions[id], Sequence: c.sequence, Oldest: c.sequence}
	for range 400 {
		var err error
		if m := c.leaderNow(id); m != nil {
			err = do(m, op)
			switch quarry.KindOf(err) {
			case quarry.NotLeader, quarry.Unavailable, quarry.Busy:
			default:
				return err
			}
		}
		c.sleep(50 * time.Millisecond)
	}
	c.t.Fatalf("an operation has no answer")
	return nil
}

// keep sees to it that the caller has a session at a shard that lives: the tests' sessions do so for
// seconds only. Nodes may be stopped meanwhile.
func (c *caller) keep(id quarry.ShardID) {
	c.t.Helper()
	c.until("there is no session", func() bool {
		m := c.leaderNow(id)
		if m == nil {
			return false
		}
		reply, err := m.Session(c.t.Context(), &quarry.SessionRequest{Shard: id, Session: c.sessions[id]})
		switch {
		case err != nil:
			c.sessions[id] = 0
		case c.sessions[id] == 0:
			c.sessions[id] = reply.Session
		}
		return err == nil
	})
}

// leaderNow returns the master in office for a group, or nil.
func (c *testCluster) leaderNow(id quarry.ShardID) *Master {
	for _, n := range c.nodes {
		if m := n.present.Load(); m != nil && leads(m, id) {
			return m
		}
	}
	return nil
}

func (c *caller) mkdir(parent quarry.Inode, name string, slot quarry.Slot) (dir quarry.Inode, err error) {
	err = c.once(parent, func(m *Master, op quarry.Op) error {
		r, err := m.change(c.t.Context(), "make", parent, op, &meta.Make{Parent: parent, Name: name, Kind: quarry.KindDir, Slot: slot})
		if err == nil {
			dir = r.Attr.Inode
		}
		return err
	})
	return dir, err
}

func (c *caller) touch(parent quarry.Inode, name string) (file quarry.Inode, err error) {
	err = c.once(parent, func(m *Master, op quarry.Op) error {
		r, err := m.Make(c.t.Context(), &quarry.MakeRequest{Op: op, Parent: parent, Name: name, Kind: quarry.KindFile})
		if err == nil {
			file = r.Attr.Inode
		}
		return err
	})
	return file, err
}

func (c *caller) mv(parent quarry.Inode, name string, to quarry.Inode, toName string) error {
	return c.once(parent, func(m *Master, op quarry.Op) error {
		_, err := m.Rename(c.t.Context(), &quarry.RenameRequest{Op: op, Parent: parent, Name: name, ToParent: to, ToName: toName, Replace: true})
		return err
	})
}

func (c *caller) rm(parent quarry.Inode, name string, dir bool) error {
	return c.once(parent, func(m *Master, op quarry.Op) error {
		return m.Remove(c.t.Context(), &quarry.RemoveRequest{Op: op, Parent: parent, Name: name, Dir: dir})
	})
}

// find returns what an entry leads to; 0 if there is none.
func (c *caller) find(dir quarry.Inode, name string) (found quarry.Inode) {
	c.t.Helper()
	c.until("nobody says what an entry is", func() bool {
		m := c.leaderNow(shardOf(dir.Slot()))
		if m == nil {
			return false
		}
		ctx, cancel := clock.Simulated().WithTimeout(c.t.Context(), 5*time.Second)
		defer cancel()
		r, err := m.Lookup(ctx, &quarry.LookupRequest{From: dir, Path: name})
		if err == nil {
			found = r.Attr.Inode
		} else {
			found = 0
		}
		return err == nil || quarry.KindOf(err) == quarry.NotFound
	})
	return found
}

// clean waits until no transaction has left anything, and checks that entries and inodes agree.
func (c *caller) clean() {
	c.t.Helper()
	c.until("transactions have left something", func() bool {
		for id := quarry.ShardID(1); id <= testShards; id++ {
			n := meta.Counters{Transactions: 1}
			if m := c.leaderNow(id); m != nil {
				_ = m.group(id).local(func(v meta.View) error {
					n = meta.Totals(v)
					return nil
				})
			}
			if n.Transactions != 0 || n.Intents != 0 {
				return false
			}
		}
		m := c.leaderNow(quarry.RootShard)
		if m == nil {
			return false
		}
		var holder meta.TxID = 1
		_ = m.host.View(quarry.RootShard, func(kv raft.Reader) error {
			holder = root.OrderHolder(kv)
			return nil
		})
		return holder == 0
	})
	var dirs, files int64
	c.count(quarry.RootInode, &dirs, &files)
	var n meta.Counters
	for id := quarry.ShardID(1); id <= testShards; id++ {
		_ = c.leader(id).group(id).local(func(v meta.View) error {
			t := meta.Totals(v)
			n.Dirs += t.Dirs
			n.Files += t.Files
			return nil
		})
	}
	if n.Dirs != dirs || n.Files != files {
		c.t.Errorf("there are %d directories and %d files, and names for %d and %d", n.Dirs, n.Files, dirs, files)
	}
}

// count counts what has a name below a directory.
func (c *caller) count(dir quarry.Inode, dirs, files *int64) {
	c.t.Helper()
	*dirs++
	r, err := c.leader(shardOf(dir.Slot())).List(c.t.Context(), &quarry.ListRequest{Dir: dir, Max: 100})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range r.Entries {
		if e.Attr.Kind == quarry.KindDir {
			c.count(e.Attr.Inode, dirs, files)
		} else {
			*files++
		}
	}
}

// check fails the test unless err is of a kind.
func (c *caller) check(what string, err error, kind quarry.Kind) {
	c.t.Helper()
	if quarry.KindOf(err) != kind {
		c.t.Fatalf("%s: %v, want kind %d", what, err, kind)
	}
}

// Every change of names between two shards, and what is refused.
func TestNamesAcrossShards(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, cluster *testCluster) {
		c := cluster.caller()
		far, err := c.mkdir(quarry.RootInode, "far", farSlot)
		c.check("make far", err, 0)
		if far.Slot() != farSlot || c.find(quarry.RootInode, "far") != far {
			t.Fatalf("far is %v", far)
		}
		near, err := c.mkdir(quarry.RootInode, "near", 1)
		c.check("make near", err, 0)
		back, err := c.mkdir(far, "back", 2)
		c.check("make back", err, 0)

		file, err := c.touch(near, "f")
		c.check("make a file", err, 0)
		c.check("move it away", c.mv(near, "f", far, "g"), 0)
		if c.find(near, "f") != 0 || c.find(far, "g") != file {
			t.Fatalf("f is %v, g is %v, the file %v", c.find(near, "f"), c.find(far, "g"), file)
		}
		c.check("rename it there", c.mv(far, "g", far, "h"), 0)
		other, err := c.touch(near, "f")
		c.check("make another file", err, 0)
		c.check("replace it", c.mv(near, "f", far, "h"), 0)
		if c.find(far, "h") != other {
			t.Fatal("the file was not replaced")
		}
		c.check("remove it", c.rm(far, "h", false), 0)
		c.check("remove it again", c.rm(far, "h", false), quarry.NotFound)

		c.check("move a directory below itself", c.mv(quarry.RootInode, "far", back, "x"), quarry.Invalid)
		c.check("move a directory away", c.mv(far, "back", near, "b"), 0)
		c.check("move a directory of this shard", c.mv(near, "b", quarry.RootInode, "b"), 0)
		c.check("move far below it", c.mv(quarry.RootInode, "far", back, "far"), 0)
		c.check("remove what is not empty", c.rm(quarry.RootInode, "b", true), quarry.NotEmpty)
		if _, err := c.touch(far, "last"); err != nil {
			t.Fatal(err)
		}
		c.check("remove what is not empty, elsewhere", c.rm(back, "far", true), quarry.NotEmpty)
		c.check("empty it", c.rm(far, "last", false), 0)
		c.check("remove a directory elsewhere", c.rm(back, "far", true), 0)
		_, err = c.touch(far, "late")
		c.check("make a file in it", err, quarry.NotFound)
		c.check("remove b", c.rm(quarry.RootInode, "b", true), 0)
		c.clean()
	})
}

// crashPoints are the points of a transaction at which nodes are stopped.
var crashPoints = []string{"begun", "ordered", "prepared", "part", "part applied", "decide", "decided", "told", "finished", "forgotten"}

// TestCrashesAcrossShards stops the coordinator's node, a participant's, or both, at each step of
// each operation. The operation is asked for again under its Op: it happens once, and in the
// end nothing is left of any transaction.
func TestCrashesAcrossShards(t *testing.T) {
	for _, point := range crashPoints {
		for _, who := range []string{"coordinator", "participant", "both"} {
			for nth := 1; nth <= 2; nth++ {
				t.Run(fmt.Sprintf("%s/%s/%d", point, who, nth), func(t *testing.T) {
					crashAcrossShards(t, point, who, nth)
				})
			}
		}
	}
}

func crashAcrossShards(t *testing.T, point, who string, nth int) {
	inBubble(t, 3, func(t *testing.T, cluster *testCluster) {
		c := cluster.caller()
		far, err := c.mkdir(quarry.RootInode, "far", farSlot)
		c.check("make far", err, 0)
		file, err := c.touch(quarry.RootInode, "f")
		c.check("make a file", err, 0)
		dir, err := c.mkdir(quarry.RootInode, "d", 5)
		c.check("make a directory", err, 0)

		c.crashed(point, who, nth, func() { c.check("move a file", c.mv(quarry.RootInode, "f", far, "f"), 0) })
		if c.find(quarry.RootInode, "f") != 0 || c.find(far, "f") != file {
			t.Fatalf("the file is %v and %v", c.find(quarry.RootInode, "f"), c.find(far, "f"))
		}
		c.crashed(point, who, nth, func() { c.check("move a directory", c.mv(quarry.RootInode, "d", far, "d"), 0) })
		if c.find(quarry.RootInode, "d") != 0 || c.find(far, "d") != dir {
			t.Fatalf("the directory is %v and %v", c.find(quarry.RootInode, "d"), c.find(far, "d"))
		}
		var made quarry.Inode
		c.crashed(point, who, nth, func() {
			made, err = c.mkdir(quarry.RootInode, "new", farSlot)
			c.check("make a directory elsewhere", err, 0)
		})
		if c.find(quarry.RootInode, "new") != made {
			t.Fatalf("the new directory is %v, not %v", c.find(quarry.RootInode, "new"), made)
		}
		c.crashed(point, who, nth, func() { c.check("remove a directory", c.rm(quarry.RootInode, "new", true), 0) })
		c.crashed(point, who, nth, func() { c.check("remove a file", c.rm(far, "f", false), 0) })
		if c.find(quarry.RootInode, "new") != 0 || c.find(far, "f") != 0 {
			t.Fatal("what was removed is there")
		}
		c.clean() // the file's shard has heard of it
		c.crashed(point, who, nth, func() { c.check("bring the file back", c.undelete(far, "back", file), 0) })
		if c.find(far, "back") != file || !c.there(file) {
			t.Fatalf("the file is %v, and there: %v", c.find(far, "back"), c.there(file))
		}
		if nth == 1 && c.crashes == 0 {
			t.Errorf("no transaction comes to %q", point)
		}
		c.clean()
	})
}

// crashed does an operation during which nodes stop when the nth transaction comes to a point.
// They are started again.
func (c *caller) crashed(point, who string, nth int, do func()) {
	c.t.Helper()
	hit, stopped := make(chan struct{}), make(chan struct{})
	var count atomic.Int32
	hang := func(n *testNode) func(string) {
		return func(at string) {
			if at != point {
				return
			}
			if count.Add(1) != int32(nth) {
				return
			}
			ctx := n.Master.ctx
			close(hit)
			select {
			case <-ctx.Done():
			case <-stopped: // it was another node: this one goes on
			}
		}
	}
	for _, n := range c.nodes {
		f := hang(n)
		n.failpoint.Store(&f)
	}
	over := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-hit:
			c.crashes++
		case <-over:
			return
		}
		var down []*testNode
		first, second := c.leaderNow(1), c.leaderNow(2)
		for _, n := range c.nodes {
			if n.Master == first && who != "participant" || n.Master == second && who != "coordinator" {
				down = append(down, n)
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
	do()
	c.sleep(3 * time.Second) // it may still be finishing, and come to its point
	close(over)
	<-done
	for _, n := range c.nodes {
		n.failpoint.Store(nil)
	}
}

// hold has transactions wait at a point for some time.
func (c *caller) hold(point string, d time.Duration) {
	f := func(at string) {
		if at == point {
			c.sleep(d)
		}
	}
	for _, n := range c.nodes {
		n.failpoint.Store(&f)
	}
}

// Between the decision and its last part, both names are as they will be.
func TestReadersMeetIntents(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, cluster *testCluster) {
		c := cluster.caller()
		far, err := c.mkdir(quarry.RootInode, "far", farSlot)
		c.check("make far", err, 0)
		file, err := c.touch(quarry.RootInode, "f")
		c.check("make a file", err, 0)
		old, err := c.touch(far, "f")
		c.check("make another", err, 0)
		c.clean()

		c.hold("told", 5*time.Second)
		begun := time.Now()
		c.check("move it", c.mv(quarry.RootInode, "f", far, "f"), 0)
		if c.find(quarry.RootInode, "f") != 0 || c.find(far, "f") != file {
			t.Errorf("the file is %v and %v, not %v", c.find(quarry.RootInode, "f"), c.find(far, "f"), file)
		}
		if got := names(t, c.leader(2), far); !slices.Equal(got, []string{"f"}) {
			t.Errorf("far has %q", got)
		}
		if time.Since(begun) > time.Second {
			t.Error("readers have waited for the parts")
		}
		c.clean()

		c.hold("prepared", time.Second)
		done := make(chan error)
		go func() { done <- c.mv(far, "f", quarry.RootInode, "g") }()
		c.sleep(1500 * time.Millisecond) // the entry that is to come is prepared, and not decided
		c.quick("an undecided rename hides nothing and shows nothing", func() {
			if c.find(quarry.RootInode, "g") != 0 || c.find(far, "f") != file {
				t.Errorf("the file is %v and %v, not %v", c.find(quarry.RootInode, "g"), c.find(far, "f"), file)
			}
		})
		c.check("move it back", <-done, 0)
		if old == file || c.find(quarry.RootInode, "g") != file {
			t.Error("the file is not back")
		}
		c.clean()
	})
}

// quick fails the test if something takes a moment.
func (c *caller) quick(what string, do func()) {
	c.t.Helper()
	begun := time.Now()
	do()
	if d := time.Since(begun); d > 200*time.Millisecond {
		c.t.Errorf("%s: it took %v", what, d)
	}
}

// Two directories are moved into each other at the same time: one of them is refused.
func TestDirectoriesMovedIntoEachOther(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, cluster *testCluster) {
		c, other := cluster.caller(), cluster.caller()
		near, err := c.mkdir(quarry.RootInode, "near", 1)
		c.check("make near", err, 0)
		in, err := c.mkdir(near, "in", farSlot)
		c.check("make in", err, 0)
		far, err := c.mkdir(quarry.RootInode, "far", farSlot)
		c.check("make far", err, 0)
		c.clean()
		c.hold("ordered", time.Second)
		done := make(chan error)
		go func() { done <- c.mv(quarry.RootInode, "near", far, "near") }()
		second := other.mv(quarry.RootInode, "far", in, "far")
		first := <-done
		if (first == nil) == (second == nil) || first != nil && quarry.KindOf(first) != quarry.Invalid || second != nil && quarry.KindOf(second) != quarry.Invalid {
			t.Errorf("near into far: %v; far into near: %v", first, second)
		}
		c.clean()
	})
}

// TestManyWaitForTheirTurn has directories moved at the same time: those that wait cost the root
// group's log next to nothing.
func TestManyWaitForTheirTurn(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, cluster *testCluster) {
		c := cluster.caller()
		far, err := c.mkdir(quarry.RootInode, "far", farSlot)
		c.check("make far", err, 0)
		movers := make([]*caller, 20)
		for i := range movers {
			movers[i] = cluster.caller()
			_, err := movers[i].mkdir(quarry.RootInode, fmt.Sprint(i), 5)
			c.check("make a directory", err, 0)
		}
		c.clean()
		c.hold("ordered", 100*time.Millisecond)
		entries := func() uint64 {
			st, err := c.leader(quarry.RootShard).host.Status(quarry.RootShard)
			c.check("status", err, 0)
			return st.Applied
		}
		before := entries()
		var movings sync.WaitGroup
		for i, mover := range movers {
			movings.Go(func() {
				mover.check("move it", mover.mv(quarry.RootInode, fmt.Sprint(i), far, fmt.Sprint(i)), 0)
			})
		}
		movings.Wait()
		if n := entries() - before; n > 16*uint64(len(movers)) {
			t.Errorf("%d moves took %d entries of the log", len(movers), n)
		}
		c.clean()
	})
}

// Two renames that cross each other, at the same moment and with all steps equally long, come
// both about: they do not give up for each other for ever.
func TestRenamesThatCross(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, cluster *testCluster) {
		c, other := cluster.caller(), cluster.caller()
		far, err := c.mkdir(quarry.RootInode, "far", farSlot)
		c.check("make far", err, 0)
		for range 3 {
			_, err = c.touch(quarry.RootInode, "a")
			c.check("make a file", err, 0)
			_, err = other.touch(far, "x")
			c.check("make another", err, 0)
			c.clean()
			step := func(at string) {
				if at == "begun" || at == "decide" {
					c.sleep(5 * time.Millisecond)
				}
			}
			for _, n := range c.nodes {
				n.failpoint.Store(&step)
			}
			begun := time.Now()
			done := make(chan error)
			go func() { done <- c.mv(quarry.RootInode, "a", far, "x") }()
			second := other.mv(far, "x", quarry.RootInode, "a")
			c.check("there", <-done, 0)
			c.check("and back", second, 0)
			if d := time.Since(begun); d > 3*time.Second {
				t.Errorf("they took %v", d)
			}
			for _, n := range c.nodes {
				n.failpoint.Store(nil)
			}
			a, x := c.find(quarry.RootInode, "a"), c.find(far, "x")
			if (a == 0) == (x == 0) {
				t.Errorf("the files are %v and %v", a, x)
			}
			if a != 0 {
				c.check("remove it", c.rm(quarry.RootInode, "a", false), 0)
			} else {
				c.check("remove it", c.rm(far, "x", false), 0)
			}
		}
		c.clean()
	})
}
