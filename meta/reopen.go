package meta

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// ReopenBytesMax is the length of a sealed chunk up to which it may be opened again: the
// largest record fits behind it.
const ReopenBytesMax = quarry.ChunkBytesMax - quarry.RecordBytesMax

// Reopen begins a further writable version of the sealed chunk at the end of a file, whose
// last piece gets an open end. Its members are all of the chunk's replicas, at least two, each
// of which has confirmed the seal: what one of them could lack would be lost at the next seal.
// The version opened already: a success.
//
// Exists: the file has an open tail. Corrupt: that is lost. StaleVersion: the file does not end
// with this chunk, sealed at this version. Full: the chunk has no room. Invalid: the chunk is
// suspect, shared, longer than its piece or not appended to the file, or the members are not
// such. Busy: a replica has not confirmed the seal. Result: Attr, and the present last piece and
// its chunk, if any, even with these errors.
type Reopen struct {
	File    quarry.Inode
	Handle  quarry.Handle
	Version quarry.Version // of the seal
	Members []NewMember    // the primary first, each as it runs at present
}

func (*Reopen) kind() Kind { return KindReopen }

func (c *Reopen) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.File)
	wire.Uint(w, 11, &c.Handle)
	wire.Uint(w, 12, &c.Version)
	wire.List(w, 13, &c.Members, quarry.ReplicasMax, newMemberFields)
}

func (c *Reopen) apply(t *tx, r *Result) error {
	if err := t.checkSlot(c.File.Slot()); err != nil {
		return err
	}
	file, err := t.file(c.File)
	if err != nil {
		return err
	}
	t.tell(c.File, file, r)
	if file.Open && r.Chunk.Handle == c.Handle && r.Chunk.WritableVersion == c.Version+1 && r.Chunk.State == quarry.ChunkOpen {
		return nil
	}
	piece, end, err := c.check(t, file, r.Chunk)
	if err != nil {
		return err
	}
	chunk := t.edit(c.Handle)
	if err := c.enlist(&chunk.ChunkRecord); err != nil {
		return err
	}
	chunk.State, chunk.Base = quarry.ChunkOpen, chunk.Length
	chunk.PrevWritableVersion = chunk.WritableVersion
	chunk.Version++
	chunk.WritableVersion = chunk.Version
	chunk.Length, chunk.LengthKnown, chunk.CRC, chunk.CRCKnown = 0, false, 0, false
	t.saveChunk(chunk)
	t.delete(pieceKey(t.key[:0], c.File, end))
	file.Length -= piece.Length
	piece.Length = 0
	t.putPiece(c.File, openEnd, &piece)
	file.Open, file.ModifiedNS = true, t.wallNS
	t.putInode(c.File, file)
	r.Attr, r.Piece, r.Chunk = file.attr(c.File), piece.piece(openEnd, file.Length), &chunk.ChunkRecord
	return nil
}

// check returns the file's last piece and its end, or why the chunk cannot be opened again;
// last is the chunk of that piece.
func (c *Reopen) check(t *tx, file *inodeRecord, last *ChunkRecord) (piece pieceRecord, end uint64, err error) {
	subject := c.Handle.String()
	piece, end, _ = t.lastPiece(c.File, file)
	switch {
	case file.Open && last.State == quarry.ChunkLost:
		err = refuse(quarry.Corrupt, last.Handle.String(), "the file's last chunk is lost")
	case file.Open:
		err = refuse(quarry.Exists, last.Handle.String(), "the file has an open tail")
	case last == nil || last.Handle != c.Handle || last.Version != c.Version || last.State != quarry.ChunkSealed:
		err = refuse(quarry.StaleVersion, subject, "the file does not end with this chunk, sealed at version %d", c.Version)
	case last.Length > ReopenBytesMax:
		err = refuse(quarry.Full, subject, "the chunk has %d bytes", last.Length)
	case last.Suspect || last.Mutable || last.Refs != 1 || last.Owner != 0 || last.Freed != 0 || last.File != c.File:
		err = refuse(quarry.Invalid, subject, "the chunk is suspect, or not this file's alone")
	case !last.Appended:
		// A session that put it has given its sequences there to other records; the next ones of
		// the same session would be taken for them.
		err = refuse(quarry.Invalid, subject, "the chunk was not appended to the file")
	case piece.ChunkOffset+piece.Length != last.Length:
		err = refuse(quarry.Invalid, subject, "the file has the chunk up to byte %d of %d", piece.ChunkOffset+piece.Length, last.Length)
	}
	return piece, end, err
}

// enlist makes the chunk's replicas the members of its next version, in their order.
func (c *Reopen) enlist(chunk *ChunkRecord) error {
	least := 2
	if off(ReopenedByOne) {
		least = 1
	}
	if len(c.Members) < least || len(c.Members) != len(chunk.Replicas) && !off(ReopenedByOne) {
		return refuse(quarry.Invalid, c.Handle.String(), "%d members, the chunk has %d replicas", len(c.Members), len(chunk.Replicas))
	}
	var members []Replica
	for i, m := range c.Members {
		r := chunk.Replica(m.Server)
		for _, before := range c.Members[:i] {
			if before.Server == m.Server {
				r = nil
			}
		}
		switch {
		case r == nil || r.Disk != m.Disk || m.Incarnation < r.Incarnation || m.Incarnation == 0:
			return refuse(quarry.Invalid, c.Handle.String(), "server %d has no such replica, or comes twice", m.Server)
		case (r.State != ReplicaHolding || r.Owes != 0) && !off(ReopenedUnconfirmed):
			return refuse(quarry.Busy, c.Handle.String(), "the replica at server %d is %v", m.Server, r.State)
		}
		members = append(members, Replica{Server: m.Server, Incarnation: m.Incarnation, Disk: m.Disk, State: ReplicaMember})
	}
	chunk.Replicas = members
	return nil
}
