package master

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/rpc"
)

// change changes a group, as an operator does: again, for as long as it is too early.
func (c *testCluster) change(id quarry.ShardID, gone []quarry.NodeID, came []quarry.MasterNode) []quarry.MasterNode {
	c.t.Helper()
	var last error
	c.until(fmt.Sprintf("group %d is not changed", id), func() bool {
		reply, err := c.leader(id).Replace(c.t.Context(), &quarry.ReplaceRequest{Shard: id, Gone: gone, New: came})
		if err == nil {
			came = reply.New
		}
		last = err
		switch quarry.KindOf(err) {
		case quarry.Invalid, quarry.Exists, quarry.Permission:
			c.t.Fatalf("group %d: %v", id, err)
		}
		return err == nil
	})
	if last != nil {
		c.t.Fatal(last)
	}
	return came
}

// enlarge adds masters to all groups.
func (c *testCluster) enlarge(fresh ...*testNode) {
	c.t.Helper()
	var came []quarry.MasterNode
	for _, n := range fresh {
		came = append(came, quarry.MasterNode{Disk: n.disk, Address: n.address})
	}
	for id := range quarry.ShardID(testShards + 1) {
		came = c.change(id, nil, came)
	}
}

// shrink removes masters from all groups, the root group last.
func (c *testCluster) shrink(gone ...quarry.NodeID) {
	c.t.Helper()
	for id := quarry.ShardID(testShards); ; id-- {
		c.change(id, gone, nil)
		if id == quarry.RootShard {
			return
		}
	}
}

// voters fails the test unless the voters of all groups are these.
func (c *testCluster) voters(want ...quarry.NodeID) {
	c.t.Helper()
	for id := range quarry.ShardID(testShards + 1) {
		st, err := c.leader(id).host.Status(id)
		slices.Sort(st.Voters)
		if err != nil || !slices.Equal(st.Voters, want) || len(st.Learners) != 0 || st.Changing {
			c.t.Fatalf("group %d: %+v, %v, want the voters %v", id, st, err, want)
		}
	}
}

// gone waits until a node has ended because it was removed, and checks that it refuses to start
// again from its folder.
func (c *testCluster) gone(n *testNode) {
	c.t.Helper()
	c.until("the master that was removed goes on", func() bool {
		select {
		case <-n.Done():
			return true
		default:
			return false
		}
	})
	said := fmt.Sprintf("was node %d of cluster", n.node)
	if err := n.Err(); !errors.Is(err, quarry.Permission) || !strings.Contains(err.Error(), said) {
		c.t.Fatalf("it ended with %v", err)
	}
	n.stop()
	if _, err := Open(Config{Folder: n.folder, StateFS: n.state, StateDir: "state", Address: n.address, Client: n.client, Clock: clock.Simulated(), Servers: func(quarry.Member) quarry.ChunkServer { return nil }}); !errors.Is(err, quarry.Permission) || !strings.Contains(err.Error(), said) {
		c.t.Fatalf("started again: %v", err)
	}
}

// The masters grow from one to five and shrink to one that was not there in the beginning, while
// names are made all the time. All that were removed say so and end, also one that was dead when
// it was removed.
func TestGrowAndShrink(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *testCluster) {
		s := c.session(1)
		made := 0
		make := func() {
			t.Helper()
			made++
			op := quarry.Op{Session: s, Sequence: quarry.Sequence(made), Oldest: quarry.Sequence(made)}
			c.until("nothing can be made", func() bool {
				_, err := c.leader(1).Make(t.Context(), &quarry.MakeRequest{Op: op, Parent: quarry.RootInode, Name: fmt.Sprintf("%03d", made), Kind: quarry.KindFile})
				return err == nil
			})
		}
		make()
		c.enlarge(c.add(), c.add())
		c.voters(1, 2, 3)
		make()
		c.enlarge(c.add(), c.add())
		c.voters(1, 2, 3, 4, 5)
		make()
		for id := range quarry.ShardID(testShards + 1) { // it must hand all of them over
			c.lead(id, c.nodes[0])
		}
		c.nodes[1].stop() // a dead one goes, too
		c.shrink(1, 2)
		c.voters(3, 4, 5)
		make()
		c.gone(c.nodes[0])
		c.nodes[1].start()
		c.gone(c.nodes[1])
		c.shrink(3, 4)
		c.voters(5)
		make()
		c.gone(c.nodes[2])
		c.gone(c.nodes[3])
		if got := names(t, c.nodes[4], quarry.RootInode); len(got) != made {
			t.Fatalf("of %d names there are %q", made, got)
		}
		_, err := c.nodes[4].Replace(t.Context(), &quarry.ReplaceRequest{Shard: 1, Gone: []quarry.NodeID{5}})
		is(t, err, quarry.Invalid)
		back := quarry.MasterNode{Node: 4, Disk: quarry.DiskID{44}, Address: c.nodes[3].address}
		_, err = c.nodes[4].Replace(t.Context(), &quarry.ReplaceRequest{Shard: 1, New: []quarry.MasterNode{back}})
		is(t, err, quarry.Invalid)
	})
}

// A change that would leave no majority that lives is refused by every group, and nothing of it
// has happened.
func TestNoLivingMajority(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		dead := c.nodes[2]
		dead.stop()
		c.sleep(2 * time.Second) // for so long the leaders take it for alive
		for id := range quarry.ShardID(testShards + 1) {
			other := quarry.NodeID(1)
			if c.leader(id).node == 1 {
				other = 2
			}
			_, err := c.leader(id).Replace(t.Context(), &quarry.ReplaceRequest{Shard: id, Gone: []quarry.NodeID{other}})
			if id == quarry.RootShard {
				is(t, err, quarry.Busy) // it is the last
				continue
			}
			is(t, err, quarry.Invalid)
			if !strings.Contains(err.Error(), "nodes [3] do not answer") {
				t.Errorf("the refusal does not name the one that is silent: %v", err)
			}
		}
		c.voters(1, 2, 3)
		c.shrink(3)
		c.voters(1, 2)
	})
}

// A new master dies while it catches up: the group serves on, and waits for it; it comes back and
// the same change finishes, or it is removed and the change is given up.
func TestNewMasterDies(t *testing.T) {
	for _, back := range []bool{true, false} {
		t.Run(fmt.Sprintf("back=%v", back), func(t *testing.T) {
			inBubble(t, 3, func(t *testing.T, c *testCluster) {
				one, two := c.add(), c.add()
				came := []quarry.MasterNode{{Disk: one.disk, Address: one.address}, {Disk: two.disk, Address: two.address}}
				came = c.change(quarry.RootShard, nil, came)
				two.stop()
				for range 2 {
					_, err := c.leader(1).Replace(t.Context(), &quarry.ReplaceRequest{Shard: 1, New: came})
					is(t, err, quarry.Unavailable) // it cannot be invited
				}
				if back {
					two.start()
					c.enlarge(one, two)
					c.voters(1, 2, 3, 4, 5)
					return
				}
				c.shrink(5)
				c.enlarge(one)
				c.voters(1, 2, 3, 4)
				two.start()
				c.gone(two)
			})
		})
	}
}

// The leader dies in the middle of a change of several voters: whoever leads next has it finished,
// and the change said again succeeds.
func TestLeaderDiesInJointChange(t *testing.T) {
	for after := range 6 {
		inBubble(t, 3, func(t *testing.T, c *testCluster) {
			one, two := c.add(), c.add()
			came := []quarry.MasterNode{{Disk: one.disk, Address: one.address}, {Disk: two.disk, Address: two.address}}
			came = c.change(quarry.RootShard, nil, came)
			leader := c.leader(1)
			answered := make(chan error, 1)
			go func() {
				_, err := leader.present.Load().Replace(t.Context(), &quarry.ReplaceRequest{Shard: 1, New: came})
				answered <- err
			}()
			c.until("the change does not begin", func() bool {
				st, _ := leader.host.Status(1)
				return len(st.Learners) > 0 || len(st.Voters) > 3
			})
			c.sleep(time.Duration(after*after) * 4 * time.Millisecond)
			leader.stop()
			<-answered
			for id := range quarry.ShardID(testShards + 1) {
				c.change(id, nil, came)
			}
			c.voters(1, 2, 3, 4, 5)
			c.shrink(quarry.NodeID(slices.Index(c.nodes, leader) + 1))
		})
	}
}

// A shard that is added while the masters grow ends up on all of them, and who is removed before
// it has left every shard is not forgotten.
func TestShardAddedWhileGrowing(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		leader := c.leader(quarry.RootShard)
		c.until("the feature level is not raised", func() bool { return leader.root.known.Load().level == quarry.FeatureLevel })
		c.addShard(3)
		one, two := c.add(), c.add()
		came := c.change(quarry.RootShard, nil, []quarry.MasterNode{{Disk: one.disk, Address: one.address}, {Disk: two.disk, Address: two.address}})
		c.addShard(4) // its founders are all five
		for id := range quarry.ShardID(5) {
			c.change(id, nil, came)
			st, err := c.leader(id).host.Status(id)
			if err != nil || len(st.Voters) != 5 {
				t.Fatalf("group %d: %+v, %v", id, st, err)
			}
		}
		gone := []quarry.NodeID{4, 5}
		c.shrinkBut(4, gone)
		c.lead(quarry.RootShard, one) // it hears no more of the shards that it has left: others must judge
		_, err := one.Replace(t.Context(), &quarry.ReplaceRequest{Shard: quarry.RootShard, Gone: gone})
		is(t, err, quarry.NotLeader)
		if next := c.leader(quarry.RootShard); slices.Contains(gone, next.node) {
			t.Fatalf("node %d leads, which is to go", next.node)
		}
		_, err = c.leader(quarry.RootShard).Replace(t.Context(), &quarry.ReplaceRequest{Shard: quarry.RootShard, Gone: gone})
		is(t, err, quarry.Busy)
		c.sleep(10 * time.Second)
		if one.Err() != nil {
			t.Fatalf("it has ended, and had a vote: %v", one.Err())
		}
		c.change(4, gone, nil)
		c.change(quarry.RootShard, gone, nil)
		c.gone(one)
		c.gone(two)
	})
}

// shrinkBut removes masters from all shards but one.
func (c *testCluster) shrinkBut(but quarry.ShardID, gone []quarry.NodeID) {
	for id := quarry.ShardID(1); id < but; id++ {
		c.change(id, gone, nil)
	}
}

// New masters get the state of shards whose logs do not hold it any more as snapshots, of several
// groups at a time, while names are made: none has to wait.
func TestGrowBySnapshot(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *testCluster) {
		want := c.grow(150)
		one, two := c.add(), c.add()
		var parts atomic.Int64
		for _, n := range []*testNode{one, two} {
			n.stop()
			n.snapshot = func(ctx context.Context, req *rpc.Raw) (*rpc.Raw, error) {
				parts.Add(1)
				c.sleep(50 * time.Millisecond) // a slow network
				return n.present.Load().streams.take(ctx, req)
			}
			n.start()
		}
		s, working := c.session(1), make(chan struct{})
		made, longest, done := 0, time.Duration(0), make(chan error, 1)
		go func() {
			for {
				select {
				case <-working:
					done <- nil
					return
				default:
				}
				began := clock.Simulated().Now()
				made++
				op := quarry.Op{Session: s, Sequence: quarry.Sequence(made), Oldest: quarry.Sequence(made)}
				name := fmt.Sprintf("made-%05d", made)
				if _, err := c.nodes[0].Make(t.Context(), &quarry.MakeRequest{Op: op, Parent: quarry.RootInode, Name: name, Kind: quarry.KindFile}); err != nil {
					done <- err
					return
				}
				want = append(want, name)
				longest = max(longest, clock.Simulated().Now().Sub(began))
				c.sleep(10 * time.Millisecond)
			}
		}()
		c.enlarge(one, two)
		close(working)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		t.Logf("%d names were made meanwhile, none took longer than %v", made, longest)
		if parts.Load() < 2*2 {
			t.Errorf("the snapshots had %d parts: there was none of some group", parts.Load())
		}
		if made < 20 || longest > time.Second {
			t.Errorf("%d names were made meanwhile, one took %v", made, longest)
		}
		c.voters(1, 2, 3)
		c.lead(1, two)
		if got := names(t, two, quarry.RootInode); len(got) != len(want) {
			t.Errorf("of %d names the new master has %d", len(want), len(got))
		}
	})
}

// TestRemovedMasterWhoseDiskHangs removes a master that cannot note it in its folder, because the
// disk answers no more: it ends all the same.
func TestRemovedMasterWhoseDiskHangs(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		n := c.add()
		hung, release := atomic.Bool{}, make(chan struct{})
		n.disrupt = func(op disk.Op) disk.Fault {
			if hung.Load() && op.Name == originTemp {
				<-release
			}
			return disk.Fault{}
		}
		c.enlarge(n)
		hung.Store(true)
		c.shrink(n.node)
		c.until("the master that was removed goes on", func() bool { return n.Err() != nil })
		n.stop()
		close(release)
		c.sleep(time.Second)
	})
}
