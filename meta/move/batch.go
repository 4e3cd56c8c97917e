package move

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/kv"
	"github.com/quarryfs/quarry/wire"
)

const (
	// pairsMax is the most records of one batch.
	pairsMax = 8192
	// keyBytesMax bounds the key of a record: that of an entry or an intent is the longest.
	keyBytesMax = 11 + quarry.NameBytesMax
	// valueBytesMax bounds the value of a record.
	valueBytesMax = 128 << 10
	// changesStep is the most changes that one batch goes through.
	changesStep = 8192
	// changesFirst is how many changes may wait while records are copied; more go first, so that
	// their log does not grow beyond its bound.
	changesFirst = 1 << 16
)

// Pair is a record of a slot that moves: its key and value, or that it is gone.
type Pair struct {
	Key, Value []byte
	Gone       bool
}

func pairFields(w *wire.Walk, p *Pair) {
	wire.Bytes(w, 1, &p.Key, keyBytesMax)
	wire.Bytes(w, 2, &p.Value, valueBytesMax)
	wire.Bool(w, 3, &p.Gone)
}

// Batch is a part of a move: records as they were at the shard that the slots leave, at one
// instant. Number, Cursor and Changes are those that [Taking] has when the batch is taken.
type Batch struct {
	Move    ID
	Number  uint64
	Cursor  []byte
	Changes uint64
	Pairs   []Pair
}

// BatchFields walks the fields of a batch, which are those of a command's body.
func BatchFields(w *wire.Walk, b *Batch) {
	wire.Uint(w, 10, &b.Move)
	wire.Uint(w, 11, &b.Number)
	wire.Bytes(w, 12, &b.Cursor, keyBytesMax)
	wire.Uint(w, 13, &b.Changes)
	wire.List(w, 14, &b.Pairs, pairsMax, pairFields)
}

// ChangeKey is the key of a change in the log of changes; its value is the key of the record that
// was changed.
func ChangeKey(number uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{0xff, 0xff, 'd'}, number)
}

// Next returns the batch that follows what the other shard says it has, from a view of the shard
// that the slots leave and what that knows of the move: records in the order of their keys, then
// the keys that were changed since, with their values as of the view. nil: it has everything up to
// the view. A batch is at most maxBytes long, or has one record.
//
// Invalid: the move is not under way here, or the changes are not kept any more. Unavailable: the
// view is older than what the other shard has.
func Next(v kv.View, l *Leaving, to *Taking, maxBytes int) (*Batch, error) {
	switch {
	case l == nil || l.Move != to.Move || !slices.Equal(l.Slots, to.Slots):
		return nil, quarry.Errorf("batch", quarry.Invalid, "", "move %d of slots %v is not under way here", to.Move, to.Slots)
	case l.Lost || to.Changes < l.Forgotten:
		return nil, quarry.Errorf("batch", quarry.Invalid, "", "changes after number %d are not kept any more", to.Changes)
	case to.Changes > l.Changes:
		return nil, quarry.Errorf("batch", quarry.Unavailable, "", "this state has %d changes, the copy %d", l.Changes, to.Changes)
	}
	b := &Batch{Move: to.Move, Number: to.Number + 1, Cursor: to.Cursor, Changes: to.Changes}
	switch {
	case !to.Copied() && l.Changes-to.Changes < changesFirst:
		b.copy(v, l.Slots, maxBytes)
	case to.Changes < l.Changes:
		b.change(v, maxBytes)
	default:
		return nil, nil
	}
	return b, nil
}

// copy adds the records from the cursor on.
func (b *Batch) copy(v kv.View, set []quarry.SlotRange, room int) {
	for _, r := range set {
		lo, hi := Keys(r)
		if bytes.Compare(b.Cursor, hi) >= 0 {
			continue
		}
		if bytes.Compare(b.Cursor, lo) > 0 {
			lo = b.Cursor
		}
		full := false
		v.Scan(lo, hi, func(key, value []byte) bool {
			if full = !b.add(Pair{Key: key, Value: value}, &room); full {
				b.Cursor = bytes.Clone(key)
			}
			return !full
		})
		if full {
			return
		}
	}
	b.Cursor = End(set)
}

// change adds the records before the cursor that were changed. Those from the cursor on are copied
// later, as they are then.
func (b *Batch) change(v kv.View, room int) {
	var keys [][]byte
	v.Scan(ChangeKey(b.Changes+1), ChangeKey(b.Changes+1+changesStep), func(_, key []byte) bool {
		keys = append(keys, bytes.Clone(key))
		return true
	})
	sent := make(map[string]bool, len(keys))
	for _, key := range keys {
		if bytes.Compare(key, b.Cursor) < 0 && !sent[string(key)] {
			value, ok := v.Get(key)
			if !b.add(Pair{Key: key, Value: value, Gone: !ok}, &room) {
				return
			}
			sent[string(key)] = true
		}
		b.Changes++
	}
}

// add adds a pair if there is room, or none yet.
func (b *Batch) add(p Pair, room *int) bool {
	size := len(p.Key) + len(p.Value) + 16
	if len(b.Pairs) == pairsMax || len(b.Pairs) > 0 && size > *room {
		return false
	}
	*room -= size
	b.Pairs = append(b.Pairs, Pair{Key: bytes.Clone(p.Key), Value: bytes.Clone(p.Value), Gone: p.Gone})
	return true
}
