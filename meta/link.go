package meta

import (
	"cmp"
	"math"
	"strconv"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// Link publishes a file, whole, under a name: sealed chunks that the session owns and that are of the
// parent's slot, or a few bytes inline, become its pieces in the same step in which it gets the name.
// NotFound (the parent, or a chunk), Exists, IsDir, Invalid. Result: Attr; Orphans, of a replaced file.
type Link struct {
	Parent         quarry.Inode
	Name           string
	Mode, UID, GID uint32
	ModifiedNS     int64              // 0: the time of the command
	Pieces         []quarry.LinkPiece // at most PiecesMax; at most one is inline
	Replace        bool               // an existing file of the name is replaced
	// Owner is the session to which the chunks belong; 0: the operation's. It is another one when
	// slots have moved since the chunks were opened, so that the client has another session here.
	Owner quarry.SessionID
	Path  string // of the name; a file that is replaced keeps it in the trash
}

func (*Link) kind() Kind { return KindLink }

func (c *Link) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Parent)
	wire.String(w, 11, &c.Name, quarry.NameBytesMax)
	wire.Uint(w, 12, &c.Mode)
	wire.List(w, 13, &c.Pieces, quarry.PiecesMax, wire.LinkPieceFields)
	wire.Bool(w, 14, &c.Replace)
	wire.Uint(w, 15, &c.Owner)
	wire.String(w, 16, &c.Path, quarry.PathBytesMax)
	wire.Uint(w, 17, &c.UID)
	wire.Uint(w, 18, &c.GID)
	wire.Uint(w, 19, &c.ModifiedNS)
}

func (c *Link) apply(t *tx, r *Result) error {
	parent, err := t.place(c.Parent, c.Name, c.Mode, r)
	if err != nil {
		return err
	}
	old, replaced := t.entry(c.Parent, c.Name)
	switch {
	case replaced && !c.Replace:
		return exists(c.Name, old.Kind)
	case replaced && old.Kind != quarry.KindFile:
		return refuse(quarry.IsDir, strconv.Quote(c.Name), "a directory cannot be replaced by a file")
	}
	chunks, err := t.linkable(c)
	if err != nil {
		return err
	}
	id, err := t.spareInode(c.Parent.Slot())
	if err != nil {
		return err
	}
	if replaced {
		if err := t.displace(KindLink, c.Parent, c.Name, old.Inode, removal{path: c.Path}, r); err != nil {
			return err
		}
	}
	t.header.NextInode++ // nothing can refuse the command any more
	file := inodeRecord{
		Kind: quarry.KindFile, Mode: c.Mode, UID: c.UID, GID: c.GID, Links: 1,
		CreatedNS: t.wallNS, ModifiedNS: cmp.Or(c.ModifiedNS, t.wallNS), Parent: c.Parent,
	}
	t.linkPieces(id, &file, c.Pieces, chunks)
	t.putInode(id, &file)
	t.header.Counters.Files++
	t.putEntry(c.Parent, c.Name, entryRecord{id, quarry.KindFile})
	if replaced {
		t.changed(c.Parent, parent, 0)
	} else {
		t.changed(c.Parent, parent, +1)
	}
	r.Attr = file.attr(id)
	return nil
}

// linkable checks the pieces of a new file and returns the chunks of those that have one.
func (t *tx) linkable(l *Link) ([]*chunkEdit, error) {
	pieces := l.Pieces
	chunks := make([]*chunkEdit, 0, len(pieces))
	seen := make(map[quarry.Handle]bool, len(pieces))
	total, inline := int64(0), 0
	for i := range pieces {
		p := &pieces[i]
		length := int64(len(p.Inline))
		switch {
		case p.Handle == 0 && length == 0:
			return nil, refuse(quarry.Invalid, "", "piece %d has neither a chunk nor bytes", i)
		case p.Handle != 0 && length > 0:
			return nil, refuse(quarry.Invalid, "", "piece %d has a chunk and bytes", i)
		case p.Handle == 0:
			if inline++; inline > 1 {
				return nil, refuse(quarry.Invalid, "", "a file can have one inline piece")
			}
		case seen[p.Handle]:
			return nil, refuse(quarry.Invalid, p.Handle.String(), "the chunk comes twice")
		default:
			c, err := t.linkableChunk(l, p)
			if err != nil {
				return nil, err
			}
			seen[p.Handle] = true
			chunks = append(chunks, c)
			length = p.Length
		}
		if total += length; total > math.MaxInt64-quarry.ChunkBytesMax {
			return nil, refuse(quarry.TooLarge, "", "the file is longer than can be counted")
		}
	}
	return chunks, nil
}

func (t *tx) linkableChunk(l *Link, p *quarry.LinkPiece) (*chunkEdit, error) {
	subject := p.Handle.String()
	owner := l.Owner
	if owner == 0 {
		owner = t.op.Session
	}
	if err := t.checkSlot(p.Handle.Slot()); err != nil {
		return nil, err
	}
	c := t.edit(p.Handle)
	switch {
	case c == nil || (c.Owner != owner || c.Linked) && !off(LinkedTwice):
		return nil, refuse(quarry.NotFound, subject, "the session owns no such chunk")
	case c.State != quarry.ChunkSealed:
		return nil, refuse(quarry.Invalid, subject, "the chunk is %v, only a sealed one can be linked", c.State)
	case p.Handle.Slot() != l.Parent.Slot():
		return nil, refuse(quarry.Invalid, subject, "the chunk is not of the directory's slot, with which it would have to move")
	case p.Length < 1 || p.Length > c.Length:
		return nil, refuse(quarry.Invalid, subject, "%d bytes of a chunk that has %d", p.Length, c.Length)
	}
	return c, nil
}

// linkPieces gives a new file its pieces.
func (t *tx) linkPieces(id quarry.Inode, file *inodeRecord, pieces []quarry.LinkPiece, chunks []*chunkEdit) {
	if len(chunks) > 0 {
		t.disown(chunks[0].Owner, uint64(len(chunks)))
		file.Chunks = true
	}
	for i := range pieces {
		p := pieceRecord{Kind: quarry.PieceInline, Length: int64(len(pieces[i].Inline)), Inline: pieces[i].Inline}
		if h := pieces[i].Handle; h != 0 {
			p = pieceRecord{Kind: quarry.PieceChunk, Length: pieces[i].Length, Handle: h}
			c := chunks[0]
			chunks = chunks[1:]
			c.Owner, c.Linked, c.Refs = 0, true, 1
			c.File, c.Position = id, file.Length
			t.saveChunk(c)
		}
		file.Length += p.Length
		t.putPiece(id, uint64(file.Length), &p)
	}
}
