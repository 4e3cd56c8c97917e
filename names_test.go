package quarry

import (
	"testing"
	"time"
)

// Pauses of two operations differ, and from try to try; the same try's is always the same.
func TestSpread(t *testing.T) {
	const pause = 100 * time.Millisecond
	a, b := Op{Session: 1 << 40, Sequence: 1}, Op{Session: 2 << 40, Sequence: 1}
	seen := map[time.Duration]bool{}
	for try := range 100 {
		for _, op := range []Op{a, b} {
			d := op.Spread(pause, try)
			if d < pause/2 || d > 3*pause/2 || d != op.Spread(pause, try) {
				t.Fatalf("try %d pauses for %v", try, d)
			}
			seen[d] = true
		}
	}
	if len(seen) < 190 {
		t.Errorf("of 200 pauses %d differ", len(seen))
	}
	if d := (Op{}).Spread(pause, 1); d != pause {
		t.Errorf("without a session it is %v", d)
	}
}
