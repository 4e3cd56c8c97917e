package history

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/quarryfs/quarry/clock"
)

// frontierMax bounds how many possibilities are followed at a time.
const frontierMax = 20_000

// frontier goes through the operations on a tree in the order of time and knows at each
// instant all that the tree may be. porcupine only tells whether there is an order; this tells
// how far there is one, and what the tree was, for whoever wants to understand a violation.
type frontier struct {
	steps   []*nameStep
	configs map[string]config
	open    []int         // steps that were called and are not over, by number; those of unknown outcome stay
	known   int           // open steps that have an end
	given   bool          // up: there are too many possibilities
	failed  clock.Instant // when no possibility was left

	// The last instant at which nothing of known outcome was under way and the tree was known.
	cut      clock.Instant
	cutState *treeState
	cutOpen  []*Op // unknown operations that may still take effect
}

// config is one possibility: what the tree is, and which of the open steps have happened.
type config struct {
	state *treeState
	done  []int
}

func (c config) key() string {
	var b []byte
	for _, i := range c.done {
		b = binary.AppendUvarint(b, uint64(i))
	}
	return c.state.key + "|" + string(b)
}

// advance goes through the history until it is at its end, or no possibility is left: false.
func (f *frontier) advance() bool {
	type event struct {
		at   clock.Instant
		over bool
		step int
	}
	var events []event
	for i, s := range f.steps {
		if s.find == end {
			continue
		}
		events = append(events, event{s.call, false, i})
		if s.over != Open {
			events = append(events, event{s.over, true, i})
		}
	}
	slices.SortStableFunc(events, func(a, b event) int {
		if a.at != b.at {
			return cmp.Compare(a.at, b.at)
		}
		if a.over != b.over && b.over {
			return -1
		}
		return 0
	})
	start := config{state: newTree()}
	f.configs = map[string]config{start.key(): start}
	f.cutState = start.state
	f.cut = -1
	for _, e := range events {
		if !e.over {
			f.open = append(f.open, e.step)
			if f.steps[e.step].over != Open {
				f.known++
			}
			continue
		}
		if !f.happened(e.step) {
			f.failed = e.at
			return false
		}
		if f.known--; f.known == 0 {
			f.tryCut(e.at)
		}
	}
	return true
}

// happened keeps the possibilities in which a step has happened by now. It returns false if
// none is left, or there are too many; the former are then the last ones that were possible.
func (f *frontier) happened(step int) bool {
	work := make([]config, 0, len(f.configs))
	for _, c := range f.configs {
		work = append(work, c)
	}
	slices.SortFunc(work, func(a, b config) int { return strings.Compare(a.key(), b.key()) })
	next, met := map[string]config{}, map[string]bool{}
	for len(work) > 0 {
		c := work[len(work)-1]
		work = work[:len(work)-1]
		if i, ok := slices.BinarySearch(c.done, step); ok {
			c.done = slices.Delete(slices.Clone(c.done), i, i+1)
			next[c.key()] = c
			continue
		}
		for _, i := range f.open {
			at, done := slices.BinarySearch(c.done, i)
			if done {
				continue
			}
			state, ok := c.state.take(f.steps[i])
			if !ok {
				continue
			}
			n := config{state, slices.Insert(slices.Clone(c.done), at, i)}
			if key := n.key(); !met[key] {
				met[key] = true
				work = append(work, n)
			}
		}
		if len(met) > frontierMax {
			f.given = true
			return false
		}
	}
	if len(next) == 0 {
		return false
	}
	f.configs = next
	f.open = slices.DeleteFunc(f.open, func(i int) bool { return i == step })
	return true
}

// tryCut notes what the tree is if that is known, when nothing of known outcome is under way.
func (f *frontier) tryCut(at clock.Instant) {
	// Of two possibilities with the same tree, the one in which fewer unknown operations have
	// happened contains the other one: they may yet happen, or never.
	var kept []config
	for _, c := range f.configs {
		kept = append(kept, c)
	}
	slices.SortFunc(kept, func(a, b config) int {
		return cmp.Or(cmp.Compare(len(a.done), len(b.done)), strings.Compare(a.key(), b.key()))
	})
	first := kept[0]
	for _, c := range kept {
		if c.state.key != first.state.key || !containsAll(c.done, first.done) {
			return
		}
	}
	if len(first.state.found) > 0 {
		return
	}
	f.cut, f.cutState, f.cutOpen = at, first.state, nil
	for _, i := range f.open {
		if op := f.steps[i].op; !slices.Contains(first.done, i) && !slices.Contains(f.cutOpen, op) {
			f.cutOpen = append(f.cutOpen, op)
		}
	}
}

// containsAll reports whether all of some are in ascending numbers.
func containsAll(numbers, some []int) bool {
	for _, i := range some {
		if _, ok := slices.BinarySearch(numbers, i); !ok {
			return false
		}
	}
	return true
}

// trees returns what the tree may be, at most three possibilities.
func (f *frontier) trees() string {
	var all []string
	for _, c := range f.configs {
		if s := c.state.String(); !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	slices.Sort(all)
	if len(all) > 3 {
		return fmt.Sprintf("%s, or one of %d others", strings.Join(all[:3], ", or "), len(all)-3)
	}
	return strings.Join(all, ", or ")
}

// before is the worker of operations that stand for all that happened before a violation.
const beforeWorker = -1

// explainNames returns the fewest operations of a tree that contradict each other, and a text.
func explainNames(ops []*Op, e effort) (shown []Op, text string) {
	illegal := func(ops []*Op) bool { return e.names(ops) == Violated }
	f := &frontier{steps: nameSteps(ops)}
	if possible := f.advance(); possible || f.given {
		ops = shortestPrefix(ops, illegal)
	} else {
		ops = before(ops, f.failed)
	}
	f = &frontier{steps: nameSteps(ops)}
	f.advance()
	if short := f.rest(ops); illegal(short) {
		ops = short
	}
	ops = shrink(ops, func(op *Op) bool { return !op.Kind.mutates() || op.Outcome == Failed }, illegal)
	last := ops[0]
	for _, op := range ops {
		if op.over() != Open && op.over() >= last.Return {
			last = op
		}
		shown = append(shown, *op)
	}
	text = fmt.Sprintf("no order of these %d operations explains that %s", len(ops), describe(last))
	if !f.given {
		text += "; just before, the tree was " + f.trees()
	}
	return shown, text
}

// rest returns the operations from the cut on, behind some that make what the tree was then.
func (f *frontier) rest(ops []*Op) []*Op {
	var out []*Op
	for i := 1; i < len(f.cutState.nodes); i++ {
		n := &f.cutState.nodes[i]
		op := &Op{
			Worker: beforeWorker, Client: beforeWorker, Class: ClassNames, Subject: ops[0].Subject, Outcome: Done,
			Kind: KindCreate, Path: strings.TrimSuffix(f.cutState.path(i), "/"),
			Call: f.cut - 2*clock.Instant(len(f.cutState.nodes)-i), Value: n.value,
		}
		op.Return = op.Call + 1
		switch {
		case n.dir:
			op.Kind = KindMkdir
		case n.value != 0:
			op.Kind = KindPut
		}
		out = append(out, op)
	}
	out = append(out, f.cutOpen...)
	for _, op := range ops {
		if op.Call > f.cut {
			out = append(out, op)
		}
	}
	return out
}
