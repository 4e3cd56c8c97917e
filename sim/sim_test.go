package sim

import (
	"encoding/json"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"

	"github.com/quarryfs/quarry/history"
)

var (
	seedsFlag   = flag.Int("seeds", 12, "how many seeds to run")
	fromFlag    = flag.Uint64("from", 1, "the first of them")
	seedFlag    = flag.Uint64("seed", 0, "run this seed only, in this process, and print the whole log")
	traceFlag   = flag.Bool("trace", false, "with -seed: print every event, too")
	minutesFlag = flag.Float64("minutes", 1.5, "begin no seed after this time")
	twiceFlag   = flag.Int("twice", 20, "one seed in so many runs twice and must go alike; 0: none")
)

// The environment of a sub-process that runs one seed and leaves its result in a file.
const (
	seedVariable   = "QUARRY_SIM_SEED"
	resultVariable = "QUARRY_SIM_RESULT"
)

// outcome is what a sub-process hands back.
type outcome struct {
	Result
	HistoryHash uint64
}

// runSeed runs one seed in this process and judges its history.
func runSeed(t *testing.T, seed uint64, out io.Writer) outcome {
	cryptotest.SetGlobalRandom(t, seed)
	var o outcome
	synctest.Test(t, func(*testing.T) { o.Result = *Run(Options{Seed: seed, Out: out, Trace: *traceFlag}) })
	if o.History == nil {
		return o
	}
	report := history.Check(o.History)
	for i := range report.Violations {
		var text strings.Builder
		_ = report.Violations[i].Explain(&text) // a Builder takes everything
		o.Violations = append(o.Violations, text.String())
	}
	for _, j := range report.Judgements {
		o.Counts["judged "+string(j.Verdict)+": "+j.Checker] += int64(j.Subjects)
	}
	h := fnv.New64a()
	if err := json.NewEncoder(h).Encode(o.History.Ops); err != nil {
		t.Fatal(err)
	}
	o.HistoryHash = h.Sum64()
	return o
}

// TestOneSeed runs the seed that -seed names, or, in a sub-process, the one that it is given.
func TestOneSeed(t *testing.T) {
	seed, child := *seedFlag, os.Getenv(seedVariable)
	var out io.Writer
	switch {
	case child != "":
		var err error
		if seed, err = strconv.ParseUint(child, 10, 64); err != nil {
			t.Fatal(err)
		}
	case seed == 0:
		t.Skip("no -seed is given")
	default:
		out = os.Stdout
	}
	o := runSeed(t, seed, out)
	if child != "" {
		b, err := json.Marshal(o)
		if err == nil {
			err = os.WriteFile(os.Getenv(resultVariable), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, v := range o.Violations {
		t.Error(v)
	}
	for _, what := range slices.Sorted(maps.Keys(o.Counts)) {
		fmt.Printf("%9d times %s\n", o.Counts[what], what)
	}
	fmt.Printf("seed %d: %d operations, %d faults, %d events in %v, history %016x, events %016x\n",
		seed, o.Operations, o.Faults, o.Events, o.Simulated, o.HistoryHash, o.Hash)
}
