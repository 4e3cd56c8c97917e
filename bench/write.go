package bench

import (
	"context"
	"fmt"

	"github.com/quarryfs/quarry/client"
)

// copiesMax is how many replicas of a chunk there are, if there are as many chunk servers.
const copiesMax = 3

// write is puts of streams, against as many local copies as there are replicas.
func (b *run) write() load {
	// Both sides write as much.
	takes := func(r round) int64 { return 2 * int64(min(copiesMax, r.Servers)*r.Clients) * b.Bytes }
	return load{name: "write", takes: takes, phases: []phase{{
		work: func(ctx context.Context, fs *client.FS, r round, k int, t *tally) error {
			_, err := fs.Put(ctx, fmt.Sprintf("%s/%d", r.Dir, k), newPattern(b.Bytes, uint64(k)), client.PutOptions{Size: b.Bytes})
			if err == nil {
				t.count("", 1, b.Bytes)
			}
			return err
		},
		bare: func(ctx context.Context, s *scene, r round, t *tally) error {
			t.count("", int64(r.Clients), b.Bytes*int64(r.Clients))
			return localCopies(ctx, s.bareDir(r), r.Clients, min(copiesMax, s.servers), b.Bytes)
		},
	}}}
}
