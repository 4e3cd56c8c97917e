package raft

import (
	"context"
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
// the old one in one change. Before nodes are promoted it waits until they have caught up.
//
// Errors: NotLeader; Invalid for a change that cannot be made; Busy while another change is
// under way; Unavailable if ctx ended before the change was proposed (the nodes to promote
// have not caught up, for instance), Unknown if it ended later.
func (h *Host) ChangeMembership(ctx context.Context, id quarry.ShardID, c Change) error {
	g, err := h.group("change members", id)
	if err != nil {
		return err
	}
	if slices.Contains(c.Remove, h.cfg.Node) && g.leading.Load() {
		if err := h.TransferLeadership(ctx, id, 0); err != nil {
			return quarry.Wrap("change members", g.name(), err)
		}
		return g.notLeader("change members")
	}
	for {
		p, wait, err := g.tryChange(c)
		if err != nil {
			return err
		}
		if wait {
			if err := h.cfg.Clock.Sleep(ctx, h.cfg.Tick); err != nil {
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
