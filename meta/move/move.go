package move

import (
	"bytes"
	"encoding/binary"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// ID numbers the moves of slots from one shard to another. The root group issues the numbers,
// which only grow; 0 is no move.
type ID uint64

const (
	// RangesMax is the most ranges of slots that one move has.
	RangesMax = 64
	// ChangesMax bounds the changes that are kept for a move. The state machine gives the move up
	// rather than keep more.
	ChangesMax = 1 << 20
)

// State is what a shard knows of the moves of its slots, besides what it owns.
type State struct {
	Leaving   *Leaving           // the move by which slots leave, while there is one
	Taking    *Taking            // the move by which slots come, while there is one
	Remains   []quarry.SlotRange // of which records are still to be removed
	LastLeave ID                 // the last move by which slots left or were to leave, and that is over
	LastLeft  ID                 // the last of these by which they did leave
	LastTake  ID                 // the last move by which slots came or were to come, and that is over
	LastTaken ID                 // the last of these by which they did come
	// HandleFloor is the number that the handles of new chunks must at least have: smaller ones may
	// have been used in slots that came.
	HandleFloor uint64
	// QuietUntil is the log time, in milliseconds, before which no session ends and no garbage is
	// collected but what no file ever named.
	QuietUntil uint64
}

// StateFields walks the fields of a state.
func StateFields(w *wire.Walk, s *State) {
	wire.Optional(w, 1, &s.Leaving, leavingFields)
	wire.Optional(w, 2, &s.Taking, takingFields)
	wire.List(w, 3, &s.Remains, quarry.Slots, wire.SlotRangeFields)
	wire.Uint(w, 4, &s.LastLeave)
	wire.Uint(w, 5, &s.LastLeft)
	wire.Uint(w, 6, &s.LastTake)
	wire.Uint(w, 7, &s.LastTaken)
	wire.Uint(w, 8, &s.HandleFloor)
	wire.Uint(w, 9, &s.QuietUntil)
}

// Leaving is a move at the shard that the slots leave.
type Leaving struct {
	Move      ID
	To        quarry.ShardID
	Slots     []quarry.SlotRange
	Closed    bool   // no transaction begins in the slots any more
	Released  bool   // the shard does not own them any more
	Changes   uint64 // the number of the last change to a record of theirs; the first is 1
	Forgotten uint64 // changes up to this number are not kept any more
	Lost      bool   // there were more changes than are kept: the move can only be cancelled
}

func leavingFields(w *wire.Walk, l *Leaving) {
	wire.Uint(w, 1, &l.Move)
	wire.Uint(w, 2, &l.To)
	wire.List(w, 3, &l.Slots, RangesMax, wire.SlotRangeFields)
	wire.Bool(w, 4, &l.Closed)
	wire.Bool(w, 5, &l.Released)
	wire.Uint(w, 6, &l.Changes)
	wire.Uint(w, 7, &l.Forgotten)
	wire.Bool(w, 8, &l.Lost)
}

// Taking is a move at the shard that the slots come to.
//
// Every key of the slots before Cursor has here a value that is at least as new as the change
// number Changes of the other shard made it, or none if it had none; keys from Cursor on have
// none. So when Cursor is behind all slots and Changes is the last change that there ever was,
// the copy is complete.
type Taking struct {
	Move    ID
	From    quarry.ShardID
	Slots   []quarry.SlotRange
	Shift   int64  // this shard's log time less that of the other one, in milliseconds
	Number  uint64 // of the last batch that was taken
	Cursor  []byte // how far the records are copied in the order of their keys
	Changes uint64
}

func takingFields(w *wire.Walk, k *Taking) {
	wire.Uint(w, 1, &k.Move)
	wire.Uint(w, 2, &k.From)
	wire.List(w, 3, &k.Slots, RangesMax, wire.SlotRangeFields)
	wire.Uint(w, 4, &k.Shift)
	wire.Uint(w, 5, &k.Number)
	wire.Bytes(w, 6, &k.Cursor, keyBytesMax)
	wire.Uint(w, 7, &k.Changes)
}

// Copied reports whether every key of the slots is before the cursor.
func (k *Taking) Copied() bool { return bytes.Equal(k.Cursor, End(k.Slots)) }

// Append appends the state's encoding to dst.
func (s *State) Append(dst []byte) []byte { return wire.Marshal(dst, s, StateFields) }

// DecodeState reads an encoded state.
func DecodeState(src []byte) (s State, err error) {
	err = wire.Unmarshal(src, &s, StateFields)
	return s, err
}

// Keys returns the first key that a record of a range of slots may have, and the first one behind
// them all.
func Keys(r quarry.SlotRange) (lo, hi []byte) {
	return binary.BigEndian.AppendUint16(nil, uint16(r.First)), binary.BigEndian.AppendUint16(nil, uint16(r.Last)+1)
}

// End returns the first key behind all records of a set of slots.
func End(set []quarry.SlotRange) []byte {
	_, hi := Keys(set[len(set)-1])
	return hi
}
