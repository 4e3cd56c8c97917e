package slots

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/quarryfs/quarry"
)

func ranges(pairs ...quarry.Slot) (set []quarry.SlotRange) {
	for i := 0; i < len(pairs); i += 2 {
		set = append(set, quarry.SlotRange{First: pairs[i], Last: pairs[i+1]})
	}
	return set
}

func TestInOrder(t *testing.T) {
	for _, c := range []struct {
		set []quarry.SlotRange
		ok  bool
	}{
		{nil, false},
		{ranges(0, quarry.Slots-1), true},
		{ranges(0, 3, 4, 4, 9, 12), true},
		{ranges(3, 2), false},
		{ranges(0, 3, 3, 4), false},
		{ranges(5, 6, 1, 2), false},
		{ranges(0, quarry.Slots), false},
		{ranges(0, 65535), false},
	} {
		if InOrder(c.set) != c.ok {
			t.Errorf("%v: %v", c.set, !c.ok)
		}
	}
}

// TestSets compares with sets that are kept slot by slot.
func TestSets(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	random := func() (set []quarry.SlotRange, has map[quarry.Slot]bool) {
		has = map[quarry.Slot]bool{}
		for s := 0; s < quarry.Slots; {
			first := s + r.IntN(300)
			last := first + r.IntN(200)
			if last >= quarry.Slots {
				break
			}
			set = append(set, quarry.SlotRange{First: quarry.Slot(first), Last: quarry.Slot(last)})
			for ; first <= last; first++ {
				has[quarry.Slot(first)] = true
			}
			s = last + 1
		}
		return set, has
	}
	for range 50 {
		a, inA := random()
		b, inB := random()
		join, cut, meet, all := Join(a, b), Cut(a, b), false, true
		for s := quarry.Slot(0); s < quarry.Slots; s++ {
			meet = meet || inA[s] && inB[s]
			all = all && (inA[s] || !inB[s])
			switch {
			case Has(a, s) != inA[s]:
				t.Fatalf("%v has %d: %v", a, s, !inA[s])
			case Has(join, s) != (inA[s] || inB[s]):
				t.Fatalf("%v and %v make %v", a, b, join)
			case Has(cut, s) != (inA[s] && !inB[s]):
				t.Fatalf("%v without %v is %v", a, b, cut)
			}
		}
		if Meet(a, b) != meet || HasAll(a, b) != all || !HasAll(join, a) || Meet(cut, b) {
			t.Fatalf("%v and %v", a, b)
		}
		for i := range join[1:] {
			if join[i].Last+1 >= join[i+1].First {
				t.Fatalf("%v are not as few ranges as possible", join)
			}
		}
	}
	if got := Join(ranges(65000, 65535), ranges(1, 2)); !slices.Equal(got, ranges(1, 2)) {
		t.Errorf("ranges beyond the slots give %v", got)
	}
}
