package bench

import (
	"context"
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
}

// sample is one run of one side.
type sample struct {
	wall time.Duration
	cpu  time.Duration // of this process, all threads, user and system
}

// measure runs f once.
func measure(ctx context.Context, clk clock.Clock, f func(context.Context) error) (sample, error) {
	cpu, start := processCPU(), clk.Now()
	err := f(ctx)
	return sample{wall: clk.Now().Sub(start), cpu: processCPU() - cpu}, err
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
