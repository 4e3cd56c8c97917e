package history

import (
	"cmp"
	"slices"
	"sync"

	"github.com/quarryfs/quarry/clock"
)

// Limits bound what a history holds; the zero value means the defaults.
type Limits struct {
	// Ops is how many operations are recorded. Default 1,000,000 (about 200 bytes each).
	Ops int
	// Records is how many records all reads together may show. Default 20,000,000 (12 bytes
	// each).
	Records int
}

// Settle may record more than the limits, or the end of a history that is full could not be
// judged: half as many operations, and twice as many records in all.
const (
	settleOps     = 2
	settleRecords = 2
)

func (l *Limits) withDefaults() {
	if l.Ops <= 0 {
		l.Ops = 1_000_000
	}
	if l.Records <= 0 {
		l.Records = 20_000_000
	}
}

// Recorder writes down operations as they happen. Safe for use by many goroutines.
type Recorder struct {
	clock  clock.Clock
	seed   uint64
	limits Limits

	mu       sync.Mutex
	ops      []Op
	records  int
	full     bool
	progress Progress
}

// NewRecorder returns an empty recorder that reads the instants from c: one clock for all
// clients, or real time means nothing. The seed is kept for whoever reads the history.
func NewRecorder(c clock.Clock, seed uint64, limits Limits) *Recorder {
	limits.withDefaults()
	return &Recorder{clock: c, seed: seed, limits: limits}
}

// Now returns the present instant of the recorder's clock.
func (r *Recorder) Now() clock.Instant { return r.clock.Now() }

// Begin records that an operation is called, just before it is. It returns the number by
// which End is told of it; false if the recorder is full: then it must not be done.
func (r *Recorder) Begin(op Op) (int, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.full = r.full || len(r.ops) >= r.limits.Ops
	if r.full && !(op.Final && len(r.ops) < r.limits.Ops+r.limits.Ops/settleOps && r.records <= settleRecords*r.limits.Records) {
		return 0, false
	}
	op.Call, op.Return, op.Outcome = r.clock.Now(), Open, Unknown
	r.ops = append(r.ops, op)
	r.progress.Begun++
	return len(r.ops) - 1, true
}

// End records what became of an operation, just after it has returned: op is what Begin was
// given, with the results and the outcome.
func (r *Recorder) End(number int, op Op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	op.Call, op.Return = r.ops[number].Call, r.clock.Now()
	r.ended(&op)
	r.ops[number] = op
}

// Add records an operation that is over and whose call was at the given instant.
func (r *Recorder) Add(call clock.Instant, op Op) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.full = r.full || len(r.ops) >= r.limits.Ops; r.full {
		return false
	}
	op.Call, op.Return = call, r.clock.Now()
	r.progress.Begun++
	r.ended(&op)
	r.ops = append(r.ops, op)
	return true
}

// ended counts an operation that has returned.
func (r *Recorder) ended(op *Op) {
	if op.Seen != nil {
		r.records += len(op.Seen.Records)
		r.full = r.full || r.records > r.limits.Records
	}
	switch {
	case op.answered():
		r.progress.Answered++
		r.progress.Last = max(r.progress.Last, op.Return)
	case op.Outcome == Unknown:
		r.progress.Unknown++
	default:
		r.progress.Failed++
	}
}

// Progress counts operations.
type Progress struct {
	Begun    int
	Answered int           // done, or refused for what the cluster holds (such as Exists)
	Failed   int           // for lack of a server, of time or of room
	Unknown  int           // returned without it being known what they did
	Last     clock.Instant // when an answer came last; 0: never
}

// Progress returns the counts of this moment.
func (r *Recorder) Progress() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.progress
}

// Full reports whether a limit was reached.
func (r *Recorder) Full() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.full
}

// History returns a copy of what was recorded so far, in the order of the calls; operations
// that have not returned are Unknown. Operations of one instant are ordered by their workers,
// so that one run is written down in one way.
func (r *Recorder) History() *History {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := &History{Seed: r.seed, Ops: slices.Clone(r.ops), Full: r.full}
	slices.SortStableFunc(h.Ops, func(a, b Op) int {
		return cmp.Or(cmp.Compare(a.Call, b.Call), cmp.Compare(a.Worker, b.Worker))
	})
	return h
}
