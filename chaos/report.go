package chaos

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/cluster"
	"github.com/quarryfs/quarry/history"
)

// The verdicts of a report.
const (
	Clean        = "clean"        // every promise was kept
	Violated     = "violated"     // at least one was broken
	Inconclusive = "inconclusive" // nothing was found, but not all could be checked
)

// Report is what a run has come to. Its JSON is what programs are told.
type Report struct {
	Verdict     string `json:"verdict"`
	Release     string `json:"release"`
	Seed        uint64 `json:"seed"`
	DurationMS  int64  `json:"duration_ms"` // in which clients worked
	Interrupted bool   `json:"interrupted"` // somebody ended it early
	Masters     int    `json:"masters"`
	Servers     int    `json:"servers"`
	Clients     int    `json:"clients"`

	Operations   int            `json:"operations"`   // that clients began, those at the end included
	Acknowledged int            `json:"acknowledged"` // of these
	Unknown      int            `json:"unknown"`      // of which it cannot be known what they did
	Refused      map[string]int `json:"refused"`      // that were surely not done, by why

	Faults     int `json:"faults"`     // that were done
	Violations int `json:"violations"` // that were found
	// LongestUnavailableMS is the longest time in which clients waited and nothing at all was
	// answered; it began UnavailableFromMS after the start.
	LongestUnavailableMS int64 `json:"longest_unavailable_ms"`
	UnavailableFromMS    int64 `json:"unavailable_from_ms"`
	SlowestMS            int64 `json:"slowest_ms"` // of the operations that were answered

	Checks        []Check             `json:"checks"`
	FaultList     []Fault             `json:"fault_list"`
	ViolationList []history.Violation `json:"violation_list"`
	Timeline      []Bucket            `json:"timeline"`

	gaps  []gap
	dots  []dot
	nodes []string // in the order in which they are shown
	zero  clock.Instant
	ops   *history.History
}

// Check is one thing that was checked.
type Check struct {
	Name    string `json:"name"`
	About   string `json:"about"`  // what it means, for people
	Looked  string `json:"looked"` // at how much
	Verdict string `json:"verdict"`
	Reasons string `json:"reasons,omitempty"` // why it is inconclusive
}

// Bucket is what happened in a part of the time.
type Bucket struct {
	AtMS      int64   `json:"at_ms"`
	Answered  int     `json:"answered"`
	Failed    int     `json:"failed"`
	MedianMS  float64 `json:"median_ms"`
	P99MS     float64 `json:"p99_ms"`
	SlowestMS float64 `json:"slowest_ms"`
}

// gap is a time in which clients waited and nothing was answered.
type gap struct{ from, to clock.Instant }

// dot is one operation on the page.
type dot struct {
	atMS   int64 // when it returned
	tookMS float64
	kind   history.Kind
	failed bool
}

const (
	// bucketsMax is into how many parts the time is cut at most, bucketMS how long each is at
	// least.
	bucketsMax, bucketMS = 240, 250
	// gapMin is how long a gap must be to be shown.
	gapMin = 300 * time.Millisecond
	// dotsMax bounds the operations that are drawn one by one: those that took longest.
	dotsMax = 900
)

// abouts says what the checkers of package history check, for people.
var abouts = map[string]string{
	"append log": "Every acknowledged record is in its file exactly once, at the offset its writer was told; records stand in real-time order; nobody ever read bytes that were not there afterwards.",
	"names":      "Creating, renaming, removing and listing behave as if done one after the other, in an order that agrees with real time.",
	"register":   "A file that is replaced whole is always one of the contents that were put, whole, and never an older one than somebody saw before.",
}

// report judges what happened.
func (r *run) report(interrupted bool) *Report {
	h := r.rec.History()
	if r.cfg.Keep != nil {
		r.cfg.Keep(h)
	}
	judged := history.Check(h)
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &Report{
		Verdict: Clean, Release: cluster.Release, Seed: r.cfg.Seed, Interrupted: interrupted,
		Masters: r.cfg.Masters, Servers: r.cfg.Servers, Clients: r.cfg.Clients,
		Operations: judged.Operations, Acknowledged: judged.Done, Unknown: judged.Unknown, Refused: judged.Failed,
		ViolationList: append(append([]history.Violation{}, judged.Violations...), r.violations...),
		FaultList:     []Fault{}, zero: r.began, ops: h,
		nodes: slices.Concat(namesOf(r.cluster.Masters), namesOf(r.cluster.Servers), r.cluster.Clients()[:len(r.clients)]),
	}
	out.Violations = len(out.ViolationList)
	out.measure(h)
	for _, f := range r.faults {
		f := *f
		if f.Skipped == "" {
			out.Faults++
		}
		for _, g := range out.gaps {
			if f.Skipped == "" && g.from < r.began.Add(ms(f.EndMS)) && g.to > r.began.Add(ms(f.BeginMS)) {
				f.UnavailableMS = max(f.UnavailableMS, g.to.Sub(g.from).Milliseconds())
			}
		}
		out.FaultList = append(out.FaultList, f)
	}
	out.check(r, judged)
	return out
}

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// WriteHistory writes every operation, as package history reads them.
func (r *Report) WriteHistory(w io.Writer) error { return r.ops.Write(w) }

// check lists what was checked, and the verdict.
func (r *Report) check(run *run, judged *history.Report) {
	for _, j := range judged.Judgements {
		c := Check{Name: j.Checker, About: abouts[j.Checker], Verdict: Clean, Looked: fmt.Sprintf("%s operations on %s subjects", Thousands(j.Operations), Thousands(j.Subjects))}
		switch j.Verdict {
		case history.Violated:
			c.Verdict = Violated
		case history.Inconclusive:
			c.Verdict = Inconclusive
			c.Reasons = fmt.Sprint(j.Reasons)
		}
		r.Checks = append(r.Checks, c)
	}
	own := Check{Name: "replicas", Verdict: Clean, About: "Every replica of every sealed chunk was read from its server afterwards: all of a chunk have the same bytes, and broken ones had been repaired.",
		Looked: fmt.Sprintf("%s replicas of %s chunks", Thousands(run.replicas), Thousands(run.compared))}
	whole := Check{Name: "recovery", Verdict: Clean, About: "No process ended by itself. When the faults were over, the cluster became whole again by itself, and everything could be read.",
		Looked: fmt.Sprintf("%d processes, %s faults; whole after %v", run.cfg.Masters+run.cfg.Servers, Thousands(r.Faults), run.wholeAfter.Round(100*time.Millisecond))}
	for _, v := range run.violations {
		if v.Rule == ruleReplicas {
			own.Verdict = Violated
		} else {
			whole.Verdict = Violated
		}
	}
	r.Checks = append(r.Checks, own, whole)
	if judged.Full {
		r.Checks = append(r.Checks, Check{Name: "size", Verdict: Inconclusive, About: "The recorder was full before the end: what came later was not checked."})
	}
	for _, c := range r.Checks {
		switch {
		case c.Verdict == Violated:
			r.Verdict = Violated
		case c.Verdict == Inconclusive && r.Verdict == Clean:
			r.Verdict = Inconclusive
		}
	}
	if r.Violations > 0 {
		r.Verdict = Violated
	}
}

// measure takes times and gaps out of the history.
func (r *Report) measure(h *history.History) {
	r.gaps = gaps(h.Ops)
	var last clock.Instant
	for i := range h.Ops {
		if op := &h.Ops[i]; !op.Final && op.Return != history.Open {
			last = max(last, op.Return)
		}
	}
	r.DurationMS = max(1, last.Sub(r.zero).Milliseconds())
	for _, g := range r.gaps {
		if d := g.to.Sub(g.from).Milliseconds(); d > r.LongestUnavailableMS {
			r.LongestUnavailableMS, r.UnavailableFromMS = d, g.from.Sub(r.zero).Milliseconds()
		}
	}
	buckets := min(max(1, r.DurationMS/bucketMS), bucketsMax)
	r.Timeline = make([]Bucket, buckets)
	times := make([][]float64, buckets)
	for i := range r.Timeline {
		r.Timeline[i].AtMS = int64(i) * r.DurationMS / buckets
	}
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Final || op.Kind == history.KindTail || op.Return == history.Open || op.Return > last {
			continue
		}
		at, took := op.Return.Sub(r.zero).Milliseconds(), float64(op.Return.Sub(op.Call))/1e6
		b := int(min(at*buckets/r.DurationMS, buckets-1))
		ok := answered(op)
		if ok {
			r.Timeline[b].Answered++
			times[b] = append(times[b], took)
			r.SlowestMS = max(r.SlowestMS, int64(took))
		} else {
			r.Timeline[b].Failed++
		}
		r.dots = append(r.dots, dot{at, took, op.Kind, !ok})
	}
	for i, t := range times {
		if len(t) > 0 {
			slices.Sort(t)
			b := &r.Timeline[i]
			b.MedianMS, b.P99MS, b.SlowestMS = t[len(t)/2], t[len(t)*99/100], t[len(t)-1]
		}
	}
	slices.SortFunc(r.dots, func(a, b dot) int { return cmp.Compare(b.tookMS, a.tookMS) })
	r.dots = r.dots[:min(len(r.dots), dotsMax)]
}

// answered reports whether the cluster did what it was asked, or had a reason in what it
// holds not to.
func answered(op *history.Op) bool {
	switch op.Error {
	case quarry.NotFound, quarry.Exists, quarry.NotDir, quarry.IsDir, quarry.NotEmpty, quarry.Invalid:
		return op.Outcome == history.Failed
	}
	return op.Outcome == history.Done
}

// gaps returns the times in which operations were under way and none was answered, the long
// ones of them, in their order.
func gaps(ops []history.Op) (out []gap) {
	type event struct {
		at     clock.Instant
		change int
		answer bool
	}
	var events []event
	for i := range ops {
		op := &ops[i]
		if op.Kind == history.KindTail || op.Final || op.Return == history.Open {
			continue
		}
		events = append(events, event{op.Call, +1, false}, event{op.Return, -1, answered(op)})
	}
	slices.SortStableFunc(events, func(a, b event) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(b.change, a.change))
	})
	waiting, since := 0, clock.Instant(0)
	for _, e := range events {
		if waiting > 0 && e.answer && e.at.Sub(since) >= gapMin {
			out = append(out, gap{since, e.at})
		}
		if waiting == 0 || e.answer {
			since = e.at
		}
		waiting += e.change
	}
	return out
}

// Thousands writes a number as people read it: 12,345.
func Thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
