package raft

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

func TestElectsAndApplies(t *testing.T) {
	inBubble(t, 3, 1, nil, func(t *testing.T, c *testCluster) {
		var want []string
		for i := range 100 {
			e := fmt.Sprint(i)
			c.put(0, e)
			want = append(want, e)
		}
		if got := c.list(0); !slices.Equal(got, want) {
			t.Fatalf("the list is %v", got)
		}
	})
}

func TestFollowerNamesLeader(t *testing.T) {
	inBubble(t, 3, 1, nil, func(t *testing.T, c *testCluster) {
		leader, other := c.leader(0), c.other(0)
		_, err := other.host.Propose(context.Background(), 0, []byte("x"))
		var hint *quarry.NotLeaderError
		if !errors.Is(err, quarry.NotLeader) || !errors.As(err, &hint) || hint.Leader != leader.id || hint.Address != fmt.Sprintf("node%d:7400", leader.id) {
			t.Fatalf("the error is %v", err)
		}
		if err := other.host.ReadIndex(context.Background(), 0); !errors.Is(err, quarry.NotLeader) {
			t.Fatalf("the error of a read is %v", err)
		}
	})
}

func TestFailover(t *testing.T) {
	inBubble(t, 3, 1, nil, func(t *testing.T, c *testCluster) {
		for i := range 5 {
			c.put(0, fmt.Sprint("before", i))
			old := c.leader(0)
			old.crash()
			start := time.Now()
			c.put(0, fmt.Sprint("after", i))
			if d := time.Since(start); d > 2*time.Second {
				t.Errorf("failover %d took %v", i, d)
			}
			old.start()
			c.list(0)
		}
		if n := len(c.list(0)); n != 10 {
			t.Fatalf("the list has %d elements", n)
		}
	})
}

// TestPowerLoss crashes all nodes at once under load, again and again: what was acknowledged
// must be there, in one order.
func TestPowerLoss(t *testing.T) {
	inBubble(t, 3, 2, func(cfg *Config) { cfg.LogBytes = 64 << 10 }, func(t *testing.T, c *testCluster) {
		c.slow = true
		acked := map[quarry.ShardID][]string{}
		tried := map[string]bool{}
		for round := range 6 {
			var mu sync.Mutex
			var wg sync.WaitGroup
			ctx, cancel := context.WithCancel(context.Background())
			for w := range 8 {
				g := quarry.ShardID(w % 2)
				wg.Go(func() {
					for i := 0; ctx.Err() == nil; i++ {
						e := fmt.Sprintf("%d.%d.%d-%0200d", round, w, i, 0)
						mu.Lock()
						tried[e] = true
						mu.Unlock()
						if _, err := c.leader(g).host.Propose(ctx, g, []byte(e)); err == nil {
							mu.Lock()
							acked[g] = append(acked[g], e)
							mu.Unlock()
						}
						c.sleep(5 * time.Millisecond)
					}
				})
			}
			c.sleep(time.Duration(1300+c.rng.IntN(1000)) * time.Millisecond)
			for _, n := range c.nodes {
				n.c.net.detach(n.id)
			}
			cancel()
			wg.Wait()
			for _, n := range c.nodes {
				n.crash()
			}
			for _, n := range c.nodes {
				n.start()
			}
			for _, g := range c.groups {
				c.leader(g)
				list := c.list(g)
				at := map[string]int{}
				for i, e := range list {
					if _, twice := at[e]; twice || !tried[e] {
						t.Fatalf("round %d: %s stands twice, or was never proposed", round, e)
					}
					at[e] = i
				}
				for _, e := range acked[g] {
					if _, ok := at[e]; !ok {
						t.Fatalf("round %d: %s was acknowledged and is lost", round, e)
					}
				}
			}
		}
		if len(acked[0]) == 0 || len(acked[1]) == 0 {
			t.Fatal("nothing was acknowledged")
		}
	})
}

// Whoever still looks at the state of a node that was closed is refused: jobs of a master may
// outlive its host for a moment.
func TestViewAfterClose(t *testing.T) {
	inBubble(t, 1, 1, nil, func(t *testing.T, c *testCluster) {
		c.put(0, "x")
		h := c.leader(0).host
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		err := h.View(0, func(Reader) error {
			t.Error("a view of a closed state")
			return nil
		})
		if !errors.Is(err, quarry.Unavailable) {
			t.Fatalf("the error is %v", err)
		}
	})
}

// TestReadsAfterRestartAlone starts a node that is the only voter again after power losses, and reads
// as soon as it leads: how far entries are committed is on disk one write late, so a leader knows it
// only when one of its own term is.
func TestReadsAfterRestartAlone(t *testing.T) {
	inBubble(t, 1, 1, nil, func(t *testing.T, c *testCluster) {
		n := c.nodes[1]
		for i := range 10 {
			c.put(0, fmt.Sprint(i))
			n.crash()
			n.start()
			err := errors.New("not read yet")
			for tries := 0; err != nil && tries < 200_000; tries++ {
				ctx, cancel := clock.Simulated().WithTimeout(context.Background(), time.Second)
				err = n.host.ReadIndex(ctx, 0)
				cancel()
				c.sleep(20 * time.Microsecond)
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := len(n.list(0)); got != i+1 {
				t.Fatalf("after %d puts that were acknowledged a read saw %d", i+1, got)
			}
		}
	})
}
