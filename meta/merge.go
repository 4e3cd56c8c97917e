package meta

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

const (
	// MergeMin is how many small pieces are worth a merge.
	MergeMin = 8
	// MergeMax bounds the pieces of one merge.
	MergeMax = quarry.CopyPartsMax
	// MergeBytesMax is the length of a piece that counts as small.
	MergeBytesMax = 4 << 20
	// mergeLook bounds the pieces of a file that are looked at for a run of small ones.
	mergeLook = 1024
)

// MergePart names a chunk whose piece becomes a part of another.
type MergePart struct {
	Handle  quarry.Handle
	Version quarry.Version // of its seal
}

func mergePartFields(w *wire.Walk, p *MergePart) {
	wire.Uint(w, 1, &p.Handle)
	wire.Uint(w, 2, &p.Version)
}

// Merge puts one piece in the place of a row of pieces that are each the whole of a sealed chunk. The new
// chunk has their bytes, in their order, and is complete at all of its members, sealed at version 2. The old
// chunks are kept with the garbage, as long as somebody may ask them for a fate or read them by an old layout.
// The same chunk again: a success. StaleVersion: the file does not have these pieces there, sealed so.
// Invalid: a chunk is suspect, not this file's alone or not appended to it, or the new one is not such.
// Result: Attr; Chunk, the new one.
type Merge struct {
	File   quarry.Inode
	Offset int64 // of the first piece in the file
	Parts  []MergePart
	Chunk  NewChunk
	CRC    uint32 // of all bytes
}

func (*Merge) kind() Kind { return KindMerge }

func (c *Merge) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.File)
	wire.Uint(w, 11, &c.Offset)
	wire.List(w, 12, &c.Parts, MergeMax, mergePartFields)
	wire.Message(w, 13, &c.Chunk, newChunkFields)
	wire.Uint(w, 14, &c.CRC)
}

func (c *Merge) apply(t *tx, r *Result) error {
	if err := t.checkSlot(c.File.Slot()); err != nil {
		return err
	}
	file, err := t.file(c.File)
	if err != nil {
		return err
	}
	r.Attr = file.attr(c.File)
	if made := t.chunk(c.Chunk.Handle); made != nil && made.File == c.File && made.Position == c.Offset && made.Refs > 0 {
		r.Chunk = made
		return nil
	}
	parts, length, err := c.check(t, file)
	if err != nil {
		return err
	}
	chunk, err := c.Chunk.record(t, r)
	if err != nil {
		return err
	}
	chunk.State, chunk.Version, chunk.Length, chunk.LengthKnown = quarry.ChunkSealed, 2, length, true
	chunk.CRC, chunk.CRCKnown = c.CRC, true
	chunk.Refs, chunk.Linked, chunk.File, chunk.Position, chunk.Appended = 1, true, c.File, c.Offset, true
	for i := range chunk.Replicas {
		chunk.Replicas[i].State = ReplicaHolding
	}
	end := c.Offset
	for _, old := range parts {
		end += old.Length
		t.delete(pieceKey(t.key[:0], c.File, uint64(end)))
		old.Refs, old.File = 0, 0
		old.Freed = t.freed(&old.ChunkRecord)
		t.saveChunk(old)
	}
	t.saveChunk(chunk)
	t.putPiece(c.File, uint64(end), &pieceRecord{Kind: quarry.PieceChunk, Length: length, Handle: c.Chunk.Handle})
	file.LayoutVersion++
	t.putInode(c.File, file)
	r.Attr, r.Chunk = file.attr(c.File), &chunk.ChunkRecord
	return nil
}

// check returns the chunks of the parts and their length together.
func (c *Merge) check(t *tx, file *inodeRecord) (parts []*chunkEdit, length int64, err error) {
	if len(c.Parts) < 2 || c.Offset < 0 || c.Offset > file.Length || c.Chunk.Handle.Slot() != c.File.Slot() {
		return nil, 0, refuse(quarry.Invalid, c.Chunk.Handle.String(), "%d parts at %d of a file of %d bytes", len(c.Parts), c.Offset, file.Length)
	}
	for _, part := range c.Parts {
		old := t.edit(part.Handle)
		if old == nil || old.Version != part.Version && !off(MergedOldSeal) || old.State != quarry.ChunkSealed || old.File != c.File {
			return nil, 0, refuse(quarry.StaleVersion, part.Handle.String(), "it is not sealed at version %d in this file", part.Version)
		}
		if !mergeable(&old.ChunkRecord, c.File) {
			return nil, 0, refuse(quarry.Invalid, part.Handle.String(), "the chunk is suspect, not this file's alone, or was not appended to it")
		}
		length += old.Length
		p, ok := t.piece(c.File, uint64(c.Offset+length))
		if !ok || p.Handle != part.Handle || p.ChunkOffset != 0 || p.Length != old.Length {
			return nil, 0, refuse(quarry.StaleVersion, part.Handle.String(), "the file has another piece at %d", c.Offset+length-old.Length)
		}
		parts = append(parts, old)
	}
	if length > ReopenBytesMax {
		return nil, 0, refuse(quarry.Invalid, c.Chunk.Handle.String(), "%d bytes are too many for one chunk", length)
	}
	return parts, length, nil
}

// mergeable reports whether a chunk may become a part of another one. The records of all parts
// stand in one table, so no two of them may have the same name.
func mergeable(c *ChunkRecord, file quarry.Inode) bool {
	return c.State == quarry.ChunkSealed && c.Appended && c.Length > 0 && !c.Suspect && !c.Mutable && c.Refs == 1 && c.Owner == 0 && c.Freed == 0 && c.File == file
}

// MergeRun returns a run of small pieces near the end of a file that should become one, each
// with a copy that is complete: where it begins, and its chunks in their order, at least as many
// as said and at least two; or none. Chunks that are unfit are in no run; nil: none is.
func MergeRun(v View, file quarry.Inode, least int, unfit func(quarry.Handle) bool) (offset int64, run []*ChunkRecord) {
	s := reading(v)
	i, err := s.file(file)
	if err != nil || i.Length == 0 {
		return 0, nil
	}
	total, looked := int64(0), 0
	least = max(least, 2)
	from := pieceKey(nil, file, uint64(max(0, i.Length-ReopenBytesMax))+1)
	s.scan(table(nil, uint16(file.Slot()), tablePiece, uint64(file)), from, func(key, value []byte) bool {
		var p pieceRecord
		decode(key, value, &p, pieceFields)
		end := lastNumber(key)
		var c *ChunkRecord
		if end != openEnd && p.Kind == quarry.PieceChunk && p.ChunkOffset == 0 && p.Length <= MergeBytesMax {
			c = s.piecedChunk(p.Handle)
		}
		fits := c != nil && mergeable(c, file) && c.Length == p.Length && c.Count(ReplicaHolding) > 0 && (unfit == nil || !unfit(c.Handle))
		if !fits || total+p.Length > ReopenBytesMax || len(run) == MergeMax {
			if len(run) >= least {
				return false
			}
			total, run = 0, nil
		}
		if fits {
			if len(run) == 0 {
				offset = int64(end) - p.Length
			}
			total, run = total+p.Length, append(run, c)
		}
		looked++
		return looked < mergeLook
	})
	if len(run) < least {
		return 0, nil
	}
	return offset, run
}
