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
		if got, _ := n.Newest(); got != want {
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
	_, since := n.Newest()
	if !n.Untouched(other, since) {
		t.Error("nobody has touched it")
	}
	n.Touch(other)
	if n.Untouched(other, since) {
		t.Error("it was touched")
	}
}
