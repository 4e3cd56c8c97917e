package chunkserver

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/disk"
)

// The heartbeats say enough of the server's clock for a master to find out its drift,
// through delays of up to 100 ms, and nothing that would make a good clock a bad one.
func TestHeartbeatsTellTheDrift(t *testing.T) {
	for _, c := range []struct {
		rate    float64
		tooMuch bool
	}{{1.004, false}, {0.996, false}, {1.01, true}, {0.99, true}} {
		inWorld(t, func(w *world) {
			r := rand.New(rand.NewPCG(2, 2))
			base := clock.Simulated()
			w.travel = func() { _ = base.Sleep(w.t.Context(), time.Duration(r.Int64N(int64(100*time.Millisecond)))) }
			w.clock = clock.NewSkewed(base, time.Minute, c.rate)
			w.start(1, 0, disk.NewMem())
			for range 120 {
				w.pass(time.Second)
				w.mu.Lock()
				tooMuch, ppm := w.drift.TooMuch(), w.drift.PPM()
				w.mu.Unlock()
				if tooMuch && !c.tooMuch {
					t.Fatalf("rate %v: %d ppm", c.rate, ppm)
				}
			}
			if w.drift.TooMuch() != c.tooMuch {
				t.Fatalf("rate %v: %d ppm after two minutes", c.rate, w.drift.PPM())
			}
		})
	}
}

// TestMasterThatNamesOthersIsAsked has a master tell that the masters are not those that the server
// knows: that master is asked about them, not the one that answered last and may be behind.
func TestMasterThatNamesOthersIsAsked(t *testing.T) {
	inWorld(t, func(w *world) {
		w.masters = quarry.SumMasters(w.Addresses())
		w.start(1, 0, disk.NewMem())
		w.pass(10 * time.Second)
		w.mu.Lock()
		before := len(w.learned)
		w.masters++
		w.mu.Unlock()
		w.pass(10 * time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if before != 0 || !slices.Contains(w.learned, "m") {
			t.Errorf("asked %d times without need, then %v", before, w.learned)
		}
	})
}
