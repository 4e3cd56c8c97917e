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

const (
	// searchSteps is how many steps one search may take: some seconds.
	searchSteps = 2 << 20
	// searchTime bounds a search besides, where time passes.
	searchTime = 10 * time.Second
)

// search has porcupine look for an order of the operations in which the model can take every
// step. step is the model's; it is called at most searchSteps times.
func search(ops []porcupine.Operation, model porcupine.Model, step func(state, input any) (bool, any)) Verdict {
	taken := 0
	model.Step = func(state, input, _ any) (bool, any) {
		if taken++; taken > searchSteps {
			return false, state // the search comes to its end, and its result does not count
		}
		return step(state, input)
	}
	result := porcupine.CheckOperationsTimeout(model, ops, searchTime)
	switch {
	case result == porcupine.Ok:
		return Passed
	case result == porcupine.Unknown || taken > searchSteps:
		return Inconclusive
	}
	return Violated
}

// searchNames looks for an order that explains the operations on one tree.
func searchNames(ops []*Op) Verdict {
	var steps []porcupine.Operation
	for _, s := range nameSteps(ops) {
		steps = append(steps, porcupine.Operation{Input: s, Call: int64(s.call), Return: int64(s.over)})
	}
	return search(steps, porcupine.Model{
		Init:  func() any { return newTree() },
		Equal: func(a, b any) bool { return a.(*treeState).key == b.(*treeState).key },
		Hash:  func(a any) uint64 { return a.(*treeState).hash },
	}, func(state, input any) (bool, any) {
		next, ok := state.(*treeState).take(input.(*nameStep))
		return ok, next
	})
}

// searchFile looks for an order that explains the operations on one file, or on one part of
// it that is written by itself.
func searchFile(ops []*Op) Verdict {
	steps := make([]porcupine.Operation, len(ops))
	for i, op := range ops {
		steps[i] = porcupine.Operation{Input: op, Call: int64(op.Call), Return: int64(op.over())}
	}
	return search(steps, porcupine.Model{Init: func() any { return uint64(0) }}, func(state, input any) (bool, any) {
		next, ok := takeFile(state.(uint64), input.(*Op))
		return ok, next
	})
}
