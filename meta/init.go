package meta

import (
	"slices"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/slots"
	"github.com/quarryfs/quarry/meta/totals"
	"github.com/quarryfs/quarry/wire"
)

// rootMode is the mode that the directory "/" is made with.
const rootMode = 0o755

// Init gives a new shard its slots; the shard that owns slot 0 gets the directory "/". The
// same command again succeeds, as does any once slots have moved; with other slots it is refused
// with Exists.
type Init struct{ Slots []quarry.SlotRange }

func (*Init) kind() Kind { return KindInit }

func (c *Init) fields(w *wire.Walk) { wire.List(w, 10, &c.Slots, slotRangesMax, wire.SlotRangeFields) }

func (c *Init) apply(t *tx, r *Result) error {
	if t.header.NextInode > 0 {
		if l := t.header.Leaving; t.header.LastLeave > 0 || t.header.LastTake > 0 || l != nil && l.Released || slices.Equal(t.header.Slots, c.Slots) {
			return nil
		}
		return refuse(quarry.Exists, "", "the shard has other slots already")
	}
	if !slots.InOrder(c.Slots) {
		return refuse(quarry.Invalid, "", "there are no slots, or they are not in order, or beyond %d", quarry.Slots-1)
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

// Slots returns the slots that the shard owns; none before [Init].
func Slots(v View) []quarry.SlotRange {
	s := reading(v)
	return s.header.Slots
}

// Time returns the last logged time.
func Time(v View) LogTime {
	s := reading(v)
	return s.header.Time
}

// Counters are totals of the shard's state, kept with every change.
type Counters = totals.Counters

// Totals returns the counters of the shard.
func Totals(v View) Counters {
	s := reading(v)
	return s.header.Counters
}
