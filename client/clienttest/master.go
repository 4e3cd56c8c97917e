package clienttest

import (
	"context"

	"github.com/quarryfs/quarry"
)

// Master is the cluster's one master, which leads all shards. What only servers and
// operators ask it refuses.
type Master struct {
	quarry.Master // nil: what is not offered
	c             *Cluster
}

// Master returns the master.
func (c *Cluster) Master() *Master { return &Master{c: c} }

// ask does what every request goes through: it is counted, may be refused, and its answer
// may be lost.
func ask[R any](ctx context.Context, m *Master, op string, do func(*Cluster) (*R, error)) (*R, error) {
	c := m.c
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[op]++
	if c.down {
		return nil, quarry.Errorf(op, quarry.Unavailable, masterAddress, "connection refused")
	}
	if err := c.fail[op]; err != nil {
		return nil, err
	}
	reply, err := do(c)
	if c.lose[op] > 0 {
		c.lose[op]--
		return nil, quarry.Errorf(op, quarry.Unavailable, masterAddress, "connection reset")
	}
	return reply, err
}

// Topology implements quarry.Master.
func (m *Master) Topology(ctx context.Context) (*quarry.TopologyReply, error) {
	return ask(ctx, m, "topology", func(c *Cluster) (*quarry.TopologyReply, error) {
		return &quarry.TopologyReply{
			Cluster: c.id, Version: c.mapVersion, Shards: c.topology(),
			Masters: []quarry.MasterNode{{Node: 1, Address: masterAddress}},
		}, nil
	})
}

// Status implements quarry.Master.
func (m *Master) Status(ctx context.Context) (*quarry.StatusReply, error) {
	return ask(ctx, m, "status", func(c *Cluster) (*quarry.StatusReply, error) {
		return &quarry.StatusReply{Cluster: c.id, Node: 1}, nil
	})
}

// Identify implements quarry.Master.
func (m *Master) Identify(ctx context.Context) (*quarry.IdentifyReply, error) {
	return ask(ctx, m, "identify", func(c *Cluster) (*quarry.IdentifyReply, error) {
		return &quarry.IdentifyReply{Node: 1, Address: masterAddress}, nil
	})
}
