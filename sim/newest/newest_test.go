package newest

import (
	"testing"

	"github.com/quarryfs/quarry"
)

func TestNewest(t *testing.T) {
	var n Names
	at, none := Place{1, "a"}, Place{}
	expect := func(want Place) {
		t.Helper()
		got := none
		if list, _ := n.Newest(1); len(list) > 0 {
			got = list[0]
		}
		if got != want {
			t.Errorf("the newest is %v, want %v", got, want)
		}
	}
	op := func(sequence quarry.Sequence) quarry.Op { return quarry.Op{Session: 1, Sequence: sequence} }
	expect(none)
	made := n.Touch(at)
	expect(none)
	n.Settle(op(1), nil, made, at)
	expect(at)
	removed := n.Touch(at, none)
	expect(none)
	n.Settle(op(2), nil, removed, at, none)
	expect(none)
	n.Settle(op(1), nil, n.Touch(at), at) // the first comes again, and is answered from memory
	expect(none)
	n.Settle(op(3), quarry.Errorf("make", quarry.Unavailable, "", "gone"), n.Touch(at), at)
	n.Settle(op(4), nil, n.Touch(at), at) // while the third may still come about
	expect(none)
	other := Place{2, "b"}
	first, second := n.Touch(other), n.Touch(other)
	n.Settle(op(5), nil, first, other)
	expect(none)
	n.Settle(op(6), nil, second, other)
	expect(other)
	_, touches := n.Newest(1)
	since := touches[0]
	if !n.Untouched(other, since) {
		t.Error("nobody has touched it")
	}
	n.Touch(other)
	if n.Untouched(other, since) {
		t.Error("it was touched")
	}
	n.Settle(op(7), nil, n.Touch(other, none), other, none)
	if list, _ := n.Newest(kept); len(list) != 0 {
		t.Errorf("the newest are %v, and nothing is left", list)
	}
	for i := range 2 * kept {
		at := Place{3, string(rune('a' + i))}
		n.Settle(op(quarry.Sequence(10+i)), nil, n.Touch(at), at)
	}
	if list, _ := n.Newest(2); len(list) != 2 || list[0].Name < list[1].Name {
		t.Errorf("the two newest are %v", list)
	}
	if list, _ := n.Newest(3 * kept); len(list) != kept {
		t.Errorf("%d names are remembered, want %d", len(list), kept)
	}
}
