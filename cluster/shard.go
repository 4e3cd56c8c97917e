package cluster

import (
	"context"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// AddShard adds a shard without slots to a cluster and returns its number when it has a leader.
// Unavailable: ctx has ended first; the shard may be there, or come yet.
func AddShard(ctx context.Context, masters quarry.Master, c clock.Clock) (quarry.ShardID, error) {
	t, err := masters.Topology(ctx)
	if err != nil {
		return 0, err
	}
	next := quarry.ShardID(0)
	for _, s := range t.Shards {
		next = max(next, s.Shard+1)
	}
	if err := masters.AddShard(ctx, &quarry.AddShardRequest{Shard: next}); err != nil {
		return 0, err
	}
	for {
		t, err := masters.Topology(ctx)
		if err == nil {
			for _, s := range t.Shards {
				if s.Shard == next && s.Leader != 0 {
					return next, nil
				}
			}
		}
		if c.Sleep(ctx, 20*time.Millisecond) != nil {
			return next, quarry.Errorf("add shard", quarry.Unavailable, "", "shard %d is made, but has no leader yet: see \"quarry admin status\"", next)
		}
	}
}
