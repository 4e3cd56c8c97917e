package history

import (
	"slices"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

const testFile = "/history/file/0"

func file(kind Kind, value uint64) Op {
	return Op{Worker: 1, Kind: kind, Class: ClassFile, Subject: testFile, Value: value}
}

func put(value uint64) Op { return file(KindPut, value) }
func get(value uint64) Op { return file(KindRead, value) }

var (
	absent = failed(file(KindRead, 0), quarry.NotFound)
	erase  = file(KindRemove, 0)
)

func at(offset int64, op Op) Op {
	op.Offset = offset
	return op
}

var fileCases = []struct {
	name string
	bad  bool
	ops  []Op
}{
	{"everything once", false, sequential(0, absent, put(1), get(1), put(2), get(2), erase, absent, failed(erase, quarry.NotFound), put(3), get(3))},
	{"a failed put and a failed read", false, sequential(0, put(1), failed(put(2), quarry.NoSpace), get(1), failed(get(0), quarry.Unavailable))},
	{"a stale read", true, sequential(0, put(1), put(2), get(1))},
	{"a value of nobody", true, sequential(0, put(1), get(2))},
	{"a lost file", true, sequential(0, put(1), absent)},
	{"a removed file", true, sequential(0, put(1), erase, get(1))},
	{"a file removed twice", true, sequential(0, put(1), erase, erase)},
	{"a remove that finds nothing", true, sequential(0, put(1), failed(erase, quarry.NotFound))},
	{"a failed put shows", true, sequential(0, put(1), failed(put(2), quarry.NoSpace), get(2))},
	{"two puts at the same time, in either order", false, []Op{
		between(0, 9, put(1)), between(1, 8, put(2)), between(10, 11, get(1)), between(12, 13, get(1)),
	}},
	{"two puts at the same time, in both orders", true, []Op{
		between(0, 9, put(1)), between(1, 8, put(2)), between(10, 11, get(1)), between(12, 13, get(2)),
	}},
	{"a put is seen, then not, while it is under way", true, []Op{
		between(0, 1, put(1)), between(2, 9, put(2)), between(3, 4, get(2)), between(5, 6, get(1)),
	}},
	{"an unknown put shows late", false, []Op{
		between(0, 1, put(1)), between(2, 3, unknown(put(2))), between(4, 5, get(1)), between(6, 7, get(2)),
	}},
	{"an unknown put happens twice", true, []Op{
		between(0, 1, unknown(put(1))), between(2, 3, get(1)), between(4, 5, put(2)), between(6, 7, get(2)), between(8, 9, get(1)),
	}},
	{"an unknown remove", false, []Op{
		between(0, 1, put(1)), between(2, 3, unknown(erase)), between(4, 5, get(1)), between(6, 7, absent),
	}},
	{"torn bytes", true, sequential(0, put(1), func() Op { op := get(1); op.Bad = "torn"; return op }())},
	{"a read that lost a race", false, sequential(0, put(1), func() Op { op := absent; op.Bad = goneText; return op }())},
	{"the bytes are gone at the end", true, sequential(0, put(1), func() Op {
		op := absent
		op.Bad, op.Final = goneText, true
		return op
	}())},
	{"parts that are written by themselves", false, sequential(0, at(0, put(1)), at(64, put(2)), at(0, get(1)), at(64, get(2)))},
	{"a stale part", true, sequential(0, at(0, put(1)), at(64, put(2)), at(64, put(3)), at(0, get(1)), at(64, get(2)))},
}

func TestRegister(t *testing.T) {
	for _, test := range fileCases {
		t.Run(test.name, func(t *testing.T) {
			ops := slices.Clone(test.ops)
			slices.SortStableFunc(ops, func(a, b Op) int { return int(a.Call - b.Call) })
			v, inconclusive := checkFile(testFile, ops, usual)
			if (v != nil) != test.bad || inconclusive != "" {
				t.Fatalf("violation %v, inconclusive %q", v, inconclusive)
			}
			if v == nil {
				return
			}
			if again, _ := checkFile(testFile, v.Ops, usual); again == nil || v.Text == "" {
				t.Errorf("the operations shown can be explained: %v", v)
			}
		})
	}
}

// A violation among ten thousand operations is shown by a handful.
func TestShortestRegister(t *testing.T) {
	var ops []Op
	value := uint64(0)
	for i := range 10_000 {
		from := clock.Instant(10 * i)
		switch {
		case i%3 == 0:
			value++
			ops = append(ops, between(from, from+25, put(value)))
		case i == 7001:
			ops = append(ops, between(from, from+5, get(value-3)))
		case i%3 == 2:
			ops = append(ops, between(from+6, from+8, get(value)))
		}
	}
	v, _ := checkFile(testFile, ops, usual)
	if v == nil || len(v.Ops) > 3 {
		t.Fatalf("%d operations: %v", len(v.Ops), v)
	}
}
