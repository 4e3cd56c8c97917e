package bench

import (
	"testing"
	"time"

	"github.com/quarryfs/quarry/clock"
)

// TestDivide: of an appender's records the first one in each chunk but its first has gone across a
// rollover, also when it has passed over a chunk, or comes where the layout has no chunk's begin.
func TestDivide(t *testing.T) {
	tally := newTally(clock.System())
	tally.divide([]standing{{10, 1}, {90, 2}, {100, 4}, {150, 8}, {310, 16}, {320, 32}}, []int64{0, 100, 200, 300})
	tally.divide([]standing{{205, 64}}, []int64{0, 100, 200, 300}) // the first of an appender tells nothing
	across, within := tally.kinds[kindAcross].Waits, tally.kinds[kindWithin].Waits
	if across.Number != 2 || across.at(0.5) != 4 || across.Most != 16 {
		t.Errorf("across: %d, %v, %v", across.Number, across.at(0.5), across.Most)
	}
	if within.Number != 5 || within.at(0.2) != 1 || within.Most != 64 {
		t.Errorf("within: %d, %v, %v", within.Number, within.at(0.2), within.Most)
	}
}

// TestAppendTellsRollovers appends more large records than a chunk holds, and finds at most one of
// each appender across the rollover.
func TestAppendTellsRollovers(t *testing.T) {
	results, err := Run(t.Context(), "append", Config{
		Dir: t.TempDir(), Runs: 1, Clients: []int{4}, RecordBytes: []int{4 << 20}, Operations: 24,
	})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, r := range results {
		got[r.What] = r.Value
	}
	if n := got["across-rollovers/number"]; n < 1 || n > 4 || n+got["within-a-chunk/number"] != 24 {
		t.Errorf("%v records across rollovers, %v within a chunk", got["across-rollovers/number"], got["within-a-chunk/number"])
	}
	for _, what := range []string{"across-rollovers/p99", "within-a-chunk/p99.9", "p99", "rate", "throughput"} {
		if got[what] <= 0 {
			t.Errorf("%s is %v", what, got[what])
		}
	}
	longest := time.Duration(max(got["across-rollovers/max"], got["within-a-chunk/max"]) * 1e6)
	if all := time.Duration(got["max"] * 1e6); all < longest || all > longest+time.Second {
		t.Errorf("the longest of both kinds took %v, the longest of all %v", longest, all)
	}
	if _, told := got["across-rollovers/rate"]; told {
		t.Error("records that have gone across a rollover have a rate")
	}
}
