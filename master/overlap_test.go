package master

import (
	"context"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/meta/root"
	"github.com/quarryfs/quarry/raft"
)

// fresh starts two masters with empty folders, and names them.
func (c *testCluster) fresh() (one, two *testNode, came []quarry.MasterNode) {
	one, two = c.add(), c.add()
	return one, two, []quarry.MasterNode{{Disk: one.disk, Address: one.address}, {Disk: two.disk, Address: two.address}}
}

// Masters are removed by one operator while another one still adds them, and a group waits for one
// that is slow to answer: the group does not make them members, or it would count on masters that
// end. The same holds for the root group.
func TestRemovedWhileAdded(t *testing.T) {
	for _, id := range []quarry.ShardID{quarry.RootShard, 1} {
		inBubble(t, 1, func(t *testing.T, c *testCluster) {
			one, two, came := c.fresh()
			if id != quarry.RootShard {
				came = c.change(quarry.RootShard, nil, came)
			}
			wait := make(chan struct{})
			two.joining.Store(&wait)
			l, done := c.leader(id), make(chan error)
			go func() {
				_, err := l.Replace(context.Background(), &quarry.ReplaceRequest{Shard: id, New: came})
				done <- err
			}()
			c.sleep(300 * time.Millisecond)
			c.shrink(2, 3)
			close(wait)
			is(t, <-done, quarry.Invalid)
			c.sleep(time.Minute)
			c.voters(1)
			c.gone(one)
			if id != quarry.RootShard {
				c.gone(two)
			}
		})
	}
}

// A master that the root group has forgotten, but that a shard counts on, goes on until it is
// removed there, too.
func TestForgottenButCountedOn(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *testCluster) {
		one, two, came := c.fresh()
		came = c.change(quarry.RootShard, nil, came)
		l := c.leader(1)
		c.shrinkBut(2, []quarry.NodeID{2, 3})
		if err := l.host.ChangeMembership(t.Context(), 1, raft.Change{Learn: []raft.Member{
			{Node: 2, Disk: came[0].Disk, Address: came[0].Address}, {Node: 3, Disk: came[1].Disk, Address: came[1].Address},
		}}); err != nil {
			t.Fatal(err)
		}
		for _, n := range came { // both had the shards' leader say that they were out
			if _, err := l.root.propose(t.Context(), &root.RemoveMaster{Node: n.Node}); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.host.ChangeMembership(t.Context(), 0, raft.Change{Remove: []quarry.NodeID{2, 3}}); err != nil {
			t.Fatal(err)
		}
		if err := l.host.ChangeMembership(t.Context(), 1, raft.Change{Promote: []quarry.NodeID{2, 3}}); err != nil {
			t.Fatal(err)
		}
		c.sleep(time.Minute)
		if one.Err() != nil || two.Err() != nil {
			t.Fatalf("the shard counts on them, and they have ended: %v, %v", one.Err(), two.Err())
		}
		c.shrink(2, 3)
		c.voters(1)
		c.gone(one)
		c.gone(two)
	})
}

// A change of a group's members that is agreed on and not complete is not a change that is done:
// those who go still count.
func TestJointIsNotDone(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		three := c.nodes[2]
		c.lead(quarry.RootShard, three)
		done := make(chan error, 1)
		go func() {
			done <- three.host.ChangeMembership(t.Context(), quarry.RootShard, raft.Change{Remove: []quarry.NodeID{1, 2}})
		}()
		for i := 0; len(done) == 0; i++ {
			if st, _ := three.host.Status(quarry.RootShard); st.Changing {
				err := three.exchange(t.Context(), quarry.RootShard, []quarry.NodeID{1, 2}, nil)
				if st, _ = three.host.Status(quarry.RootShard); st.Changing && quarry.KindOf(err) != quarry.Busy {
					t.Fatalf("in the middle of the change: %v", err)
				}
				t.Log("seen")
				break
			}
			if i%100 == 99 {
				c.sleep(time.Microsecond) // what waits for its time goes on
			}
			runtime.Gosched()
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

// The leader of the root group asks the shards' leaders whether masters have left, and need not be
// a member of any shard itself.
func TestLeaderOutsideShardsForgets(t *testing.T) {
	t.Run("half removed", func(t *testing.T) {
		inBubble(t, 3, func(t *testing.T, c *testCluster) {
			one, two := c.add(), c.add()
			c.enlarge(one, two)
			one.stop()
			c.shrinkBut(3, []quarry.NodeID{4, 5})
			one.start()
			c.lead(quarry.RootShard, one)
			c.change(quarry.RootShard, []quarry.NodeID{5}, nil)
			c.gone(two)
		})
	})
	t.Run("half added", func(t *testing.T) {
		inBubble(t, 3, func(t *testing.T, c *testCluster) {
			one := c.add()
			c.change(quarry.RootShard, nil, []quarry.MasterNode{{Disk: one.disk, Address: one.address}})
			c.sleep(5 * time.Second)
			c.lead(quarry.RootShard, one)
			c.shrinkBut(3, []quarry.NodeID{3})
			c.change(quarry.RootShard, []quarry.NodeID{3}, nil)
			c.gone(c.nodes[2])
		})
	})
}

// A master cannot be put in its own place: nothing is changed.
func TestReplaceByItself(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		n := c.follower(quarry.RootShard)
		_, err := c.leader(quarry.RootShard).Replace(t.Context(), &quarry.ReplaceRequest{
			Gone: []quarry.NodeID{n.node}, New: []quarry.MasterNode{{Disk: n.disk, Address: n.address}},
		})
		is(t, err, quarry.Invalid)
		c.voters(1, 2, 3)
	})
}

// While the masters are asked which feature level they speak, none is added.
func TestLevelRisesAlone(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *testCluster) {
		l := c.leader(quarry.RootShard)
		leave, err := l.alone(t.Context(), "test")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if l.root.tryRaise(ctx) {
			t.Error("the level rises while the masters change")
		}
		one := c.add()
		_, err = l.Replace(ctx, &quarry.ReplaceRequest{New: []quarry.MasterNode{{Disk: one.disk, Address: one.address}}})
		is(t, err, quarry.Busy)
		if slices.ContainsFunc(l.root.known.Load().topology.Masters, func(n quarry.MasterNode) bool { return n.Disk == one.disk }) {
			t.Error("a master was added meanwhile")
		}
		leave()
	})
}

// A leader asks the others whether it still leads, and so comes as far as they are, before it looks
// who is to found a shard.
func TestAddShardAsksFirst(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		l := c.leader(quarry.RootShard)
		c.until("the feature level is not raised", func() bool { return l.root.known.Load().level == quarry.FeatureLevel })
		for _, n := range c.nodes {
			if n != l {
				n.stop()
			}
		}
		ctx, cancel := clock.Simulated().WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if err := l.AddShard(ctx, &quarry.AddShardRequest{Shard: testShards + 1}); err == nil {
			t.Fatal("a shard was added by one of three masters")
		}
		for _, n := range c.nodes {
			if n != l {
				n.start()
			}
		}
		c.leader(quarry.RootShard)
		c.sleep(5 * time.Second)
		if got := len(c.leader(quarry.RootShard).root.known.Load().topology.Shards); got != testShards {
			t.Errorf("there are %d shards", got)
		}
	})
}
