package route

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// refusing is a node that refuses so many changes because of a slot.
type refusing struct {
	*node
	refusals int
	slot     quarry.Slot
	told     uint64 // the version of its map
	ops      []quarry.Op
}

func (n *refusing) Make(ctx context.Context, req *quarry.MakeRequest) (*quarry.AttrReply, error) {
	n.ops = append(n.ops, req.Op)
	if n.refusals > 0 {
		n.refusals--
		return nil, &quarry.Error{Op: "make", Kind: quarry.WrongShard, Err: &quarry.WrongShardError{Slot: n.slot, Map: n.told}}
	}
	return &quarry.AttrReply{}, nil
}

// TestChangeOfAMovedSlot has changes refused. Because of the slot of what is changed, the caller
// hears of it at once: only it can open another session. Because of the session's own slot, the
// same Op is sent until a shard knows the session: only there it is known what became of it.
func TestChangeOfAMovedSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		n := &refusing{node: c.nodes[0], told: 1}
		m := c.masters(t, func(o *Options) {
			o.Dial = func(at string) (quarry.Master, error) {
				if at == address(0) {
					return n, nil
				}
				return c.dial(at)
			}
		})
		op := quarry.Op{Session: quarry.SessionID(quarry.MakeInode(3, 1)), Sequence: 1, Oldest: 1}
		req := &quarry.MakeRequest{Op: op, Parent: quarry.MakeInode(2000, 7)}
		n.refusals, n.slot = 1, 2000
		began := clock.Simulated().Now()
		_, err := m.Make(t.Context(), req)
		var told *quarry.WrongShardError
		if !errors.As(err, &told) || told.Slot != 2000 || len(n.ops) != 1 || clock.Simulated().Now() != began {
			t.Errorf("because of the parent: %v after %d tries", err, len(n.ops))
		}
		c.set(func() { c.split, c.version = 1500, 2 })
		n.refusals, n.told, n.ops = 1, 2, nil
		clock.Simulated().Sleep(t.Context(), time.Second) // the map was fetched before this instant
		_, err = m.Make(t.Context(), req)
		asked := c.nodes[2].asked
		if s, shardErr := m.Shard(t.Context(), 2000); !errors.As(err, &told) || len(n.ops) != 1 || s != 2 || shardErr != nil || c.nodes[2].asked != asked {
			t.Errorf("because of a parent that a later map has elsewhere: %v after %d tries; the slot is shard %d's, %v", err, len(n.ops), s, shardErr)
		}
		c.set(func() { c.split, c.version = 2048, 3 })
		n.refusals, n.told, n.slot, n.ops = 3, 1, 3, nil
		if _, err := m.Make(t.Context(), req); err != nil || len(n.ops) != 4 {
			t.Errorf("because of the session: %v after %d tries", err, len(n.ops))
		}
		n.refusals, n.ops = 1<<30, nil
		if _, err := m.Make(t.Context(), req); !errors.Is(err, quarry.Unavailable) || len(n.ops) > 200 {
			t.Errorf("without an end: %v after %d tries", err, len(n.ops))
		}
		n.refusals, n.told, n.ops = 1000, 9, nil // a map that nobody has when it is asked for
		if _, err := m.Make(t.Context(), req); !errors.Is(err, quarry.Unavailable) || len(n.ops) > 200 {
			t.Errorf("because of a map that does not come: %v after %d tries", err, len(n.ops))
		}
	})
}

// TestNodeThatIsBehind is asked for a slot that it does not know to be its own yet, and is asked
// again, not faster and faster.
func TestNodeThatIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		behind := 5
		m := c.masters(t, func(o *Options) {
			o.Dial = func(at string) (quarry.Master, error) {
				n, err := c.dial(at)
				return lagging{n.(*node), &behind}, err
			}
		})
		began := clock.Simulated().Now()
		if got := stat(t, m, 100); got != 0 {
			t.Errorf("served by %d, want 0", got)
		}
		if took := clock.Simulated().Now().Sub(began); behind != 0 || took < 100*time.Millisecond || took > 5*time.Second {
			t.Errorf("%d refusals left after %v", behind, took)
		}
	})
}

// lagging is a node whose shard refuses so many requests.
type lagging struct {
	*node
	behind *int
}

func (n lagging) Stat(ctx context.Context, req *quarry.StatRequest) (*quarry.StatReply, error) {
	reply, err := n.node.Stat(ctx, req)
	if err == nil && *n.behind > 0 {
		*n.behind--
		return nil, &quarry.Error{Op: "stat", Kind: quarry.WrongShard, Err: &quarry.WrongShardError{Slot: req.Inode.Slot(), Map: 1}}
	}
	return reply, err
}

// telling is a node that tells how the shards are, as it knows it.
type telling struct {
	*node
	fails    bool
	stranger bool // to the shards that it does not lead
}

func (n telling) Status(ctx context.Context) (*quarry.StatusReply, error) {
	if n.fails {
		return nil, quarry.NotLeader
	}
	st := &quarry.StatusReply{Node: quarry.NodeID(n.i + 1)}
	for i := range n.c.nodes {
		st.Masters = append(st.Masters, quarry.MasterStatus{MasterNode: quarry.MasterNode{Node: quarry.NodeID(i + 1), Address: address(i)}, Alive: true})
	}
	for s := range quarry.ShardID(3) {
		leader := quarry.NodeID(n.lead(s) + 1)
		if n.stranger && leader != st.Node {
			leader = 0
		}
		st.Shards = append(st.Shards, quarry.ShardStatus{Shard: s, Leader: leader, Repairing: int64(10 * (n.i + 1))})
	}
	return st, nil
}

// TestStatusOfEveryLeader has each shard described by the node that leads it, if that answers.
func TestStatusOfEveryLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.leaders[2] = 2
		m := c.masters(t, func(o *Options) {
			o.Dial = func(at string) (quarry.Master, error) {
				n, err := c.dial(at)
				return telling{n.(*node), false, true}, err
			}
		})
		st, err := m.Status(t.Context())
		if err != nil || st.Node != 1 || st.Shards[1].Repairing != 10 || st.Shards[2].Repairing != 30 {
			t.Errorf("%+v, %v", st, err)
		}
		m.Close()
		m = c.masters(t, func(o *Options) {
			o.Dial = func(at string) (quarry.Master, error) {
				n, err := c.dial(at)
				return telling{n.(*node), at == address(2), false}, err
			}
		})
		if st, err := m.Status(t.Context()); err != nil || st.Shards[2].Repairing != 10 || st.Shards[1].Leader != 1 || st.Shards[2].Leader != 0 {
			t.Errorf("%+v, %v", st, err)
		}
	})
}

// behind is a node that has not heard of versions of the slot map after one.
type behind struct {
	*node
	version uint64
}

func (n *behind) Topology(ctx context.Context) (*quarry.TopologyReply, error) {
	reply, err := n.node.Topology(ctx)
	if err == nil {
		reply.Version = min(reply.Version, n.version)
	}
	return reply, err
}

// TestTopologyOfANodeThatIsBehind passes over nodes whose slot map is older than the one that is
// known, as long as another one answers.
func TestTopologyOfANodeThatIsBehind(t *testing.T) {
	for name, test := range map[string]struct {
		away func(n *node)
		want uint64 // the version that is told while node 2 is away
		took time.Duration
	}{
		"all answer":            {func(*node) {}, 3, 0},
		"the others are behind": {func(n *node) { n.dead = true }, 2, time.Second},
		"it is silent":          {func(n *node) { n.silent = true }, 2, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster()
				c.version = 3
				nodes := []*behind{{c.nodes[0], 1}, {c.nodes[1], 2}, {c.nodes[2], 3}}
				m := c.masters(t, func(o *Options) {
					o.Dial = func(at string) (quarry.Master, error) {
						n, err := c.dial(at)
						return nodes[n.(*node).i], err
					}
				})
				if err := m.refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
				m.note(target{any: true}, address(0))
				c.set(func() { test.away(c.nodes[2]) })
				began := clock.Simulated().Now()
				reply, err := m.Topology(t.Context())
				if err != nil || reply.Version != test.want || m.version() != 3 {
					t.Fatalf("%+v, %v; known is version %d", reply, err, m.version())
				}
				if took := clock.Simulated().Now().Sub(began); took > test.took {
					t.Errorf("it took %v", took)
				}
				if test.want < 3 {
					return
				}
				asked := c.nodes[0].asked
				if _, err := m.Topology(t.Context()); err != nil || c.nodes[0].asked != asked {
					t.Errorf("the node that is behind is asked first again: %v", err)
				}
			})
		})
	}
}
