package history

import (
	"fmt"
	"slices"

	"github.com/quarryfs/quarry"
)

// takeFile returns the value of a file after an operation; 0 is that there is no file. False
// if the operation cannot have had its result. A value belongs to one put.
func takeFile(value uint64, op *Op) (uint64, bool) {
	switch {
	case op.Kind == KindPut && op.Outcome != Failed:
		return op.Value, true
	case op.Kind == KindRemove && op.Outcome == Done:
		return 0, value != 0
	case op.Kind == KindRemove && op.Outcome == Unknown:
		return 0, true
	case op.Kind == KindRead && op.Outcome == Done:
		return value, value == op.Value && value != 0
	}
	return value, op.Error == quarry.NotFound && value == 0
}

// checkFile judges the operations on one file. Parts of a file that are written by
// themselves, told apart by their offsets, are judged by themselves.
func checkFile(file string, ops []Op, e effort) (v *Violation, inconclusive string) {
	for i := range ops {
		if op := &ops[i]; op.Bad != "" && (op.Outcome == Done || op.Final) {
			return &Violation{Checker: "register", Rule: ruleContent, Subject: file, Text: op.Bad, Ops: []Op{*op}}, ""
		}
	}
	parts := map[int64][]*Op{}
	var offsets []int64
	for _, op := range evidence(ops) {
		if parts[op.Offset] == nil {
			offsets = append(offsets, op.Offset)
		}
		parts[op.Offset] = append(parts[op.Offset], op)
	}
	slices.Sort(offsets)
	for _, offset := range offsets {
		part := parts[offset]
		switch e.file(part) {
		case Inconclusive:
			inconclusive = fmt.Sprintf("the search among %d operations was given up", len(part))
		case Violated:
			return explainFile(file, part, e), ""
		}
	}
	return nil, inconclusive
}

// explainFile makes the violation of a part of a file: the fewest operations that contradict
// each other.
func explainFile(file string, ops []*Op, e effort) *Violation {
	illegal := func(ops []*Op) bool { return e.file(ops) == Violated }
	ops = shortestPrefix(ops, illegal)
	ops = shrinkFile(ops, illegal)
	v := &Violation{Checker: "register", Rule: ruleOneOrder, Subject: file, Text: fileText(ops)}
	for _, op := range ops {
		v.Ops = append(v.Ops, *op)
	}
	return v
}

// shrinkFile leaves out what a contradiction does not need. What is left out must not explain
// anything in what is left: reads never do, and a put together with all the reads of its
// value does not, unless something was removed in between.
func shrinkFile(ops []*Op, illegal func([]*Op) bool) []*Op {
	ops = shrink(ops, func(op *Op) bool { return !op.Kind.mutates() || op.Outcome == Failed }, illegal)
	removes := slices.ContainsFunc(ops, func(op *Op) bool { return op.Kind == KindRemove && op.Outcome != Failed })
	if removes {
		return ops
	}
	return shrinkGroups(ops, func(op *Op) uint64 { return op.Value }, illegal)
}

func fileText(ops []*Op) string {
	last := ops[0]
	for _, op := range ops {
		if op.over() != Open && op.over() > last.Return {
			last = op
		}
	}
	return fmt.Sprintf("no order of these %d operations explains that %s", len(ops), describe(last))
}
