package meta

import (
	"encoding/binary"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// Strangers returns those of the sessions which own chunks here and are not known here: they live
// on another shard, since their slot or that of the chunks has moved, or they are over. It looks
// at n sessions at most, behind the one past; next is the last of these, 0 when there are no
// others. A session whose slot this shard owns is surely over.
func Strangers(v View, past quarry.SessionID, n int) (list []quarry.SessionID, next quarry.SessionID) {
	s := reading(v)
	for range n {
		id := quarry.SessionID(0)
		s.index(ownedKey(nil, past+1, 0), after(table(nil, shardSlot, tableOwned)), func(key, _ []byte) bool {
			id = quarry.SessionID(binary.BigEndian.Uint64(key[3:]))
			return false
		})
		if id == 0 {
			return list, 0
		}
		if _, known := s.session(id); !known {
			list = append(list, id)
		}
		past = id
	}
	return list, past
}

// Disown frees the chunks here of a session that is over, as the shard says that keeps its slot.
// Exists: the session is known here. Result: Count; Orphans; More: it owns more chunks than one
// command frees.
type Disown struct{ Session quarry.SessionID }

func (*Disown) kind() Kind { return KindDisown }

func (c *Disown) fields(w *wire.Walk) { wire.Uint(w, 10, &c.Session) }

func (c *Disown) apply(t *tx, r *Result) error {
	if _, known := t.session(c.Session); known || c.Session == 0 {
		return refuse(quarry.Exists, "", "session %x is known here", uint64(c.Session))
	}
	owned := t.owned(c.Session, freeStep+1)
	for _, h := range owned[:min(freeStep, len(owned))] {
		t.release(h, r)
		r.Count++
	}
	r.More = len(owned) > freeStep
	return nil
}
