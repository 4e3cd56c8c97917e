package history

import (
	"time"

	"github.com/anishathalye/porcupine"
)

// The rules of what is searched.
const (
	ruleOneOrder = "there is one order of the operations that explains all results"
	ruleContent  = "a file has the bytes of one put"
)

// effort bounds a search: by the steps of the model, so that a history has one verdict
// wherever it is judged, and by time, in case that is far too much for a machine.
type effort struct {
	steps int
	time  time.Duration
}

// usual is the effort for the operations on one subject: some seconds.
var usual = effort{steps: 1 << 18, time: 10 * time.Second}

// search has porcupine look for an order of the operations in which the model can take every
// step. step is the model's.
func (e effort) search(ops []porcupine.Operation, model porcupine.Model, step func(state, input any) (bool, any)) Verdict {
	taken := 0
	model.Step = func(state, input, _ any) (bool, any) {
		if taken++; taken > e.steps {
			return false, state // the search comes to its end, and its result does not count
		}
		return step(state, input)
	}
	result := porcupine.CheckOperationsTimeout(model, ops, e.time)
	switch {
	case result == porcupine.Ok:
		return Passed
	case result == porcupine.Unknown || taken > e.steps:
		return Inconclusive
	}
	return Violated
}

// names looks for an order that explains the operations on one tree.
func (e effort) names(ops []*Op) Verdict {
	var steps []porcupine.Operation
	for _, s := range nameSteps(ops) {
		steps = append(steps, porcupine.Operation{Input: s, Call: int64(s.call), Return: int64(s.over)})
	}
	verdict := e.search(steps, porcupine.Model{
		Init:  func() any { return newTree(ops) },
		Equal: func(a, b any) bool { return a.(*treeState).key == b.(*treeState).key },
		Hash:  func(a any) uint64 { return a.(*treeState).hash },
	}, func(state, input any) (bool, any) {
		next, ok := state.(*treeState).take(input.(*nameStep))
		return ok, next
	})
	if verdict != Inconclusive {
		return verdict
	}
	f := newFrontier(ops, e)
	switch possible := f.advance(); {
	case possible:
		return Passed
	case f.given:
		return Inconclusive
	}
	return Violated
}

// file looks for an order that explains the operations on one file, or on one part of
// it that is written by itself.
func (e effort) file(ops []*Op) Verdict {
	steps := make([]porcupine.Operation, len(ops))
	for i, op := range ops {
		steps[i] = porcupine.Operation{Input: op, Call: int64(op.Call), Return: int64(op.over())}
	}
	return e.search(steps, porcupine.Model{Init: func() any { return uint64(0) }}, func(state, input any) (bool, any) {
		next, ok := takeFile(state.(uint64), input.(*Op))
		return ok, next
	})
}
