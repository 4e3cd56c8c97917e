package master

import (
	"slices"
	"testing"

	"github.com/quarryfs/quarry"
)

// A new master takes the place of one that is gone: first in the root group, which gives it
// its number, and then in the shards, each of which asks what the root group knows.
func TestReplace(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		ctx := t.Context()
		s := c.session(1)
		if _, err := c.leader(1).Make(ctx, &quarry.MakeRequest{
			Op: quarry.Op{Session: s, Sequence: 1, Oldest: 1}, Parent: quarry.RootInode, Name: "f", Kind: quarry.KindFile,
		}); err != nil {
			t.Fatal(err)
		}
		fresh := c.add()
		gone := c.nodes[0]
		number := gone.node
		gone.stop()
		node := quarry.MasterNode{Disk: fresh.disk, Address: fresh.address}
		replace := func(id quarry.ShardID, gone quarry.NodeID, node quarry.MasterNode) (*quarry.ReplaceReply, error) {
			return c.leader(id).Replace(ctx, &quarry.ReplaceRequest{Shard: id, Gone: []quarry.NodeID{gone}, New: []quarry.MasterNode{node}})
		}
		refused := func(what string, id quarry.ShardID, gone quarry.NodeID, node quarry.MasterNode, kind quarry.Kind) {
			t.Helper()
			if _, err := replace(id, gone, node); quarry.KindOf(err) != kind {
				t.Fatalf("%s: %v", what, err)
			}
			if id != quarry.RootShard {
				if st, _ := c.leader(id).host.Status(id); len(st.Members) != 3 {
					t.Fatalf("%s: group %d has the members %v", what, id, st.Members)
				}
			}
		}
		refused("no disk", 1, number, quarry.MasterNode{Address: fresh.address}, quarry.Invalid)
		refused("no address", 1, number, quarry.MasterNode{Disk: fresh.disk}, quarry.Invalid)
		refused("no number", 1, number, node, quarry.Invalid)
		_, err := c.leader(1).Replace(ctx, &quarry.ReplaceRequest{Shard: testShards + 1, Gone: []quarry.NodeID{number}, New: []quarry.MasterNode{{Node: 4, Disk: node.Disk, Address: node.Address}}})
		is(t, err, quarry.NotFound)
		four := node
		four.Node = 4
		refused("itself", 1, 4, four, quarry.Invalid)
		refused("a number that the root group did not give", 1, number, four, quarry.Unavailable)
		taken := node
		taken.Node = 2
		refused("another's number", 1, number, taken, quarry.Invalid)
		if fresh.started.Load() {
			t.Fatal("the new master was invited by a call that was refused")
		}
		follower := c.follower(1)
		_, err = follower.Replace(ctx, &quarry.ReplaceRequest{Shard: 1, Gone: []quarry.NodeID{number}, New: []quarry.MasterNode{four}})
		pointsAt(t, "replace", err, c.leader(1))

		for range 2 { // a call is repeated if its answer is lost
			reply, err := replace(quarry.RootShard, number, node)
			if err != nil || len(reply.New) != 1 || reply.New[0] != four {
				t.Fatalf("%+v, %v", reply, err)
			}
		}
		c.leader(quarry.RootShard)
		c.until("the masters do not learn of the new one", func() bool {
			for _, n := range c.nodes[1:] {
				known := n.root.known.Load()
				if known == nil || !slices.Contains(known.topology.Masters, four) {
					return false
				}
			}
			return true
		})
		other := four
		other.Disk = quarry.DiskID{77}
		refused("another disk", 1, number, other, quarry.Invalid)
		five := four
		five.Node = 5
		refused("another number", 1, number, five, quarry.Invalid)
		for _, id := range []quarry.ShardID{1, 2} {
			for range 2 {
				if reply, err := replace(id, number, four); err != nil || len(reply.New) != 1 || reply.New[0] != four {
					t.Fatalf("%+v, %v", reply, err)
				}
			}
			st, err := c.leader(id).host.Status(id)
			slices.Sort(st.Voters)
			if err != nil || !slices.Equal(st.Voters, []quarry.NodeID{2, 3, 4}) || len(st.Learners) != 0 {
				t.Fatalf("group %d: %+v, %v", id, st, err)
			}
		}
		forget := &quarry.ReplaceRequest{Shard: quarry.RootShard, Gone: []quarry.NodeID{number}}
		for range 2 {
			if _, err := c.leader(quarry.RootShard).Replace(ctx, forget); err != nil {
				t.Fatal(err)
			}
		}
		c.until("the one that is gone is not forgotten", func() bool {
			return !slices.ContainsFunc(c.nodes[1:], func(n *testNode) bool { return len(n.root.known.Load().topology.Masters) != 3 })
		})
		c.lead(1, fresh) // it has what the others have
		if got := names(t, fresh, quarry.RootInode); !slices.Equal(got, []string{"f"}) {
			t.Fatalf("the new master has %q", got)
		}
		fresh.stop()
		fresh.start()
		c.leader(1)
		c.lead(1, fresh)
	})
}

// A new master whose release speaks an earlier level than the cluster uses is not invited.
func TestReplaceByAnOlderRelease(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		c.until("the level does not rise", func() bool { least, _ := c.levels(); return least == quarry.FeatureLevel })
		old := c.add()
		old.level.Store(quarry.FeatureLevel - 1)
		_, err := c.leader(quarry.RootShard).Replace(t.Context(), &quarry.ReplaceRequest{New: []quarry.MasterNode{{Disk: old.disk, Address: old.address}}})
		is(t, err, quarry.Unsupported)
		if old.started.Load() {
			t.Fatal("the older release was made a member")
		}
	})
}

// The group's leader is replaced while it lives: it hands the leadership over, names whom to
// ask again, and never removes itself.
func TestReplaceTheLeader(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		fresh := c.add()
		node := quarry.MasterNode{Disk: fresh.disk, Address: fresh.address}
		for _, id := range []quarry.ShardID{quarry.RootShard, 1, 2} {
			c.lead(id, c.nodes[0])
			req := &quarry.ReplaceRequest{Shard: id, Gone: []quarry.NodeID{1}, New: []quarry.MasterNode{node}}
			c.until("the leader is not replaced", func() bool {
				leader := c.leader(id)
				reply, err := leader.Replace(t.Context(), req)
				if err == nil {
					if leader == c.nodes[0] {
						t.Fatal("the leader has removed itself")
					}
					node = reply.New[0]
					return true
				}
				if leader == c.nodes[0] && quarry.KindOf(err) != quarry.Busy {
					pointsAt(t, "replace", err, c.leader(id))
				} else {
					is(t, err, quarry.Busy)
				}
				return false
			})
			st, err := c.leader(id).host.Status(id)
			if slices.Contains(st.Voters, 1) || !slices.Contains(st.Voters, 4) || err != nil {
				t.Fatalf("group %d: %+v, %v", id, st, err)
			}
			if id == quarry.RootShard {
				c.until("the masters do not learn of the new one", func() bool {
					return !slices.ContainsFunc(c.nodes[1:], func(n *testNode) bool {
						known := n.root.known.Load()
						return known == nil || !slices.Contains(known.topology.Masters, node)
					})
				})
			}
		}
	})
}
