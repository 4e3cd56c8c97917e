package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/quarryfs/quarry/client"
)

// smallSizes is how many sizes small files have: 1, 2, 4 … 64 KiB.
const smallSizes = 7

// smallBytes is the size of a client's j-th file.
func smallBytes(j int) int { return 1 << (10 + j%smallSizes) }

// small is many small files that are put, and then read, against local copies of which one is read.
func (b *run) small() load {
	content := make([]byte, smallBytes(smallSizes-1))
	fillPattern(content, 3)
	files := func(r round, k int, t *tally, do func(j, n int) error) error {
		for j := range share(b.operations(r), r.Clients, k) {
			n := smallBytes(j)
			if err := t.time("", int64(n), func() error { return do(j, n) }); err != nil {
				return err
			}
		}
		return nil
	}
	local := func(do func(name string, copies, n int) error) func(context.Context, *scene, round, *tally) error {
		return func(ctx context.Context, s *scene, r round, t *tally) error {
			return each(ctx, r.Clients, func(ctx context.Context, k int) error {
				return files(r, k, t, func(j, n int) error {
					if err := ctx.Err(); err != nil {
						return err
					}
					return do(filepath.Join(s.bareDir(r), fmt.Sprintf("%d-%d", k, j)), min(copiesMax, s.servers), n)
				})
			})
		}
	}
	put := phase{name: "put", unit: "files", work: func(ctx context.Context, fs *client.FS, r round, k int, t *tally) error {
		if err := fs.Mkdir(ctx, fmt.Sprintf("%s/%d", r.Dir, k)); err != nil {
			return err
		}
		return files(r, k, t, func(j, n int) error {
			_, err := fs.Put(ctx, fmt.Sprintf("%s/%d/%d", r.Dir, k, j), &pattern{content, int64(n)}, client.PutOptions{Size: int64(n)})
			return err
		})
	}, bare: local(func(name string, copies, n int) error { return localSmall(name, copies, content[:n]) })}
	get := phase{name: "read", unit: "files", work: func(ctx context.Context, fs *client.FS, r round, k int, t *tally) error {
		buf := make([]byte, len(content))
		return files(r, k, t, func(j, n int) error {
			f, err := fs.Open(ctx, fmt.Sprintf("%s/%d/%d", r.Dir, k, j))
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.ReadAtContext(ctx, buf[:n], 0)
			return err
		})
	}, bare: local(func(name string, _, n int) error {
		_, err := os.ReadFile(name + ".0")
		return err
	})}
	return load{name: "small", phases: []phase{put, get}}
}
