package fleet

import (
	"slices"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

func TestFleet(t *testing.T) {
	now := clock.Instant(0).Add(time.Hour)
	f := New([]string{"a", "b", "c", "d", "e"}, 3, now)
	expect := func(members, used, spare string) {
		t.Helper()
		join := func(list []string) (s string) {
			for _, m := range list {
				s += m
			}
			return s
		}
		if join(f.Members()) != members || join(f.Used()) != used || join(f.Spare()) != spare {
			t.Errorf("members %v, used %v, spare %v", f.Members(), f.Used(), f.Spare())
		}
	}
	expect("abc", "abc", "de")
	if !f.Begin() || f.Begin() {
		t.Error("the right to change the masters is not one's own")
	}
	f.End()
	f.Enter("d")
	f.Enter("a") // in its own place
	expect("abc", "abcd", "e")
	if f.Number("d") != 0 || f.Number("b") != 2 {
		t.Errorf("d has number %d, b %d", f.Number("d"), f.Number("b"))
	}
	f.Settled(map[string]quarry.NodeID{"a": 5, "c": 3, "d": 4}, now)
	expect("acd", "acdb", "e")
	if got := f.Numbers(); !slices.Equal(got, []quarry.NodeID{3, 4, 5}) {
		t.Errorf("the numbers are %v", got)
	}
	if got := f.MayGo(3, []int{2, 0, 1}, now); !slices.Equal(got, []string{"d", "a"}) {
		t.Errorf("%v may go, and nobody is left that everybody knows", got)
	}
	if got := f.MayGo(3, []int{1, 0, 2}, now.Add(2*LearnTime)); !slices.Equal(got, []string{"c", "a"}) {
		t.Errorf("%v may go later", got)
	}
	if got := f.MayGo(1, []int{1, 0, 2}, now); !slices.Equal(got, []string{"c"}) {
		t.Errorf("of one, %v may go", got)
	}
	f.Leave("b")
	f.Lost("c")
	expect("acd", "acd", "be")
	if f.Number("c") != 0 {
		t.Error("c still has a number")
	}
}
