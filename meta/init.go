package meta

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// rootMode is the mode that the directory "/" is made with.
const rootMode = 0o755

// Init gives a new shard its slots; the shard that owns slot 0 gets the directory "/". The
// same command again succeeds; with other slots it is refused with Exists.
type Init struct{ Slots []quarry.SlotRange }

func (*Init) kind() Kind { return KindInit }

func (c *Init) fields(w *wire.Walk) { wire.List(w, 10, &c.Slots, slotRangesMax, slotRangeFields) }

func (c *Init) apply(t *tx, r *Result) error {
	if len(t.header.Slots) > 0 {
		if equalRanges(t.header.Slots, c.Slots) {
			return nil
		}
		return refuse(quarry.Exists, "", "the shard has other slots already")
	}
	if len(c.Slots) == 0 {
		return refuse(quarry.Invalid, "", "a shard needs at least one slot")
	}
	next := quarry.Slot(0)
	for _, s := range c.Slots {
		if s.First < next || s.Last < s.First || s.Last >= quarry.Slots {
			return refuse(quarry.Invalid, "", "the slot ranges are not in order, or beyond %d", quarry.Slots-1)
		}
		next = s.Last + 1
	}
	h := t.header
	h.Slots = c.Slots
	h.NextInode = quarry.RootInode.Number() + 1
	h.NextSession, h.NextHandle = 1, 1
	if !h.owns(quarry.RootInode.Slot()) {
		return nil
	}
	h.Counters.Dirs++
	t.putInode(quarry.RootInode, &inodeRecord{
		Kind: quarry.KindDir, Mode: rootMode, Links: 1,
		CreatedNS: t.wallNS, ModifiedNS: t.wallNS, Parent: quarry.RootInode,
	})
	return nil
}

func equalRanges(a, b []quarry.SlotRange) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// Slots returns the slots that the shard owns; none before [Init].
func Slots(v View) []quarry.SlotRange {
	s := state{view: v}
	h := s.loadHeader()
	return h.Slots
}

// Time returns the last logged time.
func Time(v View) LogTime {
	s := state{view: v}
	h := s.loadHeader()
	return h.Time
}

// Totals returns the counters of the shard.
func Totals(v View) Counters {
	s := state{view: v}
	h := s.loadHeader()
	return h.Counters
}
