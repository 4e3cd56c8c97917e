package master

import (
	"slices"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/rpc/route"

	"github.com/quarryfs/quarry/clock"
)

// addShard has the cluster add a shard and waits until it has a leader.
func (c *testCluster) addShard(id quarry.ShardID) {
	c.t.Helper()
	if err := c.leader(quarry.RootShard).AddShard(c.t.Context(), &quarry.AddShardRequest{Shard: id}); err != nil {
		c.t.Fatal(err)
	}
	c.until("a node has no member of the shard", func() bool {
		return !slices.ContainsFunc(c.nodes, func(n *testNode) bool { return n.Master != nil && n.group(id) == nil })
	})
	c.leader(id)
}

// A shard is added while the others serve: every master has a member of it, also one that was
// away, and all have it again after a restart. It refuses what it has no slots for.
func TestAddShard(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		ctx := t.Context()
		root := c.leader(quarry.RootShard)
		c.until("the feature level is not raised", func() bool { return root.root.known.Load().level == quarry.FeatureLevel })
		is(t, c.follower(quarry.RootShard).AddShard(ctx, &quarry.AddShardRequest{Shard: 3}), quarry.NotLeader)
		is(t, root.AddShard(ctx, &quarry.AddShardRequest{Shard: 5}), quarry.Invalid)
		away := c.follower(quarry.RootShard)
		away.stop()
		c.addShard(3)
		c.addShard(3) // said again
		away.start()
		c.until("the one that was away has no member", func() bool { return away.group(3) != nil })
		for _, n := range c.nodes {
			n.stop()
		}
		for _, n := range c.nodes {
			n.start()
		}
		leader := c.leader(3)
		if st, err := leader.host.Status(3); err != nil || len(st.Voters) != 3 {
			t.Fatalf("%+v, %v", st, err)
		}
		_, err := leader.Session(ctx, &quarry.SessionRequest{Shard: 3})
		is(t, err, quarry.WrongShard)
		if s := c.session(1); s == 0 {
			t.Fatal("the first shard has no session")
		}
		m, err := route.New(route.Options{Addresses: []string{"m1:1"}, Clock: clock.Simulated(), Dial: func(a string) (quarry.Master, error) { return c.nodes[0].client.Master(a), nil }})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if err := m.AddShard(ctx, &quarry.AddShardRequest{Shard: 4}); err != nil {
			t.Fatal(err)
		}
		c.leader(4)
		c.sleep(time.Second)
		topology, err := m.Topology(ctx)
		if err != nil || len(topology.Shards) != 5 || topology.Shards[4].Leader == 0 {
			t.Fatalf("%+v, %v", topology, err)
		}
	})
}

// A master that joins later gets a member of the added shard, too, and takes a vote there.
func TestAddedShardAndReplacement(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		root := c.leader(quarry.RootShard)
		c.until("the feature level is not raised", func() bool { return root.root.known.Load().level == quarry.FeatureLevel })
		c.addShard(3)
		gone := c.follower(quarry.RootShard)
		number := gone.node
		gone.stop()
		fresh := c.add()
		node := quarry.MasterNode{Disk: fresh.disk, Address: fresh.address}
		for id := range quarry.ShardID(4) {
			c.until("it is not replaced", func() bool {
				reply, err := c.leader(id).Replace(t.Context(), &quarry.ReplaceRequest{Shard: id, Gone: []quarry.NodeID{number}, New: []quarry.MasterNode{node}})
				if err == nil {
					node = reply.New[0]
				}
				return err == nil
			})
		}
		st, err := c.leader(3).host.Status(3)
		if err != nil || !slices.Contains(st.Voters, node.Node) || slices.Contains(st.Voters, number) || len(st.Voters) != 3 {
			t.Fatalf("%+v, %v", st, err)
		}
		c.addShard(4)
		if st, err := fresh.host.Status(4); err != nil || !slices.Contains(st.Voters, fresh.node) {
			t.Fatalf("%+v, %v", st, err)
		}
	})
}
