package master

import (
	"testing"

	"github.com/quarryfs/quarry"
)

// levels returns the least and the highest feature level that the masters know of.
func (c *testCluster) levels() (least, most uint32) {
	least = 1 << 31
	for _, n := range c.nodes {
		if n.Master != nil && n.started.Load() {
			level := n.root.known.Load().level
			least, most = min(least, level), max(most, level)
		}
	}
	return least, most
}

// The cluster uses a feature level when every master has said that it speaks it: one that
// speaks an earlier one, or is down, holds it up, also when the leadership moves meanwhile.
func TestLevel(t *testing.T) {
	synctestCluster(t, 3, func(t *testing.T, c *testCluster) {
		for _, n := range c.nodes {
			n.level.Store(quarry.FeatureLevel - 1)
		}
		c.init()
		low := func(why string) {
			t.Helper()
			c.sleep(3 * levelEvery)
			if _, most := c.levels(); most >= quarry.FeatureLevel {
				t.Fatalf("%s, and the cluster uses level %d", why, most)
			}
			m := c.leader(quarry.RootShard)
			is(t, m.root.speak(quarry.FeatureLevel), quarry.Unsupported)
			if err := m.root.speak(0); err != nil {
				t.Fatal(err)
			}
		}
		low("the others speak an earlier level")
		leader := c.leader(quarry.RootShard)
		last := c.follower(quarry.RootShard)
		for _, n := range c.nodes {
			n.level.Store(quarry.FeatureLevel)
		}
		last.level.Store(quarry.FeatureLevel - 1)
		low("one speaks an earlier level")
		last.stop()
		low("one is down")
		last.level.Store(quarry.FeatureLevel)
		for _, n := range c.nodes { // whoever leads now, another than before goes on
			if n.Master != nil && n != leader {
				c.lead(quarry.RootShard, n)
				break
			}
		}
		low("one is still down")
		last.start()
		c.sleep(3 * levelEvery)
		if least, _ := c.levels(); least != quarry.FeatureLevel {
			t.Fatalf("all speak level %d, and one master knows of level %d", quarry.FeatureLevel, least)
		}
		if err := c.leader(quarry.RootShard).root.speak(quarry.FeatureLevel); err != nil {
			t.Fatal(err)
		}
		is(t, last.root.speak(quarry.FeatureLevel+1), quarry.Unsupported)
	})
}
