package route

import (
	"context"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
)

// statusMax is how long a master may take to tell how the shards are that it leads.
const statusMax = 2 * time.Second

// Status asks the leader of the root group, and then all masters that live for what only the leader
// of a shard knows. A shard of which nobody says that he leads it has no leader here, and what is said of it
// is what the root group's leader knows, which may be of some time ago.
func (m *Masters) Status(ctx context.Context) (*quarry.StatusReply, error) {
	ask := func(node quarry.Master, ctx context.Context, _ struct{}) (*quarry.StatusReply, error) {
		return node.Status(ctx)
	}
	reply, err := call(ctx, m, "status", byShard(quarry.RootShard), struct{}{}, ask)
	if err != nil {
		return nil, err
	}
	ctx, cancel := m.opts.Clock.WithTimeout(ctx, statusMax)
	defer cancel()
	told := make([]*quarry.StatusReply, len(reply.Masters))
	var wg sync.WaitGroup
	for i, n := range reply.Masters {
		if n.Node == reply.Node || !n.Alive {
			continue
		}
		wg.Go(func() {
			if node, err := m.Node(n.Address); err == nil {
				told[i], _ = node.Status(ctx)
			}
		})
	}
	wg.Wait()
	for i := range reply.Shards {
		if s := &reply.Shards[i]; s.Leader != reply.Node {
			s.Leader = 0
		}
	}
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
