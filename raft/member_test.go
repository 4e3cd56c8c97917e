package raft

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/disk"
)

// TestReplaceNode replaces a node that is lost for good by another one under another id.
func TestReplaceNode(t *testing.T) {
	inBubble(t, 3, 1, smallLog, func(t *testing.T, c *testCluster) {
		c.fill(0, "a")
		lost := c.other(0)
		lost.stop()
		delete(c.nodes, lost.id)
		ctx := context.Background()

		n := c.addNode(4)
		if err := n.host.AddGroup(0, &listMachine{}); err != nil {
			t.Fatal(err)
		}
		c.sleep(2 * time.Second)
		if st, err := n.host.Status(0); err != nil || st.Applied != 0 || st.Term != 0 {
			t.Fatalf("an empty member has become %+v, %v", st, err)
		}
		leader := c.nodes[(func() quarry.NodeID { st, _ := c.nodes[firstOf(c, 4)].host.Status(0); return st.Leader })()]
		change := func(ch Change) error { return leader.host.ChangeMembership(ctx, 0, ch) }
		if err := change(Change{Promote: []quarry.NodeID{4}}); !errors.Is(err, quarry.Invalid) {
			t.Errorf("a stranger is promoted: %v", err)
		}
		if err := change(Change{Learn: []Member{n.host.Self()}}); err != nil {
			t.Fatal(err)
		}
		if err := change(Change{Promote: []quarry.NodeID{4}, Remove: []quarry.NodeID{lost.id}}); err != nil {
			t.Fatal(err)
		}
		if l := c.list(0); len(l) != 40 {
			t.Errorf("the list has %d elements", len(l))
		}
		st, _ := n.host.Status(0)
		if !slices.Contains(st.Voters, 4) || slices.Contains(st.Voters, lost.id) || len(st.Voters) != 3 || len(st.Learners) != 0 || st.Changing {
			t.Errorf("the voters are %v, the learners %v", st.Voters, st.Learners)
		}
		// The majority is one of the three that are left: the other old one may go, too.
		for _, o := range c.nodes {
			if o != leader && o != n {
				o.stop()
			}
		}
		c.put(0, "last")
		// The id of the lost node is spent, but for the lost disk.
		back := Member{Node: lost.id, Disk: quarry.DiskID{77}, Address: "x:1"}
		if err := c.leader(0).host.ChangeMembership(ctx, 0, Change{Learn: []Member{back}}); !errors.Is(err, quarry.Invalid) {
			t.Errorf("a lost id with another disk: %v", err)
		}
	})
}

func firstOf(c *testCluster, but quarry.NodeID) quarry.NodeID {
	for id, n := range c.nodes {
		if id != but && n.host != nil {
			return id
		}
	}
	return 0
}

// TestRemoveLeader has a leader remove itself: it hands over first.
func TestRemoveLeader(t *testing.T) {
	inBubble(t, 3, 1, nil, func(t *testing.T, c *testCluster) {
		c.put(0, "a")
		old := c.leader(0)
		change := Change{Remove: []quarry.NodeID{old.id}}
		if err := old.host.ChangeMembership(context.Background(), 0, change); !errors.Is(err, quarry.NotLeader) {
			t.Fatalf("the leader removes itself: %v", err)
		}
		for c.leader(0) == old {
			c.sleep(time.Millisecond)
		}
		if err := c.leader(0).host.ChangeMembership(context.Background(), 0, change); err != nil {
			t.Fatal(err)
		}
		old.stop()
		c.put(0, "b")
		st, _ := c.leader(0).host.Status(0)
		if len(st.Voters) != 2 || slices.Contains(st.Voters, old.id) {
			t.Errorf("the voters are %v", st.Voters)
		}
		// Who belongs to the group is durable before it counts.
		n := c.leader(0)
		n.c.net.detach(n.id)
		log, state := n.log.Crash(c.rng), n.state.CrashClone(vfs.CrashCloneCfg{})
		n.stop()
		n.log, n.state = log, state
		n.start()
		if st, _ := n.host.Status(0); len(st.Voters) != 2 {
			t.Errorf("after a crash the voters are %v", st.Voters)
		}
		c.put(0, "c")
	})
}

func TestMoveAddress(t *testing.T) {
	inBubble(t, 3, 1, nil, func(t *testing.T, c *testCluster) {
		c.put(0, "a")
		leader, n := c.leader(0), c.other(0)
		m := n.host.Self()
		m.Address = "elsewhere:1"
		if err := leader.host.ChangeMembership(context.Background(), 0, Change{Move: []Member{m}}); err != nil {
			t.Fatal(err)
		}
		c.list(0)
		st, _ := n.host.Status(0)
		if !slices.Contains(st.Members, m) {
			t.Errorf("the members are %v", st.Members)
		}
		m.Disk[0]++
		if err := leader.host.ChangeMembership(context.Background(), 0, Change{Move: []Member{m}}); !errors.Is(err, quarry.Invalid) {
			t.Errorf("a move to another disk: %v", err)
		}
	})
}

// TestWipedNode gives a member empty disks under its old id: it must not vote with what it
// has forgotten, whoever it hears from.
func TestWipedNode(t *testing.T) {
	inBubble(t, 3, 1, nil, func(t *testing.T, c *testCluster) {
		c.put(0, "a")
		n := c.other(0)
		n.stop()
		n.log, n.state = disk.NewMem(), vfs.NewCrashableMem()
		if err := n.open(); err != nil {
			t.Fatal(err)
		}
		if err := n.host.AddGroup(0, &listMachine{}); err != nil {
			t.Fatal(err)
		}
		<-n.host.Done()
		err := n.host.Err()
		if !errors.Is(err, quarry.Permission) || !strings.Contains(err.Error(), "quarry admin master replace") || !strings.Contains(err.Error(), fmt.Sprintf("node %d", n.id)) {
			t.Errorf("the node has stopped because of %v", err)
		}
		// The others do not take its word either.
		n.host, n.stopped = nil, n.host
		e := envelope{from: n.stopped.Self(), to: c.leader(0).id, disk: c.leader(0).host.Self().Disk}
		b := appendEnvelope(nil, &e)
		sealBatch(b)
		if err := c.leader(0).host.Deliver(b); !errors.Is(err, quarry.Permission) {
			t.Errorf("the leader answers a wiped node with %v", err)
		}
		_ = n.stopped.Close()
		c.put(0, "b")
		// With the other follower gone, there is no majority.
		n.log, n.state = disk.NewMem(), vfs.NewCrashableMem()
		for _, o := range c.nodes {
			if o != n && o != c.leader(0) {
				o.stop()
				break
			}
		}
		if err := n.open(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		for _, o := range c.nodes {
			if o.host == nil || o == n {
				continue
			}
			if _, err := o.host.Propose(ctx, 0, []byte("c")); err == nil {
				t.Error("a wiped node has made a majority")
			}
		}
	})
}

// TestEmptyMemberDoesNotVote asks an empty member for its vote.
func TestEmptyMemberDoesNotVote(t *testing.T) {
	inBubble(t, 1, 1, nil, func(t *testing.T, c *testCluster) {
		n := c.addNode(2)
		if err := n.host.AddGroup(5, &listMachine{}); err != nil {
			t.Fatal(err)
		}
		g, _ := n.host.group("", 5)
		for _, typ := range travelling() {
			if typ == pb.MsgApp || typ == pb.MsgHeartbeat {
				continue // the leader may tell it the term
			}
			m := sampleMessage()
			m.Type, m.Entries, m.Reject, m.Context = typ.Enum(), nil, nil, nil
			b := appendEnvelope(nil, &envelope{from: c.nodes[1].host.Self(), to: 2, disk: n.host.Self().Disk})
			b = appendMessage(b, 5, m)
			sealBatch(b)
			err := n.host.Deliver(b)
			c.sleep(10 * time.Millisecond)
			if err != nil {
				t.Errorf("type %v: %v", typ, err)
			}
			if g.term.Load() != 0 {
				t.Errorf("type %v: it is in term %d", typ, g.term.Load())
			}
		}
		if st, err := n.host.Status(5); err != nil || st.Applied != 0 || g.log.hard.vote != 0 {
			t.Errorf("%+v, %v, %v", st, err, g.log.hard)
		}
	})
}

// TestSyncFailure lets a sync of the leader's log fail: the node stops, and says why; the
// others go on, and what was acknowledged is there.
func TestSyncFailure(t *testing.T) {
	inBubble(t, 3, 2, nil, func(t *testing.T, c *testCluster) {
		c.put(0, "a")
		c.put(1, "a")
		n := c.leader(0)
		n.sync = func() error { return syscall.EIO }
		_, err := n.host.Propose(context.Background(), 0, []byte("b"))
		if err != nil && !errors.Is(err, quarry.Unknown) {
			t.Errorf("the proposal ends with %v", err)
		}
		<-n.host.Done()
		if err := n.host.Err(); !errors.Is(err, syscall.EIO) {
			t.Errorf("the node has stopped because of %v", err)
		}
		if _, err := n.host.Propose(context.Background(), 0, []byte("c")); err == nil {
			t.Error("a stopped node takes proposals")
		}
		if err := n.host.View(0, func(Reader) error { return nil }); !errors.Is(err, quarry.Unavailable) {
			t.Errorf("a stopped node is read: %v", err)
		}
		n.stop()
		c.put(0, "d")
		c.put(1, "d")
		if l := c.list(0); l[0] != "a" || l[len(l)-1] != "d" {
			t.Errorf("the list is %v", l)
		}
		n.sync = nil
		n.log = n.log.Crash(c.rng)
		n.state = n.state.CrashClone(vfs.CrashCloneCfg{})
		n.start()
		c.list(0)
	})
}

// panics is a state machine with a bug.
type panics struct{ listMachine }

func (p *panics) Apply(kv KV, index uint64, command []byte) []byte {
	if string(command) == "bug" {
		panic("the machine is broken")
	}
	return p.listMachine.Apply(kv, index, command)
}

func TestPanicStopsNode(t *testing.T) {
	inBubble(t, 1, 1, nil, func(t *testing.T, c *testCluster) {
		n := c.nodes[1]
		if err := n.host.Bootstrap(9, []Member{n.host.Self()}, &panics{}); err != nil {
			t.Fatal(err)
		}
		c.leader(9)
		if _, err := n.host.Propose(context.Background(), 9, []byte("bug")); !errors.Is(err, quarry.Unknown) {
			t.Errorf("the proposal ends with %v", err)
		}
		<-n.host.Done()
		if err := n.host.Err(); err == nil || !strings.Contains(err.Error(), "the machine is broken") || !strings.Contains(err.Error(), "member_test.go") {
			t.Errorf("the node has stopped because of %v", err)
		}
		n.host.store.broken.Store(false) // it is not Pebble's panic: close it, for the bubble's sake
	})
}

// stranger is a state machine of an earlier release, which does not know all commands.
type stranger struct{ listMachine }

func (s *stranger) Apply(kv KV, index uint64, command []byte) []byte {
	if string(command) == "later" {
		panic(quarry.Errorf("apply", quarry.Unsupported, "", "start a later release"))
	}
	return s.listMachine.Apply(kv, index, command)
}

// TestUnknownCommandStopsNode has a node stop, cleanly, at a command of a later release; on
// the same folder a release that knows it goes on.
func TestUnknownCommandStopsNode(t *testing.T) {
	inBubble(t, 1, 1, nil, func(t *testing.T, c *testCluster) {
		n := c.nodes[1]
		if err := n.host.Bootstrap(9, []Member{n.host.Self()}, &stranger{}); err != nil {
			t.Fatal(err)
		}
		c.leader(9)
		if _, err := n.host.Propose(context.Background(), 9, []byte("later")); !errors.Is(err, quarry.Unknown) {
			t.Errorf("the proposal ends with %v", err)
		}
		<-n.host.Done()
		if err := n.host.Err(); !errors.Is(err, quarry.Unsupported) || strings.Contains(err.Error(), "goroutine") {
			t.Errorf("the node has stopped because of %v", err)
		}
		n.stop()
		n.start()
		if l := c.list(9); !slices.Equal(l, []string{"later"}) {
			t.Errorf("the list is %v", l)
		}
	})
}

// TestRefusesToStart damages the folders of a node in the ways that must be noticed.
func TestRefusesToStart(t *testing.T) {
	inBubble(t, 1, 1, smallLog, func(t *testing.T, c *testCluster) {
		n := c.nodes[1]
		c.put(0, "early")
		early := n.state.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: c.rng})
		c.fill(0, "a")
		n.stop()
		log, state := n.log, n.state
		cases := []struct {
			name  string
			kind  quarry.Kind
			spoil func()
		}{
			{"the state is lost", quarry.Corrupt, func() { n.state = vfs.NewCrashableMem() }},
			{"the state is an old one", quarry.Corrupt, func() { n.state = early }},
			{"the log is lost", quarry.Corrupt, func() {
				names, err := n.log.List(journalDir)
				if err != nil {
					t.Fatal(err)
				}
				for _, name := range names {
					if err := n.log.Remove(journalDir + "/" + name); err != nil {
						t.Fatal(err)
					}
				}
			}},
			{"log and state are lost", quarry.Corrupt, func() {
				names, _ := n.log.List(journalDir)
				for _, name := range names {
					_ = n.log.Remove(journalDir + "/" + name)
				}
				n.state = vfs.NewCrashableMem()
			}},
			{"the identity is lost", quarry.Corrupt, func() { _ = n.log.Remove(identityName) }},
			{"the whole log folder is lost", quarry.Corrupt, func() { n.log = disk.NewMem() }},
			{"another node's folder", quarry.Invalid, func() { n.id = 2 }},
			{"another cluster's folder", quarry.WrongCluster, func() { c.config = func(cfg *Config) { cfg.Cluster[0]++ } }},
			{"no address", quarry.Invalid, func() { c.config = func(cfg *Config) { cfg.Address = "" } }},
		}
		for _, tc := range cases {
			n.log = log.Clone()
			n.state = state.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: c.rng})
			n.id, c.config = 1, smallLog
			tc.spoil()
			n.host = nil
			if err := n.open(); !errors.Is(err, tc.kind) {
				t.Errorf("%s: %v", tc.name, err)
			}
		}
		n.id, c.config, n.log, n.state = 1, smallLog, log, state
		n.start()
		if err := n.host.AddGroup(0, &listMachine{}); !errors.Is(err, quarry.Exists) {
			t.Errorf("a group is added twice: %v", err)
		}
		if err := n.host.Bootstrap(0, []Member{n.host.Self()}, &listMachine{}); !errors.Is(err, quarry.Exists) {
			t.Errorf("a group is founded twice: %v", err)
		}
		if l := c.list(0); len(l) != 41 {
			t.Errorf("the list has %d elements", len(l))
		}
		cfg := n.host.cfg
		if _, err := Open(cfg); !errors.Is(err, quarry.Busy) {
			t.Errorf("the folder is opened twice: %v", err)
		}
	})
}

// TestDiskIdentity makes an identity before node and cluster are known.
func TestDiskIdentity(t *testing.T) {
	fs := disk.NewMem()
	id, node, cluster, err := DiskIdentity(fs)
	if err != nil || id.IsZero() || node != 0 || !cluster.IsZero() {
		t.Fatal(id, node, cluster, err)
	}
	again, _, _, err := DiskIdentity(fs)
	if err != nil || again != id {
		t.Error(again, err)
	}
	if other, _, _, _ := DiskIdentity(disk.NewMem()); other == id {
		t.Error("two disks have one identity")
	}
	mine := identity{disk: id}
	if err := mine.claim(fs, 3, testClusterID); err != nil {
		t.Fatal(err)
	}
	if again, node, cluster, err := DiskIdentity(fs); err != nil || again != id || node != 3 || cluster != testClusterID {
		t.Error(again, node, cluster, err)
	}
}

// TestBootstrapAfterCrash crashes a node at any moment of its founding and founds it again.
func TestBootstrapAfterCrash(t *testing.T) {
	inBubble(t, 1, 0, nil, func(t *testing.T, c *testCluster) {
		n := c.nodes[1]
		if err := n.host.AddGroup(0, &listMachine{}); err != nil {
			t.Fatal(err)
		}
		for range 4 {
			n.crash()
			if err := n.open(); err != nil {
				t.Fatal(err)
			}
			err := n.host.Bootstrap(0, []Member{n.host.Self()}, &listMachine{})
			if errors.Is(err, quarry.Exists) {
				err = n.host.AddGroup(0, &listMachine{})
			}
			if err != nil {
				t.Fatal(err)
			}
			c.put(0, "a")
		}
		if l := c.list(0); len(l) != 4 {
			t.Errorf("the list is %v", l)
		}
		for _, voters := range [][]Member{nil, {{Node: 2, Disk: quarry.DiskID{1}, Address: "x:1"}}, {n.host.Self(), n.host.Self()}, {n.host.Self(), {}}} {
			if err := n.host.Bootstrap(1, voters, &listMachine{}); !errors.Is(err, quarry.Invalid) {
				t.Errorf("founded by %v: %v", voters, err)
			}
		}
	})
}

// TestReadsWhileShrinking shrinks a group to one voter, and lets it grow again, while somebody reads
// all the time: no read waits for the answer of a member that has left.
func TestReadsWhileShrinking(t *testing.T) {
	inBubble(t, 3, 1, nil, func(t *testing.T, c *testCluster) {
		c.put(0, "a")
		leader := c.leader(0)
		ctx, stop := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for ctx.Err() == nil {
					_ = leader.host.ReadIndex(ctx, 0)
					_ = clock.Simulated().Sleep(ctx, 100*time.Microsecond)
				}
			})
		}
		for range 5 {
			var others []Member
			remove, promote := Change{}, Change{}
			for _, n := range c.nodes {
				if n != leader {
					others = append(others, n.host.Self())
					remove.Remove, promote.Promote = append(remove.Remove, n.id), append(promote.Promote, n.id)
				}
			}
			for _, change := range []Change{remove, {Learn: others}, promote} {
				if err := leader.host.ChangeMembership(ctx, 0, change); err != nil {
					t.Fatal(err)
				}
				soon, cancel := clock.Simulated().WithTimeout(ctx, time.Second)
				if err := leader.host.ReadIndex(soon, 0); err != nil {
					t.Errorf("after %+v: %v", change, err)
				}
				cancel()
			}
		}
		stop()
		wg.Wait()
	})
}

// TestTooFewAnswerSaysSo ends a removal while it waits for those who may answer yet: it says who does
// not, and nothing of nodes to promote, as there are none.
func TestTooFewAnswerSaysSo(t *testing.T) {
	inBubble(t, 3, 1, nil, func(t *testing.T, c *testCluster) {
		c.put(0, "a")
		leader, other := c.leader(0), c.other(0)
		var dead *testNode
		for _, n := range c.nodes {
			if n != leader && n != other {
				dead = n
			}
		}
		dead.crash()
		c.sleep(5 * time.Second)
		ctx, cancel := clock.Simulated().WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		err := leader.host.ChangeMembership(ctx, 0, Change{Remove: []quarry.NodeID{other.id}})
		if !errors.Is(err, quarry.Unavailable) || !strings.Contains(err.Error(), fmt.Sprintf("nodes [%d] do not answer", dead.id)) {
			t.Errorf("the error is %v", err)
		}
		dead.start()
	})
}
