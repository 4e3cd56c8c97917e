package history_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/history"
)

// mutations are what a cluster that is wrong would have clients see. Each changes a good
// history, or returns false if it has nothing that it could change.
var mutations = []struct {
	name    string
	checker string
	mutate  func(r *rand.Rand, h *history.History) bool
}{
	{"an acknowledged record is not there", "append log", func(r *rand.Rand, h *history.History) bool {
		lost := pick(r, h, isAcked)
		if lost == nil {
			return false
		}
		removeRecord(h, history.Record{Worker: lost.Worker, Sequence: lost.Sequence, Length: uint32(lost.Length)}, lost.Subject)
		return true
	}},
	{"the last record is not there", "append log", func(r *rand.Rand, h *history.History) bool {
		last := pick(r, h, isAcked)
		for i := range h.Ops {
			if op := &h.Ops[i]; isAcked(op) && op.Subject == last.Subject && op.Offset > last.Offset {
				last = op
			}
		}
		if last == nil {
			return false
		}
		removeRecord(h, history.Record{Worker: last.Worker, Sequence: last.Sequence, Length: uint32(last.Length)}, last.Subject)
		for i := range h.Ops { // and every length is right without it
			if op := &h.Ops[i]; op.Kind == history.KindStat && op.Subject == last.Subject {
				op.Length = min(op.Length, last.Offset)
			}
		}
		return true
	}},
	{"two acknowledged offsets are exchanged", "append log", func(r *rand.Rand, h *history.History) bool {
		a := pick(r, h, isAcked)
		if a == nil {
			return false
		}
		b := pick(r, h, func(op *history.Op) bool { return isAcked(op) && op.Subject == a.Subject && op.Offset != a.Offset })
		if b == nil {
			return false
		}
		a.Offset, b.Offset = b.Offset, a.Offset
		return true
	}},
	{"a record is shown twice", "append log", func(r *rand.Rand, h *history.History) bool {
		read := pick(r, h, func(op *history.Op) bool { return op.Final && op.Seen != nil && len(op.Seen.Records) > 0 })
		if read == nil {
			return false
		}
		again := read.Seen.Records[r.IntN(len(read.Seen.Records))]
		read.Seen.Records = append(slices.Clone(read.Seen.Records), again)
		read.Length += int64(again.Length)
		return true
	}},
	{"a reader sees bytes that were never committed", "append log", func(r *rand.Rand, h *history.History) bool {
		read := pick(r, h, func(op *history.Op) bool { return !op.Final && op.Seen != nil && len(op.Seen.Records) > 0 })
		if read == nil {
			return false
		}
		seen := *read.Seen
		seen.Records = slices.Clone(seen.Records)
		i := r.IntN(len(seen.Records))
		seen.Records[i].Sequence += 1_000_000
		read.Seen = &seen
		return true
	}},
	{"a failed append is there", "append log", func(r *rand.Rand, h *history.History) bool {
		op := pick(r, h, isAcked)
		if op == nil {
			return false
		}
		op.Outcome, op.Error, op.Offset = history.Failed, quarry.Busy, 0
		return true
	}},
	{"a stale length", "append log", func(r *rand.Rand, h *history.History) bool {
		op := pick(r, h, func(op *history.Op) bool {
			return op.Kind == history.KindStat && op.Class == history.ClassLog && op.Outcome == history.Done && op.Length > 0
		})
		if op == nil {
			return false
		}
		most := int64(0)
		for i := range h.Ops {
			if known := &h.Ops[i]; known.Subject == op.Subject && known.Outcome == history.Done && known.Return < op.Call {
				most = max(most, known.End())
			}
		}
		if most == 0 {
			return false
		}
		op.Length = most - 1
		return true
	}},
	{"a stale read of a file", "register", func(r *rand.Rand, h *history.History) bool {
		read := pick(r, h, func(op *history.Op) bool {
			return op.Kind == history.KindRead && op.Class == history.ClassFile && op.Outcome == history.Done
		})
		if read == nil {
			return false
		}
		for i := len(h.Ops) - 1; i >= 0; i-- { // a value that the present one has surely replaced
			old := &h.Ops[i]
			if old.Kind != history.KindPut || old.Subject != read.Subject || old.Outcome != history.Done || old.Value == read.Value {
				continue
			}
			for j := range h.Ops {
				between := &h.Ops[j]
				if between.Kind == history.KindPut && between.Subject == read.Subject && between.Outcome == history.Done &&
					old.Return < between.Call && between.Return < read.Call {
					read.Value = old.Value
					return true
				}
			}
		}
		return false
	}},
	{"an acknowledged put is lost", "register", func(r *rand.Rand, h *history.History) bool {
		// Only one whose value was read, or else another order may explain that it is not.
		read := pick(r, h, func(op *history.Op) bool {
			return op.Kind == history.KindRead && op.Class == history.ClassFile && op.Outcome == history.Done
		})
		if read == nil {
			return false
		}
		for i := range h.Ops {
			if op := &h.Ops[i]; op.Kind == history.KindPut && op.Subject == read.Subject && op.Value == read.Value {
				op.Outcome, op.Error = history.Failed, quarry.NoSpace
			}
		}
		return true
	}},
	{"a rename is lost", "names", func(r *rand.Rand, h *history.History) bool {
		return turn(r, h, func(op *history.Op) bool {
			return op.Kind == history.KindRename && op.Outcome == history.Done && op.Path != op.To
		}, func(op *history.Op) { op.To = op.Path })
	}},
	{"a mkdir is lost", "names", func(r *rand.Rand, h *history.History) bool {
		return turn(r, h, func(op *history.Op) bool {
			return op.Kind == history.KindMkdir && op.Class == history.ClassNames && op.Outcome == history.Done
		}, func(op *history.Op) { op.Outcome, op.Error = history.Failed, quarry.NoSpace })
	}},
	{"a removed file is not in the trash", "names", func(r *rand.Rand, h *history.History) bool {
		return turn(r, h, func(op *history.Op) bool { return op.Kind == history.KindUndelete && op.Outcome == history.Done },
			func(op *history.Op) { op.Outcome, op.Error = history.Failed, quarry.NotFound })
	}},
	{"a list lacks a name", "names", func(r *rand.Rand, h *history.History) bool {
		return turn(r, h, func(op *history.Op) bool { return op.Final && len(op.Names) > 0 },
			func(op *history.Op) { op.Names = op.Names[1:] })
	}},
	{"a name is kept", "names", func(r *rand.Rand, h *history.History) bool {
		return turn(r, h, func(op *history.Op) bool { return op.Final && op.Kind == history.KindList },
			func(op *history.Op) { op.Names = append([]string{"_"}, op.Names...) })
	}},
}

func isAcked(op *history.Op) bool { return op.Kind == history.KindAppend && op.Outcome == history.Done }

// pick returns a random operation of some; nil if there is none.
func pick(r *rand.Rand, h *history.History, which func(*history.Op) bool) *history.Op {
	var some []*history.Op
	for i := range h.Ops {
		if which(&h.Ops[i]) {
			some = append(some, &h.Ops[i])
		}
	}
	if len(some) == 0 {
		return nil
	}
	return some[r.IntN(len(some))]
}

// turn changes a random operation of some.
func turn(r *rand.Rand, h *history.History, which func(*history.Op) bool, change func(*history.Op)) bool {
	op := pick(r, h, which)
	if op == nil {
		return false
	}
	change(op)
	return true
}

// removeRecord has no reader see a record; what is behind it moves up.
func removeRecord(h *history.History, lost history.Record, log string) {
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Seen == nil || op.Subject != log {
			continue
		}
		if at := slices.Index(op.Seen.Records, lost); at >= 0 {
			seen := *op.Seen
			seen.Records = slices.Delete(slices.Clone(seen.Records), at, at+1)
			op.Seen = &seen
			op.Length -= int64(lost.Length)
		}
	}
}

// Whatever a wrong cluster shows is caught by the checker whose promise it breaks, and what
// the checker shows is caught again by itself.
func TestMutations(t *testing.T) {
	tried, caught := make([]int, len(mutations)), make([]int, len(mutations))
	for seed := range uint64(6) {
		mix := history.Mix{Append: 6, Burst: 1, ReadLog: 3, StatLog: 2, Put: 3, ReadFile: 4, Names: 8, Tails: 1}
		good := record(t, history.Options{Seed: seed, Operations: 600, Mix: mix, Pause: 5 * time.Millisecond}, 2, nil)
		expectPassed(t, good)
		for i, m := range mutations {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			h := &history.History{Seed: seed, Ops: slices.Clone(good.Ops)}
			if !m.mutate(r, h) {
				continue
			}
			tried[i]++
			report := history.Check(h)
			at := slices.IndexFunc(report.Violations, func(v history.Violation) bool { return v.Checker == m.checker })
			if at < 0 {
				t.Logf("seed %d: %s: not caught", seed, m.name)
				continue
			}
			caught[i]++
			v := report.Violations[at]
			if len(v.Ops) > 30 {
				t.Errorf("seed %d: %s: %d operations are shown: %v", seed, m.name, len(v.Ops), &v)
			}
			if again := history.Check(&history.History{Ops: v.Ops}); m.checker != "append log" && again.Verdict() != history.Violated {
				t.Errorf("seed %d: %s: what is shown can be explained: %v", seed, m.name, &v)
			}
		}
	}
	for i, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			// Not each lost rename has anybody see it; most have.
			if tried[i] == 0 || 2*caught[i] < tried[i] {
				t.Errorf("it was caught %d times of %d", caught[i], tried[i])
			}
		})
	}
}
