package meta

import (
	"errors"
	"fmt"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// openMax is the most chunks that one command opens.
const openMax = 64

// ReserveHandles reserves handle numbers for the leader of a term, who makes chunks from
// them and from no others. StaleVersion: a later term has reserved. Result: Range.
type ReserveHandles struct {
	Term  uint64
	Count uint64 // 1 to ReserveMax
}

// ReserveMax is the most handle numbers that one command reserves.
const ReserveMax = 1 << 20

func (*ReserveHandles) kind() Kind { return KindReserveHandles }

func (c *ReserveHandles) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Term)
	wire.Uint(w, 11, &c.Count)
}

func (c *ReserveHandles) apply(t *tx, r *Result) error {
	h := t.header
	switch {
	case len(h.Slots) == 0:
		return refuse(quarry.Unavailable, "", "the shard is not made yet")
	case c.Count < 1 || c.Count > ReserveMax:
		return refuse(quarry.Invalid, "", "%d handles; from 1 to %d can be reserved", c.Count, ReserveMax)
	case c.Term < h.RangeTerm:
		return refuse(quarry.StaleVersion, "", "term %d has reserved handles already", h.RangeTerm)
	case h.NextHandle+c.Count > quarry.NumberMax:
		return refuse(quarry.NoSpace, "", "all handles are used")
	}
	if c.Term > h.RangeTerm {
		if off(HandleRangeReused) && h.RangeFirst != 0 {
			h.NextHandle = h.RangeFirst
		}
		h.RangeTerm, h.RangeFirst = c.Term, h.NextHandle
	}
	r.Range = HandleRange{First: h.NextHandle, Count: c.Count}
	h.NextHandle += c.Count
	return nil
}

// NewMember is a server that has made a replica of a new chunk, durably.
type NewMember struct {
	Server      quarry.ServerID
	Incarnation quarry.Incarnation
	Disk        quarry.DiskID
}

func newMemberFields(w *wire.Walk, m *NewMember) {
	wire.Uint(w, 1, &m.Server)
	wire.Uint(w, 2, &m.Incarnation)
	wire.Fixed16(w, 3, &m.Disk)
}

// NewChunk is a chunk that all of its members have made.
type NewChunk struct {
	Handle  quarry.Handle
	Members []NewMember // 1 to ReplicasMax, the primary first
	Wanted  uint8       // copies it should have, 1 to ReplicasMax
}

func newChunkFields(w *wire.Walk, c *NewChunk) {
	wire.Uint(w, 1, &c.Handle)
	wire.List(w, 2, &c.Members, quarry.ReplicasMax, newMemberFields)
	wire.Uint(w, 3, &c.Wanted)
}

// record checks a new chunk and returns its record. Busy, with HandleFloor in the result: its
// handle was reserved before slots came here.
func (c *NewChunk) record(t *tx, r *Result) (*chunkEdit, error) {
	subject := c.Handle.String()
	if err := t.checkSlot(c.Handle.Slot()); err != nil {
		return nil, err
	}
	if n := c.Handle.Number(); n == 0 || n >= t.header.NextHandle {
		return nil, refuse(quarry.Invalid, subject, "the handle is not reserved")
	}
	if floor := t.header.HandleFloor; c.Handle.Number() < floor {
		r.HandleFloor = floor
		return nil, refuse(quarry.Busy, subject, "slots have come whose handles may have this number; reserve others")
	}
	if t.chunk(c.Handle) != nil {
		return nil, refuse(quarry.Invalid, subject, "the handle is used already")
	}
	if len(c.Members) == 0 || c.Wanted < 1 || c.Wanted > quarry.ReplicasMax {
		return nil, refuse(quarry.Invalid, subject, "%d members, %d copies wanted", len(c.Members), c.Wanted)
	}
	e := &chunkEdit{ChunkRecord: ChunkRecord{
		Handle: c.Handle, State: quarry.ChunkOpen, Version: 1, WritableVersion: 1, Wanted: c.Wanted,
	}}
	for _, m := range c.Members {
		if m.Server == 0 || m.Incarnation == 0 || m.Disk.IsZero() || e.Replica(m.Server) != nil {
			return nil, refuse(quarry.Invalid, subject, "server %d is no member, or comes twice", m.Server)
		}
		e.Replicas = append(e.Replicas, Replica{
			Server: m.Server, Incarnation: m.Incarnation, Disk: m.Disk, State: ReplicaMember,
		})
	}
	return e, nil
}

// OpenTail puts a new chunk at the end of a file. Last and Version name the chunk of the last
// piece that the caller saw there, 0 if there is no piece or it has no chunk: of callers who
// come at the same time one succeeds. The same chunk again succeeds. Exists: the file has an
// open tail. StaleVersion: the last piece is another one. Corrupt: the last chunk is lost.
// Result: Attr, and the present last piece and its chunk, if any, even with these errors.
type OpenTail struct {
	File    quarry.Inode
	Session quarry.SessionID // whose client asks; 0: nobody's
	Last    quarry.Handle
	Version quarry.Version
	Chunk   NewChunk
}

func (*OpenTail) kind() Kind { return KindOpenTail }

func (c *OpenTail) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.File)
	wire.Uint(w, 11, &c.Session)
	wire.Uint(w, 12, &c.Last)
	wire.Uint(w, 13, &c.Version)
	wire.Message(w, 14, &c.Chunk, newChunkFields)
}

func (c *OpenTail) apply(t *tx, r *Result) error {
	if err := t.checkSlot(c.File.Slot()); err != nil {
		return err
	}
	if c.Session != 0 {
		// A session that lives at another shard since slots have moved is looked after there.
		if _, err := t.liveSession(c.Session); err != nil && !errors.Is(err, quarry.WrongShard) {
			return err
		}
	}
	file, err := t.file(c.File)
	if err != nil {
		return err
	}
	t.tell(c.File, file, r)
	if file.Open && r.Chunk.Handle == c.Chunk.Handle {
		return nil
	}
	if err := c.check(file, r.Chunk); err != nil {
		return err
	}
	chunk, err := c.Chunk.record(t, r)
	if err != nil {
		return err
	}
	chunk.Refs, chunk.Linked, chunk.File, chunk.Position, chunk.Appended = 1, true, c.File, file.Length, true
	t.saveChunk(chunk)
	piece := pieceRecord{Kind: quarry.PieceChunk, Handle: c.Chunk.Handle}
	t.putPiece(c.File, openEnd, &piece)
	file.Open, file.Chunks, file.Appended, file.ModifiedNS = true, true, true, t.wallNS
	t.putInode(c.File, file)
	r.Attr, r.Piece, r.Chunk = file.attr(c.File), piece.piece(openEnd, file.Length), &chunk.ChunkRecord
	return nil
}

// check returns why the file cannot have another chunk; last is the chunk of its last piece.
func (c *OpenTail) check(file *inodeRecord, last *ChunkRecord) error {
	var handle quarry.Handle
	var version quarry.Version
	if last != nil {
		handle, version = last.Handle, last.Version
	}
	switch subject := c.Chunk.Handle.String(); {
	case file.Open && last.State == quarry.ChunkLost:
		return refuse(quarry.Corrupt, handle.String(), "the file's last chunk is lost")
	case file.Open:
		return refuse(quarry.Exists, handle.String(), "the file has an open tail")
	case handle != c.Last || version != c.Version:
		return refuse(quarry.StaleVersion, subject, "the file ends with chunk %v at version %d", handle, version)
	case c.Chunk.Handle.Slot() != c.File.Slot():
		return refuse(quarry.Invalid, subject, "the chunk is not of the file's slot")
	}
	return nil
}

// tell puts the file's attributes, its last piece and that one's chunk into a result.
func (s *state) tell(id quarry.Inode, file *inodeRecord, r *Result) {
	r.Attr = file.attr(id)
	if p, end, ok := s.lastPiece(id, file); ok {
		r.Piece = p.piece(end, file.Length)
		if p.Kind == quarry.PieceChunk {
			r.Chunk = s.piecedChunk(p.Handle)
		}
	}
}

// Tail returns a file's attributes, its last piece, and the chunk of it, as [OpenTail] tells
// them: the piece is zero if there is none, the chunk nil if the piece has none.
func Tail(v View, file quarry.Inode) (Result, error) {
	s := reading(v)
	var r Result
	i, err := s.file(file)
	if err != nil {
		return r, named("tail", fmt.Sprint(file), err)
	}
	s.tell(file, i, &r)
	return r, nil
}

// OpenOwned opens chunks that belong to a session until they are linked. Busy: the session owns
// too many. Result: Handles.
type OpenOwned struct {
	Chunks []NewChunk // 1 to 64
	// Owner is the client's session that is to own them; 0: the operation's. It may live at another
	// shard, if slots have moved since it was opened; see [Strangers].
	Owner quarry.SessionID
}

func (*OpenOwned) kind() Kind { return KindOpenOwned }

func (c *OpenOwned) fields(w *wire.Walk) {
	wire.List(w, 10, &c.Chunks, openMax, newChunkFields)
	wire.Uint(w, 11, &c.Owner)
}

func (c *OpenOwned) apply(t *tx, r *Result) error {
	owner := c.Owner
	if owner == 0 {
		owner = t.op.Session
	}
	s, err := t.liveSession(owner)
	foreign := errors.Is(err, quarry.WrongShard)
	if err != nil && !foreign {
		return err
	}
	if len(c.Chunks) == 0 {
		return refuse(quarry.Invalid, "", "no chunks")
	}
	if foreign || s.Owned+uint64(len(c.Chunks)) > ownedMax { // chunks whose slots have moved still count: count anew
		s.Owned = uint64(len(t.owned(owner, ownedMax)))
	}
	if s.Owned+uint64(len(c.Chunks)) > ownedMax {
		return refuse(quarry.Busy, "", "the session owns %d chunks, at most %d are allowed", s.Owned, ownedMax)
	}
	chunks := make([]*chunkEdit, len(c.Chunks))
	for i := range c.Chunks {
		if chunks[i], err = c.Chunks[i].record(t, r); err != nil {
			return err
		}
		for _, before := range chunks[:i] {
			if before.Handle == chunks[i].Handle {
				return refuse(quarry.Invalid, before.Handle.String(), "the handle comes twice")
			}
		}
	}
	for _, chunk := range chunks {
		chunk.Owner = owner
		t.saveChunk(chunk)
		r.Handles = append(r.Handles, chunk.Handle)
	}
	if !foreign {
		s.Owned += uint64(len(chunks))
		t.putSession(owner, &s, false)
	}
	return nil
}
