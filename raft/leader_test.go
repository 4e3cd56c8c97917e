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
)

// TestStaleLeader cuts a leader off: it must not read, it must not acknowledge, and those who
// wait for it must hear so soon.
func TestStaleLeader(t *testing.T) {
	inBubble(t, 3, 1, nil, func(t *testing.T, c *testCluster) {
		c.put(0, "a")
		old := c.leader(0)
		if err := old.host.ReadIndex(context.Background(), 0); err != nil {
			t.Fatal(err)
		}
		c.net.isolate(old.id, true)
		start := time.Now()
		type end struct {
			err   error
			after time.Duration
		}
		ends := make(chan end, 2)
		go func() {
			_, err := old.host.Propose(context.Background(), 0, []byte("lost"))
			ends <- end{err, time.Since(start)}
		}()
		go func() {
			err := old.host.ReadIndex(context.Background(), 0)
			if err == nil {
				err = errors.New("a stale leader has served a read")
			}
			ends <- end{err, time.Since(start)}
		}()
		c.put(0, "b") // through another leader
		for range 2 {
			e := <-ends
			if !errors.Is(e.err, quarry.Unknown) && !errors.Is(e.err, quarry.NotLeader) || e.after > 1200*time.Millisecond {
				t.Errorf("after %v: %v", e.after, e.err)
			}
		}
		if _, err := old.host.Propose(context.Background(), 0, []byte("refused")); !errors.Is(err, quarry.NotLeader) {
			t.Errorf("the cut off node says %v", err)
		}
		c.net.isolate(old.id, false)
		if l := c.list(0); !slices.Equal(l, []string{"a", "b"}) {
			t.Errorf("the list is %v", l)
		}
	})
}

// TestReadsAreLinearizable lets a leader read while leaders change: a read must see what was
// acknowledged before it began.
func TestReadsAreLinearizable(t *testing.T) {
	inBubble(t, 3, 1, nil, func(t *testing.T, c *testCluster) {
		var mu sync.Mutex
		acked, reads := 0, 0
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if _, err := c.leader(0).host.Propose(ctx, 0, fmt.Append(nil, i)); err == nil {
					mu.Lock()
					acked++
					mu.Unlock()
				}
				c.sleep(3 * time.Millisecond)
			}
		})
		for i := 1; i <= 3; i++ {
			h := c.nodes[quarry.NodeID(i)].host
			wg.Go(func() {
				for ctx.Err() == nil {
					mu.Lock()
					before := acked
					mu.Unlock()
					if h.ReadIndex(ctx, 0) == nil {
						n := len(c.nodes[quarry.NodeID(i)].list(0))
						mu.Lock()
						reads++
						mu.Unlock()
						if n < before {
							t.Errorf("node %d reads %d elements, %d were acknowledged", i, n, before)
						}
					}
					c.sleep(time.Millisecond)
				}
			})
		}
		for range 5 {
			c.sleep(400 * time.Millisecond)
			old := c.leader(0)
			c.net.isolate(old.id, true)
			c.leader(0)
			c.sleep(300 * time.Millisecond)
			c.net.isolate(old.id, false)
		}
		cancel()
		wg.Wait()
		if reads == 0 || acked == 0 {
			t.Fatalf("%d reads, %d acknowledged", reads, acked)
		}
	})
}

// gate is a state machine that stops at a command until it is let through.
type gate struct {
	listMachine
	open chan struct{}
}

func (g *gate) Apply(kv KV, index uint64, command []byte) []byte {
	if string(command) == "stop" {
		<-g.open
	}
	return g.listMachine.Apply(kv, index, command)
}

// TestReadWaitsForApply reads while what is committed is not applied yet.
func TestReadWaitsForApply(t *testing.T) {
	inBubble(t, 1, 0, nil, func(t *testing.T, c *testCluster) {
		n := c.nodes[1]
		m := &gate{open: make(chan struct{})}
		if err := n.host.Bootstrap(0, []Member{n.host.Self()}, m); err != nil {
			t.Fatal(err)
		}
		c.put(0, "a")
		done := make(chan error, 1)
		go func() {
			_, err := n.host.Propose(context.Background(), 0, []byte("stop"))
			done <- err
		}()
		c.sleep(100 * time.Millisecond)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := n.host.ReadIndex(ctx, 0); !errors.Is(err, quarry.Unavailable) {
			t.Errorf("a read of what is not applied: %v", err)
		}
		close(m.open)
		if err := n.host.ReadIndex(context.Background(), 0); err != nil || len(n.list(0)) != 2 {
			t.Errorf("%v, and the list is %v", err, n.list(0))
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestTransfer(t *testing.T) {
	inBubble(t, 3, 1, nil, func(t *testing.T, c *testCluster) {
		c.put(0, "a")
		for range 5 {
			to := c.other(0)
			start := time.Now()
			if err := c.leader(0).host.TransferLeadership(context.Background(), 0, to.id); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(start); d > 100*time.Millisecond {
				t.Errorf("the transfer took %v", d)
			}
			if l := c.leader(0); l != to {
				t.Fatalf("node %d leads, not %d", l.id, to.id)
			}
			c.put(0, "b")
		}
		leader, to := c.leader(0), c.other(0)
		if err := to.host.TransferLeadership(context.Background(), 0, leader.id); !errors.Is(err, quarry.NotLeader) {
			t.Errorf("a follower transfers: %v", err)
		}
		if err := leader.host.TransferLeadership(context.Background(), 0, 9); !errors.Is(err, quarry.Invalid) {
			t.Errorf("to a stranger: %v", err)
		}
		c.net.isolate(to.id, true)
		if err := leader.host.TransferLeadership(context.Background(), 0, to.id); !errors.Is(err, quarry.Unavailable) {
			t.Errorf("to a node that is cut off: %v", err)
		}
		c.put(0, "c")
	})
}

// TestPlannedStop stops the leader under load: nobody waits for an election.
func TestPlannedStop(t *testing.T) {
	inBubble(t, 3, 4, nil, func(t *testing.T, c *testCluster) {
		for _, g := range c.groups {
			c.put(g, "a")
		}
		n := c.leader(2)
		start := time.Now()
		if err := n.host.Stop(context.Background()); err != nil {
			t.Fatal(err)
		}
		c.net.detach(n.id)
		n.host = nil
		for _, g := range c.groups {
			c.put(g, "b")
		}
		if d := time.Since(start); d > 200*time.Millisecond {
			t.Errorf("the move took %v", d)
		}
	})
}

// TestPeerLost kills the leader's process with the connections reset: the others do not wait
// for the election timeout.
func TestPeerLost(t *testing.T) {
	inBubble(t, 3, 1, nil, func(t *testing.T, c *testCluster) {
		for range 5 {
			c.put(0, "a")
			old := c.leader(0)
			old.stop()
			start := time.Now()
			for _, n := range c.nodes {
				if n.host != nil {
					n.host.PeerLost(old.id)
				}
			}
			c.put(0, "b")
			if d := time.Since(start); d > 400*time.Millisecond {
				t.Errorf("failover took %v", d)
			}
			old.start()
			c.list(0)
		}
		// A false alarm on one node changes nothing.
		leader, other := c.leader(0), c.other(0)
		before, _ := leader.host.Status(0)
		other.host.PeerLost(leader.id)
		c.sleep(time.Second)
		if after, _ := leader.host.Status(0); !after.Leading || after.Term != before.Term {
			t.Errorf("a false alarm has led to %+v", after)
		}
	})
}

// TestOnLeadership follows the announcements of all nodes through changes of leaders.
func TestOnLeadership(t *testing.T) {
	inBubble(t, 3, 1, nil, func(t *testing.T, c *testCluster) {
		var mu sync.Mutex
		terms := map[uint64]quarry.NodeID{}
		leading := map[quarry.NodeID]uint64{}
		watch := func(n *testNode) {
			h := n.host
			err := h.OnLeadership(0, func(term uint64, leads bool) {
				mu.Lock()
				defer mu.Unlock()
				if leads {
					if other, taken := terms[term]; taken || leading[n.id] != 0 {
						t.Errorf("node %d leads in term %d, and so does node %d, and in %d", n.id, term, other, leading[n.id])
					}
					terms[term], leading[n.id] = n.id, term
					if st, err := h.Status(0); err == nil && st.Term == term && len(n.list(0)) < len(terms)-1 {
						t.Errorf("node %d leads with %d elements", n.id, len(n.list(0)))
					}
				} else {
					if leading[n.id] != term {
						t.Errorf("node %d no longer leads in %d, but it was %d", n.id, term, leading[n.id])
					}
					leading[n.id] = 0
				}
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, n := range c.nodes {
			watch(n)
		}
		for i := range 4 {
			c.put(0, fmt.Sprint(i))
			old := c.leader(0)
			if i%2 == 0 {
				c.net.isolate(old.id, true)
				c.leader(0)
				c.sleep(time.Second)
				c.net.isolate(old.id, false)
			} else if err := old.host.TransferLeadership(context.Background(), 0, 0); err != nil {
				t.Fatal(err)
			}
			c.leader(0)
		}
		c.sleep(100 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		if len(terms) < 5 || leading[c.leader(0).id] == 0 {
			t.Errorf("announced: %v, leading: %v", terms, leading)
		}
	})
}

// TestProposeInTerm refuses a command of a leadership that has ended.
func TestProposeInTerm(t *testing.T) {
	inBubble(t, 3, 1, nil, func(t *testing.T, c *testCluster) {
		n := c.leader(0)
		st, _ := n.host.Status(0)
		if _, err := n.host.ProposeIn(context.Background(), 0, st.Term, []byte("a")); err != nil {
			t.Fatal(err)
		}
		for range 2 { // away and back
			if err := c.leader(0).host.TransferLeadership(context.Background(), 0, 0); err != nil {
				t.Fatal(err)
			}
			if c.leader(0) != n {
				if err := c.leader(0).host.TransferLeadership(context.Background(), 0, n.id); err != nil {
					t.Fatal(err)
				}
			}
		}
		if c.leader(0) != n {
			t.Fatal("the leadership has not come back")
		}
		if _, err := n.host.ProposeIn(context.Background(), 0, st.Term, []byte("b")); !errors.Is(err, quarry.NotLeader) {
			t.Errorf("a command of another term: %v", err)
		}
	})
}

// TestLossyNetwork loses a fifth of all batches.
func TestLossyNetwork(t *testing.T) {
	inBubble(t, 3, 2, nil, func(t *testing.T, c *testCluster) {
		c.leader(0)
		c.leader(1)
		c.net.mu.Lock()
		c.net.loss = 0.2
		c.net.mu.Unlock()
		acked := map[string]bool{}
		for i := range 60 {
			e := fmt.Sprint(i)
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			if _, err := c.leader(0).host.Propose(ctx, 0, []byte(e)); err == nil {
				acked[e] = true
			}
			cancel()
		}
		c.net.mu.Lock()
		c.net.loss = 0
		c.net.mu.Unlock()
		l := c.list(0)
		for e := range acked {
			if !slices.Contains(l, e) {
				t.Errorf("%s was acknowledged and is lost", e)
			}
		}
		if len(acked) < 50 {
			t.Errorf("only %d of 60 were acknowledged", len(acked))
		}
	})
}

// TestBounds fills a leader without a majority: proposals are refused as Busy, and memory is
// bounded.
func TestBounds(t *testing.T) {
	inBubble(t, 3, 1, func(cfg *Config) { cfg.ElectionTicks = 100 }, func(t *testing.T, c *testCluster) {
		leader := c.leader(0)
		if _, err := leader.host.Propose(context.Background(), 0, make([]byte, CommandBytesMax+1)); !errors.Is(err, quarry.TooLarge) {
			t.Errorf("a command too large: %v", err)
		}
		if _, err := leader.host.Propose(context.Background(), 0, nil); !errors.Is(err, quarry.Invalid) {
			t.Errorf("an empty command: %v", err)
		}
		if _, err := leader.host.Propose(context.Background(), 7, []byte("x")); !errors.Is(err, quarry.NotFound) {
			t.Errorf("a strange group: %v", err)
		}
		if _, err := leader.host.Propose(context.Background(), 0, make([]byte, CommandBytesMax)); err != nil {
			t.Errorf("the largest command: %v", err)
		}
		for _, n := range c.nodes {
			if n != leader {
				c.net.isolate(n.id, true)
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		var mu sync.Mutex
		kinds := map[quarry.Kind]int{}
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				_, err := leader.host.Propose(ctx, 0, make([]byte, CommandBytesMax))
				mu.Lock()
				kinds[quarry.KindOf(err)]++
				mu.Unlock()
			})
			c.sleep(20 * time.Millisecond)
		}
		wg.Wait()
		if most := uncommittedBytesMax / CommandBytesMax; kinds[quarry.Busy] != 20-most || kinds[quarry.Unknown] != most {
			t.Errorf("the outcomes are %v", kinds)
		}
	})
}

func TestSingleNode(t *testing.T) {
	inBubble(t, 1, 2, nil, func(t *testing.T, c *testCluster) {
		for i := range 20 {
			c.put(quarry.ShardID(i%2), fmt.Sprint(i))
		}
		n := c.nodes[1]
		if err := n.host.ReadIndex(context.Background(), 0); err != nil {
			t.Fatal(err)
		}
		n.crash()
		n.start()
		c.put(0, "last")
		if l := c.list(0); len(l) != 11 || l[10] != "last" {
			t.Errorf("the list is %v", l)
		}
		if err := n.host.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// TestQuickStart founds a cluster and restarts all of it: leaders are found without waiting
// for the election timeout, and spread over the nodes.
func TestQuickStart(t *testing.T) {
	inBubble(t, 3, 6, nil, func(t *testing.T, c *testCluster) {
		for round := range 3 {
			start := time.Now()
			leaders := map[quarry.NodeID]int{}
			for _, g := range c.groups {
				c.put(g, "a")
				leaders[c.leader(g).id]++
			}
			if d := time.Since(start); d > 300*time.Millisecond {
				t.Errorf("round %d: the start took %v", round, d)
			}
			if len(leaders) != 3 {
				t.Errorf("round %d: the leaders are %v", round, leaders)
			}
			for _, n := range c.nodes {
				n.crash()
			}
			for _, n := range c.nodes {
				n.start()
			}
		}
	})
}
