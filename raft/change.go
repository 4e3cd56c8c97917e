package raft

import (
	"context"
	"errors"
	"fmt"
	"slices"

	etcd "go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"

	"github.com/quarryfs/quarry"
)

// caughtUp is how many entries a learner may lack when it is promoted.
const caughtUp = 1000

// ChangeMembership changes the members of a group, on its leader, and returns when the
// change is complete. To replace a node, let the other one learn, then promote it and remove
// the old one in one change. Before nodes are promoted it waits until they have caught up. A
// change after which fewer than a majority of the voters would be heard from is refused: the
// group could do nothing any more, not even take the change back.
//
// Errors: NotLeader; Invalid for a change that cannot be made; Busy while another change is
// under way; Unavailable if ctx ended before the change was proposed (the nodes to promote
// have not caught up, or too few answer yet), Unknown if it ended, or the host stopped, later.
func (h *Host) ChangeMembership(ctx context.Context, id quarry.ShardID, c Change) error {
	g, err := h.group("change members", id)
	if err != nil {
		return err
	}
	if slices.Contains(c.Remove, h.cfg.Node) && g.leading.Load() {
		if err := g.handOver(ctx, 0, c.Remove); err != nil {
			return quarry.Wrap("change members", g.name(), err)
		}
		return g.notLeader("change members")
	}
	few := (*tooFewError)(nil) // of the last try
	for tooFew := 0; ; {
		p, wait, err := g.tryChange(c)
		switch few = nil; {
		case errors.As(err, &few) && tooFew < 2*h.cfg.ElectionTicks:
			// The leader forgets whom it has heard once in each election timeout: those who live
			// may not have had the time to answer.
			tooFew, wait = tooFew+1, true
		case err != nil:
			return err
		default:
			tooFew = 0
		}
		if wait {
			if err := h.cfg.Clock.Sleep(ctx, h.cfg.Tick); err != nil {
				if few != nil {
					return quarry.Errorf("change members", quarry.Unavailable, g.name(), "%w: %w", few, err)
				}
				return quarry.Errorf("change members", quarry.Unavailable, g.name(), "the nodes to promote have not caught up: %w", err)
			}
			continue
		}
		if _, err := p.wait(ctx, g); err != nil {
			return quarry.Wrap("change members", g.name(), err)
		}
		break
	}
	for g.members.Load().joint() {
		if err := h.cfg.Clock.Sleep(ctx, h.cfg.Tick); err != nil {
			return quarry.Errorf("change members", quarry.Unknown, g.name(), "the change is agreed on, but not complete: %w", err)
		}
		if h.life.Err() != nil { // who has stopped does not hear of its end
			return quarry.Errorf("change members", quarry.Unknown, g.name(), "the change is agreed on, but not complete: %w", h.stopCause())
		}
	}
	return nil
}

// tryChange proposes a change; wait is true if it is too early.
func (g *group) tryChange(c Change) (p *proposal, wait bool, err error) {
	ran := g.do(func() {
		if !g.leads {
			err = g.notLeader("change members")
			return
		}
		m := g.members.Load()
		if m.joint() {
			err = quarry.Errorf("change members", quarry.Busy, g.name(), "another change is under way")
			return
		}
		cc, e := m.build(c)
		if e != nil {
			err = e
			return
		}
		if wait = !g.haveCaughtUp(c.Promote); wait {
			return
		}
		if len(c.Promote)+len(c.Remove) > 0 {
			if e := g.wouldLive(m, cc); e != nil {
				err = &quarry.Error{Op: "change members", Kind: quarry.Invalid, Subject: g.name(), Err: e}
				return
			}
		}
		data, e := proto.Marshal(cc)
		if e != nil {
			err = quarry.Wrap("change members", g.name(), e)
			return
		}
		p = &proposal{data: data, typ: pb.EntryConfChangeV2, done: make(chan outcome, 1)}
		g.proposeSome([]*proposal{p})
	})
	if !ran {
		return nil, false, &quarry.Error{Op: "change members", Kind: quarry.Unavailable, Subject: g.name(), Err: g.h.stopCause()}
	}
	return p, wait, err
}

// haveCaughtUp reports whether the log of each of the nodes is nearly complete.
func (g *group) haveCaughtUp(nodes []quarry.NodeID) bool {
	all := true
	g.rn.WithProgress(func(id uint64, _ etcd.ProgressType, pr tracker.Progress) {
		if slices.Contains(nodes, quarry.NodeID(id)) && (pr.State != tracker.StateReplicate || pr.Match+caughtUp < g.log.last) {
			all = false
		}
	})
	return all
}

// tooFewError refuses a change that would leave no majority of voters that live.
type tooFewError struct {
	voters int
	silent []quarry.NodeID
}

func (e *tooFewError) Error() string {
	return fmt.Sprintf("of the %d voters that there would be, nodes %v do not answer: no majority would be left; start them, or replace or remove them first", e.voters, e.silent)
}

// wouldLive returns an error if a change would lead to voters of whom no majority is heard from.
func (g *group) wouldLive(m *membership, cc *pb.ConfChangeV2) error {
	conf, err := m.next(cc)
	if err != nil {
		return err
	}
	heard := map[uint64]bool{uint64(g.h.cfg.Node): true}
	g.rn.WithProgress(func(id uint64, _ etcd.ProgressType, pr tracker.Progress) {
		heard[id] = heard[id] || pr.RecentActive
	})
	few := &tooFewError{voters: len(conf.Voters)}
	for _, id := range conf.Voters {
		if !heard[id] {
			few.silent = append(few.silent, quarry.NodeID(id))
		}
	}
	if 2*(few.voters-len(few.silent)) > few.voters {
		return nil
	}
	return few
}

// Lags returns, on the leader of a group, how many entries each of its learners lacks; -1 for one
// that waits for a snapshot or has not been heard from. Elsewhere it returns nil.
func (h *Host) Lags(id quarry.ShardID) map[quarry.NodeID]int64 {
	g, err := h.group("lags", id)
	if err != nil || !g.leading.Load() {
		return nil
	}
	lags := map[quarry.NodeID]int64{}
	ran := g.do(func() {
		g.rn.WithProgress(func(id uint64, typ etcd.ProgressType, pr tracker.Progress) {
			switch {
			case typ != etcd.ProgressTypeLearner:
			case pr.State != tracker.StateReplicate || !pr.RecentActive:
				lags[quarry.NodeID(id)] = -1
			default:
				lags[quarry.NodeID(id)] = int64(g.log.last) - int64(pr.Match)
			}
		})
	})
	if !ran {
		return nil
	}
	return lags
}

// Expel stops the host, as one that fails does, because the other nodes say that this one
// belongs to the cluster no longer. Err returns err from then on.
func (h *Host) Expel(err error) { h.fail(err) }
