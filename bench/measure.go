package bench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/quarryfs/quarry/clock"
	"golang.org/x/sys/unix"
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
	cpu   time.Duration    // of this process: all threads, user and system
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

// pairs measures Quarry and a bare program in turn, after one of each that does not count.
func (b *run) pairs(ctx context.Context, what string, ours, bare func(ctx context.Context, i int) error) (us, them []sample, err error) {
	for i := -1; i < b.Runs; i++ {
		b.Progress(fmt.Sprintf("%s: run %d of %d", what, i+1, b.Runs))
		x, err := measure(ctx, b.clock, func(ctx context.Context) error { return ours(ctx, i) })
		if err != nil {
			return nil, nil, err
		}
		y, err := measure(ctx, b.clock, func(ctx context.Context) error { return bare(ctx, i) })
		if err != nil {
			return nil, nil, err
		}
		if i >= 0 {
			us, them = append(us, x), append(them, y)
		}
	}
	return us, them, nil
}

// rate turns samples into amounts per second.
func rate(s []sample, amount float64) []float64 {
	return numbers(s, func(x sample) float64 { return amount / x.wall.Seconds() })
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
	r.Bare = median(bare)
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
