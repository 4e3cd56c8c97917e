package meta

import (
	"strconv"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// modeMax is the largest mode: permission bits, set-user, set-group and sticky.
const modeMax = 0o7777

// Make makes an empty file or a directory. Exists, NotFound (the parent), NotDir. Result:
// Attr.
type Make struct {
	Parent         quarry.Inode
	Name           string
	Kind           quarry.FileKind
	Mode, UID, GID uint32
	Existing       bool        // an existing one of the same kind is a success
	Slot           quarry.Slot // of a new directory; a file always has its directory's
}

func (*Make) kind() Kind { return KindMake }

func (c *Make) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Parent)
	wire.String(w, 11, &c.Name, quarry.NameBytesMax)
	wire.Uint(w, 12, &c.Kind)
	wire.Uint(w, 13, &c.Mode)
	wire.Bool(w, 14, &c.Existing)
	wire.Uint(w, 15, &c.Slot)
	wire.Uint(w, 16, &c.UID)
	wire.Uint(w, 17, &c.GID)
}

func (c *Make) apply(t *tx, r *Result) error {
	slot := c.Parent.Slot()
	switch c.Kind {
	case quarry.KindFile:
	case quarry.KindDir:
		slot = c.Slot
	default:
		return refuse(quarry.Invalid, strconv.Quote(c.Name), "%d is no kind of file", c.Kind)
	}
	parent, err := t.place(c.Parent, c.Name, c.Mode, r)
	if err != nil {
		return err
	}
	if slot >= quarry.Slots {
		return refuse(quarry.Invalid, strconv.Quote(c.Name), "there is no slot %d", slot)
	}
	if e, ok := t.entry(c.Parent, c.Name); ok {
		if !c.Existing || e.Kind != c.Kind {
			return exists(c.Name, e.Kind)
		}
		r.Attr = t.attr(e)
		return nil
	}
	if !t.header.owns(slot) {
		return t.begin(&Transaction{
			Verb: KindMake, Parent: c.Parent, Name: c.Name, Kind: c.Kind,
			Mode: c.Mode, UID: c.UID, GID: c.GID, Slot: slot,
		}, r)
	}
	id, err := t.nextInode(slot)
	if err != nil {
		return err
	}
	made := inodeRecord{
		Kind: c.Kind, Mode: c.Mode, UID: c.UID, GID: c.GID, Links: 1,
		CreatedNS: t.wallNS, ModifiedNS: t.wallNS, Parent: c.Parent,
	}
	if c.Kind == quarry.KindDir {
		made.Name = c.Name
		t.header.Counters.Dirs++
	} else {
		t.header.Counters.Files++
	}
	t.putInode(id, &made)
	t.putEntry(c.Parent, c.Name, entryRecord{id, c.Kind})
	t.changed(c.Parent, parent, +1)
	r.Attr = made.attr(id)
	return nil
}

// attr is all that an entry tells of the inode it leads to, if that lives on another shard.
func (e entryRecord) attr() quarry.Attr {
	return quarry.Attr{Inode: e.Inode, Kind: e.Kind, Elsewhere: true}
}

// attr returns the attributes of what an entry leads to; of what lives on another shard only
// the inode and its kind.
func (t *tx) attr(e entryRecord) quarry.Attr {
	if !t.header.owns(e.Inode.Slot()) {
		return e.attr()
	}
	return t.namedInode(e.Inode).attr(e.Inode)
}

// place checks where an entry is to be, and the mode of what it leads to; it returns the
// directory. Busy: a transaction holds the entry or the directory.
func (t *tx) place(dir quarry.Inode, name string, mode uint32, r *Result) (*inodeRecord, error) {
	if err := quarry.CheckName(name); err != nil {
		return nil, err
	}
	if mode > modeMax {
		return nil, refuse(quarry.Invalid, strconv.Quote(name), "mode %#o has bits beyond %#o", mode, modeMax)
	}
	if err := t.checkSlot(dir.Slot()); err != nil {
		return nil, err
	}
	i, err := t.dir(dir)
	if err != nil {
		return nil, err
	}
	if err := t.open(dir, r); err != nil {
		return nil, err
	}
	return i, t.free(&Part{Kind: PartLink, Inode: dir, Name: name}, r)
}

// changed notes that a directory's entries have become more or fewer.
func (t *tx) changed(id quarry.Inode, dir *inodeRecord, by int64) {
	dir.Entries += by
	dir.ModifiedNS = t.wallNS
	t.putInode(id, dir)
}

func exists(name string, kind quarry.FileKind) error {
	what := "a file"
	if kind == quarry.KindDir {
		what = "a directory"
	}
	return refuse(quarry.Exists, strconv.Quote(name), "%s has this name", what)
}

func notFound(name string) error {
	return refuse(quarry.NotFound, strconv.Quote(name), "there is no such name")
}

// Spread reports whether new directories in this one are spread over all slots, instead of being
// kept in its slot: so are those of the two top levels of the tree.
func Spread(v View, dir quarry.Inode) bool {
	s := reading(v)
	if dir == quarry.RootInode {
		return true
	}
	i := s.inode(dir)
	return i != nil && i.Kind == quarry.KindDir && i.Parent == quarry.RootInode
}
