package route

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// cluster is three masters in memory, with two shards: 1 owns the slots below 2048.
type cluster struct {
	mu      sync.Mutex
	nodes   [3]*node
	leaders map[quarry.ShardID]int // index of the node; -1: none
	version uint64
	split   quarry.Slot // first slot of shard 2
	done    map[quarry.Op]int
}

type node struct {
	quarry.Master // nil: requests the tests do not send
	c             *cluster
	i             int

	// Guarded by c.mu.
	dead, silent, waiting bool
	hide                  bool          // does not name the leader
	slow, late            time.Duration // of requests, of topologies
	lose                  int           // answers to lose after doing the work
	busy                  int
	calls, asked          int
	leads                 map[quarry.ShardID]int // what this node believes, if not nil
}

func newCluster() *cluster {
	c := &cluster{leaders: map[quarry.ShardID]int{0: 0, 1: 0, 2: 1}, version: 1, split: 2048, done: map[quarry.Op]int{}}
	for i := range c.nodes {
		c.nodes[i] = &node{c: c, i: i}
	}
	return c
}

func address(i int) string { return fmt.Sprintf("master%d:7400", i) }

func (c *cluster) dial(at string) (quarry.Master, error) {
	for i, n := range c.nodes {
		if at == address(i) {
			return n, nil
		}
	}
	return nil, quarry.Errorf("dial", quarry.Invalid, at, "no such host")
}

func (c *cluster) masters(t *testing.T, change ...func(*Options)) *Masters {
	t.Helper()
	opts := Options{Addresses: []string{address(0), address(1), address(2)}, Dial: c.dial, Clock: clock.Simulated()}
	for _, f := range change {
		f(&opts)
	}
	m, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// set changes the cluster under its lock.
func (c *cluster) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func (n *node) lead(s quarry.ShardID) int {
	if l, ok := n.leads[s]; ok {
		return l
	}
	if l, ok := n.c.leaders[s]; ok {
		return l
	}
	return -1
}

// reach fails or hangs as a node does that is dead or silent.
func (n *node) reach(ctx context.Context) error {
	n.c.mu.Lock()
	dead, silent := n.dead, n.silent
	n.c.mu.Unlock()
	if silent {
		<-ctx.Done()
		return ctx.Err()
	}
	if dead {
		return quarry.Errorf("dial", quarry.Unavailable, address(n.i), "%w", syscall.ECONNREFUSED)
	}
	return ctx.Err()
}

func (n *node) Topology(ctx context.Context) (*quarry.TopologyReply, error) {
	if err := n.reach(ctx); err != nil {
		return nil, err
	}
	n.c.mu.Lock()
	late := n.late
	n.c.mu.Unlock()
	if err := clock.Simulated().Sleep(ctx, late); err != nil {
		return nil, err
	}
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	n.asked++
	r := &quarry.TopologyReply{Version: n.c.version}
	if n.waiting {
		return r, nil
	}
	for i := range n.c.nodes {
		r.Masters = append(r.Masters, quarry.MasterNode{Node: quarry.NodeID(i + 1), Address: address(i)})
	}
	slots := map[quarry.ShardID][]quarry.SlotRange{1: {{First: 0, Last: n.c.split - 1}}, 2: {{First: n.c.split, Last: quarry.Slots - 1}}}
	for s := range quarry.ShardID(3) {
		r.Shards = append(r.Shards, quarry.ShardInfo{Shard: s, Leader: quarry.NodeID(n.lead(s) + 1), Slots: slots[s]})
	}
	return r, nil
}

// serve is what every routed request goes through at a node.
func (n *node) serve(ctx context.Context, slot quarry.Slot) error {
	if err := n.reach(ctx); err != nil {
		return err
	}
	n.c.mu.Lock()
	slow := n.slow
	n.calls++
	n.c.mu.Unlock()
	if err := clock.Simulated().Sleep(ctx, slow); err != nil {
		return err
	}
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	shard := quarry.ShardID(1)
	if slot >= n.c.split {
		shard = 2
	}
	switch l := n.c.leaders[shard]; {
	case n.busy > 0:
		n.busy--
		return quarry.Errorf("serve", quarry.Busy, "", "full")
	case l != n.i && l >= 0 && !n.hide:
		return &quarry.Error{Op: "serve", Kind: quarry.NotLeader, Err: &quarry.NotLeaderError{Leader: quarry.NodeID(l + 1), Address: address(l)}}
	case l != n.i:
		return quarry.NotLeader
	}
	return nil
}

func (n *node) Stat(ctx context.Context, req *quarry.StatRequest) (*quarry.StatReply, error) {
	if err := n.serve(ctx, req.Inode.Slot()); err != nil {
		return nil, err
	}
	return &quarry.StatReply{Attr: quarry.Attr{Inode: req.Inode, Mode: uint32(n.i)}}, nil
}

func (n *node) Make(ctx context.Context, req *quarry.MakeRequest) (*quarry.AttrReply, error) {
	if err := n.serve(ctx, req.Parent.Slot()); err != nil {
		return nil, err
	}
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	n.c.done[req.Op]++
	if n.lose > 0 {
		n.lose--
		return nil, quarry.Errorf("make", quarry.Unavailable, address(n.i), "connection reset")
	}
	return &quarry.AttrReply{}, nil
}

func stat(t *testing.T, m *Masters, slot quarry.Slot) int {
	t.Helper()
	r, err := m.Stat(t.Context(), &quarry.StatRequest{Inode: quarry.MakeInode(slot, 7)})
	if err != nil {
		t.Fatal(err)
	}
	return int(r.Attr.Mode)
}

func TestGoesToTheLeaderOfTheSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		m := c.masters(t)
		for range 3 {
			if got := stat(t, m, 5); got != 0 {
				t.Errorf("slot 5 was served by node %d, want 0", got)
			}
			if got := stat(t, m, 3000); got != 1 {
				t.Errorf("slot 3000 was served by node %d, want 1", got)
			}
		}
		if c.nodes[0].calls != 3 || c.nodes[1].calls != 3 || c.nodes[2].calls != 0 || c.nodes[2].asked != 1 {
			t.Errorf("calls %d, %d, %d and %d topologies", c.nodes[0].calls, c.nodes[1].calls, c.nodes[2].calls, c.nodes[2].asked)
		}
		if s, err := m.Shard(t.Context(), 2048); s != 2 || err != nil {
			t.Errorf("slot 2048: shard %d, %v", s, err)
		}
	})
}

func TestFollowsTheHint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		m := c.masters(t)
		stat(t, m, 5)
		c.set(func() { c.leaders[1] = 2 })
		start := time.Now()
		if got := stat(t, m, 5); got != 2 {
			t.Errorf("served by %d, want 2", got)
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("a hint cost %v", d)
		}
		if c.nodes[1].calls != 0 {
			t.Error("the hint was not followed at once")
		}
	})
}

func TestFindsTheLeaderWithoutHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		m := c.masters(t)
		stat(t, m, 5)
		c.set(func() {
			c.leaders[1] = 2
			for _, n := range c.nodes {
				n.hide = true
			}
		})
		if got := stat(t, m, 5); got != 2 {
			t.Errorf("served by %d, want 2", got)
		}
	})
}

func TestDeadLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		m := c.masters(t)
		stat(t, m, 5)
		c.set(func() { c.nodes[0].dead = true; c.leaders[1] = -1 })
		go func() {
			clock.Simulated().Sleep(t.Context(), 1500*time.Millisecond)
			c.set(func() { c.leaders[1] = 1 })
		}()
		start := time.Now()
		if got := stat(t, m, 5); got != 1 {
			t.Errorf("served by %d, want 1", got)
		}
		if d := time.Since(start); d < 1500*time.Millisecond || d > 2100*time.Millisecond {
			t.Errorf("the new leader was found after %v", d)
		}
	})
}

func TestSilentLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		m := c.masters(t)
		stat(t, m, 5)
		c.set(func() { c.nodes[0].silent = true })
		go func() {
			clock.Simulated().Sleep(t.Context(), time.Second)
			c.set(func() { c.leaders[1] = 2 })
		}()
		start := time.Now()
		if got := stat(t, m, 5); got != 2 {
			t.Errorf("served by %d, want 2", got)
		}
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("the new leader was found after %v", d)
		}
	})
}

// A slow request is not sent twice while its node leads.
func TestSlowLeaderIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		m := c.masters(t)
		c.set(func() { c.nodes[0].slow = 7 * time.Second })
		if got := stat(t, m, 5); got != 0 {
			t.Errorf("served by %d, want 0", got)
		}
		if c.nodes[0].calls != 1 {
			t.Errorf("%d calls, want 1", c.nodes[0].calls)
		}
	})
}

func TestSilentNodeAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.nodes[2].silent = true
		m := c.masters(t)
		start := time.Now()
		stat(t, m, 5)
		if d := time.Since(start); d > refreshGrace {
			t.Errorf("a silent follower costs %v", d)
		}
	})
}

func TestLostAnswerIsAskedAgainWithTheSameOp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		m := c.masters(t)
		c.nodes[0].lose = 2
		op := quarry.Op{Session: 3, Sequence: 9, Oldest: 9}
		if _, err := m.Make(t.Context(), &quarry.MakeRequest{Op: op, Parent: quarry.MakeInode(1, 1)}); err != nil {
			t.Fatal(err)
		}
		if c.done[op] != 3 {
			t.Errorf("%d tries, want 3", c.done[op])
		}
	})
}

func TestBusyWaitsAtTheSameNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		m := c.masters(t)
		c.nodes[0].busy = 4
		start := time.Now()
		stat(t, m, 5)
		if c.nodes[0].calls != 5 || c.nodes[1].calls != 0 {
			t.Errorf("%d and %d calls", c.nodes[0].calls, c.nodes[1].calls)
		}
		if d := time.Since(start); d < 4*pauseMin || d > time.Second {
			t.Errorf("waited %v", d)
		}
	})
}

// wrongShard is a node that refuses slots of another shard, as a real one does.
type wrongShard struct{ *node }

func (n wrongShard) Stat(ctx context.Context, req *quarry.StatRequest) (*quarry.StatReply, error) {
	n.c.mu.Lock()
	owner := quarry.ShardID(1)
	if req.Inode.Slot() >= n.c.split {
		owner = 2
	}
	l := n.c.leaders[owner]
	n.c.mu.Unlock()
	if l != n.i {
		return nil, quarry.WrongShard
	}
	return n.node.Stat(ctx, req)
}

func TestWrongShardRefreshes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		m := c.masters(t, func(o *Options) {
			dial := o.Dial
			o.Dial = func(at string) (quarry.Master, error) {
				n, err := dial(at)
				return wrongShard{n.(*node)}, err
			}
		})
		stat(t, m, 2000)
		c.set(func() { c.split, c.version = 1000, 2 })
		if got := stat(t, m, 2000); got != 1 {
			t.Errorf("served by %d, want 1", got)
		}
	})
}

func TestGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		m := c.masters(t, func(o *Options) { o.Patience = 3 * time.Second })
		stat(t, m, 5)
		for _, n := range c.nodes {
			n.dead = true
		}
		start := time.Now()
		_, err := m.Stat(t.Context(), &quarry.StatRequest{Inode: 1})
		if !errors.Is(err, quarry.Unavailable) || !strings.Contains(err.Error(), "connection refused") || !strings.Contains(err.Error(), address(1)) {
			t.Errorf("got %v", err)
		}
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("gave up after %v", d)
		}

		c.set(func() { c.nodes[0].silent = true })
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			clock.Simulated().Sleep(t.Context(), time.Second)
			cancel()
		}()
		start = time.Now()
		_, err = m.Stat(ctx, &quarry.StatRequest{Inode: 1})
		if !errors.Is(err, context.Canceled) || !errors.Is(err, quarry.Unavailable) {
			t.Errorf("got %v", err)
		}
		if d := time.Since(start); d != time.Second {
			t.Errorf("a cancelled call returned after %v", d)
		}
	})
}

func TestNoClusterYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		for _, n := range c.nodes {
			n.waiting = true
		}
		m := c.masters(t, func(o *Options) { o.Patience = 2 * time.Second })
		_, err := m.Stat(t.Context(), &quarry.StatRequest{Inode: 1})
		if !errors.Is(err, quarry.Unavailable) || !strings.Contains(err.Error(), "no cluster yet") {
			t.Errorf("got %v", err)
		}
	})
}

// A node that was cut off believes in the old leader; the others know better.
func TestStaleFollowerIsOutvoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		m := c.masters(t)
		stat(t, m, 5)
		c.set(func() {
			c.nodes[0].silent = true
			c.leaders[1] = 2
			c.nodes[1].leads = map[quarry.ShardID]int{1: 0}
		})
		start := time.Now()
		if got := stat(t, m, 5); got != 2 {
			t.Errorf("served by %d, want 2", got)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("took %v", d)
		}
	})
}

func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		m := c.masters(t)
		if _, err := m.Heartbeat(t.Context(), nil); !errors.Is(err, quarry.Invalid) {
			t.Errorf("heartbeat: %v", err)
		}
		if n, err := m.Node(address(1)); n != quarry.Master(c.nodes[1]) || err != nil {
			t.Errorf("node: %v, %v", n, err)
		}
		stat(t, m, 5)
		m.Close()
		start := time.Now()
		if _, err := m.Stat(t.Context(), &quarry.StatRequest{Inode: 1}); !errors.Is(err, quarry.Unavailable) || time.Since(start) != 0 {
			t.Errorf("closed: %v after %v", err, time.Since(start))
		}
	})
	if _, err := New(Options{Dial: newCluster().dial}); !errors.Is(err, quarry.Invalid) {
		t.Errorf("no address: %v", err)
	}
	if _, err := New(Options{Addresses: []string{"nowhere"}, Dial: newCluster().dial}); !errors.Is(err, quarry.Invalid) {
		t.Errorf("bad address: %v", err)
	}
}

// Many callers that wait for a silent leader do not multiply the questions.
func TestCallersShareARefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		m := c.masters(t)
		stat(t, m, 5)
		c.set(func() { c.nodes[0].slow = 2 * time.Second })
		asked := c.nodes[1].asked
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { stat(t, m, 5) })
		}
		wg.Wait()
		if n := c.nodes[1].asked - asked; n > 4 {
			t.Errorf("%d questions for 50 callers", n)
		}
	})
}

// frozen is a node that tells of other masters than the cluster of its node does.
type frozen struct {
	*node
	applied uint64
	masters []int
}

func (f *frozen) Topology(ctx context.Context) (*quarry.TopologyReply, error) {
	r, err := f.node.Topology(ctx)
	if err != nil {
		return nil, err
	}
	r.Applied, r.Masters = f.applied, nil
	for _, i := range f.masters {
		r.Masters = append(r.Masters, quarry.MasterNode{Node: quarry.NodeID(i + 1), Address: address(i)})
	}
	return r, nil
}

// TestLastAnswererIsBehind has the master that answered last removed without knowing it: it goes on
// naming the masters of before. Who asks all, or the one that knows more, learns of the others, and
// the one that was removed is asked no more.
func TestLastAnswererIsBehind(t *testing.T) {
	for name, learn := range map[string]func(ctx context.Context, m *Masters) error{
		"all are asked": func(ctx context.Context, m *Masters) error { return m.refresh(ctx) },
		"each is asked in its turn": func(ctx context.Context, m *Masters) error {
			return errors.Join(m.RefreshNext(ctx, 8), m.RefreshNext(ctx, 9))
		},
		"the one ahead is asked": func(ctx context.Context, m *Masters) error { return m.Learn(ctx, address(1)) },
		"then the one behind too": func(ctx context.Context, m *Masters) error {
			return errors.Join(m.Learn(ctx, address(1)), m.Learn(ctx, address(0)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster()
				nodes := []*frozen{{c.nodes[0], 1, []int{0, 1}}, {c.nodes[1], 1, []int{0, 1}}, {c.nodes[2], 2, []int{1, 2}}}
				m := c.masters(t, func(o *Options) {
					o.Addresses = []string{address(0)}
					o.Dial = func(at string) (quarry.Master, error) {
						for i, n := range nodes {
							if at == address(i) {
								return n, nil
							}
						}
						return c.dial(at)
					}
				})
				if _, err := m.Topology(t.Context()); err != nil || !slices.Equal(m.Addresses(), []string{address(0), address(1)}) {
					t.Fatal(m.Addresses(), err)
				}
				nodes[1].applied, nodes[1].masters = 2, []int{1, 2}
				_ = clock.Simulated().Sleep(t.Context(), time.Second)
				if err := learn(t.Context(), m); err != nil || !slices.Equal(m.Addresses(), []string{address(1), address(2)}) {
					t.Fatal(m.Addresses(), err)
				}
				asked := c.nodes[0].asked
				for range 3 {
					if r, err := m.Topology(t.Context()); err != nil || r.Applied != 2 {
						t.Errorf("%+v, %v", r, err)
					}
				}
				if c.nodes[0].asked != asked {
					t.Error("the master that was removed is asked still")
				}
			})
		})
	}
}

// Two operations that are Busy as often do not come back at the same moments.
func TestBusyOperationsComeBackApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := map[time.Duration]bool{}
		for session := range quarry.SessionID(3) {
			c := newCluster()
			m := c.masters(t)
			c.nodes[0].busy = 4
			start := time.Now()
			_, err := m.Make(t.Context(), &quarry.MakeRequest{Op: quarry.Op{Session: session + 1, Sequence: 1}})
			if err != nil {
				t.Fatal(err)
			}
			took[time.Since(start)] = true
		}
		if len(took) != 3 {
			t.Errorf("they took %v", took)
		}
	})
}
