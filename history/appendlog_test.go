package history

import (
	"slices"
	"strings"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/crc32c"
)

const testLog = "/history/log/0"

// between gives an operation its instants and, if it has none, the outcome Done.
func between(call, ret clock.Instant, op Op) Op {
	op.Call, op.Return = call, ret
	if op.Outcome == 0 {
		op.Outcome = Done
	}
	return op
}

// appends is an append of 100 bytes.
func appends(worker int32, sequence uint32, offset int64) Op {
	return Op{Worker: worker, Kind: KindAppend, Class: ClassLog, Subject: testLog, Sequence: sequence, Length: 100, Offset: offset}
}

// through says which of its worker's appenders a record went through.
func through(appender uint32, op Op) Op {
	op.Appender = appender
	return op
}

func unknown(op Op) Op {
	op.Outcome, op.Error, op.Offset = Unknown, quarry.Unknown, 0
	return op
}

func failed(op Op, kind quarry.Kind) Op {
	op.Outcome, op.Error, op.Offset = Failed, kind, 0
	return op
}

func rec(worker int32, sequence uint32) Record { return Record{worker, sequence, 100} }

// reads is a read of whole records of 100 bytes; toEnd that it met the end.
func reads(offset int64, toEnd bool, records ...Record) Op {
	length := int64(0)
	for _, r := range records {
		length += int64(r.Length)
	}
	return Op{
		Worker: 9, Kind: KindRead, Class: ClassLog, Subject: testLog, Offset: offset, Length: length, ToEnd: toEnd,
		Seen: &Seen{First: offset, Records: records},
	}
}

func stats(length int64) Op {
	return Op{Worker: 8, Kind: KindStat, Class: ClassLog, Subject: testLog, Length: length}
}

// cutRead is a read of a part of one record, from some of its bytes to others.
func cutRead(at int64, r Record, from, to int, toEnd bool) Op {
	op := reads(at+int64(from), toEnd)
	op.Length = int64(to - from)
	b := RecordBytes(testLog, r)[from:to]
	op.Seen.First = op.Offset
	if from > 0 {
		op.Seen.First = op.End()
		op.Seen.HeadCRC = crc32c.Checksum(b)
		return op
	}
	op.Seen.TailCRC = crc32c.Checksum(b)
	return op
}

// logCases are histories of one log. Two records, the second after the first, are in all.
var logCases = []struct {
	name string
	rule string // that is violated; "" if none
	ops  []Op   // in any order
}{
	{"one after the other", "", []Op{
		between(20, 30, reads(0, true, rec(1, 0), rec(2, 0))), between(40, 50, stats(200)),
	}},
	{"nothing was read", "inconclusive", nil},
	{"only the first was read", "inconclusive", []Op{between(5, 6, reads(0, true, rec(1, 0)))}},
	{"a hole was not read", "inconclusive", []Op{between(20, 30, reads(100, true, rec(2, 0)))}},
	{"an unknown record is there", "", []Op{
		between(11, 12, unknown(appends(3, 0, 0))), between(20, 30, reads(0, true, rec(1, 0), rec(2, 0), rec(3, 0))),
	}},
	{"an unknown record came long after it returned", "", []Op{
		between(1, 2, unknown(appends(3, 0, 0))), between(11, 12, reads(0, true, rec(1, 0), rec(2, 0))),
		between(20, 30, reads(0, true, rec(1, 0), rec(2, 0), rec(3, 0))),
	}},
	{"an unknown record never came", "", []Op{
		between(1, 2, unknown(appends(3, 0, 0))), between(20, 30, reads(0, true, rec(1, 0), rec(2, 0))),
	}},
	{"an unknown record came after a later one of its worker", "", []Op{
		between(11, 12, unknown(appends(3, 0, 0))), between(13, 14, appends(3, 1, 200)),
		between(20, 30, reads(0, true, rec(1, 0), rec(2, 0), rec(3, 1), rec(3, 0))),
	}},
	{"a reader ended before the second, which was on its way", "", []Op{
		between(5, 6, reads(0, true, rec(1, 0))), between(20, 30, reads(0, true, rec(1, 0), rec(2, 0))),
	}},
	{"reads of a part, of an end and of nothing", "", []Op{
		between(12, 13, reads(100, false, rec(2, 0))), between(12, 13, cutRead(0, rec(1, 0), 40, 100, false)),
		between(12, 13, cutRead(100, rec(2, 0), 0, 20, false)), between(12, 13, reads(200, true)),
		between(20, 30, reads(0, true, rec(1, 0), rec(2, 0))),
	}},
	{"two records at the same time, in either order", "", []Op{
		between(11, 15, appends(3, 0, 300)), between(12, 16, appends(4, 0, 200)),
		between(20, 30, reads(0, true, rec(1, 0), rec(2, 0), rec(4, 0), rec(3, 0))),
	}},

	{"a record is at another offset", ruleOffset, []Op{
		between(11, 20, appends(3, 0, 300)), between(11, 20, appends(4, 0, 300)),
		between(20, 30, reads(0, true, rec(1, 0), rec(2, 0), rec(3, 0), rec(4, 0))),
	}},
	{"a record is lost, another one is in its place", ruleOffset, []Op{
		between(3, 20, appends(3, 0, 100)), between(20, 30, reads(0, true, rec(1, 0), rec(2, 0))),
	}},
	{"the last record is lost", ruleFresh, []Op{
		between(12, 13, appends(3, 0, 200)), between(20, 30, reads(0, true, rec(1, 0), rec(2, 0))),
	}},
	{"a record is there twice", ruleOnce, []Op{
		between(20, 30, reads(0, true, rec(1, 0), rec(2, 0), rec(2, 0))),
	}},
	{"an unknown record is there twice", ruleOnce, []Op{
		between(1, 2, unknown(appends(3, 0, 0))), between(20, 30, reads(0, true, rec(1, 0), rec(2, 0), rec(3, 0), rec(3, 0))),
	}},
	{"a failed record is there", ruleFailed, []Op{
		between(12, 13, failed(appends(3, 0, 0), quarry.NoSpace)), between(20, 30, reads(0, true, rec(1, 0), rec(2, 0), rec(3, 0))),
	}},
	{"a record of nobody", ruleBytes, []Op{
		between(20, 30, reads(0, true, rec(1, 0), rec(2, 0), rec(7, 7))),
	}},
	{"a record is longer than it was", ruleBytes, []Op{
		between(20, 30, reads(0, true, rec(1, 0), rec(2, 0), Record{3, 0, 101})), between(12, 13, unknown(appends(3, 0, 0))),
	}},
	{"bytes that are no record", ruleBytes, []Op{
		between(20, 30, reads(0, true, rec(1, 0), rec(2, 0))),
		between(20, 30, func() Op { op := reads(0, false, rec(1, 0)); op.Bad = "at 100: no record begins here"; return op }()),
	}},
	{"a record of a closed appender, still on its way, stands behind one of the next", "", []Op{
		between(11, 16, through(1, appends(3, 0, 300))), between(13, 15, through(2, appends(3, 1, 200))),
		between(20, 30, reads(0, true, rec(1, 0), rec(2, 0), rec(3, 1), rec(3, 0))),
	}},

	{"a record stands before one that was acknowledged before it was called", ruleOrder, []Op{
		between(11, 12, appends(3, 0, 300)), between(13, 14, appends(4, 0, 200)),
		between(20, 30, reads(0, true, rec(1, 0), rec(2, 0), rec(4, 0), rec(3, 0))),
	}},
	{"an unknown record stands before one that was acknowledged before it was called", ruleOrder, []Op{
		between(11, 12, appends(3, 0, 300)), between(13, 14, unknown(appends(4, 0, 0))),
		between(20, 30, reads(0, true, rec(1, 0), rec(2, 0), rec(4, 0), rec(3, 0))),
	}},
	{"records of a burst stand in another order", ruleSequence, []Op{
		between(11, 15, appends(3, 0, 300)), between(12, 15, appends(3, 1, 200)),
		between(20, 30, reads(0, true, rec(1, 0), rec(2, 0), rec(3, 1), rec(3, 0))),
	}},
	{"two readers see different records", ruleAgree, []Op{
		between(1, 40, unknown(appends(3, 0, 0))), between(1, 40, unknown(appends(4, 0, 0))),
		between(12, 30, reads(0, true, rec(1, 0), rec(2, 0), rec(3, 0))), between(12, 30, reads(200, true, rec(4, 0))),
	}},
	{"a tail saw bytes that were not committed", ruleAgree, []Op{
		between(1, 40, unknown(appends(3, 0, 0))),
		between(20, 30, reads(0, true, rec(1, 0), rec(2, 0))),
		between(1, 3, func() Op { op := reads(100, false, rec(3, 0)); op.Kind = KindTail; return op }()),
	}},
	{"a reader saw other bytes of a record that it cut", ruleAgree, []Op{
		between(20, 30, reads(0, true, rec(1, 0), rec(2, 0))), between(12, 13, cutRead(100, rec(5, 0), 30, 100, false)),
	}},
	{"a reader saw the beginning of another record", ruleAgree, []Op{
		between(20, 30, reads(0, true, rec(1, 0), rec(2, 0))), between(12, 13, cutRead(100, rec(5, 0), 0, 50, false)),
	}},
	{"a stale reader", ruleFresh, []Op{
		between(12, 13, reads(0, true, rec(1, 0))), between(20, 30, reads(0, true, rec(1, 0), rec(2, 0))),
	}},
	{"a stale stat", ruleFresh, []Op{
		between(12, 13, stats(100)), between(20, 30, reads(0, true, rec(1, 0), rec(2, 0))),
	}},
	{"a length falls", ruleFresh, []Op{
		between(1, 40, unknown(appends(3, 0, 0))), between(12, 13, stats(300)), between(14, 15, stats(200)),
		between(20, 30, reads(0, true, rec(1, 0), rec(2, 0), rec(3, 0))),
	}},
	{"an end is met before what was read", ruleFresh, []Op{
		between(1, 40, unknown(appends(3, 0, 0))), between(12, 13, reads(200, false, rec(3, 0))), between(14, 15, reads(200, true)),
		between(20, 30, reads(0, true, rec(1, 0), rec(2, 0), rec(3, 0))),
	}},
	{"a record is seen before it was appended", ruleFuture, []Op{
		between(12, 13, reads(200, false, rec(3, 0))), between(14, 15, appends(3, 0, 200)),
		between(20, 30, reads(0, true, rec(1, 0), rec(2, 0), rec(3, 0))),
	}},
	{"a length has a record that was not appended yet", ruleFuture, []Op{
		between(12, 13, stats(300)), between(14, 15, appends(3, 0, 200)),
		between(20, 30, reads(0, true, rec(1, 0), rec(2, 0), rec(3, 0))),
	}},
	{"a length within a record", ruleWhole, []Op{
		between(12, 13, stats(250)), between(12, 18, appends(3, 0, 200)),
		between(20, 30, reads(0, true, rec(1, 0), rec(2, 0), rec(3, 0))),
	}},
	{"an end within a record", ruleWhole, []Op{
		between(20, 30, reads(0, true, rec(1, 0), rec(2, 0))), between(20, 30, cutRead(200, rec(3, 0), 0, 50, true)),
		between(12, 40, unknown(appends(3, 0, 0))),
	}},
}

// first two are the operations that every case begins with.
var firstTwo = []Op{between(0, 2, appends(1, 0, 0)), between(3, 10, appends(2, 0, 100))}

// Each rule lets good histories pass, and a history that breaks one rule breaks no other.
func TestLogRules(t *testing.T) {
	broken := map[string]bool{}
	for _, test := range logCases {
		t.Run(test.name, func(t *testing.T) {
			ops := slices.Concat(firstTwo, test.ops)
			slices.SortStableFunc(ops, func(a, b Op) int { return int(a.Call - b.Call) })
			v, inconclusive := checkLog(testLog, ops, usual)
			switch {
			case test.rule == "inconclusive":
				if v != nil || inconclusive == "" {
					t.Errorf("violation %v, inconclusive %q", v, inconclusive)
				}
				return
			case test.rule == "" && (v != nil || inconclusive != ""):
				t.Errorf("violation %v, inconclusive %q", v, inconclusive)
			case test.rule != "" && (v == nil || v.Rule != test.rule):
				t.Errorf("violation %v, want %s", v, test.rule)
			case v != nil && (v.Text == "" || len(v.Ops) == 0 || len(v.Ops) > 3):
				t.Errorf("it shows %d operations: %v", len(v.Ops), v)
			}
			broken[test.rule] = true
			if n := rulesBroken(ops); n > 1 {
				t.Errorf("%d checks catch it: which of them work is not known", n)
			}
		})
	}
	for _, rule := range []string{ruleBytes, ruleOnce, ruleFailed, ruleOffset, ruleAgree, ruleOrder, ruleSequence, ruleFresh, ruleFuture, ruleWhole} {
		if !broken[rule] {
			t.Errorf("no history breaks the rule that %s", rule)
		}
	}
}

// rulesBroken counts the checks that find something, each without the ones before it having
// ended it.
func rulesBroken(ops []Op) (n int) {
	c := newLogCheck(testLog, ops)
	for _, rule := range logRules {
		for i := range c.content {
			if c.content[i].by == nil { // as placed leaves it
				c.content[i].by = &Op{Outcome: Unknown, Return: Open}
				if by := c.appends[c.content[i].id()]; by != nil {
					c.content[i].by = by
				}
			}
		}
		if rule(c) != nil {
			n++
		}
	}
	return n
}

// The texts say what a reader needs to know.
func TestLogTexts(t *testing.T) {
	ops := slices.Concat(firstTwo, []Op{between(12, 13, stats(100)), between(20, 30, reads(0, true, rec(1, 0), rec(2, 0)))})
	v, _ := checkLog(testLog, ops, usual)
	if v == nil || !strings.Contains(v.Error(), "stat told the length 100, when the log was known to reach to 200") {
		t.Errorf("%v", v)
	}
}

// A violation shows of a long read what is around it.
func TestLogTrims(t *testing.T) {
	var ops []Op
	var all []Record
	for i := range 1000 {
		ops = append(ops, between(clock.Instant(10*i), clock.Instant(10*i+5), appends(1, uint32(i), int64(100*i))))
		all = append(all, rec(1, uint32(i)))
	}
	all[500].Sequence = 7777
	read := between(20_000, 20_001, reads(0, true, all...))
	ops = append(ops, read)
	v, _ := checkLog(testLog, ops, usual)
	if v == nil || v.Rule != ruleOffset || len(v.Ops) != 2 {
		t.Fatalf("%v", v)
	}
	shown := v.Ops[1]
	if s := shown.Seen; len(s.Records) != 2*shownMax || s.Records[shownMax].Sequence != 7777 || shown.ToEnd || shown.fault() != "" {
		t.Errorf("it shows %+v of %+v", s, shown)
	}
	if s := trimmed(read, 0); s.Offset != 0 || len(s.Seen.Records) != shownMax || s.fault() != "" {
		t.Errorf("at the beginning: %+v", s.Seen)
	}
	if s := trimmed(read, 1<<40); s.End() != read.End() || len(s.Seen.Records) != shownMax+1 || !s.ToEnd || s.fault() != "" {
		t.Errorf("at the end: %+v", s.Seen)
	}
}
