package model

import (
	"context"
	"fmt"
	"math/rand"
	"runtime/debug"
)

// act is one transition. K is its kind; A, B and C are its parameters. All choice is in the
// act, so what it does to a state is determined.
type act struct{ K, A, B, C uint8 }

// violation is the panic value of a broken invariant.
type violation string

// bad reports a broken invariant.
func bad(format string, args ...any) { panic(violation(fmt.Sprintf(format, args...))) }

// result is the outcome of a run.
type result struct {
	schedules, steps, states, depth int
	exhausted                       bool
	violation                       string
	seed                            int64 // of the schedule with the violation
	trace                           []string
}

func (r result) String() string {
	v := "ok"
	if r.violation != "" {
		v = "VIOLATION: " + r.violation
	}
	if r.states > 0 {
		e := "cut"
		if r.exhausted {
			e = "complete"
		}
		return fmt.Sprintf("%s %s depth=%d states=%d transitions=%d", v, e, r.depth, r.states, r.steps)
	}
	return fmt.Sprintf("%s schedules=%d steps=%d", v, r.schedules, r.steps)
}

// step applies an act and checks the invariants. A machine's own panic is a violation too.
func (w *world) step(a act) (v string) {
	defer func() {
		if r := recover(); r != nil {
			if x, ok := r.(violation); ok {
				v = string(x)
				return
			}
			v = fmt.Sprintf("%v\n%s", r, debug.Stack())
		}
	}()
	w.apply(a)
	w.check()
	return ""
}

// options bound a run; zero means no bound.
type options struct {
	seed      int64
	schedules int
	steps     int // of a schedule: a quarter of it up to five quarters
	states    int // of a search
	trace     bool
	done      func(*world) // called with the last state of each random schedule
}

// draw chooses a kind of act by weight, then one enabled act of it: many messages do not
// crowd out a rare fault.
func draw(acts []act, rnd *rand.Rand) (act, bool) {
	var count [actKinds]int
	total := 0
	for _, a := range acts {
		if count[a.K] == 0 {
			total += weight[a.K]
		}
		count[a.K]++
	}
	if total == 0 {
		return act{}, false
	}
	x := rnd.Intn(total)
	for k, n := range count {
		if n == 0 {
			continue
		}
		if x -= weight[k]; x >= 0 {
			continue
		}
		n = rnd.Intn(n)
		for _, a := range acts {
			if int(a.K) == k {
				if n == 0 {
					return a, true
				}
				n--
			}
		}
	}
	panic("unreachable")
}

// random runs random schedules from fresh states until a bound or a violation. The schedule
// of seed s is the same in every run.
func random(ctx context.Context, fresh func(*rand.Rand) *world, o options) (res result) {
	var buf []act
	for r := 0; (o.schedules == 0 || r < o.schedules) && ctx.Err() == nil; r++ {
		rnd := rand.New(rand.NewSource(o.seed + int64(r)))
		w := fresh(rnd)
		res.schedules++
		var trace []string
		for i, n := 0, o.steps/4+rnd.Intn(o.steps); i < n; i++ {
			buf = w.actions(true, buf)
			a, ok := draw(buf, rnd)
			if !ok {
				break
			}
			if o.trace {
				trace = append(trace, w.describe(a))
			}
			res.steps++
			if v := w.step(a); v != "" {
				res.seed = o.seed + int64(r)
				res.violation = fmt.Sprintf("seed %d step %d: %s", res.seed, i, v)
				res.trace = trace
				return res
			}
		}
		if o.done != nil {
			o.done(w)
		}
	}
	return res
}

// exhaust searches breadth first until all states are seen, or a bound or violation is met.
func exhaust(ctx context.Context, init *world, o options) (res result) {
	seen := map[uint64]struct{}{init.key(): {}}
	front := []*world{init}
	var buf []act
	defer func() { res.states = len(seen) }()
	for ; len(front) > 0; res.depth++ {
		var next []*world
		for i, w := range front {
			front[i] = nil
			buf = w.actions(false, buf)
			for _, a := range buf {
				t := w.clone()
				res.steps++
				if v := t.step(a); v != "" {
					res.violation = v + " at the last of: " + w.path + " / " + w.describe(a)
					return res
				}
				if k := t.key(); !contains(seen, k) {
					seen[k] = struct{}{}
					if o.trace {
						t.path = w.path + " / " + w.describe(a)
					}
					next = append(next, t)
				}
			}
			if o.states > 0 && len(seen) > o.states || ctx.Err() != nil {
				return res
			}
		}
		front = next
	}
	res.exhausted = true
	return res
}

func contains(seen map[uint64]struct{}, k uint64) bool {
	_, ok := seen[k]
	return ok
}
