package master

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/root"
	"github.com/quarryfs/quarry/raft"
)

// growRetry is how long a master waits before it tries again to start a group.
const growRetry = time.Second

// AddShard makes a shard without slots. Every master starts its member of the new group as soon
// as it hears of the shard from the root group.
func (m *Master) AddShard(ctx context.Context, req *quarry.AddShardRequest) error {
	if !m.started.Load() {
		return m.waiting("add shard")
	}
	leave, err := m.alone(ctx, "add shard") // the masters must not change between the look at them and the log's entry
	if err != nil {
		return err
	}
	defer leave()
	st, err := m.host.Status(quarry.RootShard)
	if err == nil && st.Leading { // the leader before may have changed them
		if err = m.host.ReadIndex(ctx, quarry.RootShard); err == nil {
			st, err = m.host.Status(quarry.RootShard)
		}
	}
	switch {
	case err != nil:
		return quarry.Wrap("add shard", "", err)
	case !st.Leading:
		return m.notLeading("add shard", quarry.RootShard)
	case st.Changing:
		return quarry.Errorf("add shard", quarry.Busy, "", "the masters are being changed")
	}
	if err := m.root.speak(quarry.FeatureLevel); err != nil {
		return quarry.Wrap("add shard", "", err)
	}
	body := &root.AddShard{Shard: req.Shard}
	for _, member := range st.Members {
		if slices.Contains(st.Voters, member.Node) {
			body.Founders = append(body.Founders, quarry.MasterNode{Node: member.Node, Disk: member.Disk, Address: member.Address})
		}
	}
	_, err = m.root.proposeIn(ctx, st.Term, body)
	return quarry.Wrap("add shard", "", err)
}

// group returns a shard of this node; nil if it has none, perhaps not yet.
func (m *Master) group(id quarry.ShardID) *shard { return (*m.groups.Load())[id] }

// setGroup adds a shard to those of this node. Only the goroutine that starts groups calls it.
func (m *Master) setGroup(id quarry.ShardID, sh *shard) {
	groups := maps.Clone(*m.groups.Load())
	groups[id] = sh
	m.groups.Store(&groups)
}

// grow starts the groups of shards that were added to the cluster, as long as the master lives.
func (m *Master) grow() {
	for {
		pause := time.Duration(0)
		if err := m.startAdded(); err != nil {
			m.cfg.Logger.Warn("a shard that was added cannot be started", "error", err)
			pause = growRetry
		}
		if pause > 0 {
			if m.cfg.Clock.Sleep(m.ctx, pause) != nil {
				return
			}
			continue
		}
		select {
		case <-m.ctx.Done():
			return
		case <-m.host.Done():
			return
		case <-m.root.added:
		}
	}
}

// startAdded starts the groups of the shards that this node knows of and has no group of: as one
// of the group's founders, or with an empty member that the group's leader fills when it is made
// a member.
func (m *Master) startAdded() error {
	known := m.root.known.Load()
	if known == nil {
		return nil
	}
	for i := range known.shards {
		s := &known.shards[i]
		if m.group(s.Shard) != nil {
			continue
		}
		var founders []raft.Member
		if self := m.host.Self(); slices.ContainsFunc(s.Founders, func(n quarry.MasterNode) bool { return n.Node == self.Node && n.Disk == self.Disk }) {
			for _, n := range s.Founders {
				founders = append(founders, raft.Member{Node: n.Node, Disk: n.Disk, Address: n.Address})
				if n.Node == self.Node {
					founders[len(founders)-1].Address = self.Address
				}
			}
		}
		if err := m.startGroup(s.Shard, founders); err != nil {
			return quarry.Wrap("start", "", err)
		}
		if err := m.host.OnLeadership(s.Shard, m.group(s.Shard).leadership); err != nil {
			return err
		}
		m.cfg.Logger.Info("a shard was added", "shard", uint64(s.Shard), "founder", founders != nil)
	}
	return nil
}
