package master

import (
	"context"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/root"
	"github.com/quarryfs/quarry/raft"
)

// catchUpTime is how long one call of Replace waits for the new member to catch up.
const catchUpTime = 20 * time.Second

// Replace has a new master take the place of one that is gone, in one group. Each step can
// be done again, so a call that was interrupted is simply repeated.
func (m *Master) Replace(ctx context.Context, req *quarry.ReplaceRequest) (*quarry.ReplaceReply, error) {
	if !m.started.Load() {
		return nil, m.waiting("replace")
	}
	switch {
	case !sane(req.New):
		return nil, quarry.Errorf("replace", quarry.Invalid, "", "the new master's disk and address must be named")
	case req.Gone != 0 && req.Gone == req.New.Node:
		return nil, quarry.Errorf("replace", quarry.Invalid, "", "node %d cannot take its own place", req.Gone)
	}
	st, err := m.host.Status(req.Shard)
	if err != nil {
		return nil, quarry.Wrap("replace", "", err)
	}
	if !st.Leading {
		return nil, m.notLeading("replace", req.Shard)
	}
	node := req.New
	if req.Shard == quarry.RootShard {
		result, err := m.root.propose(ctx, &root.AddMaster{Master: node})
		if err != nil {
			return nil, quarry.Wrap("replace", "", err)
		}
		node = result.Node
	}
	if err := m.registered(node); err != nil {
		return nil, err
	}
	if err := m.invite(ctx, node); err != nil {
		return nil, quarry.Wrap("replace", node.Address, err)
	}
	if err := m.exchange(ctx, req.Shard, req.Gone, node); err != nil {
		return nil, quarry.Wrap("replace", node.Address, err)
	}
	if req.Shard == quarry.RootShard && req.Gone != 0 {
		if _, err := m.root.propose(ctx, &root.RemoveMaster{Node: req.Gone}); err != nil {
			return nil, quarry.Wrap("replace", "", err)
		}
	}
	return &quarry.ReplaceReply{Node: node}, nil
}

// registered returns an error unless the root group has given the new master its number.
func (m *Master) registered(node quarry.MasterNode) error {
	if node.Node == 0 {
		return quarry.Errorf("replace", quarry.Invalid, "", "the root group comes first: it gives the new master its number")
	}
	if known := m.root.known.Load(); known != nil {
		for _, n := range known.topology.Masters {
			switch {
			case n.Node == node.Node && n.Disk == node.Disk:
				return nil
			case n.Node == node.Node || n.Disk == node.Disk:
				return quarry.Errorf("replace", quarry.Invalid, node.Address, "the root group knows node %d with disk %v, not node %d with disk %v", n.Node, n.Disk, node.Node, node.Disk)
			}
		}
	}
	return quarry.Errorf("replace", quarry.Unavailable, node.Address, "this master has not learnt of node %d: the root group comes first", node.Node)
}

// invite makes the waiting master a member of the cluster, with empty groups.
func (m *Master) invite(ctx context.Context, node quarry.MasterNode) error {
	known := m.root.known.Load()
	if known == nil {
		return quarry.Errorf("join", quarry.Unavailable, "", "this master has not learnt the cluster's map yet")
	}
	if id, err := m.cfg.Client.Master(node.Address).Identify(ctx); err != nil {
		return err
	} else if id.Level < known.level {
		return quarry.Errorf("join", quarry.Unsupported, node.Address, "its release %s speaks feature level %d, the cluster uses level %d: start a later release there", id.Release, id.Level, known.level)
	}
	join := &quarry.JoinRequest{Cluster: known.topology.Cluster, Node: node, Masters: known.topology.Masters, Shards: []quarry.ShardID{quarry.RootShard}}
	for _, s := range known.topology.Shards {
		join.Shards = append(join.Shards, s.Shard)
	}
	return m.cfg.Client.Master(node.Address).Join(ctx, join)
}

// exchange has the new member learn what the group knows, and then vote in the place of the
// one that is gone, in one change.
func (m *Master) exchange(ctx context.Context, id quarry.ShardID, gone quarry.NodeID, node quarry.MasterNode) error {
	st, err := m.host.Status(id)
	if err != nil {
		return err
	}
	if !slices.Contains(st.Voters, node.Node) && !slices.Contains(st.Learners, node.Node) {
		learn := raft.Change{Learn: []raft.Member{{Node: node.Node, Disk: node.Disk, Address: node.Address}}}
		if err := m.host.ChangeMembership(ctx, id, learn); err != nil {
			return err
		}
	}
	var change raft.Change
	if !slices.Contains(st.Voters, node.Node) {
		change.Promote = []quarry.NodeID{node.Node}
	}
	if gone != 0 && (slices.Contains(st.Voters, gone) || slices.Contains(st.Learners, gone)) {
		change.Remove = []quarry.NodeID{gone}
	}
	if len(change.Promote)+len(change.Remove) == 0 {
		return nil
	}
	ctx, cancel := m.cfg.Clock.WithTimeout(ctx, catchUpTime)
	defer cancel()
	err = m.host.ChangeMembership(ctx, id, change)
	if quarry.KindOf(err) == quarry.Unavailable {
		return quarry.Errorf("replace", quarry.Busy, "", "the new master has not caught up yet: %w", err)
	}
	return err
}

// notLeading is the error that names a group's leader.
func (m *Master) notLeading(op string, id quarry.ShardID) error {
	err := &quarry.Error{Op: op, Kind: quarry.NotLeader}
	if leader, address := m.leaderOf(id); leader != 0 && leader != m.node {
		err.Err = &quarry.NotLeaderError{Leader: leader, Address: address}
	}
	return err
}
