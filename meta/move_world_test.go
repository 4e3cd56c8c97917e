package meta

import (
	"maps"
	"slices"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/move"
	"github.com/quarryfs/quarry/meta/slots"
)

// TestMoves is TestTransactions in a world where slots move between the shards all the time.
func TestMoves(t *testing.T) {
	moveRuns(func(seed uint64) {
		w := newTxWorld(t, seed, 2)
		w.moved = true
		w.shards = append(w.shards, newShardWithout(t, 9000)) // one that was added
		w.run()
		if wrong := w.settled(); wrong != "" {
			w.fatal("%s", wrong)
		}
	})
}

// owner returns the shard that owns a slot, or nil while it moves.
func (w *txWorld) owner(slot quarry.Slot) (found *shard) {
	for _, s := range w.shards {
		if slots.Has(Slots(s.kv), slot) {
			if found != nil {
				w.fatal("slot %d is served by two shards", slot)
			}
			found = s
		}
	}
	return found
}

// move lets the present move go on, or begins one.
func (w *txWorld) move() {
	if len(w.moves) == 0 || w.moves[len(w.moves)-1].over() {
		from, to := pick(w.rand, w.shards), pick(w.rand, w.shards)
		set := w.part(Slots(from.kv))
		if from == to || len(set) == 0 {
			return
		}
		w.moves = append(w.moves, newMoving(move.ID(len(w.moves)+1), from, to, set, w.rand))
	}
	pick(w.rand, w.moves).late()
	m := w.moves[len(w.moves)-1]
	m.cancelled = m.cancelled || w.rand.IntN(60) == 0
	for range 1 + w.rand.IntN(4) {
		m.step()
	}
	pick(w.rand, w.shards).ok(&CleanSlots{Max: 1 + w.rand.IntN(5)})
}

// part returns all of a set, or some of it.
func (w *txWorld) part(set []quarry.SlotRange) []quarry.SlotRange {
	if w.rand.IntN(3) == 0 || len(set) == 0 {
		return set
	}
	r := pick(w.rand, set)
	n := int(r.Last-r.First) + 1
	first := r.First + quarry.Slot(w.rand.IntN(n))
	return []quarry.SlotRange{{First: first, Last: first + quarry.Slot(w.rand.IntN(int(r.Last-first)+1))}}
}

// endMoves lets the present move end, and reports whether there is anything left to do.
func (w *txWorld) endMoves() (busy bool) {
	if n := len(w.moves); n > 0 && !w.moves[n-1].over() {
		w.moves[n-1].step()
		return true
	}
	for _, s := range w.shards {
		busy = s.ok(&CleanSlots{Max: 100}).More || busy
	}
	return busy
}

// sessionAt returns a session of a shard's slots: one that was there before, or another one.
func (w *txWorld) sessionAt(at *shard) quarry.SessionID {
	if len(w.clients) == 1 {
		for _, id := range slices.Sorted(maps.Keys(w.clients[0].seqs)) {
			if id != 0 && w.owner(SessionSlot(id)) == at {
				return id
			}
		}
	}
	set := Slots(at.kv)
	if len(set) == 0 {
		return at.session // it will be refused, and looked for
	}
	return at.ok(&OpenSession{Slot: set[0].First}).Session
}

// find looks for the shard that keeps the operation's session, and reports whether there is one.
func (c *txClient) find() bool {
	if c.op.Session == 0 {
		c.in(c.at)
	}
	at := c.w.owner(SessionSlot(c.op.Session))
	if at != nil {
		c.at = at
	}
	return at != nil
}

// elsewhere makes an operation that was refused, and so not made, in a session of the shard that
// it is about.
func (c *txClient) elsewhere(err error) {
	slot, ok := RefusedSlot(err)
	if !ok || slot == SessionSlot(c.op.Session) {
		c.w.fatal("refused where its session is: %v", err)
	}
	if at := c.w.owner(slot); at != nil {
		c.in(at)
	}
}
