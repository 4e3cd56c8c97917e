package bench

import (
	"context"
	"fmt"

	"github.com/quarryfs/quarry/chaos"
	"github.com/quarryfs/quarry/client"
)

// metaVerbs are what meta measures, in the order in which it does them to the same files.
var metaVerbs = [...]string{"create", "stat", "list", "move", "remove"}

const (
	// listEntries is how many entries a list asks for.
	listEntries = 100
	// listsOf is of how many operations one is a list: it costs as much as many others.
	listsOf = 10
)

// metaCluster is one side of the measurement.
type metaCluster struct {
	name string
	*chaos.Cluster
	fs *client.FS
}

// meta measures creates, stats, lists, moves and removes of empty files against the masters of
// a cluster with several shards and, in turn, of one with a single shard. Each caller has a
// directory of its own, whose shard is another one than the next caller's; a file is moved to the
// next caller's directory, which with several shards is a transaction between two of them, and
// with one is not. The masters are processes of their own, and so is their processor time.
func (b *run) meta(ctx context.Context) ([]Result, error) {
	var sides [2]metaCluster // with Shards shards, and with one
	for i, shards := range []int{b.Shards, 1} {
		name := fmt.Sprintf("meta-%d-%d", i, shards)
		c, fs, end, err := b.withClient(ctx, name, 3, -1, shards)
		if err != nil {
			return nil, err
		}
		defer end()
		sides[i] = metaCluster{name, c, fs}
	}
	var samples [len(metaVerbs)][2][]sample
	for i := -1; i < b.Runs; i++ {
		for _, side := range sides {
			if err := mkdirs(ctx, side.Cluster, side.fs, fmt.Sprintf("/meta-%d", i), b.callers()); err != nil {
				return nil, err
			}
		}
		for v, verb := range metaVerbs {
			b.Progress(fmt.Sprintf("%s: run %d of %d", verb, i+1, b.Runs))
			for k := range sides {
				k = (k + i&1) % 2 // each goes first in every other run
				s, err := b.metaSample(ctx, &sides[k], verb, i)
				if err != nil {
					return nil, err
				}
				if i >= 0 {
					samples[v][k] = append(samples[v][k], s)
				}
			}
		}
	}
	var out []Result
	for v, verb := range metaVerbs {
		n := float64(b.metaEach(verb) * b.callers())
		both := func(what, unit string, f func(sample) float64) {
			out = append(out, figure(name(verb, b.callers(), what), unit, numbers(samples[v][0], f), numbers(samples[v][1], f)))
		}
		both("rate", "ops/s", func(s sample) float64 { return n / s.wall.Seconds() })
		both("cpu", "us/op", func(s sample) float64 { return s.cpu.Seconds() * 1e6 / n })
		both("cpu-of-each-master", "us/op", func(s sample) float64 { return s.away.Seconds() * 1e6 / n / 3 })
		both("cpu-of-client", "us/op", func(s sample) float64 { return (s.cpu - s.away).Seconds() * 1e6 / n })
	}
	return out, nil
}

func (b *run) metaSample(ctx context.Context, side *metaCluster, verb string, i int) (sample, error) {
	s, err := b.measureAll(ctx, side.Cluster, func(ctx context.Context) error {
		return each(ctx, b.callers(), func(ctx context.Context, k int) error { return b.metaOnce(ctx, side.fs, verb, i, k) })
	})
	if err != nil {
		return sample{}, fmt.Errorf("%s: %w", verb, err)
	}
	return s, nil
}

// metaEach is how many operations of a verb each caller does in a run.
func (b *run) metaEach(verb string) int {
	n := max(b.operationsOf(b.callers())/b.callers(), 1)
	if verb == "list" {
		n = max(n/listsOf, 1)
	}
	return n
}

// metaOnce does one verb to all files of one caller.
func (b *run) metaOnce(ctx context.Context, fs *client.FS, verb string, i, k int) error {
	dir, next := fmt.Sprintf("/meta-%d-%d", i, k), fmt.Sprintf("/meta-%d-%d", i, (k+1)%b.callers())
	for j := range b.metaEach(verb) {
		path, moved := fmt.Sprintf("%s/%d", dir, j), fmt.Sprintf("%s/from-%d-%d", next, k, j)
		var err error
		switch verb {
		case "create":
			var w *client.Writer
			if w, err = fs.Create(ctx, path); err == nil {
				err = w.Close()
			}
		case "stat":
			_, err = fs.Stat(ctx, path)
		case "list":
			_, _, err = fs.List(ctx, dir, "", listEntries)
		case "move":
			err = fs.Rename(ctx, path, moved)
		case "remove":
			err = fs.Remove(ctx, moved)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
