package bench

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quarryfs/quarry/clock"
	"golang.org/x/sys/unix"

	"github.com/quarryfs/quarry/chaos"
)

// Result is one figure. Bare is the same figure of the bare program, measured in the same
// run; Ratio is Value/Bare. All are medians over Runs; Min and Max are of Value. A figure
// with nothing to compare has Bare and Ratio 0.
type Result struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Bare  float64 `json:"bare"`
	Ratio float64 `json:"ratio"`
	Runs  int     `json:"runs"`
	Min   float64 `json:"min"`
	Max   float64 `json:"max"`
	// BareMin and BareMax are of Bare.
	BareMin float64 `json:"bare_min,omitempty"`
	BareMax float64 `json:"bare_max,omitempty"`
	// Verb and What are the parts of the name without the point at which it was measured, which
	// Clients, Servers and RecordBytes are; of figures that are not measured at points, all are
	// empty. Servers 0: those of a running cluster, however many.
	Verb        string `json:"verb,omitempty"`
	What        string `json:"what,omitempty"`
	Clients     int    `json:"clients,omitempty"`
	Servers     int    `json:"servers,omitempty"`
	RecordBytes int    `json:"record_bytes,omitempty"`
}

// sample is one run of one side.
type sample struct {
	wall  time.Duration
	cpu   time.Duration    // of all processes that are known: all threads, user and system
	away  time.Duration    // of those that are not this one
	kinds map[string]*done // what was done, if a tally was kept
}

// all is what was done of all kinds.
func (s sample) all() (sum done) {
	for _, d := range s.kinds {
		sum.Operations, sum.Bytes = sum.Operations+d.Operations, sum.Bytes+d.Bytes
	}
	return sum
}

// measure runs f once.
func measure(ctx context.Context, clk clock.Clock, f func(context.Context) error) (sample, error) {
	cpu, start := processCPU(), clk.Now()
	err := f(ctx)
	return sample{wall: clk.Now().Sub(start), cpu: processCPU() - cpu}, err
}

// measureAll runs f once, and counts the processor time of a cluster's processes, too.
func (b *run) measureAll(ctx context.Context, c *chaos.Cluster, f func(context.Context) error) (sample, error) {
	list := slices.Concat(c.Masters, c.Servers)
	before, err := cpuOf(list)
	if err != nil {
		return sample{}, err
	}
	s, err := measure(ctx, b.clock, f)
	if err != nil {
		return sample{}, err
	}
	after, err := cpuOf(list)
	s.away, s.cpu = after-before, s.cpu+after-before
	return s, err
}

// pairs measures the same cluster with what is limited and without it in turn, after one of each that
// does not count.
func (b *run) pairs(ctx context.Context, c *chaos.Cluster, what string, ours, bare func(ctx context.Context, i int) error) (us, them []sample, err error) {
	for i := -1; i < b.Runs; i++ {
		b.Progress(fmt.Sprintf("%s: run %d of %d", what, i+1, b.Runs))
		x, err := b.measureAll(ctx, c, func(ctx context.Context) error { return ours(ctx, i) })
		if err != nil {
			return nil, nil, err
		}
		y, err := b.measureAll(ctx, c, func(ctx context.Context) error { return bare(ctx, i) })
		if err != nil {
			return nil, nil, err
		}
		if i >= 0 {
			us, them = append(us, x), append(them, y)
		}
	}
	return us, them, nil
}

// rates are the figures of so many operations: their rate, and the processor time of all processes.
func rates(name, unit string, us, them []sample, n float64) []Result {
	rate := func(s sample) float64 { return n / s.wall.Seconds() }
	cpu := func(s sample) float64 { return s.cpu.Seconds() * 1e6 / n }
	return []Result{
		figure(name, unit+"/s", numbers(us, rate), numbers(them, rate)),
		figure(name+"/cpu", "us/"+strings.TrimSuffix(unit, "s"), numbers(us, cpu), numbers(them, cpu)),
	}
}

// numbers is one number of each sample.
func numbers(list []sample, of func(sample) float64) (out []float64) {
	for _, s := range list {
		out = append(out, of(s))
	}
	return out
}

// processCPU returns the processor time this process has used.
func processCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// figure makes a Result of the runs of Quarry (ours) and of the bare program, which may be
// nil. The ratio is the median of the ratios of the interleaved pairs.
func figure(name, unit string, ours, bare []float64) Result {
	r := Result{Name: name, Unit: unit, Value: median(ours), Runs: len(ours), Min: slices.Min(ours), Max: slices.Max(ours)}
	if len(bare) == 0 {
		return r
	}
	r.Bare, r.BareMin, r.BareMax = median(bare), slices.Min(bare), slices.Max(bare)
	var ratios []float64
	for i := range ours {
		if bare[i] > 0 { // else it was too short for the clock of processor time
			ratios = append(ratios, ours[i]/bare[i])
		}
	}
	if len(ratios) > 0 {
		r.Ratio = median(ratios)
	}
	return r
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
