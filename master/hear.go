package master

import (
	"context"
	"slices"

	"github.com/quarryfs/quarry"
)

const (
	// hearRounds is how often those are asked, too, whom answers have named.
	hearRounds = 3
	// hearMax is the most masters that are asked.
	hearMax = 4 * mastersMax
)

// topologies are the answers of several masters.
type topologies []*quarry.TopologyReply

// members returns the members of a group, as those say who lead it: more than one may take itself
// for the leader, and so there may be some that are none any more. Nil if no leader has answered.
func (a topologies) members(id quarry.ShardID) (members []quarry.NodeID) {
	for _, t := range a {
		for _, s := range t.Shards {
			if s.Shard == id {
				members = append(members, s.Members...)
			}
		}
	}
	return members
}

// hear asks this master, those that it knows of and some more, all of one round at the same time,
// what they know of the cluster. Who does not answer within identifyTime is left out.
func (m *Master) hear(ctx context.Context, masters []quarry.MasterNode) (heard topologies) {
	if own, err := m.Topology(ctx); err == nil {
		heard = append(heard, own)
		masters = append(slices.Clone(masters), own.Masters...)
	}
	asked := []string{m.cfg.Address}
	for range hearRounds {
		var next []string
		for _, n := range masters {
			if n.Node != m.node && !slices.Contains(asked, n.Address) && len(asked) < hearMax {
				asked, next = append(asked, n.Address), append(next, n.Address)
			}
		}
		masters = nil
		for _, t := range m.hearOnce(ctx, next) {
			heard, masters = append(heard, t), append(masters, t.Masters...)
		}
	}
	return heard
}

func (m *Master) hearOnce(ctx context.Context, addresses []string) (heard topologies) {
	ctx, cancel := m.cfg.Clock.WithTimeout(ctx, identifyTime)
	defer cancel()
	answers := make(chan *quarry.TopologyReply, len(addresses))
	for _, address := range addresses {
		go func() {
			t, err := m.cfg.Client.Master(address).Topology(ctx)
			if err != nil || t.Cluster != m.originNow().cluster() {
				t = nil
			}
			answers <- t
		}()
	}
	for range addresses {
		if t := <-answers; t != nil {
			heard = append(heard, t)
		}
	}
	return heard
}

// outOfShards returns Busy unless masters have left all shards, as the shards' leaders say: those
// that the root group forgets end.
func (m *Master) outOfShards(ctx context.Context, gone []quarry.NodeID) error {
	if err := m.host.ReadIndex(ctx, quarry.RootShard); err != nil { // no shard must be missing
		return quarry.Wrap("replace", "", err)
	}
	known := m.root.known.Load()
	if known == nil {
		return quarry.Errorf("replace", quarry.Busy, "", "this master has not learnt the cluster's map yet")
	}
	heard := m.hear(ctx, nil)
	for _, s := range known.topology.Shards {
		members := heard.members(s.Shard)
		if len(members) == 0 {
			return quarry.Errorf("replace", quarry.Busy, "", "no leader of shard %d has told node %d who is a member of it", s.Shard, m.node)
		}
		for _, node := range gone {
			if slices.Contains(members, node) {
				return quarry.Errorf("replace", quarry.Busy, "", "node %d is a member of shard %d still: the root group comes last", node, s.Shard)
			}
		}
	}
	return nil
}
