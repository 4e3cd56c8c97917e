package bench

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/quarryfs/quarry/chaos"
	"github.com/quarryfs/quarry/client"
)

const (
	// limitFiles is over how many files appends are spread on the other side.
	limitFiles = 8
	// limitMoves is how many directories each caller moves in a run.
	limitMoves = 20
)

// limits measures what cannot be spread, beside the same when it is: one directory, one file that
// is appended to, the root group; and what a file costs a master.
func (b *run) limits(ctx context.Context) ([]Result, error) {
	c, fs, end, err := b.withClient(ctx, "limits", 3, 3, b.Shards)
	if err != nil {
		return nil, err
	}
	defer end()
	var out []Result
	for _, l := range []func(context.Context, *chaos.Cluster, *client.FS) ([]Result, error){b.oneDirectory, b.oneFile, b.rootGroup} {
		r, err := l(ctx, c, fs)
		if err != nil {
			return nil, err
		}
		out = append(out, r...)
	}
	end()
	r, err := b.manyFiles(ctx)
	return append(out, r...), err
}

// oneDirectory makes files in one directory, and in as many as there are callers.
func (b *run) oneDirectory(ctx context.Context, c *chaos.Cluster, fs *client.FS) ([]Result, error) {
	n := max(b.operationsOf(b.callers())/b.callers(), 1)
	in := func(name string, dirs int) func(context.Context, int) error {
		return func(ctx context.Context, i int) error {
			if err := mkdirs(ctx, c, fs, fmt.Sprintf("/%s-%d", name, i), dirs); err != nil {
				return err
			}
			return each(ctx, b.callers(), func(ctx context.Context, k int) error {
				for j := range n {
					if err := create(ctx, fs, fmt.Sprintf("/%s-%d-%d/%d-%d", name, i, k%dirs, k, j)); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	us, them, err := b.pairs(ctx, c, "one directory", in("one", 1), in("many", b.callers()))
	if err != nil {
		return nil, err
	}
	total := float64(n * b.callers())
	return rates(fmt.Sprintf("limits/%d/creates-in-one-directory", b.callers()), "ops", us, them, total), nil
}

// oneFile appends records to one file, and to several.
func (b *run) oneFile(ctx context.Context, c *chaos.Cluster, fs *client.FS) ([]Result, error) {
	n := max(b.operationsOf(b.callers())/b.callers(), 1)
	record := make([]byte, b.RecordBytes[0])
	fillPattern(record, 1)
	to := func(name string, files int) func(context.Context, int) error {
		return func(ctx context.Context, i int) error {
			for k := range files {
				if err := create(ctx, fs, fmt.Sprintf("/%s-%d-%d", name, i, k)); err != nil {
					return err
				}
			}
			return each(ctx, b.callers(), func(ctx context.Context, k int) error {
				a, err := fs.Appender(ctx, fmt.Sprintf("/%s-%d-%d", name, i, k%files))
				if err != nil {
					return err
				}
				defer a.Close()
				for range n {
					if _, err := a.Append(ctx, record); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	us, them, err := b.pairs(ctx, c, "one file", to("log", 1), to("logs", limitFiles))
	if err != nil {
		return nil, err
	}
	total := float64(n * b.callers())
	return rates(fmt.Sprintf("limits/%d/appends-to-one-file", b.callers()), "records", us, them, total), nil
}

// rootGroup gives directories another parent, which the root group orders, and files, which it
// does not.
func (b *run) rootGroup(ctx context.Context, c *chaos.Cluster, fs *client.FS) ([]Result, error) {
	move := func(kind string) func(context.Context, int) error {
		return func(ctx context.Context, i int) error {
			return each(ctx, b.callers(), func(ctx context.Context, k int) error {
				for j := range limitMoves {
					from, to := (k+j)%b.callers(), (k+j+1)%b.callers()
					if err := fs.Rename(ctx, fmt.Sprintf("/parent-%d/%s-%d-%d", from, kind, i, k), fmt.Sprintf("/parent-%d/%s-%d-%d", to, kind, i, k)); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	if err := mkdirs(ctx, c, fs, "/parent", b.callers()); err != nil {
		return nil, err
	}
	for i := -1; i < b.Runs; i++ {
		err := each(ctx, b.callers(), func(ctx context.Context, k int) error {
			if err := fs.Mkdir(ctx, fmt.Sprintf("/parent-%d/dir-%d-%d", k, i, k)); err != nil {
				return err
			}
			return create(ctx, fs, fmt.Sprintf("/parent-%d/file-%d-%d", k, i, k))
		})
		if err != nil {
			return nil, err
		}
	}
	us, them, err := b.pairs(ctx, c, "the root group", move("dir"), move("file"))
	if err != nil {
		return nil, err
	}
	total := float64(limitMoves * b.callers())
	return rates(fmt.Sprintf("limits/%d/directories-moved", b.callers()), "ops", us, them, total), nil
}

// manyFiles makes files at a master that is alone, and tells what they cost it.
func (b *run) manyFiles(ctx context.Context) ([]Result, error) {
	c, fs, end, err := b.withClient(ctx, "files", 1, -1, 1)
	if err != nil {
		return nil, err
	}
	defer end()
	if err := mkdirs(ctx, c, fs, "/many", b.callers()); err != nil {
		return nil, err
	}
	before, err := usageOf(c.Masters[0])
	if err != nil {
		return nil, err
	}
	const steps = 20
	s, err := b.measureAll(ctx, c, func(ctx context.Context) error {
		for step := range steps {
			b.Progress(fmt.Sprintf("making %d files: %d %%", b.Files, step*100/steps))
			err := each(ctx, b.callers(), func(ctx context.Context, k int) error {
				for j := step*b.Files/steps + k; j < (step+1)*b.Files/steps; j += b.callers() {
					if err := create(ctx, fs, fmt.Sprintf("/many-%d/file-%010d", k, j)); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := b.clock.Sleep(ctx, b.calm()); err != nil { // until it has compacted its state
		return nil, err
	}
	after, err := usageOf(c.Masters[0])
	if err != nil {
		return nil, err
	}
	state, log, err := diskOf(c.Masters[0].Dir)
	if err != nil {
		return nil, err
	}
	n := float64(b.Files)
	single := func(name, unit string, v float64) Result {
		return Result{Name: fmt.Sprintf("limits/%d-files/%s", b.Files, name), Unit: unit, Value: v, Runs: 1, Min: v, Max: v}
	}
	return []Result{
		single("rate", "ops/s", n/s.wall.Seconds()),
		single("cpu", "us/op", s.cpu.Seconds()*1e6/n),
		single("cpu-of-master", "us/op", (after.cpu-before.cpu).Seconds()*1e6/n),
		single("memory-before", "MiB", float64(before.rss)/(1<<20)),
		single("memory-after", "MiB", float64(after.rss)/(1<<20)),
		single("memory-peak", "MiB", float64(after.peak)/(1<<20)),
		single("state-on-disk", "bytes/file", float64(state)/n),
		single("log-on-disk", "MiB", float64(log)/(1<<20)),
	}, nil
}

// diskOf returns the bytes of a master's state, its store's own log left out, and of its logs.
func diskOf(dir string) (state, log int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil // compacted away meanwhile
		}
		if strings.HasSuffix(path, ".sst") {
			state += info.Size()
		} else {
			log += info.Size()
		}
		return nil
	})
	return state, log, err
}
