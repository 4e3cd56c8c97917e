package chaos

import (
	"strings"
	"testing"

	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/history"
)

// TestPageOfAViolation draws a violation whose texts are hostile: they are shown, not obeyed.
func TestPageOfAViolation(t *testing.T) {
	const hostile = `</pre><script>alert("x")</script>`
	r := &Report{
		Verdict: Violated, Seed: 99, DurationMS: 10_000, Violations: 1, Refused: map[string]int{hostile: 2}, nodes: []string{"master-1"},
		Checks:    []Check{{Name: "append log", About: "…", Looked: "2 operations", Verdict: Violated}},
		FaultList: []Fault{{Kind: Kill, Text: hostile, Nodes: []string{"master-1"}, BeginMS: 100, EndMS: 9000}, {Kind: Rot, Text: "rot", Skipped: "nothing to spoil"}},
		ViolationList: []history.Violation{{Checker: "append log", Rule: "every acknowledged record is there", Subject: "/log", Text: hostile, Ops: []history.Op{
			{Kind: history.KindAppend, Sequence: 7, Offset: 42, Length: 10, Call: 1e9, Return: 2e9, Outcome: history.Done},
			{Kind: history.KindRead, Worker: 3, Offset: 0, Length: 42, ToEnd: true, Seen: &history.Seen{}, Call: 3e9, Return: 4e9, Outcome: history.Done},
			{Kind: history.KindPut, Path: hostile, Call: 5e9, Return: history.Open, Outcome: history.Unknown},
		}}},
		Timeline: make([]Bucket, bucketsMax), gaps: []gap{{clock.Instant(1e9), clock.Instant(3e9)}},
		dots: []dot{{atMS: 1000, tookMS: 200, kind: history.KindAppend}, {atMS: 2000, tookMS: 20, kind: history.KindRead, failed: true}},
	}
	r.Timeline[3] = Bucket{AtMS: 125, Answered: 5, MedianMS: 1, P99MS: 2, SlowestMS: 3}
	var b strings.Builder
	if err := r.Page(&b); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	if strings.Contains(page, "<script") {
		t.Error("a text has become a part of the page")
	}
	for _, want := range []string{"A promise was broken: 1 violation found", "seed 99", "record 7", "nothing to spoil", "nothing was answered from 1.0 s to 3.0 s", "outcome unknown", "✗"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	text := r.Text()
	for _, want := range []string{"A PROMISE WAS BROKEN", "1.000 -   2.000 s  client-1, worker 0: append record 7 (10 bytes) → at 42", "worker 3: read at 0 → 42 bytes, 0 records, the end of the file"} {
		if !strings.Contains(text, want) {
			t.Errorf("the text does not say %q:\n%s", want, text)
		}
	}
}

// TestGaps: a time without an answer counts only while somebody waits for one.
func TestGaps(t *testing.T) {
	op := func(call, ret clock.Instant, outcome history.Outcome) history.Op {
		return history.Op{Kind: history.KindAppend, Call: call * 1e9, Return: ret * 1e9, Outcome: outcome}
	}
	for name, c := range map[string]struct {
		ops  []history.Op
		want []gap
	}{
		"one waits":               {[]history.Op{op(1, 2, history.Done), op(3, 9, history.Done)}, []gap{{1e9, 2e9}, {3e9, 9e9}}},
		"another is answered":     {[]history.Op{op(1, 9, history.Done), op(2, 4, history.Done)}, []gap{{1e9, 4e9}, {4e9, 9e9}}},
		"a failure is no answer":  {[]history.Op{op(1, 9, history.Done), op(2, 4, history.Failed)}, []gap{{1e9, 9e9}}},
		"nobody waits in between": {[]history.Op{op(1, 1, history.Done), op(8, 8, history.Done)}, nil},
	} {
		got := gaps(c.ops)
		if len(got) != len(c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s: %v, want %v", name, got, c.want)
			}
		}
	}
}
