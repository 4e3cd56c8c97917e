// Package crashtest shows of a program that writes through a [disk.FS] which of its syncs a
// crash needs. A test tells [Table] how to run a workload over a disk that is crashed between
// its operations. Table runs it as it is, when nothing may be lost, and then once more for
// each place in the code that syncs a file or a folder, with the syncs of that place left
// out, when something must be lost: a sync without which nothing is lost is either not needed,
// or the test does not look where it is.
//
// Places are found by looking at the stack, so that a sync which is added to the code is in
// the table by itself.
package crashtest

import (
	"fmt"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/quarryfs/quarry/disk"
)

const module = "github.com/quarryfs/quarry/"

// Syncs watches the syncs of a run, and leaves out those of one place. Safe for use by many
// goroutines.
type Syncs struct {
	without string // the place whose syncs are not done; "" for none

	mu   sync.Mutex
	seen map[string]int
}

// Fault is the part of a [disk.Policy] that watches: it must be called in the goroutine of
// the operation, and its result returned if the operation is to go well.
func (s *Syncs) Fault(op disk.Op) disk.Fault {
	if op.Kind != disk.OpSync && op.Kind != disk.OpSyncDir {
		return disk.Fault{}
	}
	return disk.Fault{Skip: s.Note(op.Kind.String() + " in " + caller())}
}

// Note counts a sync of a place, and reports whether it is to be left out.
func (s *Syncs) Note(place string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = map[string]int{}
	}
	s.seen[place]++
	return place == s.without
}

// Enough reports whether a run that has found so many broken images may look at no more of
// them: it leaves out a sync, and the test has shown that this is noticed. With QUARRY_LONG=1
// in the environment all are counted.
func (s *Syncs) Enough(lost int) bool {
	return s.without != "" && lost > 0 && !long()
}

// Whole reports whether no sync is left out.
func (s *Syncs) Whole() bool { return s.without == "" }

// long reports whether everything is to be counted, whatever it takes.
func long() bool { return os.Getenv("QUARRY_LONG") != "" }

// caller names the two innermost functions on the stack that are not of room disk and not of
// a test.
func caller() string {
	var pcs [48]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	var names []string
	for {
		f, more := frames.Next()
		name, ours := strings.CutPrefix(f.Function, module)
		if ours && !strings.HasPrefix(name, "disk.") && !strings.HasPrefix(name, "disk/") && !strings.HasSuffix(f.File, "_test.go") {
			if name = path.Base(name); len(names) == 0 || names[0] != name {
				names = append(names, name)
			}
		}
		if !more || len(names) == 2 {
			break
		}
	}
	return strings.Join(names, " by ")
}

// Result is what a run has shown.
type Result struct {
	Images int    // disks that crashes have left and that were looked at
	Lost   int    // those of them on which something was wrong
	First  string // the first of these, and what was wrong
}

// Row is what left-out syncs of one place have cost.
type Row struct {
	Place string
	Result
}

// Table calls run with every sync done and then without those of each place, and reports
// an error if anything is lost in the first run, or if nothing is in one of the others. Places
// for which excused has an entry, the reason, need not lose anything, and are tried with
// QUARRY_LONG=1 only. The table is in the test's log.
func Table(t *testing.T, excused map[string]string, run func(t *testing.T, syncs *Syncs) Result) []Row {
	t.Helper()
	if testing.Short() {
		t.Skip("what the syncs are for is the same in a longer run")
	}
	all := &Syncs{}
	first := run(t, all)
	if first.Lost > 0 {
		t.Errorf("%d of %d images lose something: %s", first.Lost, first.Images, first.First)
	}
	rows := []Row{{"(none)", first}}
	for _, place := range slices.Sorted(maps.Keys(all.seen)) {
		if excused[place] != "" && !long() {
			continue
		}
		r := run(t, &Syncs{without: place})
		rows = append(rows, Row{place, r})
		if r.Lost == 0 && excused[place] == "" {
			t.Errorf("without %s nothing is lost in %d images", place, r.Images)
		}
	}
	for place := range excused {
		if all.seen[place] == 0 {
			t.Errorf("nothing is synced by %s: it needs no excuse", place)
		}
	}
	var b strings.Builder
	for _, r := range rows {
		why := ""
		if r.Lost == 0 && excused[r.Place] != "" {
			why = excused[r.Place]
		}
		fmt.Fprintf(&b, "| %s | %d of %d | %s |\n", r.Place, r.Lost, r.Images, why)
	}
	t.Logf("images that lose something, by the sync that is left out:\n%s", b.String())
	return rows
}
