package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quarryfs/quarry/chaos"
	"github.com/quarryfs/quarry/client"
)

const (
	// lookDirs and lookFiles are how many directories there are to look names up in, and files in
	// each.
	lookDirs, lookFiles = 16, 64
	// connecting is how many clients connect at the same time.
	connecting = 64
	// calmTime is how long the masters are left alone before their memory is looked at, but no
	// longer than the clients work.
	calmTime = 10 * time.Second
)

func (b *run) calm() time.Duration { return min(calmTime, b.Duration) }

// caller is a client with connections of its own, and what it has met.
type caller struct {
	fs    *client.FS
	do    func(ctx context.Context, i int) error
	waits []time.Duration // of its operations, in their order
}

// clients has thousands of clients, none of which shares a connection with another one, look
// names up and make files as fast as they are answered, and measures how long each waits, how
// evenly they are served, and what that costs the masters' memory.
func (b *run) clients(ctx context.Context) ([]Result, error) {
	c, err := b.processes(ctx, "clients", 3, -1, b.Shards)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := b.lookTree(ctx, c); err != nil {
		return nil, err
	}
	memory := &memory{masters: c.Masters}
	if err := memory.note(ctx, b, "before"); err != nil {
		return nil, err
	}
	lookers, makers, err := b.connect(ctx, c)
	all := slices.Concat(lookers, makers)
	defer func() {
		for _, x := range all {
			_ = x.fs.Close() // the cluster ends, too
		}
	}()
	if err != nil {
		return nil, err
	}
	calm, err := cpuOf(c.Masters)
	if err != nil {
		return nil, err
	}
	if err := memory.note(ctx, b, "connected"); err != nil {
		return nil, err
	}
	b.Progress(fmt.Sprintf("clients: %d at work", len(all)))
	cpu, err := cpuOf(c.Masters)
	if err != nil {
		return nil, err
	}
	s, err := measure(ctx, b.clock, func(ctx context.Context) error { return b.workOf(ctx, all) })
	if err != nil {
		return nil, err
	}
	used, err := cpuOf(c.Masters)
	if err != nil {
		return nil, err
	}
	b.Progress("clients: leaving")
	if err := each(ctx, len(all), func(_ context.Context, i int) error { return all[i].fs.Close() }); err != nil {
		return nil, err
	}
	all = nil
	if err := memory.note(ctx, b, "after"); err != nil {
		return nil, err
	}
	out := slices.Concat(waitsOf("look-up", lookers, s.wall), waitsOf("create", makers, s.wall))
	single := func(name, unit string, v float64) {
		out = append(out, Result{Name: "clients/" + name, Unit: unit, Value: v, Runs: 1, Min: v, Max: v})
	}
	operations := 0
	for _, x := range slices.Concat(lookers, makers) {
		operations += len(x.waits)
	}
	single("cpu", "us/op", (used-cpu+s.cpu).Seconds()*1e6/float64(operations))
	single("processors-of-masters-while-nobody-asks", "processors", (cpu-calm).Seconds()/calmTime.Seconds())
	single("processors-of-masters", "processors", (used-cpu).Seconds()/s.wall.Seconds())
	single("processors-of-clients", "processors", s.cpu.Seconds()/s.wall.Seconds())
	return append(out, memory.figures()...), nil
}

// lookTree makes the files that are looked up, and the directories to make others in.
func (b *run) lookTree(ctx context.Context, c *chaos.Cluster) error {
	b.Progress("clients: making what is looked up")
	fs, err := c.Client(ctx, "maker", client.Options{Log: b.Log})
	if err != nil {
		return err
	}
	defer fs.Close()
	if err := mkdirs(ctx, c, fs, "/look", lookDirs); err != nil {
		return err
	}
	if err := mkdirs(ctx, c, fs, "/make", b.Writers); err != nil {
		return err
	}
	return each(ctx, lookDirs, func(ctx context.Context, d int) error {
		for f := range lookFiles {
			if err := create(ctx, fs, fmt.Sprintf("/look-%d/%d", d, f)); err != nil {
				return err
			}
		}
		return nil
	})
}

func create(ctx context.Context, fs *client.FS, path string) error {
	w, err := fs.Create(ctx, path)
	if err != nil {
		return err
	}
	return w.Close()
}

// connect opens all clients, each with connections to all masters.
func (b *run) connect(ctx context.Context, c *chaos.Cluster) (lookers, makers []*caller, err error) {
	b.Progress(fmt.Sprintf("clients: %d are connecting", b.Connections+b.Writers))
	all := make([]*caller, b.Connections+b.Writers)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(connecting)
	for i := range all {
		x := &caller{}
		all[i] = x
		r := rand.New(rand.NewPCG(uint64(i), 0))
		look := func(ctx context.Context, _ int) error {
			_, err := x.fs.Stat(ctx, fmt.Sprintf("/look-%d/%d", r.IntN(lookDirs), r.IntN(lookFiles)))
			return err
		}
		x.do = look
		if k := i - b.Connections; k >= 0 {
			x.do = func(ctx context.Context, i int) error { return create(ctx, x.fs, fmt.Sprintf("/make-%d/%d", k, i)) }
		}
		g.Go(func() (err error) {
			if x.fs, err = c.Client(ctx, fmt.Sprint("client-", i), client.Options{Log: b.Log}); err != nil {
				return err
			}
			for range lookDirs {
				if err := look(ctx, 0); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = g.Wait()
	all = slices.DeleteFunc(all, func(x *caller) bool { return err != nil && x.fs == nil })
	if err != nil {
		return all, nil, err
	}
	return all[:b.Connections], all[b.Connections:], nil
}

// workOf has all of them work side by side, each on its next operation when the last is answered.
func (b *run) workOf(ctx context.Context, all []*caller) error {
	end := b.clock.Now().Add(b.Duration)
	return each(ctx, len(all), func(ctx context.Context, i int) error {
		x := all[i]
		for n := 0; ; n++ {
			began := b.clock.Now()
			if began >= end {
				return nil
			}
			if err := x.do(ctx, n); err != nil {
				return fmt.Errorf("client %d: %w", i, err)
			}
			x.waits = append(x.waits, b.clock.Now().Sub(began))
		}
	})
}

// waitsOf tells how long clients of one kind waited, and how evenly they were served.
func waitsOf(what string, list []*caller, wall time.Duration) []Result {
	var all []time.Duration
	var served, longest []float64
	for _, x := range list {
		all = append(all, x.waits...)
		served = append(served, float64(len(x.waits))/wall.Seconds())
		if len(x.waits) > 0 {
			longest = append(longest, slices.Max(x.waits).Seconds()*1e3)
		}
	}
	if len(all) == 0 {
		return nil
	}
	slices.Sort(all)
	at := func(part float64) float64 { return all[int(part*float64(len(all)-1))].Seconds() * 1e3 }
	rate := float64(len(all)) / wall.Seconds()
	result := func(name, unit string, v, low, high float64) Result {
		return Result{Name: "clients/" + what + "/" + name, Unit: unit, Value: v, Runs: len(list), Min: low, Max: high}
	}
	return []Result{
		result("rate-of-all", "ops/s", rate, rate, rate),
		result("rate-of-one", "ops/s", median(served), slices.Min(served), slices.Max(served)),
		result("wait-p50", "ms", at(0.5), at(0), at(1)),
		result("wait-p99", "ms", at(0.99), at(0), at(1)),
		result("longest-wait-of-one", "ms", median(longest), slices.Min(longest), slices.Max(longest)),
	}
}

// memory is what the masters' processes had at several instants.
type memory struct {
	masters []*chaos.Process
	out     []Result
}

// note looks at the masters after a while of calm: how much is resident, and how many
// descriptors are open, nearly all of them connections.
func (m *memory) note(ctx context.Context, b *run, when string) error {
	b.Progress("clients: looking at the masters' memory " + when)
	if err := b.clock.Sleep(ctx, b.calm()); err != nil {
		return err
	}
	var rss, peak, files []float64
	for _, p := range m.masters {
		u, err := usageOf(p)
		if err != nil {
			return err
		}
		rss, peak = append(rss, float64(u.rss)/(1<<20)), append(peak, float64(u.peak)/(1<<20))
		files = append(files, float64(u.files))
	}
	m.out = append(m.out, figure("clients/memory/"+when, "MiB", rss, nil), figure("clients/descriptors/"+when, "", files, nil))
	if when == "after" {
		m.out = append(m.out, figure("clients/memory/peak", "MiB", peak, nil))
	}
	return nil
}

// figures returns what was seen; its runs are the masters.
func (m *memory) figures() []Result { return m.out }
