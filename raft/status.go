package raft

import (
	"slices"

	"github.com/quarryfs/quarry"
)

// Status is what a node knows of a group.
type Status struct {
	Leader    quarry.NodeID // 0 if unknown
	Leading   bool          // this node leads
	Term      uint64
	Committed uint64 // index up to which entries are known to be committed
	Applied   uint64 // index up to which they are applied here; 0 for an empty member
	Voters    []quarry.NodeID
	Learners  []quarry.NodeID
	Changing  bool     // a change of several members is under way
	Members   []Member // voters, learners, and those that are on their way out
}

// Status returns what this node knows of a group; NotFound if it has no such group.
func (h *Host) Status(id quarry.ShardID) (Status, error) {
	g, err := h.group("status", id)
	if err != nil {
		return Status{}, err
	}
	m := g.members.Load()
	return Status{
		Leader:    quarry.NodeID(g.leader.Load()),
		Leading:   g.leading.Load(),
		Term:      g.term.Load(),
		Committed: g.committed.Load(),
		Applied:   g.appliedAt.Load(),
		Voters:    nodeIDs(m.voters),
		Learners:  nodeIDs(m.learners),
		Changing:  m.joint(),
		Members:   slices.Clone(m.members),
	}, nil
}

func nodeIDs(ids []uint64) []quarry.NodeID {
	list := make([]quarry.NodeID, len(ids))
	for i, id := range ids {
		list[i] = quarry.NodeID(id)
	}
	return list
}
