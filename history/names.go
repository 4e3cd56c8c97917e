package history

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// A client carries out an operation on names in steps: it finds the directory of each path,
// and then does its work in the directories it has found, whatever they are called by then.
// That is what every file system promises, and what is checked: each step happens at one
// instant between the call and the return, in this order.
//
// An operation whose directories nobody renames, makes or removes meanwhile has one step.
type nameStep struct {
	op     *Op
	number int     // of the operation
	find   int     // the side whose directory is found; act, or end
	found  [2]bool // act: which sides were found in a step of their own
	lazy   bool    // act: what was not found is found at the same instant
	raced  bool    // act: others may have changed what has the path meanwhile
	call   clock.Instant
	over   clock.Instant
}

const (
	act = -1 // the step that does the work
	end = -2 // the instant at which all known operations are over
)

// unknown reports whether it is open what the step's operation did.
func (s *nameStep) unknown() bool { return s.op != nil && s.op.Outcome == Unknown }

// pure reports whether the step surely changes nothing that others can see.
func (s *nameStep) pure() bool {
	return s.find == act && s.op.Outcome != Unknown && (!s.op.Kind.mutates() || s.op.Outcome == Failed)
}

// evidence returns the operations of a tree that say or do something, in the order of their
// calls.
func evidence(ops []Op) []*Op {
	var out []*Op
	for i := range ops {
		op := &ops[i]
		switch {
		case !op.Kind.mutates() && op.Outcome == Unknown:
		case op.Outcome == Failed && !op.answered():
		case op.Bad != "" && op.Outcome == Failed: // see goneText
		default:
			out = append(out, op)
		}
	}
	return out
}

// nameSteps cuts operations into their steps.
func nameSteps(ops []*Op) []*nameStep {
	var steps []*nameStep
	last, open := clock.Instant(0), false
	for i, op := range ops {
		work := &nameStep{op: op, number: i, find: act, call: op.Call, over: op.over()}
		work.raced = op.Kind == KindRemove && contested(ops, i, op.Path)
		for side, dir := range dirsOf(op) {
			if dir != "" && contested(ops, i, dir) {
				work.found[side] = true
				steps = append(steps, &nameStep{op: op, number: i, find: side, call: op.Call, over: op.over()})
			}
		}
		steps = append(steps, work)
		open = open || op.Outcome == Unknown
		last = max(last, op.Call)
		if op.over() != Open {
			last = max(last, op.over())
		}
	}
	if open {
		steps = append(steps, &nameStep{number: len(ops), find: end, call: last + 1, over: last + 2})
	}
	return steps
}

// dirsOf returns the directories that an operation has to find.
func dirsOf(op *Op) []string {
	dir, _ := cutPath(op.Path)
	switch op.Kind {
	case KindList:
		return []string{op.Path}
	case KindStat:
		// What there is to know of what is found is asked where it lives.
		if op.Found != 0 {
			return []string{op.Path}
		}
	case KindChmod:
		return []string{op.Path}
	case KindRename:
		to, _ := cutPath(op.To)
		return []string{dir, to}
	}
	return []string{dir}
}

// contested reports whether others may have changed, while operation i was under way, what a
// path of directories leads to.
func contested(ops []*Op, i int, dir string) bool {
	for j, other := range ops {
		if j == i || !other.Kind.mutates() || other.Kind == KindChmod || other.Outcome == Failed || other.precedes(ops[i]) {
			continue
		}
		if ops[i].precedes(other) {
			break // those that follow are called later still
		}
		if above(other.Path, dir) || other.Kind == KindRename && above(other.To, dir) {
			return true
		}
	}
	return false
}

// above reports whether path is dir or is on the way to it.
func above(path, dir string) bool {
	return path == dir || strings.HasPrefix(dir, path+"/")
}

// take returns the state after a step, and whether the step can happen in the state with the
// result that it had.
func (t *treeState) take(s *nameStep) (*treeState, bool) {
	switch {
	case s.find == end:
		t = t.edit()
		t.ended = true
		return t.sealed(), true
	case s.unknown() && t.ended: // it did nothing
		if s.find == act && slices.Contains(s.found[:], true) {
			return t.forget(s.number), true
		}
		return t, true
	case s.find == act:
		return t.act(s)
	}
	dir := t.reach(s.op, dirsOf(s.op)[s.find])
	if why(dir) != 0 && s.op.Outcome != Failed {
		return nil, false // of an unknown operation: it did nothing, which is said at the end
	}
	next := t.edit()
	step := found{op: s.number, side: s.find, node: dir}
	if dir >= 0 {
		step.value = t.nodes[dir].value
	}
	next.found = append(next.found, step)
	slices.SortFunc(next.found, func(a, b found) int { return 2*(a.op-b.op) + a.side - b.side })
	return next.sealed(), true
}

// foundBy reports whether a step that finds a directory has happened.
func (t *treeState) foundBy(s *nameStep) bool {
	return slices.ContainsFunc(t.found, func(f found) bool { return f.op == s.number && f.side == s.find })
}

// forget drops what an operation has found.
func (t *treeState) forget(number int) *treeState {
	next := t.edit()
	next.found = slices.DeleteFunc(next.found, func(f found) bool { return f.op == number })
	return next.sealed()
}

// dirs returns the directories in which a step does its work; false if the step that finds
// one has not happened.
func (t *treeState) dirs(s *nameStep) (dirs [2]int, ok bool) {
	for side, path := range dirsOf(s.op) {
		if !s.found[side] {
			dirs[side] = t.reach(s.op, path)
			continue
		}
		i := slices.IndexFunc(t.found, func(f found) bool { return f.op == s.number && f.side == side })
		switch {
		case i >= 0:
			dirs[side] = t.found[i].node
		case s.lazy:
			dirs[side] = t.reach(s.op, path)
		default:
			return dirs, false
		}
	}
	return dirs, true
}

// act does the work of an operation.
func (t *treeState) act(s *nameStep) (*treeState, bool) {
	dirs, ok := t.dirs(s)
	if !ok {
		return nil, false
	}
	var next *treeState
	reasons := make([]quarry.Kind, 0, 4)
	for side := range dirsOf(s.op) {
		if reason := why(dirs[side]); reason != 0 {
			reasons = append(reasons, reason)
		}
	}
	if len(reasons) == 0 {
		next, reasons = t.work(s, dirs[0], dirs[1])
	}
	switch {
	case s.op.Outcome == Failed && !slices.Contains(reasons, s.op.Error):
		return nil, false
	case s.op.Outcome != Failed && (len(reasons) > 0 || next == nil):
		return nil, false
	case s.unknown() && next == t:
		return nil, false // it did nothing, which is said at the end
	case s.op.Outcome == Failed || next == t:
		next = t.edit()
	}
	next.found = slices.DeleteFunc(next.found, func(f found) bool { return f.op == s.number })
	return next.sealed(), true
}

// work returns the state after an operation in directories that are there; t itself if it
// changes nothing, nil if it cannot have had its result. Or the reasons for which it must be
// refused, each of which may be told.
func (t *treeState) work(s *nameStep, dir, toDir int) (*treeState, []quarry.Kind) {
	op := s.op
	if op.Kind == KindList {
		if op.Outcome == Done && !slices.Equal(op.Names, t.names(dir)) {
			return nil, nil
		}
		return t, nil
	}
	switch n := &t.nodes[dir]; {
	case op.Kind == KindStat && op.Found != 0:
		if n.dir != (op.Found == FoundDir) || n.dir && op.Length != t.entries(dir) || op.Mode != 0 && op.Mode != n.mode {
			return nil, nil
		}
		return t, nil
	case op.Kind == KindChmod && n.mode == op.Mode:
		return t, nil
	case op.Kind == KindChmod:
		next := t.edit()
		next.nodes[dir].mode = op.Mode
		return next, nil
	}
	_, name := cutPath(op.Path)
	at := t.child(dir, name)
	switch op.Kind {
	case KindCreate, KindMkdir:
		if at >= 0 {
			return nil, []quarry.Kind{quarry.Exists}
		}
		made := node{name: name, parent: dir, mode: modeFile}
		if op.Kind == KindMkdir {
			made.dir, made.mode = true, modeDir
		}
		return t.with(made), nil
	case KindPut:
		switch {
		case at < 0:
			return t.with(node{name: name, parent: dir, value: op.Value, mode: modeFile}), nil
		case t.nodes[at].dir:
			return nil, []quarry.Kind{quarry.IsDir, quarry.Exists}
		}
		next := t.edit()
		next.discard(at, op)
		return next.with(node{name: name, parent: dir, value: op.Value, mode: modeFile}), nil
	case KindUndelete:
		return t.undelete(op, at, node{name: name, parent: dir, value: op.Value})
	case KindRename:
		return t.rename(op, at, toDir)
	case KindRemove:
		return t.remove(s, at)
	}
	return t.look(op, at)
}

// with returns the state with one node more.
func (t *treeState) with(n node) *treeState {
	next := t.edit()
	next.nodes = append(next.nodes, n)
	return next
}

// remove removes a file or an empty directory. A client asks for the one and, if it is told
// that it is the other, for the other: if it has changed by then it says NotDir.
func (t *treeState) remove(s *nameStep, at int) (*treeState, []quarry.Kind) {
	switch {
	case at < 0:
		return nil, []quarry.Kind{quarry.NotFound}
	case t.nodes[at].dir && t.entries(at) > 0:
		return nil, []quarry.Kind{quarry.NotEmpty}
	case !t.nodes[at].dir && s.raced && s.op.Error == quarry.NotDir:
		return nil, []quarry.Kind{quarry.NotDir}
	}
	next := t.edit()
	next.discard(at, s.op)
	return next, nil
}

// discard takes a node out of a state that is being made, and puts a file into the trash.
func (t *treeState) discard(at int, op *Op) {
	n := &t.nodes[at]
	n.parent = gone
	if t.asked[n.value] && !op.Now {
		i, _ := t.inTrash(n.value)
		t.trash = slices.Insert(t.trash, i, trashed{n.value, op.Call, n.mode})
	}
}

// inTrash returns where a value is in the trash, or would be.
func (t *treeState) inTrash(value uint64) (int, bool) {
	return slices.BinarySearchFunc(t.trash, value, func(r trashed, value uint64) int { return cmp.Compare(r.value, value) })
}

// undelete brings a file back from the trash. It is there until somebody brings it back, or its time
// is over, by a clock that may be a little faster than ours.
func (t *treeState) undelete(op *Op, at int, back node) (*treeState, []quarry.Kind) {
	i, there := t.inTrash(op.Value)
	var reasons []quarry.Kind
	if at >= 0 {
		reasons = append(reasons, quarry.Exists)
	}
	if !there || op.Outcome == Failed && int64(op.Return-t.trash[i].since) >= op.KeepNS/10*9 {
		reasons = append(reasons, quarry.NotFound)
	}
	if len(reasons) > 0 {
		return nil, reasons
	}
	back.mode = t.trash[i].mode
	next := t.with(back)
	next.trash = slices.Delete(next.trash, i, i+1)
	for j := range next.found { // it is the same file again
		if f := &next.found[j]; f.node == gone && f.value == op.Value {
			f.node = len(next.nodes) - 1
		}
	}
	return next, nil
}

// rename moves a node, over a file if both are files.
func (t *treeState) rename(op *Op, at, toDir int) (*treeState, []quarry.Kind) {
	if at < 0 {
		return nil, []quarry.Kind{quarry.NotFound}
	}
	_, name := cutPath(op.To)
	old := t.child(toDir, name)
	if old == at {
		return t, nil
	}
	var reasons []quarry.Kind
	if t.nodes[at].dir && t.within(toDir, at) {
		reasons = append(reasons, quarry.Invalid)
	}
	if old >= 0 {
		switch {
		case t.nodes[at].dir && t.nodes[old].dir:
			reasons = append(reasons, quarry.Exists)
		case t.nodes[old].dir:
			reasons = append(reasons, quarry.IsDir)
		case t.nodes[at].dir:
			reasons = append(reasons, quarry.NotDir)
		}
	}
	if len(reasons) > 0 {
		return nil, reasons
	}
	next := t.edit()
	if old >= 0 {
		next.discard(old, op)
	}
	next.nodes[at].parent, next.nodes[at].name = toDir, name
	return next, nil
}

// look checks what a read or stat saw.
func (t *treeState) look(op *Op, at int) (*treeState, []quarry.Kind) {
	if at < 0 {
		return nil, []quarry.Kind{quarry.NotFound}
	}
	n := &t.nodes[at]
	switch {
	case op.Kind == KindRead && n.dir:
		return nil, []quarry.Kind{quarry.IsDir}
	case op.Outcome != Done:
	case op.Kind == KindRead && n.value != op.Value,
		op.Kind == KindStat && n.dir:
		return nil, nil
	}
	return t, nil
}

// checkNames judges the operations on one tree.
func checkNames(tree string, ops []Op, e effort) (v *Violation, inconclusive string) {
	for i := range ops {
		if op := &ops[i]; op.Bad != "" && (op.Outcome == Done || op.Final) {
			return &Violation{Checker: "names", Rule: ruleContent, Subject: tree, Text: op.Path + ": " + op.Bad, Ops: []Op{*op}}, ""
		}
	}
	known := evidence(ops)
	switch e.names(known) {
	case Passed:
		return nil, ""
	case Inconclusive:
		return nil, fmt.Sprintf("the search among %d operations was given up", len(known))
	}
	shown, text := explainNames(known, e)
	return &Violation{Checker: "names", Rule: ruleOneOrder, Subject: tree, Text: text, Ops: shown}, ""
}
