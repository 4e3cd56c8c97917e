package sim

import (
	"context"
	"fmt"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/sim/lives"
)

// nothingLeft returns nil when no shard keeps anything of a transaction or of a move of slots, and
// there is no directory and no file without a name.
func (c *Cluster) nothingLeft(ctx context.Context, files client.FileSystem) error {
	var dirs, kept int64
	for id := quarry.ShardID(1); int(id) <= c.shards; id++ {
		n, err := c.counters(id)
		if err != nil {
			return err
		}
		if n.Transactions != 0 || n.Intents != 0 {
			return fmt.Errorf("shard %d keeps %d transactions and %d intents", id, n.Transactions, n.Intents)
		}
		dirs, kept = dirs+n.Dirs, kept+n.Files
	}
	if err := c.slotsSettled(ctx); err != nil {
		return err
	}
	reached, named, err := lives.Count(ctx, files, "/")
	if err != nil {
		return err
	}
	if reached != dirs || named != kept {
		return fmt.Errorf("the shards keep %d directories and %d files, and names lead to %d and %d", dirs, kept, reached, named)
	}
	return nil
}

// cleanTime is how long what is left of transactions may last when all is healed.
const cleanTime = 30 * time.Second

// clean waits until nothing is left of any transaction.
func (r *run) clean(files client.FileSystem) {
	ctx, cancel := newNodeClock(r.w, nil).WithTimeout(context.Background(), cleanTime)
	defer cancel()
	err := r.c.nothingLeft(ctx, files)
	for err != nil && ctx.Err() == nil {
		r.w.Sleep(time.Second)
		err = r.c.nothingLeft(ctx, files)
	}
	if err != nil {
		r.violation("left over: %v after everything is healed: %v", cleanTime, err)
	}
}
