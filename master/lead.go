package master

import (
	"context"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/raft"
)

// The leaderships of the groups are spread over the masters: of a group's voters, in the order of
// their numbers, the one at the group's number modulo their count campaigns first (raft, hurry).
// A master that was away, and leads too little since, asks for those of its groups back, one at a
// time, from masters that lead too much. It does not ask for one that it was told to hand over:
// whoever works on a master moves its groups away first.
const (
	// leadEvery is how often a master looks whether it should lead more.
	leadEvery = 10 * time.Second
	// leadAfter is how long a master runs before it asks for anything.
	leadAfter = 30 * time.Second
	// leadLag is how many entries a master may lack of a group that it asks for.
	leadLag = 100
	// leadTime is how long the present leader may take to hand a group over.
	leadTime = 3 * time.Second
)

// firstChoice returns the voter that a group goes to when all are well; 0 if it has none.
func firstChoice(id quarry.ShardID, voters []quarry.NodeID) quarry.NodeID {
	if len(voters) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(voters))
	return sorted[uint64(id)%uint64(len(sorted))]
}

// due returns a group that this node should ask for, and its leader. The groups' states are as
// this node knows them.
func due(self quarry.NodeID, groups map[quarry.ShardID]raft.Status, renounced map[quarry.ShardID]bool) (quarry.ShardID, quarry.NodeID, bool) {
	leads := map[quarry.NodeID]int{}
	ids := make([]quarry.ShardID, 0, len(groups))
	for id, st := range groups {
		leads[st.Leader]++
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		st := groups[id]
		switch {
		case st.Leader == 0 || st.Leader == self || renounced[id] || firstChoice(id, st.Voters) != self:
		case st.Changing || st.Applied+leadLag < st.Committed:
		case leads[st.Leader] < leads[self]+2: // or one would come, and another one would want it back
		default:
			return id, st.Leader, true
		}
	}
	return 0, 0, false
}

// lead asks for leaderships, as long as the master lives.
func (m *Master) lead() {
	if m.cfg.Clock.Sleep(m.ctx, leadAfter) != nil {
		return
	}
	for {
		groups := map[quarry.ShardID]raft.Status{}
		for _, id := range m.host.Groups() {
			if st, err := m.host.Status(id); err == nil {
				groups[id] = st
			}
		}
		if id, leader, ok := due(m.node, groups, m.renouncedNow()); ok {
			m.askForLead(id, leader, groups[id].Members)
		}
		if m.cfg.Clock.Sleep(m.ctx, leadEvery) != nil {
			return
		}
	}
}

// askForLead has a group's leader hand the leadership over to this node.
func (m *Master) askForLead(id quarry.ShardID, leader quarry.NodeID, members []raft.Member) {
	i := slices.IndexFunc(members, func(n raft.Member) bool { return n.Node == leader })
	if i < 0 {
		return
	}
	ctx, cancel := m.cfg.Clock.WithTimeout(m.ctx, leadTime)
	defer cancel()
	err := m.cfg.Client.Master(members[i].Address).Transfer(ctx, &quarry.TransferRequest{Shard: id, To: m.node})
	m.cfg.Logger.Info("asked for a leadership that belongs here", "group", uint64(id), "leader", uint64(leader), "error", err)
}

// renounce notes that this node was told to hand a group over to another one.
func (m *Master) renounce(ctx context.Context, id quarry.ShardID, to quarry.NodeID) error {
	st, err := m.host.Status(id)
	if err == nil && firstChoice(id, st.Voters) == m.node {
		m.mark(id, true)
	}
	if err = m.host.TransferLeadership(ctx, id, to); err != nil {
		m.mark(id, false)
	}
	return quarry.Wrap("transfer", "", err)
}

// mark says whether this node has renounced a group. It has only until it starts again, or is
// told to lead it.
func (m *Master) mark(id quarry.ShardID, renounced bool) {
	m.leadMu.Lock()
	defer m.leadMu.Unlock()
	if renounced {
		if m.renounced == nil {
			m.renounced = map[quarry.ShardID]bool{}
		}
		m.renounced[id] = true
		return
	}
	delete(m.renounced, id)
}

func (m *Master) renouncedNow() map[quarry.ShardID]bool {
	m.leadMu.Lock()
	defer m.leadMu.Unlock()
	now := make(map[quarry.ShardID]bool, len(m.renounced))
	for id := range m.renounced {
		now[id] = true
	}
	return now
}
