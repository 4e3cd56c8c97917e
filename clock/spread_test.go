package clock_test

import (
	"testing"
	"time"

	"github.com/quarryfs/quarry/clock"
)

// Pauses of two callers differ, and from try to try; the same try's is always the same.
func TestSpread(t *testing.T) {
	const pause = 100 * time.Millisecond
	seen := map[time.Duration]bool{}
	for try := range 100 {
		for _, who := range []uint64{1 << 40, 2 << 40} {
			d := clock.Spread(pause, who, 1, try)
			if d < pause/2 || d > 3*pause/2 || d != clock.Spread(pause, who, 1, try) {
				t.Fatalf("try %d pauses for %v", try, d)
			}
			seen[d] = true
		}
	}
	if len(seen) < 190 {
		t.Errorf("of 200 pauses %d differ", len(seen))
	}
	if d := clock.Spread(pause, 0, 1, 1); d != pause {
		t.Errorf("of nobody it is %v", d)
	}
}
