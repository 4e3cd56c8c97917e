package wire

import "github.com/quarryfs/quarry"

// AttrFields walks the fields of attributes.
func AttrFields(w *Walk, a *quarry.Attr) {
	Uint(w, 1, &a.Inode)
	Uint(w, 2, &a.Kind)
	Uint(w, 3, &a.Mode)
	Uint(w, 4, &a.Length)
	Bool(w, 5, &a.Open)
	Uint(w, 6, &a.Links)
	Uint(w, 7, &a.Entries)
	Uint(w, 8, &a.Created)
	Uint(w, 9, &a.Modified)
	Uint(w, 10, &a.LayoutVersion)
	Uint(w, 11, &a.TruncateVersion)
	Bool(w, 12, &a.Mutable)
	Bool(w, 13, &a.Elsewhere)
	Uint(w, 14, &a.UID)
	Uint(w, 15, &a.GID)
}

// PieceFields walks the fields of a piece of a layout.
func PieceFields(w *Walk, p *quarry.Piece) {
	Uint(w, 1, &p.Offset)
	Uint(w, 2, &p.Length)
	Uint(w, 3, &p.Kind)
	Uint(w, 4, &p.Handle)
	Uint(w, 5, &p.ChunkOffset)
	Bytes(w, 6, &p.Inline, quarry.InlineBytesMax)
}

// LinkPieceFields walks the fields of a piece that is to be linked.
func LinkPieceFields(w *Walk, p *quarry.LinkPiece) {
	Uint(w, 1, &p.Handle)
	Uint(w, 2, &p.Length)
	Bytes(w, 3, &p.Inline, quarry.InlineBytesMax)
}

// SlotRangeFields walks the fields of a range of slots.
func SlotRangeFields(w *Walk, r *quarry.SlotRange) {
	Uint(w, 1, &r.First)
	Uint(w, 2, &r.Last)
}
