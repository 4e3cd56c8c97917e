package meta

import (
	"bytes"
	"encoding/binary"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/move"
	"github.com/quarryfs/quarry/meta/slots"
	"github.com/quarryfs/quarry/wire"
)

// taking returns the move by which slots come. Invalid: it is not that one.
func (t *tx) taking(id move.ID) (*move.Taking, error) {
	if k := t.header.Taking; k != nil && k.Move == id {
		return k, nil
	}
	return nil, refuse(quarry.Invalid, "", "move %d is not under way here", id)
}

// BeginTake begins a move at the shard that is to have the slots. The same move again succeeds.
// Invalid: it is over, or the shard owns a slot of them. Busy: another move is under way, or
// records of the slots are still to be removed by [CleanSlots].
type BeginTake struct {
	Move  move.ID
	From  quarry.ShardID
	Slots []quarry.SlotRange // at most move.RangesMax, in order
	Time  LogTime            // the present log time of the other shard
}

func (*BeginTake) kind() Kind { return KindBeginTake }

func (c *BeginTake) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Move)
	wire.Uint(w, 11, &c.From)
	wire.List(w, 12, &c.Slots, move.RangesMax, wire.SlotRangeFields)
	wire.Uint(w, 13, &c.Time)
}

func (c *BeginTake) apply(t *tx, _ *Result) error {
	h := t.header
	switch k := h.Taking; {
	case k != nil && k.Move == c.Move:
		return nil
	case c.Move <= h.LastTake:
		return refuse(quarry.Invalid, "", "move %d is over", c.Move)
	case k != nil:
		return refuse(quarry.Busy, "", "move %d is under way", k.Move)
	case !slots.InOrder(c.Slots) || slots.Meet(c.Slots, h.Slots):
		return refuse(quarry.Invalid, "", "slots %v are not in order, or the shard owns some of them", c.Slots)
	case slots.Meet(c.Slots, h.Remains), h.Leaving != nil && slots.Meet(c.Slots, h.Leaving.Slots):
		return refuse(quarry.Busy, "", "records of the slots are left from an earlier move")
	}
	h.Taking = &move.Taking{Move: c.Move, From: c.From, Slots: c.Slots, Shift: int64(t.now()) - int64(c.Time)}
	return nil
}

// Take puts a batch of records into place, as [NextBatch] made it. A batch whose number is not
// the next one does nothing: it was taken before, or another one in its place. Whoever sends
// batches goes on from what [MovingOf] tells afterwards. Invalid: the move is not under way, a
// record is none of its slots or cannot be read, or Cursor or Changes go back. Result: Count, 1
// if the batch was taken.
type Take struct{ move.Batch }

func (*Take) kind() Kind { return KindTake }

func (c *Take) fields(w *wire.Walk) { move.BatchFields(w, &c.Batch) }

func (c *Take) apply(t *tx, r *Result) error {
	k, err := t.taking(c.Move)
	switch {
	case err != nil:
		return err
	case c.Number != k.Number+1 && !off(LateBatchTaken):
		return nil
	case bytes.Compare(c.Cursor, k.Cursor) < 0 || bytes.Compare(c.Cursor, move.End(k.Slots)) > 0 || c.Changes < k.Changes:
		if !off(LateBatchTaken) {
			return refuse(quarry.Invalid, "", "batch %d goes back from %x, %d to %x, %d", c.Number, k.Cursor, k.Changes, c.Cursor, c.Changes)
		}
	}
	for i := range c.Pairs {
		p := &c.Pairs[i]
		if !reads(k, p) || bytes.Compare(p.Key, c.Cursor) >= 0 {
			return refuse(quarry.Invalid, "", "batch %d has %x, %x, which is no record of the move's slots", c.Number, p.Key, p.Value)
		}
	}
	for _, p := range c.Pairs {
		if off(SessionLeftBehind) && p.Key[2] == tableSession {
			continue
		}
		if old, ok := t.view.Get(p.Key); ok {
			t.account(p.Key, append([]byte(nil), old...), -1)
		}
		if p.Gone {
			t.delete(append(t.key[:0], p.Key...))
			continue
		}
		t.account(p.Key, p.Value, +1)
		t.write(append(t.key[:0], p.Key...), p.Value)
	}
	k.Number, k.Cursor, k.Changes = c.Number, c.Cursor, c.Changes
	r.Count = 1
	return nil
}

// Activate makes the shard the owner of the slots that came, as [Handover] made it from the state
// of the other shard. The numbers that are given to new inodes, sessions, chunks, transactions and
// preparations are from then on beyond those that the slots have seen. The same move again
// succeeds. Invalid: the copy is not complete, or the move is not under way.
type Activate struct {
	Move        move.ID
	Changes     uint64 // the last change of the other shard
	NextInode   uint64
	NextSession uint64
	NextHandle  uint64
	LastTx      uint64
	QuietMS     uint64  // the expiry of sessions: how long they may have to be spared (see late)
	Time        LogTime // the present log time of the other shard
}

func (*Activate) kind() Kind { return KindActivate }

func (c *Activate) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Move)
	wire.Uint(w, 11, &c.Changes)
	wire.Uint(w, 12, &c.NextInode)
	wire.Uint(w, 13, &c.NextSession)
	wire.Uint(w, 14, &c.NextHandle)
	wire.Uint(w, 15, &c.LastTx)
	wire.Uint(w, 16, &c.QuietMS)
	wire.Uint(w, 17, &c.Time)
}

func (c *Activate) apply(t *tx, _ *Result) error {
	h := t.header
	if c.Move == h.LastTaken && c.Move != 0 {
		return nil
	}
	k, err := t.taking(c.Move)
	switch {
	case err != nil:
		return err
	case !k.Copied() || k.Changes != c.Changes:
		return refuse(quarry.Invalid, "", "the copy has change %d of %d, and records up to %x", k.Changes, c.Changes, k.Cursor)
	case max(c.NextInode, c.NextSession, c.NextHandle, c.LastTx) > quarry.NumberMax:
		return refuse(quarry.Invalid, "", "a number is beyond %d", uint64(quarry.NumberMax))
	}
	h.NextInode = max(h.NextInode, c.NextInode, quarry.RootInode.Number()+1)
	h.NextSession = max(h.NextSession, c.NextSession, 1)
	h.LastTx = max(h.LastTx, c.LastTx)
	if !off(NumbersOfMoveReused) {
		// A leader has reserved handles that are below those which the slots have seen.
		h.NextHandle = max(h.NextHandle, c.NextHandle, 1)
		h.HandleFloor = h.NextHandle
	}
	h.QuietUntil = max(h.QuietUntil, uint64(t.now())+c.quiet(int64(t.now())-int64(c.Time)-k.Shift))
	h.Slots = slots.Join(h.Slots, k.Slots)
	h.LastTake, h.LastTaken, h.Taking = c.Move, c.Move, nil
	return nil
}

const (
	// quietMax bounds the quiet time after a move: a day.
	quietMax = 24 * 60 * 60 * 1000
	// quietFactor is how much longer than what came late the quiet time is.
	quietFactor = 16
)

// quiet returns for how long no session ends, and no garbage is collected that somebody may have
// seen. Times in the records were shifted by what the shards' log times differed when the move
// began. A shard that had no leader since has stood still, and if it was the one that the slots
// leave, everything in them seems older than it is, by so many milliseconds: late. Mostly that is
// next to nothing. A session loses no more than a seventeenth of the rest of its life.
func (c *Activate) quiet(late int64) uint64 {
	quiet := min(c.QuietMS, quietMax)
	if late <= 0 {
		return 0
	}
	if uint64(late) < quiet/quietFactor {
		return uint64(late) * quietFactor
	}
	return quiet
}

// CancelTake ends a move at the shard that the slots were to come to. What came is removed by
// [CleanSlots]. It must not be given before the other shard has cancelled the move. A move that
// is cancelled, or never began here, succeeds, and cannot begin here any more. Exists: the shard
// owns the slots already.
type CancelTake struct{ Move move.ID }

func (*CancelTake) kind() Kind { return KindCancelTake }

func (c *CancelTake) fields(w *wire.Walk) { wire.Uint(w, 10, &c.Move) }

func (c *CancelTake) apply(t *tx, _ *Result) error {
	h := t.header
	k := h.Taking
	switch {
	case c.Move <= h.LastTaken:
		return refuse(quarry.Exists, "", "the slots of move %d have come", c.Move)
	case k != nil && k.Move == c.Move:
		h.Remains = slots.Join(h.Remains, k.Slots)
		h.Taking = nil
	case k != nil && k.Move < c.Move:
		return refuse(quarry.Busy, "", "move %d is under way", k.Move)
	}
	h.LastTake = max(h.LastTake, c.Move)
	return nil
}

// reads reports whether a pair is a record of the slots that come and can be read, and brings
// the times in it to those of this shard.
func reads(k *move.Taking, p *move.Pair) bool {
	if len(p.Key) < 11 || !slots.Has(k.Slots, quarry.Slot(binary.BigEndian.Uint16(p.Key))) {
		return false
	}
	id, rest := binary.BigEndian.Uint64(p.Key[3:]), p.Key[11:]
	if quarry.Inode(id).Slot() != quarry.Slot(binary.BigEndian.Uint16(p.Key)) {
		return false
	}
	switch p.Key[2] {
	case tableEntry:
		return quarry.CheckName(string(rest)) == nil && reread(p, entryFields, func(e *entryRecord) bool { return e.Inode != 0 })
	case tablePiece:
		return len(rest) == 8 && reread(p, pieceFields, func(r *pieceRecord) bool { return r.Length >= 0 })
	case tableResult:
		return len(rest) == 2 && reread(p, resultRecordFields, func(r *resultRecord) bool {
			return uint16(r.Sequence%WindowOps) == binary.BigEndian.Uint16(rest)
		})
	case tableIntent:
		return reread(p, intentFields, func(in *Intent) bool {
			return bytes.Equal(p.Key, intentKey(nil, in.Part.Inode, in.Part.Entry()))
		})
	}
	return len(rest) == 0 && readsWhole(k, id, p)
}

// readsWhole is reads for the records that have a key of their own for each number.
func readsWhole(k *move.Taking, id uint64, p *move.Pair) bool {
	switch p.Key[2] {
	case tableInode:
		return reread(p, inodeFields, func(i *inodeRecord) bool {
			i.Removed = shift(k, i.Removed)
			return i.Kind == quarry.KindFile || i.Kind == quarry.KindDir
		})
	case tableChunk:
		return reread(p, chunkFields, func(c *ChunkRecord) bool {
			c.Freed = shift(k, c.Freed)
			for i := range c.Replicas {
				if s := c.Replicas[i].Server; s == 0 || c.Replica(s) != &c.Replicas[i] {
					return false
				}
			}
			return uint64(c.Handle) == id
		})
	case tableSession:
		return reread(p, sessionFields, func(s *SessionRecord) bool {
			s.Seen = shift(k, s.Seen)
			return true
		})
	case tableTx:
		return reread(p, transactionFields, func(x *Transaction) bool { return uint64(x.ID) == id })
	}
	return false
}

// shift returns a log time of the other shard as one of this shard.
func shift(k *move.Taking, at LogTime) LogTime {
	if at <= neverSeen {
		return at
	}
	return LogTime(max(int64(at)+k.Shift, int64(neverSeen)+1))
}

// reread reads a pair's value, has it checked and perhaps changed, and writes it anew. A pair
// that is gone has no value.
func reread[M any](p *move.Pair, fields func(*wire.Walk, *M), check func(*M) bool) bool {
	if p.Gone {
		return len(p.Value) == 0
	}
	var m M
	if wire.Unmarshal(p.Value, &m, fields) != nil || !check(&m) {
		return false
	}
	p.Value = wire.Marshal(nil, &m, fields)
	return true
}
