// Package slots has sets of slots, as shards own them and moves carry them: ranges in ascending
// order that do not overlap.
package slots

import (
	"sort"

	"github.com/quarryfs/quarry"
)

// InOrder reports whether ranges are a set that is not empty.
func InOrder(set []quarry.SlotRange) bool {
	next := quarry.Slot(0)
	for _, r := range set {
		if r.First < next || r.Last < r.First || r.Last >= quarry.Slots {
			return false
		}
		next = r.Last + 1
	}
	return len(set) > 0
}

// Count returns how many slots a set has.
func Count(set []quarry.SlotRange) (n int64) {
	for _, r := range set {
		n += int64(r.Last) - int64(r.First) + 1
	}
	return n
}

// Has reports whether a slot is in a set.
func Has(set []quarry.SlotRange, s quarry.Slot) bool {
	i := sort.Search(len(set), func(i int) bool { return set[i].Last >= s })
	return i < len(set) && set[i].First <= s
}

// HasAll reports whether a set has all slots of another one.
func HasAll(set, all []quarry.SlotRange) bool { return len(Cut(all, set)) == 0 }

// Meet reports whether two sets have a slot in common.
func Meet(a, b []quarry.SlotRange) bool { return !HasAll(Cut(a, b), a) }

// Join returns the slots of two sets, in as few ranges as possible.
func Join(a, b []quarry.SlotRange) []quarry.SlotRange { return combine(a, b, true) }

// Cut returns the slots of a set that another one does not have.
func Cut(set, without []quarry.SlotRange) []quarry.SlotRange { return combine(set, without, false) }

// combine adds the second set to the first one, or takes it away.
func combine(a, b []quarry.SlotRange, add bool) (set []quarry.SlotRange) {
	var in [quarry.Slots]bool
	mark := func(ranges []quarry.SlotRange, is bool) {
		for _, r := range ranges {
			for s := r.First; s <= r.Last && s < quarry.Slots; s++ {
				in[s] = is
			}
		}
	}
	mark(a, true)
	mark(b, add)
	for s := quarry.Slot(0); s < quarry.Slots; s++ {
		switch last := len(set) - 1; {
		case !in[s]:
		case last >= 0 && set[last].Last+1 == s:
			set[last].Last = s
		default:
			set = append(set, quarry.SlotRange{First: s, Last: s})
		}
	}
	return set
}
