package sim

import (
	"context"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
)

// placing is a client whose directories live in slots all over the shards, as their paths say, so
// that most changes of names concern several.
type placing struct {
	*client.FS
	seed uint64
}

// Mkdir makes a directory in a slot that follows from its path and the seed.
func (p placing) Mkdir(ctx context.Context, path string) error {
	h := fnv.New32a()
	fmt.Fprint(h, p.seed, path)
	return p.MkdirIn(ctx, path, quarry.Slot(h.Sum32()%quarry.Slots))
}

// nothingLeft returns nil when no shard keeps anything of a transaction, and there is no
// directory and no file without a name.
func (c *Cluster) nothingLeft(ctx context.Context, files client.FileSystem) error {
	var dirs, named, kept int64
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
	reached := int64(1)
	if err := count(ctx, files, "/", &reached, &named); err != nil {
		return err
	}
	if reached != dirs || named != kept {
		return fmt.Errorf("the shards keep %d directories and %d files, and names lead to %d and %d", dirs, kept, reached, named)
	}
	return nil
}

func count(ctx context.Context, files client.FileSystem, dir string, dirs, named *int64) error {
	infos, _, err := files.List(ctx, dir, "", quarry.ListMax)
	if err != nil {
		return err
	}
	for _, info := range infos {
		if !info.IsDir() {
			*named++
			continue
		}
		*dirs++
		if err := count(ctx, files, info.Path, dirs, named); err != nil {
			return err
		}
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
