package history

import (
	"slices"

	"github.com/quarryfs/quarry/clock"
)

// Part of a history shows a violation of the whole only if what is left out could not have
// explained it. So these functions leave out what came later, and what their callers say has
// no effect on others; then they ask whether what is left still has no explanation.

// shortestPrefix cuts a history at the earliest instant at which it cannot be explained. What
// was under way then may have been done or not.
func shortestPrefix(ops []*Op, illegal func([]*Op) bool) []*Op {
	var returns []clock.Instant
	for _, op := range ops {
		if op.over() != Open {
			returns = append(returns, op.over())
		}
	}
	slices.Sort(returns)
	returns = slices.Compact(returns)
	i, _ := slices.BinarySearchFunc(returns, true, func(at clock.Instant, _ bool) int {
		if illegal(before(ops, at)) {
			return 1
		}
		return -1
	})
	if i == len(returns) { // only operations that have no end contradict each other
		return ops
	}
	return before(ops, returns[i])
}

// before returns a history as it was known at an instant.
func before(ops []*Op, at clock.Instant) []*Op {
	var out []*Op
	for _, op := range ops {
		switch {
		case op.Call > at:
		case op.over() <= at:
			out = append(out, op)
		case op.Kind.mutates() && op.Outcome != Failed:
			open := *op
			open.Outcome, open.Error, open.Return = Unknown, 0, Open
			out = append(out, &open)
		}
	}
	return out
}

// shrink leaves out as many of the operations that may be left out as it can while the rest
// is illegal: first many at a time, then one by one.
func shrink(ops []*Op, may func(*Op) bool, illegal func([]*Op) bool) []*Op {
	number := map[*Op]uint64{}
	for i, op := range ops {
		if may(op) {
			number[op] = uint64(i) + 1
		}
	}
	return shrinkGroups(ops, func(op *Op) uint64 { return number[op] }, illegal)
}

// shrinkGroups is shrink for groups of operations that can only be left out together: those
// of one number. Those of number 0 stay.
func shrinkGroups(ops []*Op, group func(*Op) uint64, illegal func([]*Op) bool) []*Op {
	var groups []uint64
	known := map[uint64]bool{0: true}
	for _, op := range ops {
		if g := group(op); !known[g] {
			known[g] = true
			groups = append(groups, g)
		}
	}
	for size := max(1, len(groups)/2); len(groups) > 0; {
		left := false
		for at := 0; at < len(groups); {
			out := map[uint64]bool{}
			for _, g := range groups[at:min(at+size, len(groups))] {
				out[g] = true
			}
			rest := slices.DeleteFunc(slices.Clone(ops), func(op *Op) bool { return out[group(op)] })
			if !illegal(rest) {
				at += size
				continue
			}
			ops, left = rest, true
			groups = slices.Delete(groups, at, at+len(out))
		}
		switch {
		case size > 1:
			size /= 2
		case !left:
			return ops
		}
	}
	return ops
}
