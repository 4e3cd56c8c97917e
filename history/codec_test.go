package history

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// everyKind is a history with all sorts of operations and outcomes.
func everyKind() *History {
	h := &History{Seed: 1 << 63, Full: true}
	tail := reads(0, false, rec(1, 0))
	tail.Kind = KindTail
	final := withValue(7, name(KindRead, "a"))
	final.Final = true
	open := unknown(rename("a", "b/x"))
	for i, op := range []Op{
		appends(1, 0, 0), unknown(appends(1, 1, 0)), failed(appends(1, 2, 0), quarry.NoSpace), reads(0, true, rec(1, 0)),
		cutRead(0, rec(1, 0), 20, 100, false), cutRead(0, rec(1, 0), 0, 20, false), tail, stats(100), put(1), get(1), erase, absent,
		mkdir("a"), create("a/x"), open, list("a", "x", "y/"), statDir("a", 1), statFile("a/x"), final,
		{Kind: KindMkdir, Class: ClassSetup, Subject: "/history/log"},
	} {
		op = between(clock.Instant(i), clock.Instant(i+3), op)
		if op.Kind == KindRename {
			op.Return = Open
		}
		h.Ops = append(h.Ops, op)
	}
	h.Ops[3].Bad = "bytes"
	return h
}

func TestCodec(t *testing.T) {
	h := everyKind()
	var b bytes.Buffer
	if err := h.Write(&b); err != nil {
		t.Fatal(err)
	}
	if want := `{"quarry_history":1,"seed":9223372036854775808,"full":true}` + "\n" +
		`{"client":0,"worker":1,"kind":"append","class":"log","subject":"/history/log/0","length":100,"call":0,"outcome":"done","return":3}` + "\n"; !strings.HasPrefix(b.String(), want) {
		t.Errorf("it is written as\n%s", b.String()[:len(want)])
	}
	if strings.Contains(b.String(), "9223372036854775807") {
		t.Error("an open return is written as a number")
	}
	again, err := Read(&b, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(h, again) {
		t.Errorf("read\n%+v\nwrote\n%+v", again, h)
	}
}

func TestCodecRefuses(t *testing.T) {
	const first = `{"quarry_history":1,"seed":7}` + "\n"
	const op = `{"client":0,"worker":1,"kind":"stat","class":"log","subject":"/l","call":5,"outcome":"done","return":6`
	for _, test := range []struct {
		text string
		kind quarry.Kind
		want string
	}{
		{"", quarry.Invalid, "empty"},
		{"hello", quarry.Invalid, "line 1: invalid: it is no history"},
		{`{"quarry_history":2,"seed":7}`, quarry.Invalid, "version 2"},
		{`{"quarry_history":1,"seed":7,"x":1}`, quarry.Invalid, "unknown field"},
		{first + "{}", quarry.Invalid, "it lacks a kind"},
		{first + op + `,"x":1}`, quarry.Invalid, "unknown field"},
		{first + op + `} {}`, quarry.Invalid, "line 2"},
		{first + op, quarry.Invalid, "line 2"},
		{first + strings.Replace(op, "stat", "statt", 1) + "}", quarry.Invalid, `"statt"`},
		{first + strings.Replace(op, "log", "lg", 1) + "}", quarry.Invalid, `"lg"`},
		{first + strings.Replace(op, "done", "dun", 1) + "}", quarry.Invalid, `"dun"`},
		{first + strings.Replace(op, `"return":6`, `"return":4`, 1) + "}", quarry.Invalid, "returned at 4"},
		{first + strings.Replace(op, `,"return":6`, "", 1) + "}", quarry.Invalid, "returned at"},
		{first + strings.Replace(op, `"worker":1`, `"worker":-2`, 1) + "}", quarry.Invalid, "worker -2"},
		{first + op + `,"length":-1}`, quarry.Invalid, "length -1"},
		{first + op + `,"offset":4611686018427387904}`, quarry.Invalid, "offset"},
		{first + op + `,"error":2}`, quarry.Invalid, "error kind"},
		{first + op + `,"seen":{"first":0,"records":[[1,2]]}}`, quarry.Invalid, "no record"},
		{first + op + `,"seen":{"first":0,"records":[[1,2,3]]}}`, quarry.Invalid, "no record"},
		{first + op + `,"length":10,"seen":{"first":0,"records":[[1,2,100]]}}`, quarry.Invalid, "in 10 bytes"},
		{first + strings.Replace(op, "stat", "append", 1) + `,"length":5}`, quarry.Invalid, "a record of 5 bytes"},
		{first + op + "}\n" + op + "}\n" + op + "}\n", quarry.TooLarge, "line 4"},
		{first + op + `,"length":300,"seen":{"first":0,"records":[[1,2,100],[1,3,100],[1,4,100]]}}`, quarry.TooLarge, "line 2"},
		{first + op + "}\n" + strings.Replace(op, `"call":5`, `"call":4`, 1) + "}", quarry.Invalid, "order of their calls"},
		{first + op + `,"bad":"` + strings.Repeat("x", lineMax) + `"}`, quarry.TooLarge, "a line"},
	} {
		_, err := Read(strings.NewReader(test.text), Limits{Ops: 2, Records: 2})
		if !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.200q: %v, want %q", test.text, err, test.want)
		}
	}
}

// What is read can be judged and written again, whatever it says. Run it with
// -fuzzminimizetime 10x: searches that run beside each other make the coverage of an input
// change, and the fuzzer would spend its time on that.
func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	if err := everyKind().Write(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	for _, test := range logCases {
		b.Reset()
		h := &History{Ops: append(append([]Op{}, firstTwo...), test.ops...)}
		for i := range h.Ops {
			h.Ops[i].Call = clock.Instant(i)
			h.Ops[i].Return = max(h.Ops[i].Return, h.Ops[i].Call)
		}
		if err := h.Write(&b); err != nil {
			f.Fatal(err)
		}
		f.Add(bytes.Clone(b.Bytes()))
	}
	f.Add([]byte(`{"quarry_history":1,"seed":7}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := Read(bytes.NewReader(data), Limits{Ops: 30, Records: 100})
		if err != nil {
			if kind := quarry.KindOf(err); kind != quarry.Invalid && kind != quarry.TooLarge {
				t.Fatalf("%v", err)
			}
			return
		}
		var b bytes.Buffer
		if err := h.Write(&b); err != nil {
			t.Fatal(err)
		}
		again, err := Read(&b, Limits{})
		if err != nil || len(again.Ops) != len(h.Ops) {
			t.Fatalf("written again it cannot be read: %v", err)
		}
		r := check(h, effort{steps: 1000, time: time.Second})
		for i := range r.Violations {
			if err := r.Violations[i].Explain(&b); err != nil {
				t.Fatal(err)
			}
		}
	})
}
