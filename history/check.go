package history

import (
	"fmt"
	"slices"
	"time"

	"github.com/quarryfs/quarry/clock"
)

// Verdict is what a checker says of all subjects of its class.
type Verdict string

// The verdicts.
const (
	Passed Verdict = "passed"
	// Inconclusive: no violation was found, but a search was given up, or the end was not read.
	Inconclusive Verdict = "inconclusive"
	Violated     Verdict = "violated"
)

// Violation shows that a promise was not kept.
type Violation struct {
	Checker string `json:"checker"`
	Rule    string `json:"rule"`    // which promise, in a few words
	Subject string `json:"subject"` // the log, file or tree
	Text    string `json:"text"`    // what happened, for people
	Ops     []Op   `json:"ops"`     // the shortest part of the history found that shows it
}

// Error returns checker, rule and text.
func (v *Violation) Error() string {
	return fmt.Sprintf("%s: %s: %s: %s", v.Checker, v.Subject, v.Rule, v.Text)
}

// Judgement is what one checker has looked at, and what it says.
type Judgement struct {
	Checker    string   `json:"checker"`
	Verdict    Verdict  `json:"verdict"`
	Subjects   int      `json:"subjects"`
	Operations int      `json:"operations"`
	Reasons    []string `json:"reasons,omitempty"` // why it is inconclusive, at most 10
}

// Report sums a history up.
type Report struct {
	Seed       uint64         `json:"seed"`
	Operations int            `json:"operations"`
	Done       int            `json:"done"`
	Unknown    int            `json:"unknown"`
	Failed     map[string]int `json:"failed"` // operations that were surely not done, by kind of error
	// LongestUnavailable is the longest time, in ns, in which operations were under way and
	// none was answered; and when it began. Waiting tails do not count.
	LongestUnavailable time.Duration `json:"longest_unavailable"`
	UnavailableFrom    clock.Instant `json:"unavailable_from"`
	Judgements         []Judgement   `json:"judgements"`
	Violations         []Violation   `json:"violations"` // at most 10 of each checker
	Full               bool          `json:"full"`       // the recorder's limit was reached
}

// Verdict returns the worst verdict.
func (r *Report) Verdict() Verdict {
	verdict := Passed
	for _, j := range r.Judgements {
		switch {
		case j.Verdict == Violated:
			return Violated
		case j.Verdict == Inconclusive:
			verdict = Inconclusive
		}
	}
	return verdict
}

// listMax bounds the violations and the reasons that a report lists of each checker.
const listMax = 10

// checkers are all checkers: one for each class of subjects.
var checkers = []struct {
	name  string
	class Class
	check func(subject string, ops []Op, e effort) (v *Violation, inconclusive string)
}{
	{"append log", ClassLog, checkLog},
	{"names", ClassNames, checkNames},
	{"register", ClassFile, checkFile},
}

// Check runs all checkers over a history.
func Check(h *History) *Report { return check(h, usual) }

func check(h *History, e effort) *Report {
	r := &Report{Seed: h.Seed, Operations: len(h.Ops), Failed: map[string]int{}, Full: h.Full, Violations: []Violation{}}
	for i := range h.Ops {
		switch op := &h.Ops[i]; op.Outcome {
		case Done:
			r.Done++
		case Unknown:
			r.Unknown++
		case Failed:
			r.Failed[op.Error.Error()]++
		}
	}
	r.UnavailableFrom, r.LongestUnavailable = unavailable(h.Ops)
	for _, c := range checkers {
		j, listed := Judgement{Checker: c.name, Verdict: Passed}, 0
		subjects, bySubject := split(h.Ops, c.class)
		for _, subject := range subjects {
			ops := bySubject[subject]
			j.Subjects++
			j.Operations += len(ops)
			v, inconclusive := c.check(subject, ops, e)
			switch {
			case v != nil:
				j.Verdict = Violated
				if listed++; listed <= listMax {
					r.Violations = append(r.Violations, *v)
				}
			case inconclusive != "":
				if j.Verdict == Passed {
					j.Verdict = Inconclusive
				}
				if len(j.Reasons) < listMax {
					j.Reasons = append(j.Reasons, subject+": "+inconclusive)
				}
			}
		}
		r.Judgements = append(r.Judgements, j)
	}
	return r
}

// split returns the operations of each subject of a class, and the subjects in the order in
// which they first appear.
func split(ops []Op, class Class) (subjects []string, bySubject map[string][]Op) {
	bySubject = map[string][]Op{}
	for i := range ops {
		if ops[i].Class != class {
			continue
		}
		s := ops[i].Subject
		if _, known := bySubject[s]; !known {
			subjects = append(subjects, s)
		}
		bySubject[s] = append(bySubject[s], ops[i])
	}
	return subjects, bySubject
}

// unavailable returns the longest time in which operations were under way and none was
// answered, and when it began.
func unavailable(ops []Op) (from clock.Instant, longest time.Duration) {
	type event struct {
		at     clock.Instant
		change int // of the operations under way
		answer bool
	}
	var events []event
	for i := range ops {
		op := &ops[i]
		if op.Kind == KindTail || op.Return == Open {
			continue
		}
		events = append(events, event{op.Call, +1, false}, event{op.Return, -1, op.answered()})
	}
	// Of one instant, calls come first: then nothing is missed.
	slices.SortStableFunc(events, func(a, b event) int {
		if a.at != b.at {
			return int(min(max(a.at-b.at, -1), 1))
		}
		return b.change - a.change
	})
	underWay, since := 0, clock.Instant(0)
	for _, e := range events {
		if underWay > 0 {
			if d := e.at.Sub(since); d > longest {
				from, longest = since, d
			}
		}
		if underWay == 0 || e.answer {
			since = e.at
		}
		underWay += e.change
	}
	return from, longest
}
