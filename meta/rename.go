package meta

import (
	"strconv"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// depthMax bounds the walk to the root that looks for a cycle.
const depthMax = 4096

// Rename gives a file or directory another name, and perhaps another directory. A directory
// cannot be moved below itself (Invalid). NotFound, Exists, IsDir, NotDir. Result: Attr;
// Orphans, of a file that was replaced.
type Rename struct {
	Parent, ToParent quarry.Inode
	Name, ToName     string
	Replace          bool // a file that has the new name is replaced, in the same step
}

func (*Rename) kind() Kind { return KindRename }

func (c *Rename) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Parent)
	wire.Uint(w, 11, &c.ToParent)
	wire.String(w, 12, &c.Name, quarry.NameBytesMax)
	wire.String(w, 13, &c.ToName, quarry.NameBytesMax)
	wire.Bool(w, 14, &c.Replace)
}

func (c *Rename) apply(t *tx, r *Result) error {
	from, err := t.place(c.Parent, c.Name, 0)
	if err != nil {
		return err
	}
	to, err := t.place(c.ToParent, c.ToName, 0)
	if err != nil {
		return err
	}
	if c.Parent == c.ToParent {
		to = from
	}
	e, ok := t.entry(c.Parent, c.Name)
	if !ok {
		return notFound(c.Name)
	}
	if err := t.checkSlot(e.Inode.Slot()); err != nil {
		return err
	}
	moved := t.namedInode(e.Inode)
	old, replaced := t.entry(c.ToParent, c.ToName)
	if replaced && old.Inode == e.Inode { // the same name: nothing to do
		r.Attr = moved.attr(e.Inode)
		return nil
	}
	if err := c.check(t, e, old, replaced); err != nil {
		return err
	}
	moved.Parent = c.ToParent
	if e.Kind == quarry.KindDir {
		moved.Name = c.ToName
	}
	t.putInode(e.Inode, moved)
	t.delete(entryKey(t.key[:0], c.Parent, c.Name))
	t.putEntry(c.ToParent, c.ToName, e)
	if replaced {
		t.unlink(old.Inode, r)
	} else {
		to.Entries++
	}
	t.changed(c.Parent, from, -1)
	if to != from {
		t.changed(c.ToParent, to, 0)
	}
	r.Attr = moved.attr(e.Inode)
	return nil
}

// check returns why the rename cannot be done, if so.
func (c *Rename) check(t *tx, e, old entryRecord, replaced bool) error {
	if replaced {
		name := strconv.Quote(c.ToName)
		switch {
		case !c.Replace:
			return exists(c.ToName, old.Kind)
		case e.Kind == quarry.KindFile && old.Kind == quarry.KindDir:
			return refuse(quarry.IsDir, name, "a directory cannot be replaced by a file")
		case e.Kind == quarry.KindDir && old.Kind == quarry.KindFile:
			return refuse(quarry.NotDir, name, "a file cannot be replaced by a directory")
		case old.Kind == quarry.KindDir:
			return exists(c.ToName, old.Kind)
		}
		if err := t.checkSlot(old.Inode.Slot()); err != nil {
			return err
		}
	}
	if e.Kind == quarry.KindDir && c.Parent != c.ToParent {
		return t.checkCycle(e.Inode, c.ToParent)
	}
	return nil
}

// checkCycle returns an Invalid error if below is dir or is in it, at whatever depth.
func (t *tx) checkCycle(dir, below quarry.Inode) error {
	for range depthMax {
		if below == dir {
			return refuse(quarry.Invalid, "", "a directory cannot be moved into itself")
		}
		if below == quarry.RootInode {
			return nil
		}
		if err := t.checkSlot(below.Slot()); err != nil {
			return err
		}
		i, err := t.dir(below)
		if err != nil {
			return err
		}
		below = i.Parent
	}
	return refuse(quarry.Invalid, "", "the directory is more than %d levels deep", depthMax)
}
