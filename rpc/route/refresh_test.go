package route

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
)

// TestRefreshNext asks the nodes in turn, one at a time; one that is dead, or silent, is passed over.
func TestRefreshNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		m := c.masters(t)
		refresh := func(from, to uint64) {
			t.Helper()
			for turn := from; turn < to; turn++ {
				if err := m.RefreshNext(t.Context(), turn); err != nil {
					t.Error(err)
				}
			}
		}
		refresh(0, 12)
		for i, n := range c.nodes {
			if n.asked != 4 {
				t.Errorf("node %d was asked %d times in 12 turns", i, n.asked)
			}
		}
		c.set(func() {
			c.nodes[0].dead, c.nodes[1].silent = true, true
			c.version = 2
		})
		start := time.Now()
		refresh(0, 1)
		if m.version() != 2 || time.Since(start) > time.Second {
			t.Errorf("version %d is known after %v", m.version(), time.Since(start))
		}
		c.set(func() { c.version = 3 })
		refresh(1, 2)
		if m.version() != 3 || time.Since(start) > 3*time.Second {
			t.Errorf("version %d is known after %v", m.version(), time.Since(start))
		}
		c.set(func() { c.nodes[2].dead = true })
		if err := m.RefreshNext(t.Context(), 2); quarry.KindOf(err) != quarry.Unavailable {
			t.Errorf("nobody answers: %v", err)
		}
	})
}
