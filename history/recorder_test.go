package history

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// hand is a clock that a test moves.
type hand struct {
	clock.Clock
	now clock.Instant
}

func (h *hand) Now() clock.Instant { return h.now }

func TestRecorder(t *testing.T) {
	c := &hand{clock.Simulated(), 5}
	r := NewRecorder(c, 7, Limits{Ops: 4, Records: 3})
	first, ok := r.Begin(Op{Worker: 2, Kind: KindStat, Class: ClassLog})
	second, ok2 := r.Begin(Op{Worker: 1, Kind: KindPut, Class: ClassFile})
	if !ok || !ok2 {
		t.Fatal("it is full")
	}
	c.now = 8
	r.End(first, Op{Worker: 2, Kind: KindStat, Class: ClassLog, Length: 3, Outcome: Done})
	h := r.History()
	if h.Seed != 7 || h.Full || len(h.Ops) != 2 {
		t.Fatalf("%+v", h)
	}
	// Of one instant, the lower worker comes first; what has not returned is open.
	if o := h.Ops[0]; o.Worker != 1 || o.Outcome != Unknown || o.Return != Open || o.Call != 5 {
		t.Errorf("%+v", o)
	}
	if o := h.Ops[1]; o.Length != 3 || o.Call != 5 || o.Return != 8 || o.Outcome != Done {
		t.Errorf("%+v", o)
	}
	c.now = 9
	r.End(second, Op{Kind: KindPut, Class: ClassFile, Outcome: Unknown, Error: quarry.Unknown})
	if o := r.History().Ops[0]; o.Return != 9 || o.over() != Open {
		t.Errorf("an unknown operation returned at %d and is over at %d", o.Return, o.over())
	}
	if !r.Add(6, Op{Kind: KindTail, Class: ClassLog, Outcome: Done, Seen: &Seen{Records: make([]Record, 3)}}) || r.Full() {
		t.Error("it is full too early")
	}
	if !r.Add(6, Op{Kind: KindTail, Class: ClassLog, Outcome: Failed, Error: quarry.Busy}) {
		t.Error("it is full too early")
	}
	if r.Add(6, Op{}) || !r.Full() || !r.History().Full {
		t.Error("more operations than the limit")
	}
	if _, ok := r.Begin(Op{}); ok {
		t.Error("more operations than the limit")
	}
	for i := range 3 { // Settle has some room of its own
		if _, ok := r.Begin(Op{Final: true}); ok != (i < 2) {
			t.Errorf("operation %d of Settle: %v", i, ok)
		}
	}
	if p := r.Progress(); p != (Progress{Begun: 6, Answered: 2, Failed: 1, Unknown: 1, Last: 9}) {
		t.Errorf("%+v", p)
	}
	r = NewRecorder(c, 7, Limits{Records: 3})
	if r.Add(6, Op{Seen: &Seen{Records: make([]Record, 4)}}); !r.Full() {
		t.Error("more records than the limit")
	}
	number, ok := r.Begin(Op{Final: true})
	if !ok {
		t.Fatal("Settle has no room")
	}
	r.End(number, Op{Final: true, Seen: &Seen{Records: make([]Record, 3)}})
	if _, ok := r.Begin(Op{Final: true}); ok {
		t.Error("more records than Settle may show")
	}
}

func TestUnavailable(t *testing.T) {
	ok := stats(0)
	no := failed(stats(0), quarry.Unavailable)
	exists := failed(mkdir("a"), quarry.Exists)
	tail := reads(0, false)
	tail.Kind = KindTail
	for _, test := range []struct {
		name string
		ops  []Op
		from clock.Instant
		long time.Duration
	}{
		{"nothing", nil, 0, 0},
		{"quick answers and idle time", []Op{between(0, 2, ok), between(100, 103, ok), between(200, 202, exists)}, 100, 3},
		{"failures in a row", []Op{between(0, 2, ok), between(10, 20, no), between(15, 30, no), between(28, 40, ok), between(41, 45, ok)}, 10, 30},
		{"a pause between failures ends it", []Op{between(10, 20, no), between(25, 30, no)}, 10, 10},
		{"an answer to another one ends it", []Op{between(0, 30, no), between(1, 12, ok)}, 12, 18},
		{"an unknown outcome is no answer", []Op{between(0, 30, unknown(mkdir("a"))), between(30, 35, ok)}, 0, 35},
		{"a tail may wait", []Op{between(0, 300, tail), between(10, 15, ok)}, 10, 5},
		{"what never returned says nothing", []Op{between(0, Open, unknown(mkdir("a"))), between(50, 52, ok)}, 50, 2},
	} {
		if from, long := unavailable(test.ops); from != test.from || long != test.long {
			t.Errorf("%s: from %d for %d, want from %d for %d", test.name, from, long, test.from, test.long)
		}
	}
}

func TestCheckReports(t *testing.T) {
	h := &History{Seed: 3, Ops: slices.Concat(
		firstTwo, []Op{between(20, 30, reads(0, true, rec(1, 0), rec(2, 0)))},
		sequential(40, put(1), get(2), failed(put(3), quarry.NoSpace), unknown(put(4))),
		sequential(80, mkdir("a"), failed(mkdir("a"), quarry.Exists)),
	)}
	r := Check(h)
	if r.Seed != 3 || r.Operations != 9 || r.Done != 6 || r.Unknown != 1 || r.Failed["no space left"] != 1 || r.Failed["already exists"] != 1 {
		t.Errorf("%+v", r)
	}
	if r.Verdict() != Violated || len(r.Violations) != 1 || r.Violations[0].Checker != "register" {
		t.Errorf("%s: %v", r.Verdict(), r.Violations)
	}
	verdicts := map[string]Verdict{}
	for _, j := range r.Judgements {
		verdicts[j.Checker] = j.Verdict
	}
	if verdicts["append log"] != Passed || verdicts["names"] != Passed || verdicts["register"] != Violated {
		t.Errorf("%v", verdicts)
	}
}

// Many wrong subjects are not all listed, and none of them hides another checker's.
func TestCheckListsFew(t *testing.T) {
	h := &History{}
	for i := range 30 {
		for _, op := range sequential(0, put(1), get(2)) {
			op.Subject = "/f/" + string(rune('a'+i))
			h.Ops = append(h.Ops, op)
		}
	}
	h.Ops = append(h.Ops, sequential(0, mkdir("a"), mkdir("a"))...)
	r := Check(h)
	count := map[string]int{}
	for _, v := range r.Violations {
		count[v.Checker]++
	}
	if count["register"] != listMax || count["names"] != 1 {
		t.Errorf("%v", count)
	}
}

func TestExplain(t *testing.T) {
	const ms = clock.Instant(time.Millisecond)
	ops := []Op{
		between(0, 10*ms, mkdir("a")), between(20*ms, 60*ms, unknown(rename("a", "b"))), between(30*ms, 40*ms, list("", "b/")),
		between(50*ms, 100*ms, list("", "a/")),
	}
	v, _ := checkNames(testTree, ops, usual)
	if v == nil {
		t.Fatal("no violation")
	}
	var b bytes.Buffer
	if err := v.Explain(&b); err != nil {
		t.Fatal(err)
	}
	want := `VIOLATION (names) of /history/names/0
  promised: there is one order of the operations that explains all results
  found:    no order of these 2 operations explains that worker 1: list "" showed ["a/"]; just before, the tree was b/
                                            before: mkdir "b" was done
  |--------------------------------------|  worker 1: list "" showed ["a/"]  [+0s, 50ms]
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestDescribe(t *testing.T) {
	var all []string
	for _, op := range everyKind().Ops {
		all = append(all, describe(&op))
	}
	if text := strings.Join(all, "\n"); strings.Contains(text, "number ") || strings.Contains(text, "%!") {
		t.Errorf("%s", text)
	}
}

// Two runs of a worker with the same seed and the same answers make the same decisions.
func TestDecisions(t *testing.T) {
	decide := func() []string {
		opts := Options{Seed: 5}
		opts.withDefaults()
		w := newWorker(context.Background(), nil, NewRecorder(clock.Simulated(), 5, Limits{}), &opts, 0, 1)
		var all []string
		for range 200 {
			all = append(all, w.path(), w.subject(ClassFile, len(all), 25, 3), string(rune(w.length(1000))))
		}
		return all
	}
	if a, b := decide(), decide(); !slices.Equal(a, b) {
		t.Error("they differ")
	}
}

func TestBytes(t *testing.T) {
	records := []Record{{1, 0, HeaderBytes}, {2, 7, 100}, {1, 1, 5000}}
	var b []byte
	for _, r := range records {
		b = append(b, RecordBytes(testLog, r)...)
	}
	for _, test := range []struct {
		name    string
		from    int
		to      int
		aligned bool
		first   int64
		records []Record
		cut     int
	}{
		{"all", 0, len(b), true, 0, records, len(b)},
		{"unaligned", 10, len(b), false, HeaderBytes, records[1:], len(b) - 10},
		{"cut at the end", 0, HeaderBytes + 50, true, 0, records[:1], HeaderBytes},
		{"within one record", 200, 300, false, 300, nil, 100},
		{"nothing", 0, 0, true, 0, nil, 0},
	} {
		s, cut, bad := parseLog(testLog, b[test.from:test.to], int64(test.from), test.aligned)
		if bad != "" || s.First != test.first || !slices.Equal(s.Records, test.records) || cut != test.cut {
			t.Errorf("%s: %+v, cut %d, %q", test.name, s, cut, bad)
		}
	}
	for i := range b {
		spoilt := bytes.Clone(b)
		spoilt[i] ^= 1
		s, cut, bad := parseLog(testLog, spoilt, 0, true)
		if bad == "" && cut == len(b) {
			t.Fatalf("a wrong byte at %d is not seen: %+v", i, s)
		}
	}
	if _, _, bad := parseLog("/other", b, 0, true); !strings.Contains(bad, "another log") {
		t.Errorf("a record of another log: %q", bad)
	}
	f := FileBytes(9, 5000)
	if value, bad := parseFile(f); value != 9 || bad != "" {
		t.Errorf("value %d, %q", value, bad)
	}
	for i := range f {
		f[i] ^= 1
		if _, bad := parseFile(f); bad == "" {
			t.Fatalf("a wrong byte at %d is not seen", i)
		}
		f[i] ^= 1
	}
	if _, bad := parseFile(f[:4000]); bad == "" {
		t.Error("missing bytes are not seen")
	}
	if value, bad := parseFile(nil); value != 0 || bad != "" {
		t.Errorf("no bytes: value %d, %q", value, bad)
	}
}

// BenchmarkCheckLog judges a million appends and two readers that saw all of them.
func BenchmarkCheckLog(b *testing.B) {
	const count = 1_000_000
	ops := make([]Op, 0, count+3)
	all := make([]Record, count)
	for i := range count {
		op := appends(int32(i%16), uint32(i/16), int64(i)*100)
		ops = append(ops, between(clock.Instant(10*i), clock.Instant(10*i+100), op))
		all[i] = rec(op.Worker, op.Sequence)
		if i%1000 == 999 {
			ops = append(ops, between(clock.Instant(10*i), clock.Instant(10*i+1), stats(int64(i)*100)))
		}
	}
	ops = append(ops, between(20*count, 20*count+1, reads(0, true, all...)), between(20*count, 20*count+1, reads(0, true, all...)))
	for b.Loop() {
		if v, inconclusive := checkLog(testLog, ops, usual); v != nil || inconclusive != "" {
			b.Fatal(v, inconclusive)
		}
	}
	b.ReportMetric(float64(len(ops))*float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}
