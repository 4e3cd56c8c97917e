package meta

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/move"
	"github.com/quarryfs/quarry/meta/replica"
	"github.com/quarryfs/quarry/meta/slots"
	"github.com/quarryfs/quarry/meta/totals"
	"github.com/quarryfs/quarry/wire"
)

// LogTime is the time that the shard's log counts by itself, in milliseconds: each command
// carries the last logged time plus the time that has passed at the leader since. No wall
// clock touches it.
type LogTime uint64

// Replica is one replica of a chunk as its record names it, in a state.
type (
	Replica      = replica.Replica
	ReplicaState = replica.State
)

// The states of a replica; listMax is the most of them, of any state, that a record lists.
const (
	ReplicaMember, ReplicaPending, ReplicaHolding = replica.Member, replica.Pending, replica.Holding
	ReplicaAway, ReplicaBad, ReplicaDropping      = replica.Away, replica.Bad, replica.Dropping
	listMax                                       = 2 * quarry.ReplicasMax
)

// ChunkRecord is what the shard keeps of a chunk.
type ChunkRecord struct {
	Handle              quarry.Handle
	State               quarry.ChunkState
	Version             quarry.Version
	WritableVersion     quarry.Version // the last writable version
	PrevWritableVersion quarry.Version // the one before, of a re-opened chunk
	Base                int64          // length at which the writable version began
	Length              int64          // if LengthKnown
	LengthKnown         bool           // a seal has decided the length; of a lost chunk as well
	CRC                 uint32         // of the sealed bytes, if CRCKnown
	CRCKnown            bool
	Suspect             bool // sealed with an alarm: no member of its version answered, or replicas differ
	Mutable             bool // reads must be validated; always false until overwrites are offered
	Linked              bool // a piece has named it
	Doomed              bool // garbage whose keep time is over: every replica is to be dropped
	Replicas            []Replica
	Wanted              uint8            // copies it should have
	Refs                uint64           // pieces that name it
	Owner               quarry.SessionID // the session it belongs to until it is linked
	File                quarry.Inode     // of whose layout it is a part; 0 for an owned chunk
	Position            int64            // of its first byte in the file
	Freed               LogTime          // since when it is garbage; 0: it is not, 1: no file ever named it
	// Appended: every record of it came by a session's stream for the file, whose sequences name
	// each record once. The streams of a Put each count from 1 in the chunks that they own.
	Appended bool
}

func chunkFields(w *wire.Walk, c *ChunkRecord) {
	wire.Uint(w, 1, &c.Handle)
	wire.Uint(w, 2, &c.State)
	wire.Uint(w, 3, &c.Version)
	wire.Uint(w, 4, &c.WritableVersion)
	wire.Uint(w, 5, &c.PrevWritableVersion)
	wire.Uint(w, 6, &c.Base)
	wire.Uint(w, 7, &c.Length)
	wire.Bool(w, 8, &c.LengthKnown)
	wire.Uint(w, 9, &c.CRC)
	wire.Bool(w, 10, &c.CRCKnown)
	wire.Bool(w, 11, &c.Suspect)
	wire.Bool(w, 12, &c.Mutable)
	wire.Bool(w, 13, &c.Linked)
	wire.Bool(w, 14, &c.Doomed)
	wire.List(w, 15, &c.Replicas, listMax, replica.Fields)
	wire.Uint(w, 16, &c.Wanted)
	wire.Uint(w, 17, &c.Refs)
	wire.Uint(w, 18, &c.Owner)
	wire.Uint(w, 19, &c.File)
	wire.Uint(w, 20, &c.Position)
	wire.Uint(w, 21, &c.Freed)
	wire.Bool(w, 22, &c.Appended)
}

// Replica returns the replica at a server, or nil.
func (c *ChunkRecord) Replica(s quarry.ServerID) *Replica {
	for i := range c.Replicas {
		if c.Replicas[i].Server == s {
			return &c.Replicas[i]
		}
	}
	return nil
}

// Count returns how many replicas are in one of the states.
func (c *ChunkRecord) Count(states ...ReplicaState) (n int) {
	for i := range c.Replicas {
		for _, s := range states {
			if c.Replicas[i].State == s {
				n++
			}
		}
	}
	return n
}

// Copies returns how many replicas count as copies.
func (c *ChunkRecord) Copies() int { return c.Count(ReplicaPending, ReplicaHolding) }

// Orphan reports whether nothing needs the chunk any more, though it is still open.
func (c *ChunkRecord) Orphan() bool { return c.Refs == 0 && c.Owner == 0 && c.Freed == 0 }

// Chunk returns what a master tells of the chunk: without addresses, racks and capability.
// The members of a sealed chunk are the replicas that hold the seal, then those that have
// not confirmed it; if there are neither, those that may still prove to be good.
func (c *ChunkRecord) Chunk() quarry.Chunk {
	out := quarry.Chunk{
		Handle: c.Handle, State: c.State, Version: c.Version, WritableVersion: c.WritableVersion,
		CRC: c.CRC, CRCKnown: c.CRCKnown, Mutable: c.Mutable,
	}
	if c.LengthKnown {
		out.Length = c.Length
	}
	for _, states := range [...][2]ReplicaState{
		{ReplicaMember, ReplicaHolding}, {ReplicaPending}, {ReplicaAway, ReplicaBad},
	} {
		if states[0] == ReplicaAway && len(out.Members) > 0 {
			break
		}
		for i := range c.Replicas {
			if r := &c.Replicas[i]; r.State != 0 && (r.State == states[0] || r.State == states[1]) {
				out.Members = append(out.Members, quarry.Member{Server: r.Server, Incarnation: r.Incarnation, Disk: r.Disk})
			}
		}
	}
	return out
}

// entryRecord is the value of an entry.
type entryRecord struct {
	Inode quarry.Inode
	Kind  quarry.FileKind
}

func entryFields(w *wire.Walk, e *entryRecord) {
	wire.Uint(w, 1, &e.Inode)
	wire.Uint(w, 2, &e.Kind)
}

// inodeRecord is the value of an inode: of a directory, a file, or a removed file that is
// not collected yet (Links 0).
type inodeRecord struct {
	Kind            quarry.FileKind
	Mode            uint32
	Links           uint32
	Length          int64 // of the fixed pieces
	Open            bool  // the last piece is open-ended
	Chunks          bool  // a piece names, or named, a chunk
	Entries         int64 // of a directory
	CreatedNS       int64
	ModifiedNS      int64
	LayoutVersion   uint64
	TruncateVersion uint64
	Mutable         bool
	Marked          bool         // every replica of its chunks is marked; see protocol.md
	Parent          quarry.Inode // the directory that holds its entry
	Name            string       // of a directory in its parent; a file's is not kept
	Appended        bool         // records were appended to the file: fates of them may be asked for
	UID, GID        uint32

	// Of a removed file:
	Removed   LogTime // when it entered the queue of garbage; 0: it is not removed
	Path      string  // what it was called; kept while a transaction is bringing it back
	RemovedNS int64   // wall time, to be shown
	Doomed    bool    // it cannot be brought back: it was not to be kept, or a part of it is freed
	// Unlinkers are the transactions of other shards that have removed it, the last ones.
	Unlinkers []TxID
}

func inodeFields(w *wire.Walk, i *inodeRecord) {
	wire.Uint(w, 1, &i.Kind)
	wire.Uint(w, 2, &i.Mode)
	wire.Uint(w, 3, &i.Links)
	wire.Uint(w, 4, &i.Length)
	wire.Bool(w, 5, &i.Open)
	wire.Bool(w, 6, &i.Chunks)
	wire.Uint(w, 7, &i.Entries)
	wire.Uint(w, 8, &i.CreatedNS)
	wire.Uint(w, 9, &i.ModifiedNS)
	wire.Uint(w, 10, &i.LayoutVersion)
	wire.Uint(w, 11, &i.TruncateVersion)
	wire.Bool(w, 12, &i.Mutable)
	wire.Bool(w, 13, &i.Marked)
	wire.Uint(w, 14, &i.Parent)
	wire.String(w, 15, &i.Name, quarry.NameBytesMax)
	wire.Uint(w, 16, &i.Removed)
	wire.String(w, 17, &i.Path, quarry.PathBytesMax)
	wire.Uint(w, 18, &i.RemovedNS)
	wire.Bool(w, 19, &i.Doomed)
	wire.Uints(w, 20, &i.Unlinkers, unlinkersMax)
	wire.Bool(w, 21, &i.Appended)
	wire.Uint(w, 22, &i.UID)
	wire.Uint(w, 23, &i.GID)
}

func (i *inodeRecord) attr(id quarry.Inode) quarry.Attr {
	return quarry.Attr{
		Inode: id, Kind: i.Kind, Mode: i.Mode, UID: i.UID, GID: i.GID, Length: i.Length, Open: i.Open, Links: i.Links,
		Entries: i.Entries, Created: i.CreatedNS, Modified: i.ModifiedNS,
		LayoutVersion: i.LayoutVersion, TruncateVersion: i.TruncateVersion, Mutable: i.Mutable,
	}
}

// pieceRecord is the value of a piece, whose key has its end.
type pieceRecord struct {
	Kind        quarry.PieceKind
	Length      int64 // of a fixed piece
	Handle      quarry.Handle
	ChunkOffset int64
	Inline      []byte
}

func pieceFields(w *wire.Walk, p *pieceRecord) {
	wire.Uint(w, 1, &p.Kind)
	wire.Uint(w, 2, &p.Length)
	wire.Uint(w, 3, &p.Handle)
	wire.Uint(w, 4, &p.ChunkOffset)
	wire.Bytes(w, 5, &p.Inline, quarry.InlineBytesMax)
}

// piece returns what a master tells of the piece that ends at end, in a file whose fixed
// pieces are length long.
func (p *pieceRecord) piece(end uint64, length int64) quarry.Piece {
	out := quarry.Piece{
		Offset: length, Length: quarry.OpenEnded, Kind: p.Kind,
		Handle: p.Handle, ChunkOffset: p.ChunkOffset, Inline: p.Inline,
	}
	if end != openEnd {
		out.Offset, out.Length = int64(end)-p.Length, p.Length
	}
	return out
}

// SessionRecord is what the shard keeps of a session.
type SessionRecord struct {
	Seen     LogTime // when it was opened or kept alive last
	Owned    uint64  // chunks it owns, at least those in this shard; see OpenOwned
	OpenedNS int64   // wall time, to be shown
	Closed   bool    // it takes no operation any more; its chunks are being freed
}

func sessionFields(w *wire.Walk, s *SessionRecord) {
	wire.Uint(w, 1, &s.Seen)
	wire.Uint(w, 2, &s.Owned)
	wire.Uint(w, 3, &s.OpenedNS)
	wire.Bool(w, 4, &s.Closed)
}

// resultRecord is the value of a place in a session's ring of results.
type resultRecord struct {
	Sequence quarry.Sequence
	Result   []byte // an encoded Result
}

func resultRecordFields(w *wire.Walk, r *resultRecord) {
	wire.Uint(w, 1, &r.Sequence)
	wire.Bytes(w, 2, &r.Result, resultBytesMax)
}

// slotRangesMax bounds the ranges of slots that a shard owns: each slot one.
const slotRangesMax = quarry.Slots

// header is the state of the shard as a whole.
type header struct {
	Slots       []quarry.SlotRange
	Time        LogTime
	NextInode   uint64 // the number that the next inode gets, whatever its slot
	NextSession uint64
	NextHandle  uint64 // the first number that no term has reserved
	RangeTerm   uint64 // the last term that reserved handles
	RangeFirst  uint64 // the first number that it reserved
	Counters    totals.Counters
	LastTx      uint64 // the last number that a transaction or a preparation got
	move.State
}

func headerFields(w *wire.Walk, h *header) {
	wire.List(w, 1, &h.Slots, slotRangesMax, wire.SlotRangeFields)
	wire.Uint(w, 2, &h.Time)
	wire.Uint(w, 3, &h.NextInode)
	wire.Uint(w, 4, &h.NextSession)
	wire.Uint(w, 5, &h.NextHandle)
	wire.Uint(w, 6, &h.RangeTerm)
	wire.Uint(w, 7, &h.RangeFirst)
	wire.Message(w, 8, &h.Counters, totals.Fields)
	wire.Uint(w, 9, &h.LastTx)
	wire.Message(w, 10, &h.State, move.StateFields)
}

// owns reports whether the shard owns the slot.
func (h *header) owns(s quarry.Slot) bool { return slots.Has(h.Slots, s) }

// ownsAll reports whether the shard owns every slot.
func (h *header) ownsAll() bool { return slots.Count(h.Slots) == quarry.Slots }
