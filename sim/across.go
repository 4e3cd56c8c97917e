package sim

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/sim/lives"
)

// nothingLeft returns nil when no shard keeps anything of a transaction or of a move of slots, all groups
// have the same members, and
// there is no directory and no file without a name, and no chunk that nothing will free.
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
	if err := c.mastersAgree(); err != nil {
		return err
	}
	if err := c.noChunkLost(ctx); err != nil {
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

// noChunkLost returns nil when each chunk that no file names is garbage, or is owned by a session
// that lives, on whichever shard.
func (c *Cluster) noChunkLost(ctx context.Context) error {
	owned := map[quarry.SessionID]quarry.Handle{}
	for id := quarry.ShardID(1); int(id) <= c.shards; id++ {
		err := c.look(ctx, id, func(v meta.View) error {
			for _, chunk := range looseChunks(v) {
				owned[chunk.Owner] = chunk.Handle
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for id := quarry.ShardID(1); int(id) <= c.shards; id++ {
		err := c.look(ctx, id, func(v meta.View) error {
			maps.DeleteFunc(owned, func(owner quarry.SessionID, _ quarry.Handle) bool {
				_, err := meta.Session(v, owner)
				return err == nil
			})
			return nil
		})
		if err != nil {
			return err
		}
	}
	for owner, h := range owned {
		return fmt.Errorf("chunk %v is named by no file and will never be freed: no shard knows its owner %x", h, uint64(owner))
	}
	return nil
}

// looseChunks returns the chunks of a shard that no file names and that are not garbage. A chunk's
// key is its slot, 'c' and its handle: docs/formats.md.
func looseChunks(v meta.View) (list []*meta.ChunkRecord) {
	var handles []quarry.Handle
	v.Scan(nil, []byte{0xff, 0xff}, func(key, _ []byte) bool {
		if key[2] == 'c' {
			handles = append(handles, quarry.Handle(binary.BigEndian.Uint64(key[3:])))
		}
		return true
	})
	for _, h := range handles {
		if chunk, err := meta.ChunkOf(v, h); err == nil && chunk.Refs == 0 && chunk.Freed == 0 {
			list = append(list, chunk)
		}
	}
	return list
}

// cleanTime is how long what is left of transactions may last when all is healed.
const cleanTime = 30 * time.Second

// clean waits until nothing is left of any transaction.
func (r *run) clean(files client.FileSystem) {
	ctx, cancel := newNodeClock(r.w, nil).WithTimeout(context.Background(), cleanTime)
	defer cancel()
	var left error // what was left when there was time to look
	for err := r.c.nothingLeft(ctx, files); err != nil; err = r.c.nothingLeft(ctx, files) {
		if ctx.Err() != nil {
			r.violation("left over: %v after everything is healed: %v", cleanTime, cmp.Or(left, err))
			return
		}
		left = err
		r.w.Sleep(time.Second)
	}
}
