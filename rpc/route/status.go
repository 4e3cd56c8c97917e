package route

import (
	"context"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
)

// statusMax is how long the leader of a shard may take to tell how the shard is.
const statusMax = 2 * time.Second

// Status asks the leader of the root group, and then the leader of each shard for what only it
// knows. Of a shard whose leader does not answer the root group's leader tells what it knows.
func (m *Masters) Status(ctx context.Context) (*quarry.StatusReply, error) {
	ask := func(node quarry.Master, ctx context.Context, _ struct{}) (*quarry.StatusReply, error) {
		return node.Status(ctx)
	}
	reply, err := call(ctx, m, "status", byShard(quarry.RootShard), struct{}{}, ask)
	if err != nil {
		return nil, err
	}
	leads := map[quarry.NodeID]bool{}
	for _, s := range reply.Shards {
		leads[s.Leader] = s.Leader != reply.Node
	}
	ctx, cancel := m.opts.Clock.WithTimeout(ctx, statusMax)
	defer cancel()
	told := make([]*quarry.StatusReply, len(reply.Masters))
	var wg sync.WaitGroup
	for i, n := range reply.Masters {
		if !leads[n.Node] {
			continue
		}
		wg.Go(func() {
			if node, err := m.Node(n.Address); err == nil {
				told[i], _ = node.Status(ctx)
			}
		})
	}
	wg.Wait()
	for _, st := range told {
		if st != nil {
			Better(reply.Shards, st)
		}
	}
	return reply, nil
}

// Better replaces what is said of shards by what a node says of those that it leads.
func Better(shards []quarry.ShardStatus, st *quarry.StatusReply) {
	for i := range shards {
		for _, s := range st.Shards {
			if s.Shard == shards[i].Shard && s.Leader == st.Node && s.Term >= shards[i].Term {
				shards[i] = s
			}
		}
	}
}
