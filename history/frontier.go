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
//
// It also judges where porcupine has to give up: of histories with many operations of unknown
// outcome it follows far fewer possibilities, because one in which fewer of them have
// happened, and the tree is the same, contains the other ones.
type frontier struct {
	effort  int                 // steps that may yet be tried
	empty   *treeState          // what the tree is at first
	steps   []*nameStep         // that do the work
	finds   map[int][]*nameStep // that find directories, by operation
	configs []config            // none of them is contained in another one
	open    []int               // steps that were called and are not over, by number; those of unknown outcome stay
	known   int                 // open steps that have an end
	given   bool                // up: there are too many possibilities
	failed  clock.Instant       // when no possibility was left

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

// newFrontier leaves the steps that find directories to those that do the work: an operation
// that has not found its directory finds it when it does its work, unless it must have found
// it before, see earlier.
func newFrontier(ops []*Op, e effort) *frontier {
	f := &frontier{finds: map[int][]*nameStep{}, effort: 4 * e.steps, empty: newTree(ops)}
	for _, s := range nameSteps(ops) {
		switch {
		case s.find >= 0:
			f.finds[s.number] = append(f.finds[s.number], s)
		case s.find == act:
			s.lazy = true
			f.steps = append(f.steps, s)
		}
	}
	return f
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
	f.cutState = f.empty
	f.configs = []config{{state: f.cutState}}
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
		work = append(work, f.absorb(c))
	}
	next, met := []config{}, map[string]bool{}
	for len(work) > 0 {
		c := work[len(work)-1]
		work = work[:len(work)-1]
		if i, ok := slices.BinarySearch(c.done, step); ok {
			c.done = slices.Delete(slices.Clone(c.done), i, i+1)
			next = append(next, c)
			continue
		}
		for _, i := range f.open {
			at, done := slices.BinarySearch(c.done, i)
			if done || f.steps[i].pure() {
				continue
			}
			for _, before := range f.earlier(c, i) {
				f.effort--
				state, ok := before.take(f.steps[i])
				if !ok || f.lost(state) {
					continue
				}
				n := f.absorb(config{state, slices.Insert(slices.Clone(c.done), at, i)})
				if key := n.key(); !met[key] {
					met[key] = true
					work = append(work, n)
				}
			}
		}
		if len(met) > frontierMax || f.effort < 0 {
			f.given = true
			return false
		}
	}
	if len(next) == 0 {
		return false
	}
	f.configs = f.leading(next)
	f.open = slices.DeleteFunc(f.open, func(i int) bool { return i == step })
	return true
}

// earlier returns the states in which step may happen: the present one, and those in which other
// open operations have just found something that the step may take from where it is. At any
// other time they may as well find it later.
func (f *frontier) earlier(c config, step int) []*treeState {
	states := []*treeState{c.state}
	op := f.steps[step].op
	taken := []string{op.Path}
	switch op.Kind {
	case KindPut, KindRemove:
	case KindRename:
		taken = append(taken, op.To)
	default:
		return states
	}
	for _, i := range f.open {
		if _, done := slices.BinarySearch(c.done, i); done || i == step {
			continue
		}
		for _, find := range f.finds[f.steps[i].number] {
			dir := dirsOf(find.op)[find.find]
			takes := slices.ContainsFunc(taken, func(path string) bool { return above(path, dir) })
			if !takes || c.state.foundBy(find) || len(states) > earlierMax {
				continue
			}
			for _, state := range slices.Clone(states) {
				f.effort--
				if next, ok := state.take(find); ok {
					states = append(states, next)
				}
			}
		}
	}
	return states
}

// earlierMax bounds the states that one step is tried in.
const earlierMax = 256

// lost reports whether an operation that must be done, or may only matter if it is, has found a
// directory that is gone, or a file that is and cannot come back.
func (f *frontier) lost(t *treeState) bool {
	for _, found := range t.found {
		if found.node == gone && !t.asked[found.value] && f.finds[found.op][0].op.Outcome != Failed {
			return true
		}
	}
	return false
}

// absorb has every open step happen that changes nothing and can happen with the tree as it is.
// Waiting gains nothing: so these steps, which are most, have no part in the search.
func (f *frontier) absorb(c config) config {
	for _, i := range f.open {
		at, done := slices.BinarySearch(c.done, i)
		if done || !f.steps[i].pure() {
			continue
		}
		f.effort--
		if state, ok := c.state.take(f.steps[i]); ok {
			c = config{state, slices.Insert(slices.Clone(c.done), at, i)}
		}
	}
	return c
}

// leading leaves out possibilities that are contained in others: of two with the same tree the
// one in which more unknown operations have happened, because in the other one they may yet
// happen, or never.
func (f *frontier) leading(all []config) []config {
	slices.SortFunc(all, func(a, b config) int {
		return cmp.Or(strings.Compare(a.state.key, b.state.key), cmp.Compare(len(a.done), len(b.done)), slices.Compare(a.done, b.done))
	})
	kept := all[:0]
	first := 0 // of kept, with the present tree
	for _, c := range all {
		if len(kept) == 0 || kept[first].state.key != c.state.key {
			first = len(kept)
		}
		if !slices.ContainsFunc(kept[first:], func(less config) bool { return f.contains(less.done, c.done) }) {
			kept = append(kept, c)
		}
	}
	return kept
}

// contains reports whether more has all the steps of less, and besides only unknown ones.
func (f *frontier) contains(less, more []int) bool {
	for _, i := range more {
		if len(less) > 0 && less[0] == i {
			less = less[1:]
		} else if !f.steps[i].unknown() {
			return false
		}
	}
	return len(less) == 0
}

// tryCut notes what the tree is if that is known, when nothing of known outcome is under way.
func (f *frontier) tryCut(at clock.Instant) {
	first := f.configs[0]
	if len(f.configs) > 1 || len(first.state.found) > 0 {
		return
	}
	f.cut, f.cutState, f.cutOpen = at, first.state, nil
	for _, i := range f.open {
		if op := f.steps[i].op; !slices.Contains(first.done, i) && !slices.Contains(f.cutOpen, op) {
			f.cutOpen = append(f.cutOpen, op)
		}
	}
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
	f := newFrontier(ops, e)
	if possible := f.advance(); possible || f.given {
		ops = shortestPrefix(ops, illegal)
	} else {
		ops = before(ops, f.failed)
	}
	f = newFrontier(ops, e)
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
	for i, r := range f.cutState.trash { // put, and removed at the instant at which it was
		file := Op{
			Worker: beforeWorker, Client: beforeWorker, Class: ClassNames, Subject: ops[0].Subject, Outcome: Done,
			Kind: KindPut, Path: fmt.Sprintf("trash%d", i), Value: r.value, Call: r.since - 1, Return: r.since - 1,
		}
		out = append(out, &file)
		if r.mode != modeFile {
			changed := file
			changed.Kind, changed.Value, changed.Mode = KindChmod, 0, r.mode
			out = append(out, &changed)
		}
		removed := file
		removed.Kind, removed.Value, removed.Call, removed.Return = KindRemove, 0, r.since, r.since
		out = append(out, &removed)
	}
	slices.SortStableFunc(out, func(a, b *Op) int { return cmp.Compare(a.Call, b.Call) })
	for i := 1; i < len(f.cutState.nodes); i++ {
		n := &f.cutState.nodes[i]
		op := &Op{
			Worker: beforeWorker, Client: beforeWorker, Class: ClassNames, Subject: ops[0].Subject, Outcome: Done,
			Kind: KindCreate, Path: strings.TrimSuffix(f.cutState.path(i), "/"),
			Call: f.cut - 2*clock.Instant(len(f.cutState.nodes)-i), Value: n.value,
		}
		op.Return = op.Call + 1
		made := uint32(modeFile)
		switch {
		case n.dir:
			op.Kind, made = KindMkdir, modeDir
		case n.value != 0:
			op.Kind = KindPut
		}
		out = append(out, op)
		if n.mode != made {
			changed := *op
			changed.Kind, changed.Value, changed.Mode, changed.Call = KindChmod, 0, n.mode, op.Return
			out = append(out, &changed)
		}
	}
	out = append(out, f.cutOpen...)
	for _, op := range ops {
		if op.Call > f.cut {
			out = append(out, op)
		}
	}
	return out
}
