package bench

import (
	"context"
	"fmt"
	"net"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/quarryfs/quarry/client"
)

// besideCallers is how many clients read a little, and how many append.
const besideCallers = 2

// The stages of beside: what is at work beside the small operations. But for the first and the last it is
// a phase of crowd, in a process of its own.
var besideStages = []struct {
	name  string
	phase int
	here  bool // in the process of the small operations
}{{"alone", -1, false}, {"computing", 0, false}, {"bare-copies", 1, false}, {"bulk-reads", 2, false}, {"bulk-reads-here", 2, true}}

// crowd is what small operations are measured beside. Each of its clients keeps a processor busy, or
// copies as fast as it can until the run is over.
func (b *run) crowd() load {
	return load{name: "beside", phases: []phase{{work: b.compute}, {work: b.copyBare}, {work: b.readBulk}}}
}

// compute only computes.
func (b *run) compute(ctx context.Context, _ *client.FS, _ round, k int, _ *tally) error {
	block := make([]byte, 64<<10)
	return b.until(func(int) error {
		fillPattern(block, uint64(k))
		return ctx.Err()
	})
}

// copyBare is a stream of the framed copy: what a bulk read costs this machine if nobody has a hand in it.
func (b *run) copyBare(ctx context.Context, _ *client.FS, _ round, _ int, t *tally) error {
	return framed(ctx, b.crowdFile(), 1, func(_ int, conn net.Conn) error {
		return b.pieces(t, func(buf []byte, at int64) error { return framedFetch(conn, buf, at) })
	})
}

// readBulk reads the file in steps of 1 MiB.
func (b *run) readBulk(ctx context.Context, fs *client.FS, _ round, _ int, t *tally) error {
	f, err := fs.Open(ctx, "/read")
	if err != nil {
		return err
	}
	defer f.Close()
	return b.pieces(t, func(buf []byte, at int64) error {
		_, err := f.ReadAtContext(ctx, buf, at)
		return err
	})
}

// pieces fetches one piece of 1 MiB after the other, from the beginning again and again, until the run is over.
func (b *run) pieces(t *tally, fetch func(buf []byte, at int64) error) error {
	buf := make([]byte, min(copyRequestBytes, b.Bytes))
	n := int64(len(buf))
	return b.until(func(i int) error {
		return t.time("bulk", n, func() error { return fetch(buf, int64(i)%(b.Bytes/n)*n) })
	})
}

// crowdFile is the file of the bare copies.
func (b *run) crowdFile() string { return filepath.Join(b.Dir, "bare") }

// beside measures small reads and appends alone, and beside what may keep them waiting: processes that only
// compute, bare copies of the same bytes, and bulk reads from the same chunk server, by another process and by
// their own. What the first two do to them is the machine's doing.
func (b *run) beside(ctx context.Context) ([]Result, error) {
	c, fs, end, err := b.withClient(ctx, "beside", 3, b.Servers[0], 1)
	if err != nil {
		return nil, err
	}
	defer end()
	if _, err := fs.Put(ctx, "/read", newPattern(b.Bytes, 1), client.PutOptions{Size: b.Bytes}); err != nil {
		return nil, err
	}
	if err := writeFile(b.crowdFile(), newPattern(b.Bytes, 1)); err != nil {
		return nil, err
	}
	for k := range besideCallers {
		if err := create(ctx, fs, fmt.Sprint("/log-", k)); err != nil {
			return nil, err
		}
	}
	b.Processes = 1
	crowd, err := b.hire(ctx, c.Addresses())
	defer func() { _ = crowd.dismiss() }() // what it has done is told already
	if err != nil {
		return nil, err
	}
	samples := make([][]sample, len(besideStages))
	for i := -1; i < b.Runs; i++ {
		for n, stage := range besideStages {
			b.Progress(fmt.Sprintf("beside: run %d of %d, %s", i+1, b.Runs, stage.name))
			t := newTally(b.clock)
			x, err := b.measureAll(ctx, c, func(ctx context.Context) error {
				g, ctx := errgroup.WithContext(ctx)
				g.Go(func() error { return b.littles(ctx, fs, t) })
				switch j := (job{stage.phase, round{cell: cell{Clients: b.callers()}}}); {
				case stage.here:
					g.Go(func() error {
						return each(ctx, b.callers(), func(ctx context.Context, k int) error { return b.readBulk(ctx, fs, j.Round, k, t) })
					})
				case stage.phase >= 0:
					g.Go(func() error { return crowd.do(ctx, j, t) })
				}
				return g.Wait()
			})
			if err != nil {
				return nil, err
			}
			if x.kinds, x.cpu = t.kinds, x.cpu+t.away; i >= 0 {
				samples[n] = append(samples[n], x)
			}
		}
	}
	return besideFigures(samples), nil
}

// littles has the small operations done until the run is over.
func (b *run) littles(ctx context.Context, fs *client.FS, t *tally) error {
	return each(ctx, 2*besideCallers, func(ctx context.Context, i int) error {
		if k := i / 2; i%2 == 0 {
			return b.appendOn(ctx, fs, fmt.Sprint("/log-", k), b.RecordBytes[0], k, t)
		} else {
			return b.readLittle(ctx, fs, k, t)
		}
	})
}

func (b *run) readLittle(ctx context.Context, fs *client.FS, k int, t *tally) error {
	f, err := fs.Open(ctx, "/read")
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, min(int64(b.RecordBytes[0]), b.Bytes))
	at := newPlaces(k, b.Bytes, len(buf))
	return b.until(func(int) error {
		return t.time("read", int64(len(buf)), func() error {
			_, err := f.ReadAtContext(ctx, buf, at())
			return err
		})
	})
}

// besideFigures are the small operations of every stage, against those alone, and how fast the crowd copied, against
// the bare copies.
func besideFigures(samples [][]sample) (out []Result) {
	name := func(n int, what string) string { return "beside/" + besideStages[n].name + "/" + what }
	add := func(n, base int, kind, what, unit string, of func(d *done, s sample) float64) {
		value := func(s sample) float64 {
			if s.kinds[kind] == nil {
				return 0
			}
			return of(s.kinds[kind], s)
		}
		var against []float64
		if n != base {
			against = numbers(samples[base], value)
		}
		out = append(out, figure(name(n, kind+"/"+what), unit, numbers(samples[n], value), against))
	}
	for n, stage := range besideStages {
		for _, kind := range []string{"read", "append"} {
			add(n, 0, kind, "rate", kind+"s/s", func(d *done, s sample) float64 { return float64(d.Operations) / s.wall.Seconds() })
			for _, q := range quantiles {
				add(n, 0, kind, q.name, "ms", func(d *done, _ sample) float64 { return d.Waits.at(q.part).Seconds() * 1e3 })
			}
		}
		if stage.phase > 0 {
			add(n, 2, "bulk", "throughput", "GiB/s", func(d *done, s sample) float64 { return float64(d.Bytes) / gib / s.wall.Seconds() })
		}
		out = append(out, figure(name(n, "cpu"), "processors", numbers(samples[n], func(s sample) float64 { return s.cpu.Seconds() / s.wall.Seconds() }), nil))
	}
	return out
}
