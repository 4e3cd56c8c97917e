// Package part is what a transaction that concerns several shards does in one slot.
package part

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// Kind says what a part of a transaction does.
type Kind uint8

// The kinds of parts.
const (
	// Link puts an entry into a directory.
	Link Kind = 1
	// Move gives an inode another parent and, if it is a directory, name.
	Move Kind = 2
	// New makes a directory.
	New Kind = 3
	// Freeze removes an empty directory.
	Freeze Kind = 4
	// Unlink removes a file that no entry leads to any more. It needs no preparation: it
	// cannot be refused, and the file remembers which transactions have removed it.
	Unlink Kind = 5
	// Source is the coordinator's own hold of an entry.
	Source Kind = 6
	// Restore brings a removed file back.
	Restore Kind = 7
)

// Part is what a transaction does in one slot.
type Part struct {
	Kind           Kind
	Inode          quarry.Inode    // of Link, Source: the directory; else what is changed; of New: 0 until it is prepared
	Name           string          // of Link, Source: of the entry; of Move, New: what a directory is to be called
	Target         quarry.Inode    // of Link: that the entry is to lead to; of Move, New, Restore: the parent
	FileKind       quarry.FileKind // of Link: of Target
	Replace        bool            // of Link: an entry of a file is replaced
	Old            quarry.Inode    // of Link, once it is prepared: the file that is replaced
	Mode, UID, GID uint32          // of New
	Slot           quarry.Slot     // of New
	Path           string          // of Unlink: what the file was called
	Now            bool            // of Unlink: the file is not to be kept
	// Ticket is the number of the preparation. Only the one that the decision names is
	// carried out: a preparation that comes late, when the part is done, has another one.
	Ticket uint64
}

// Fields walks the fields of a part.
func Fields(w *wire.Walk, p *Part) {
	wire.Uint(w, 1, &p.Kind)
	wire.Uint(w, 2, &p.Inode)
	wire.String(w, 3, &p.Name, quarry.NameBytesMax)
	wire.Uint(w, 4, &p.Target)
	wire.Uint(w, 5, &p.FileKind)
	wire.Bool(w, 6, &p.Replace)
	wire.Uint(w, 7, &p.Old)
	wire.Uint(w, 8, &p.Mode)
	wire.Uint(w, 9, &p.Slot)
	wire.Uint(w, 10, &p.Ticket)
	wire.String(w, 11, &p.Path, quarry.PathBytesMax)
	wire.Bool(w, 12, &p.Now)
	wire.Uint(w, 13, &p.UID)
	wire.Uint(w, 14, &p.GID)
}

// Where returns the slot in which the part is carried out.
func (p *Part) Where() quarry.Slot {
	if p.Kind == New && p.Inode == 0 {
		return p.Slot
	}
	return p.Inode.Slot()
}

// Entry returns the name whose entry the part holds; "" if it holds the inode itself.
func (p *Part) Entry() string {
	if p.Kind == Link || p.Kind == Source {
		return p.Name
	}
	return ""
}
