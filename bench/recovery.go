package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/chaos"
	"github.com/quarryfs/quarry/client"
)

const (
	// recoveryMax is how long a cluster may take until every chunk has its copies again.
	recoveryMax = 15 * time.Minute
	// recoveryLook is how often it is looked at.
	recoveryLook = 50 * time.Millisecond
	// recoveryRead is how much a client reads at a time.
	recoveryRead = 1 << 20
)

// The stages of a recovery. An operation belongs to that in which it began.
const (
	stageAlone   = iota // only small operations
	stageBefore         // with bulk reads, until the server is killed
	stageWaiting        // until the first copy is begun: the server could come back
	stageCopying        // until every chunk has its copies
	stages
)

var stageNames = [stages]string{"alone", "before", "while-waiting", "while-copying"}

// recovery loses a chunk server and its disk for good, and measures how long it takes until every
// chunk has as many copies as before, and what clients see that read all the time. Masters and chunk
// servers are processes of their own, as an operator starts them; each run has a cluster of its own.
func (b *run) recovery(ctx context.Context) ([]Result, error) {
	if b.Servers[0] <= copiesMax {
		return nil, quarry.Errorf("bench", quarry.Invalid, "", "there are %d chunk servers; when one is lost, %d have to be left and one of them without a copy", b.Servers[0], copiesMax)
	}
	var all []recovered
	for i := range b.Runs {
		b.Progress(fmt.Sprintf("recovery: run %d of %d", i+1, b.Runs))
		x, err := b.recoverOnce(ctx, i)
		if err != nil {
			return nil, err
		}
		all = append(all, x)
	}
	return recoveryFigures(all), nil
}

// recovered is one run.
type recovered struct {
	chunks  int
	bytes   int64
	wall    [stages]time.Duration
	cpu     [stages]time.Duration // of all processes
	done    *tally                // of clients
	silence [stages]time.Duration // the longest of a chunk server that lives
	bare    sample                // a local copy of as many bytes
}

// losing is a cluster that is about to lose a chunk server.
type losing struct {
	*run
	c       *chaos.Cluster
	victim  *chaos.Process
	stage   atomic.Int32
	crowded chan struct{} // closed when bulk reads are to begin
	x       recovered
}

func (b *run) recoverOnce(ctx context.Context, i int) (x recovered, err error) {
	name := fmt.Sprintf("recovery-%d", i)
	c, fs, end, err := b.withClient(ctx, name, 3, b.Servers[0], b.Shards)
	if err != nil {
		return x, err
	}
	defer func() {
		end()
		err = errors.Join(err, os.RemoveAll(filepath.Join(b.Dir, name)))
	}()
	b.Progress(fmt.Sprintf("recovery: run %d of %d, writing", i+1, b.Runs))
	if err := mkdirs(ctx, c, fs, "/lost", b.callers()); err != nil {
		return x, err
	}
	err = each(ctx, b.callers(), func(ctx context.Context, k int) error {
		_, err := fs.Put(ctx, lostFile(k), newPattern(b.Bytes, uint64(k)), client.PutOptions{Size: b.Bytes})
		return err
	})
	if err != nil {
		return x, err
	}
	victim, err := holder(ctx, c, i)
	if err != nil {
		return x, err
	}
	l := &losing{run: b, c: c, victim: victim, x: recovered{done: newTally(b.clock)}, crowded: make(chan struct{})}
	b.Progress(fmt.Sprintf("recovery: run %d of %d, losing %s", i+1, b.Runs, l.victim.Name))
	load, stop := context.WithCancel(ctx)
	defer stop()
	g, load := errgroup.WithContext(load)
	err = l.bystanders(ctx, fs, func(what string, do func(context.Context) error) {
		g.Go(func() error {
			if err := do(load); load.Err() == nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			return nil
		})
	})
	if err != nil {
		stop()
		return x, errors.Join(err, g.Wait())
	}
	g.Go(func() error {
		defer stop()
		return l.lose(load)
	})
	if err := g.Wait(); err != nil {
		return x, err
	}
	if err := ctx.Err(); err != nil {
		return x, err
	}
	dir := filepath.Join(b.Dir, "bare")
	defer os.RemoveAll(dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return x, err
	}
	l.x.bare, err = measure(ctx, b.clock, func(ctx context.Context) error { return localCopies(ctx, dir, 1, 1, l.x.bytes) })
	return l.x, err
}

// holder returns the chunk server to be lost by run i, another one for each as far as that goes: it has copies.
func holder(ctx context.Context, c *chaos.Cluster, i int) (*chaos.Process, error) {
	held := map[*chaos.Process]int64{}
	err := c.Copies(ctx, "/", func(chunk *quarry.Chunk, on []*chaos.Process) {
		for _, p := range on {
			held[p] += max(0, chunk.Length)
		}
	})
	if err != nil {
		return nil, err
	}
	for k := range c.Servers {
		if p := c.Servers[(i+k)%len(c.Servers)]; held[p] > 0 {
			return p, nil
		}
	}
	return nil, quarry.Errorf("bench recovery", quarry.Invalid, "", "no chunk server has copies that could be lost: write more --bytes")
}

// lostFile is the file that client k writes and reads.
func lostFile(k int) string { return fmt.Sprintf("/lost-%d/file", k) }

// read reads a client's file again and again until ctx ends, or a read fails.
func (l *losing) read(ctx context.Context, fs *client.FS, k int) error {
	f, err := fs.Open(ctx, lostFile(k))
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, min(recoveryRead, l.Bytes))
	for at := int64(0); ; at += int64(len(buf)) {
		if at+int64(len(buf)) > l.Bytes {
			at = 0
		}
		err := l.x.done.time(kindOf("reads", int(l.stage.Load())), int64(len(buf)), func() error {
			_, err := f.ReadAtContext(ctx, buf, at)
			return err
		})
		if err != nil {
			return err
		}
	}
}

// lose has the stages follow each other.
func (l *losing) lose(ctx context.Context) error {
	began, used, err := l.clock.Now(), time.Duration(0), error(nil)
	next := func() {
		now, cpu := l.clock.Now(), time.Duration(0)
		if cpu, err = l.cpu(); err != nil {
			return
		}
		stage := l.stage.Load()
		l.x.wall[stage], l.x.cpu[stage] = now.Sub(began), cpu-used
		began, used = now, cpu
	}
	if used, err = l.cpu(); err != nil {
		return err
	}
	if err := l.clock.Sleep(ctx, l.Duration); err != nil {
		return err
	}
	if next(); err != nil {
		return err
	}
	l.stage.Store(stageBefore)
	close(l.crowded)
	if err := l.clock.Sleep(ctx, l.Duration); err != nil {
		return err
	}
	if err := l.whole(ctx); err != nil {
		return err
	}
	if next(); err != nil {
		return err
	}
	l.stage.Store(stageWaiting)
	l.victim.Kill()
	if err := os.RemoveAll(l.victim.Dir); err != nil {
		return err
	}
	limited, cancel := l.clock.WithTimeout(ctx, recoveryMax)
	defer cancel()
	for {
		left, e := l.lacking(limited, false)
		if l.stage.Load() == stageWaiting && (e == nil && left < l.x.chunks || l.repairing(limited)) {
			if next(); err != nil {
				return err
			}
			l.stage.Store(stageCopying)
		}
		if e == nil && left == 0 {
			next()
			return err
		}
		if e2 := l.clock.Sleep(limited, recoveryLook); e2 != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return quarry.Errorf("bench recovery", quarry.Unavailable, l.victim.Name, "%v after it was lost, %d chunks have too few copies: %w", recoveryMax, left, errors.Join(e2, e))
		}
	}
}

// whole waits until no chunk lacks a copy, as one may on a busy machine where a member was slow, and notes
// what the victim has.
func (l *losing) whole(ctx context.Context) error {
	limited, cancel := l.clock.WithTimeout(ctx, settleTime)
	defer cancel()
	for {
		n, err := l.lacking(limited, false)
		if err == nil && n == 0 {
			break
		}
		if l.clock.Sleep(limited, recoveryLook) != nil {
			break // what is lacking is told
		}
	}
	_, err := l.lacking(ctx, true)
	return err
}

// lacking returns how many chunks have fewer copies than they should. note has what the victim has
// noted; the victim is still there then, and nothing may be lacking.
func (l *losing) lacking(ctx context.Context, note bool) (n int, err error) {
	err = l.c.Copies(ctx, "/", func(chunk *quarry.Chunk, on []*chaos.Process) {
		if len(on) < copiesMax {
			n++
		}
		if note && slices.Contains(on, l.victim) {
			l.x.chunks++
			l.x.bytes += max(0, chunk.Length) // of an open one not known
		}
	})
	switch {
	case err == nil && note && n > 0:
		return n, quarry.Errorf("bench recovery", quarry.Unavailable, "", "%d chunks have too few copies before a server is lost", n)
	case err == nil && note && l.x.bytes == 0:
		return 0, quarry.Errorf("bench recovery", quarry.Unavailable, l.victim.Name, "its copies went elsewhere before it was lost")
	}
	return n, err
}

// repairing reports whether a copy is under way.
func (l *losing) repairing(ctx context.Context) bool {
	st, err := l.c.Status(ctx)
	return err == nil && slices.ContainsFunc(st.Shards, func(s quarry.ShardStatus) bool { return s.Repairing > 0 })
}

// cpu is the processor time so far of everything that runs, but for the victim's.
func (l *losing) cpu() (time.Duration, error) {
	list := slices.DeleteFunc(slices.Concat(l.c.Masters, l.c.Servers), func(p *chaos.Process) bool { return p == l.victim })
	sum, err := cpuOf(list)
	return sum + processCPU(), err
}

func recoveryFigures(all []recovered) (out []Result) {
	numbers := func(of func(*recovered) float64) (list []float64) {
		for i := range all {
			list = append(list, of(&all[i]))
		}
		return list
	}
	add := func(name, unit string, of, bare func(*recovered) float64) {
		var other []float64
		if bare != nil {
			other = numbers(bare)
		}
		out = append(out, figure("recovery/"+name, unit, numbers(of), other))
	}
	mib := func(x *recovered) float64 { return float64(x.bytes) / (1 << 20) }
	add("until-copying-begins", "s", func(x *recovered) float64 { return x.wall[stageWaiting].Seconds() }, nil)
	add("until-whole", "s", func(x *recovered) float64 { return (x.wall[stageWaiting] + x.wall[stageCopying]).Seconds() }, nil)
	add("copied", "MiB", mib, nil)
	add("copied-chunks", "chunks", func(x *recovered) float64 { return float64(x.chunks) }, nil)
	add("copying", "MiB/s", func(x *recovered) float64 { return mib(x) / x.wall[stageCopying].Seconds() }, func(x *recovered) float64 { return mib(x) / x.bare.wall.Seconds() })
	for stage := range stages {
		work := func(kind string, least int, unit string, name string, of func(d *done, wall float64) float64) {
			value := func(stage int) func(*recovered) float64 {
				return func(x *recovered) float64 {
					d := x.done.kinds[kindOf(kind, stage)]
					if d == nil {
						d = &done{}
					}
					return of(d, x.wall[stage].Seconds())
				}
			}
			var before func(*recovered) float64
			if stage > least {
				before = value(least)
			}
			add(kind+"-"+stageNames[stage]+"/"+name, unit, value(stage), before)
		}
		for _, kind := range []string{"reads", "small-reads", "appends"} {
			least := stageAlone
			if kind == "reads" {
				least = stageBefore
			}
			if stage < least {
				continue
			}
			work(kind, least, "GiB/s", "throughput", func(d *done, wall float64) float64 { return float64(d.Bytes) / gib / wall })
			for _, q := range quantiles {
				work(kind, least, "ms", q.name, func(d *done, _ float64) float64 { return d.Waits.at(q.part).Seconds() * 1e3 })
			}
		}
		add("silence-"+stageNames[stage], "ms", func(x *recovered) float64 { return x.silence[stage].Seconds() * 1e3 }, nil)
		add("processors-"+stageNames[stage], "processors", func(x *recovered) float64 { return x.cpu[stage].Seconds() / x.wall[stage].Seconds() }, nil)
	}
	return out
}
