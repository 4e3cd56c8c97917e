package meta

import (
	"encoding/binary"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/move"
	"github.com/quarryfs/quarry/meta/slots"
	"github.com/quarryfs/quarry/wire"
)

// MovingOf returns what the shard knows of the moves of its slots.
func MovingOf(v View) move.State { return reading(v).header.State }

// NextBatch is [move.Next] for a view of the shard that the slots leave.
func NextBatch(v View, to *move.Taking, maxBytes int) (*move.Batch, error) {
	return move.Next(v, reading(v).header.Leaving, to, maxBytes)
}

// Handover returns the command that makes the other shard the owner of the slots, from a view of
// the shard that has released them. Its Time is that of the last command; a leader knows better.
// Invalid: the slots are not released.
func Handover(v View, id move.ID, quietMS uint64) (*Activate, error) {
	h := reading(v).header
	if h.Leaving == nil || h.Leaving.Move != id || !h.Leaving.Released {
		return nil, quarry.Errorf("handover", quarry.Invalid, "", "the slots of move %d are not released here", id)
	}
	return &Activate{
		Move: id, Changes: h.Leaving.Changes, NextInode: h.NextInode, NextSession: h.NextSession,
		NextHandle: h.NextHandle, LastTx: h.LastTx, QuietMS: quietMS, Time: h.Time,
	}, nil
}

// note keeps the number of a change to a record of a slot that is leaving. Every change of a
// command comes here.
func (t *tx) note(key []byte) {
	l := t.header.Leaving
	if l == nil || l.Released || l.Lost || !slots.Has(l.Slots, quarry.Slot(binary.BigEndian.Uint16(key))) {
		return
	}
	if l.Changes-l.Forgotten >= move.ChangesMax {
		l.Lost = true
		t.forgetChanges()
		return
	}
	l.Changes++
	t.kv.Set(move.ChangeKey(l.Changes), key)
}

// forgetChanges removes the whole log of changes.
func (t *tx) forgetChanges() {
	changes := table(nil, shardSlot, tableChange)
	t.kv.DeleteRange(changes, after(changes))
}

// closed returns Busy if a transaction must not begin, because the slot in which it would be
// coordinated is leaving, or that of its session: who decides it could not tell the session's
// shard.
func (t *tx) closed(s quarry.Slot) error {
	l := t.header.Leaving
	if l != nil && l.Closed && (slots.Has(l.Slots, s) || slots.Has(l.Slots, SessionSlot(t.op.Session))) {
		return refuse(quarry.Busy, "", "move %d takes the slot to another shard in a moment", l.Move)
	}
	return nil
}

// leaving returns the move by which slots leave. Invalid: it is not that one.
func (t *tx) leaving(id move.ID) (*move.Leaving, error) {
	if l := t.header.Leaving; l != nil && l.Move == id {
		return l, nil
	}
	return nil, refuse(quarry.Invalid, "", "move %d is not under way here", id)
}

// BeginLeave begins a move at the shard that owns the slots: from here on every change to a
// record of theirs is also noted in the log of changes. The same move again succeeds. Invalid:
// it is over, or the shard does not own the slots. Busy: another move is under way.
type BeginLeave struct {
	Move  move.ID
	To    quarry.ShardID
	Slots []quarry.SlotRange // at most move.RangesMax, in order
}

func (*BeginLeave) kind() Kind { return KindBeginLeave }

func (c *BeginLeave) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Move)
	wire.Uint(w, 11, &c.To)
	wire.List(w, 12, &c.Slots, move.RangesMax, wire.SlotRangeFields)
}

func (c *BeginLeave) apply(t *tx, _ *Result) error {
	h := t.header
	switch l := h.Leaving; {
	case l != nil && l.Move == c.Move:
		return nil
	case c.Move <= h.LastLeave:
		return refuse(quarry.Invalid, "", "move %d is over", c.Move)
	case l != nil:
		return refuse(quarry.Busy, "", "move %d is under way", l.Move)
	case !slots.InOrder(c.Slots) || !slots.HasAll(h.Slots, c.Slots):
		return refuse(quarry.Invalid, "", "the shard does not own all of slots %v", c.Slots)
	}
	h.Leaving = &move.Leaving{Move: c.Move, To: c.To, Slots: c.Slots}
	return nil
}

// CloseSlots lets no transaction begin in the slots that leave, nor for sessions of theirs, so
// that those under way end and [Release] can be done. It holds until the move is over.
type CloseSlots struct{ Move move.ID }

func (*CloseSlots) kind() Kind { return KindCloseSlots }

func (c *CloseSlots) fields(w *wire.Walk) { wire.Uint(w, 10, &c.Move) }

func (c *CloseSlots) apply(t *tx, _ *Result) error {
	l, err := t.leaving(c.Move)
	if err == nil {
		l.Closed = true
	}
	return err
}

// ForgetChanges removes the first changes from the log: those that the other shard has.
type ForgetChanges struct {
	Move move.ID
	Upto uint64 // the last of them
}

func (*ForgetChanges) kind() Kind { return KindForgetChanges }

func (c *ForgetChanges) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Move)
	wire.Uint(w, 11, &c.Upto)
}

func (c *ForgetChanges) apply(t *tx, _ *Result) error {
	l, err := t.leaving(c.Move)
	switch {
	case err != nil:
		return err
	case c.Upto > l.Changes:
		return refuse(quarry.Invalid, "", "there was no change %d yet", c.Upto)
	case c.Upto > l.Forgotten:
		t.kv.DeleteRange(move.ChangeKey(0), move.ChangeKey(c.Upto+1))
		l.Forgotten = c.Upto
	}
	return nil
}

// Release takes the slots from the shard: from here on it answers nothing that is about them, and
// their records change no more. There is no way back: the other shard will own them. Busy: a
// transaction is coordinated in them, or has yet to give a session of theirs its result. Invalid:
// the log of changes is lost, or the move is not under way.
type Release struct{ Move move.ID }

func (*Release) kind() Kind { return KindRelease }

func (c *Release) fields(w *wire.Walk) { wire.Uint(w, 10, &c.Move) }

func (c *Release) apply(t *tx, _ *Result) error {
	l, err := t.leaving(c.Move)
	switch {
	case err != nil:
		return err
	case l.Released:
		return nil
	case l.Lost:
		return refuse(quarry.Invalid, "", "move %d has lost changes; cancel it", c.Move)
	}
	for _, id := range t.transactions(0, TransactionsMax) {
		x, _ := t.transaction(id)
		if slots.Has(l.Slots, id.Slot()) || !x.Committed && slots.Has(l.Slots, SessionSlot(x.Op.Session)) {
			return refuse(quarry.Busy, "", "transaction %x is under way", uint64(id))
		}
	}
	l.Closed, l.Released = true, true
	if !off(ServedByTwo) {
		t.header.Slots = slots.Cut(t.header.Slots, l.Slots)
	}
	return nil
}

// CancelLeave ends a move before its slots were released: all is as it was. A move that is
// cancelled, or never began here, succeeds, and cannot begin here any more. Exists: the slots
// were released.
type CancelLeave struct{ Move move.ID }

func (*CancelLeave) kind() Kind { return KindCancelLeave }

func (c *CancelLeave) fields(w *wire.Walk) { wire.Uint(w, 10, &c.Move) }

func (c *CancelLeave) apply(t *tx, _ *Result) error {
	h := t.header
	l := h.Leaving
	switch {
	case c.Move <= h.LastLeft, l != nil && l.Move == c.Move && l.Released:
		return refuse(quarry.Exists, "", "the slots of move %d were released", c.Move)
	case l != nil && l.Move == c.Move:
		t.forgetChanges()
		h.Leaving = nil
	case l != nil && l.Move < c.Move:
		return refuse(quarry.Busy, "", "move %d is under way", l.Move)
	}
	h.LastLeave = max(h.LastLeave, c.Move)
	return nil
}

// LeaveOver ends a move at the shard that the slots have left, when the other one owns them. What
// is left of them is removed by [CleanSlots]. A move that is over succeeds. Invalid: the slots
// were not released.
type LeaveOver struct{ Move move.ID }

func (*LeaveOver) kind() Kind { return KindLeaveOver }

func (c *LeaveOver) fields(w *wire.Walk) { wire.Uint(w, 10, &c.Move) }

func (c *LeaveOver) apply(t *tx, _ *Result) error {
	h := t.header
	if c.Move == h.LastLeft {
		return nil
	}
	l, err := t.leaving(c.Move)
	if err != nil {
		return err
	}
	if !l.Released {
		return refuse(quarry.Invalid, "", "the slots of move %d were not released", c.Move)
	}
	t.forgetChanges()
	h.Remains = slots.Join(h.Remains, l.Slots)
	h.LastLeave, h.LastLeft, h.Leaving = c.Move, c.Move, nil
	return nil
}

// cleanMax is the most records that one CleanSlots removes.
const cleanMax = 1000

// CleanSlots removes records of slots that the shard does not own: those that have left, and
// those of moves to it that were cancelled. Result: Count, the records; More.
type CleanSlots struct {
	Max int // records to remove, 1 to 1,000
}

func (*CleanSlots) kind() Kind { return KindCleanSlots }

func (c *CleanSlots) fields(w *wire.Walk) { wire.Uint(w, 10, &c.Max) }

func (c *CleanSlots) apply(t *tx, r *Result) error {
	if c.Max < 1 || c.Max > cleanMax {
		return refuse(quarry.Invalid, "", "%d records; from 1 to %d can be removed", c.Max, cleanMax)
	}
	h := t.header
	for len(h.Remains) > 0 && r.Count < c.Max {
		var found []move.Pair
		lo, hi := move.Keys(h.Remains[0])
		t.view.Scan(lo, hi, func(key, value []byte) bool {
			found = append(found, move.Pair{Key: append([]byte(nil), key...), Value: append([]byte(nil), value...)})
			return r.Count+len(found) < c.Max
		})
		for _, p := range found {
			t.account(p.Key, p.Value, -1)
			t.delete(append(t.key[:0], p.Key...))
			r.Count++
		}
		if r.Count < c.Max {
			h.Remains = h.Remains[1:]
		}
	}
	r.More = len(h.Remains) > 0
	return nil
}
