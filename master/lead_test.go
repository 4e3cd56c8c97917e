package master

import (
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/raft"
)

func TestDue(t *testing.T) {
	three := []quarry.NodeID{1, 2, 4}
	group := func(leader quarry.NodeID) raft.Status {
		return raft.Status{Leader: leader, Voters: three, Applied: 1000, Committed: 1010}
	}
	all := func(leaders ...quarry.NodeID) map[quarry.ShardID]raft.Status {
		groups := map[quarry.ShardID]raft.Status{}
		for i, l := range leaders {
			groups[quarry.ShardID(i)] = group(l)
		}
		return groups
	}
	lag := all(1, 1, 1, 1, 1)
	for id, st := range lag {
		st.Applied = 10
		lag[id] = st
	}
	for _, c := range []struct {
		what      string
		self      quarry.NodeID
		groups    map[quarry.ShardID]raft.Status
		renounced map[quarry.ShardID]bool
		id        quarry.ShardID
		ok        bool
	}{
		{"as it should be", 2, all(1, 2, 4, 1, 2), nil, 0, false},
		{"one of two is elsewhere", 2, all(1, 1, 4, 1, 2), nil, 1, true},
		{"somebody leads one more", 2, all(1, 1, 4, 4, 2), nil, 0, false},
		{"all are at one node", 2, all(1, 1, 1, 1, 1), nil, 1, true},
		{"all are at one node, for another", 4, all(1, 1, 1, 1, 1), nil, 2, true},
		{"the first was handed over", 2, all(1, 1, 1, 1, 1), map[quarry.ShardID]bool{1: true}, 4, true},
		{"both were", 2, all(1, 1, 1, 1, 1), map[quarry.ShardID]bool{1: true, 4: true}, 0, false},
		{"nobody leads", 2, all(0, 0, 0, 0, 0), nil, 0, false},
		{"it is behind", 2, lag, nil, 0, false},
		{"it has no vote", 3, all(1, 1, 1, 1, 1), nil, 0, false},
	} {
		if id, leader, ok := due(c.self, c.groups, c.renounced); id != c.id || ok != c.ok || ok && leader != 1 {
			t.Errorf("%s: group %d of node %d, %v", c.what, id, leader, ok)
		}
	}
}

// The groups are spread when a cluster begins. A master that was away takes its own back after a
// while, but not one that it was told to hand over.
func TestLeadershipsComeBack(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		root := c.leader(quarry.RootShard)
		c.until("the feature level is not raised", func() bool { return root.root.known.Load().level == quarry.FeatureLevel })
		for id := quarry.ShardID(3); id <= 5; id++ {
			c.addShard(id)
		}
		leads := func(n *testNode) (count int) {
			for id := range quarry.ShardID(6) {
				if c.leader(id) == n {
					count++
				}
			}
			return count
		}
		for _, n := range c.nodes {
			if got := leads(n); got != 2 {
				t.Errorf("node %d leads %d of 6 groups", n.node, got)
			}
		}
		away := c.nodes[1]
		away.stop()
		c.sleep(5 * time.Second)
		away.start()
		if got := leads(away); got != 0 {
			t.Fatalf("it leads %d groups at once", got)
		}
		c.sleep(2 * time.Minute)
		if got := leads(away); got != 1 && got != 2 {
			t.Errorf("it leads %d groups after two minutes", got)
		}
		handed := map[quarry.ShardID]bool{}
		for id := range quarry.ShardID(6) {
			if c.leader(id) == away {
				handed[id] = true
				if err := away.Transfer(t.Context(), &quarry.TransferRequest{Shard: id, To: 1}); err != nil {
					t.Fatal(err)
				}
			}
		}
		c.sleep(3 * time.Minute)
		for id := range handed {
			if c.leader(id) == away {
				t.Errorf("it leads group %d, which it was told to hand over", id)
			}
		}
	})
}
