package master

import (
	"context"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/root"
	"github.com/quarryfs/quarry/raft"
)

// catchUpTime is how long one call of Replace waits for the new members to catch up.
const catchUpTime = 20 * time.Second

// Replace has new masters take the place of others in one group; either may be none, so masters
// are added and removed by it, too. Each step can be done again, so a call that was interrupted
// is simply repeated.
func (m *Master) Replace(ctx context.Context, req *quarry.ReplaceRequest) (*quarry.ReplaceReply, error) {
	if !m.started.Load() {
		return nil, m.waiting("replace")
	}
	if err := checkReplace(req); err != nil {
		return nil, err
	}
	st, err := m.led("replace", req.Shard)
	if err != nil {
		return nil, err
	}
	if req.Shard == quarry.RootShard && len(req.New) == 0 {
		return &quarry.ReplaceReply{}, m.forget(ctx, req.Gone, st.Voters)
	}
	nodes := slices.Clone(req.New)
	for i := range nodes {
		if req.Shard == quarry.RootShard {
			if nodes[i], err = m.number(ctx, nodes[i], req.Gone); err != nil {
				return nil, err
			}
		}
		if err := m.registered(nodes[i]); err != nil {
			return nil, err
		}
		m.reached("master numbered")
		if err := m.invite(ctx, nodes[i]); err != nil {
			return nil, quarry.Wrap("replace", nodes[i].Address, err)
		}
		m.reached("master invited")
	}
	if req.Shard == quarry.RootShard {
		leave, err := m.alone(ctx, "replace")
		if err != nil {
			return nil, err
		}
		defer leave()
	}
	if err := m.exchange(ctx, req.Shard, req.Gone, nodes); err != nil {
		return nil, quarry.Wrap("replace", "", err)
	}
	return &quarry.ReplaceReply{New: nodes}, nil
}

// alone waits until nobody else changes the masters, the shards or the feature level; the caller
// gives the place back by leave.
func (m *Master) alone(ctx context.Context, op string) (leave func(), err error) {
	select {
	case m.changing <- struct{}{}:
		return func() { <-m.changing }, nil
	case <-ctx.Done():
		return nil, quarry.Errorf(op, quarry.Busy, "", "another change of the masters or the shards is under way: %w", ctx.Err())
	}
}

// number has the root group give a new master its number, or name the one that it has.
func (m *Master) number(ctx context.Context, node quarry.MasterNode, gone []quarry.NodeID) (quarry.MasterNode, error) {
	leave, err := m.alone(ctx, "replace") // the feature level must not rise between the look at the node's and the log's entry
	if err != nil {
		return node, err
	}
	defer leave()
	if err := m.fits(ctx, node, gone); err != nil {
		return node, err
	}
	result, err := m.root.propose(ctx, &root.AddMaster{Master: node})
	if err != nil {
		return node, quarry.Wrap("replace", "", err)
	}
	return result.Node, nil
}

// forget has the root group let go of masters that have left all shards.
func (m *Master) forget(ctx context.Context, gone, voters []quarry.NodeID) error {
	if left := slices.ContainsFunc(voters, func(n quarry.NodeID) bool { return !slices.Contains(gone, n) }); left && slices.Contains(gone, m.node) {
		// Who is to go does not judge whether it may.
		if err := m.host.HandOver(ctx, quarry.RootShard, gone); err != nil {
			return quarry.Wrap("replace", "", err)
		}
		return m.notLeading("replace", quarry.RootShard)
	}
	if err := m.outOfShards(ctx, gone); err != nil {
		return err
	}
	m.reached("masters out of shards")
	leave, err := m.alone(ctx, "replace")
	if err != nil {
		return err
	}
	defer leave()
	if err := m.exchange(ctx, quarry.RootShard, gone, nil); err != nil {
		return quarry.Wrap("replace", "", err)
	}
	if err := m.outOfShards(ctx, gone); err != nil { // one may have been added meanwhile
		return err
	}
	st, err := m.host.Status(quarry.RootShard)
	if err != nil {
		return quarry.Wrap("replace", "", err)
	}
	for _, member := range st.Members { // who is forgotten ends: its vote must not count any more
		if slices.Contains(gone, member.Node) {
			return quarry.Errorf("replace", quarry.Busy, "", "node %d is a member of the root group still", member.Node)
		}
	}
	for _, node := range gone {
		if _, err := m.root.propose(ctx, &root.RemoveMaster{Node: node}); err != nil {
			return quarry.Wrap("replace", "", err)
		}
		m.reached("master forgotten")
	}
	return nil
}

// checkReplace refuses a request that makes no sense whatever the cluster is like.
func checkReplace(req *quarry.ReplaceRequest) error {
	if n := len(req.Gone) + len(req.New); n == 0 || n > mastersMax {
		return quarry.Errorf("replace", quarry.Invalid, "", "1 to %d masters are named, not %d", mastersMax, n)
	}
	for i, n := range req.New {
		switch {
		case !sane(n):
			return quarry.Errorf("replace", quarry.Invalid, "", "the new master's disk and address must be named")
		case n.Node != 0 && slices.Contains(req.Gone, n.Node):
			return quarry.Errorf("replace", quarry.Invalid, "", "node %d cannot take its own place", n.Node)
		case n.Node == 0 && req.Shard != quarry.RootShard:
			return quarry.Errorf("replace", quarry.Invalid, "", "the root group comes first: it gives the new master its number")
		case slices.ContainsFunc(req.New[:i], func(o quarry.MasterNode) bool { return o.Disk == n.Disk || o.Address == n.Address }):
			return quarry.Errorf("replace", quarry.Invalid, n.Address, "the new master is named twice")
		}
	}
	return nil
}

// registered returns an error unless the root group has given the new master its number.
func (m *Master) registered(node quarry.MasterNode) error {
	if known := m.root.known.Load(); known != nil {
		for _, n := range known.topology.Masters {
			switch {
			case n.Node == node.Node && n.Disk == node.Disk:
				return nil
			case n.Node == node.Node || n.Disk == node.Disk:
				return quarry.Errorf("replace", quarry.Invalid, node.Address, "the root group knows node %d with disk %v, not node %d with disk %v", n.Node, n.Disk, node.Node, node.Disk)
			}
		}
		if node.Node <= known.topology.Numbered {
			return quarry.Errorf("replace", quarry.Invalid, node.Address, "node %d was removed from the cluster", node.Node)
		}
	}
	return quarry.Errorf("replace", quarry.Unavailable, node.Address, "this master has not learnt of node %d: the root group comes first", node.Node)
}

// fits returns an error unless a new master can become a member: before anything is made known that
// would have to be taken back.
func (m *Master) fits(ctx context.Context, node quarry.MasterNode, gone []quarry.NodeID) error {
	known := m.root.known.Load()
	if known == nil {
		return quarry.Errorf("join", quarry.Unavailable, "", "this master has not learnt the cluster's map yet")
	}
	for _, n := range known.topology.Masters {
		if n.Disk == node.Disk && slices.Contains(gone, n.Node) {
			return quarry.Errorf("replace", quarry.Invalid, node.Address, "the master there is node %d, which cannot take its own place: start one with an empty folder", n.Node)
		}
	}
	ctx, cancel := m.cfg.Clock.WithTimeout(ctx, identifyTime)
	defer cancel()
	id, err := m.cfg.Client.Master(node.Address).Identify(ctx)
	switch {
	case err != nil:
		return quarry.Wrap("replace", node.Address, err)
	case id.Level < known.level:
		return quarry.Errorf("join", quarry.Unsupported, node.Address, "its release %s speaks feature level %d, the cluster uses level %d: start a later release there", id.Release, id.Level, known.level)
	case id.Disk != node.Disk:
		return quarry.Errorf("join", quarry.Invalid, node.Address, "there is disk %v, not disk %v", id.Disk, node.Disk)
	case id.Node != 0 && !slices.ContainsFunc(known.topology.Masters, func(n quarry.MasterNode) bool { return n.Disk == id.Disk }):
		return quarry.Errorf("join", quarry.Exists, node.Address, "the master there is node %d of another cluster, or was removed from this one: start one with an empty folder", id.Node)
	}
	return nil
}

// invite makes the waiting master a member of the cluster, with empty groups.
func (m *Master) invite(ctx context.Context, node quarry.MasterNode) error {
	known := m.root.known.Load() // not nil, or it would not be registered
	join := &quarry.JoinRequest{Cluster: known.topology.Cluster, Node: node, Masters: known.topology.Masters, Shards: []quarry.ShardID{quarry.RootShard}}
	for _, s := range known.topology.Shards {
		join.Shards = append(join.Shards, s.Shard)
	}
	return m.cfg.Client.Master(node.Address).Join(ctx, join)
}

// allRegistered is registered for several masters.
func (m *Master) allRegistered(nodes []quarry.MasterNode) error {
	for _, n := range nodes {
		if err := m.registered(n); err != nil && !off(RemovedIsAdded) {
			return err
		}
	}
	return nil
}

// exchange has the new members learn what the group knows, and then vote in the place of those
// that are gone, in one change. A new one may have been removed from the cluster since it was
// invited, and end at any moment: it is not made a member then.
func (m *Master) exchange(ctx context.Context, id quarry.ShardID, gone []quarry.NodeID, nodes []quarry.MasterNode) error {
	st, err := m.host.Status(id)
	if err != nil {
		return err
	}
	if st.Changing && !off(JointIsDone) { // those who go still count
		return quarry.Errorf("replace", quarry.Busy, "", "another change of the members of group %d is under way", id)
	}
	var learn, change raft.Change
	for _, n := range nodes {
		if slices.Contains(st.Voters, n.Node) {
			continue
		}
		change.Promote = append(change.Promote, n.Node)
		if !slices.Contains(st.Learners, n.Node) {
			learn.Learn = append(learn.Learn, raft.Member{Node: n.Node, Disk: n.Disk, Address: n.Address})
		}
	}
	for _, node := range gone {
		if slices.Contains(st.Voters, node) || slices.Contains(st.Learners, node) {
			change.Remove = append(change.Remove, node)
		}
	}
	if err := m.allRegistered(nodes); err != nil {
		return err
	}
	if len(learn.Learn) > 0 {
		if err := m.host.ChangeMembership(ctx, id, learn); err != nil {
			return err
		}
		if err := m.allRegistered(nodes); err != nil {
			var back raft.Change
			for _, n := range learn.Learn {
				back.Remove = append(back.Remove, n.Node)
			}
			_ = m.host.ChangeMembership(ctx, id, back) // whoever removes them again does it, too
			return err
		}
	}
	left := slices.ContainsFunc(st.Voters, func(n quarry.NodeID) bool { return !slices.Contains(gone, n) })
	switch {
	case len(change.Promote)+len(change.Remove) == 0:
		return nil
	case !left && len(change.Promote) == 0:
		return quarry.Errorf("replace", quarry.Invalid, "", "these are all the masters that there are: group %d would be gone", id)
	case !left: // somebody must have a vote before this node can hand over to it
		if err := m.changeWhenCaughtUp(ctx, id, raft.Change{Promote: change.Promote}); err != nil {
			return err
		}
		change.Promote = nil
	}
	return m.changeWhenCaughtUp(ctx, id, change)
}

// changeWhenCaughtUp makes a change as soon as those who are to vote by it have caught up, or
// fails with Busy.
func (m *Master) changeWhenCaughtUp(ctx context.Context, id quarry.ShardID, change raft.Change) error {
	if len(change.Promote)+len(change.Remove) == 0 {
		return nil
	}
	ctx, cancel := m.cfg.Clock.WithTimeout(ctx, catchUpTime)
	defer cancel()
	err := m.host.ChangeMembership(ctx, id, change)
	if quarry.KindOf(err) == quarry.Unavailable && len(change.Promote) > 0 {
		return quarry.Errorf("replace", quarry.Busy, "", "nodes %v have not all caught up yet: %w", change.Promote, err)
	}
	return err
}

// led returns the state of a group that this node leads.
func (m *Master) led(op string, id quarry.ShardID) (raft.Status, error) {
	st, err := m.host.Status(id)
	switch {
	case err != nil:
		return st, quarry.Wrap(op, "", err)
	case !st.Leading:
		return st, m.notLeading(op, id)
	}
	return st, nil
}

// notLeading is the error that names a group's leader.
func (m *Master) notLeading(op string, id quarry.ShardID) error {
	err := &quarry.Error{Op: op, Kind: quarry.NotLeader}
	if leader, address := m.leaderOf(id); leader != 0 && leader != m.node {
		err.Err = &quarry.NotLeaderError{Leader: leader, Address: address}
	}
	return err
}
