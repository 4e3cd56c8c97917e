package meta

import (
	"strconv"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// depthMax bounds the walk to the root that looks for a cycle.
const depthMax = 4096

// Rename gives a file or directory another name, and perhaps another directory. A directory
// cannot be moved below itself (Invalid). NotFound, Exists, IsDir, NotDir, Busy. Result: Attr;
// Orphans, of a file that was replaced.
type Rename struct {
	Parent, ToParent quarry.Inode
	Name, ToName     string
	Replace          bool   // a file that has the new name is replaced, in the same step
	ToPath           string // of the new name; a file that is replaced keeps it in the trash
}

func (*Rename) kind() Kind { return KindRename }

func (c *Rename) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Parent)
	wire.Uint(w, 11, &c.ToParent)
	wire.String(w, 12, &c.Name, quarry.NameBytesMax)
	wire.String(w, 13, &c.ToName, quarry.NameBytesMax)
	wire.Bool(w, 14, &c.Replace)
	wire.String(w, 15, &c.ToPath, quarry.PathBytesMax)
}

func (c *Rename) apply(t *tx, r *Result) error {
	from, err := t.place(c.Parent, c.Name, 0, r)
	if err != nil {
		return err
	}
	if err := quarry.CheckName(c.ToName); err != nil {
		return err
	}
	e, ok := t.entry(c.Parent, c.Name)
	switch {
	case ok && c.Parent == c.ToParent && c.Name == c.ToName: // nothing to do
		r.Attr = t.attr(e)
		return nil
	case !ok && !t.header.owns(c.ToParent.Slot()):
		return notFound(c.Name)
	case ok && c.elsewhere(t, e):
		if e.Inode == c.ToParent && e.Kind == quarry.KindDir {
			return errCycle
		}
		return t.begin(&Transaction{
			Verb: KindRename, Parent: c.Parent, Name: c.Name, ToParent: c.ToParent, ToName: c.ToName,
			Replace: c.Replace, Inode: e.Inode, Kind: e.Kind, Path: c.ToPath,
		}, r)
	}
	to := from
	if c.Parent != c.ToParent || c.Name != c.ToName {
		place, err := t.place(c.ToParent, c.ToName, 0, r)
		if err != nil {
			return err
		}
		if c.Parent != c.ToParent {
			to = place
		}
	}
	if !ok {
		return notFound(c.Name)
	}
	return c.here(t, e, from, to, r)
}

// elsewhere reports whether the rename concerns other shards: the directory it leads to, or the
// inode if that has to change. Directories get another parent one at a time, in the whole
// cluster: a shard that owns every slot, perhaps only since a moment, may have such a transaction.
func (c *Rename) elsewhere(t *tx, e entryRecord) bool {
	h := t.header
	moves := c.Parent != c.ToParent
	return !h.owns(c.ToParent.Slot()) ||
		!h.owns(e.Inode.Slot()) && (moves || e.Kind == quarry.KindDir) ||
		moves && e.Kind == quarry.KindDir && (!h.ownsAll() || h.Counters.Transactions > 0)
}

// here renames within this shard. The file that is replaced may live on another one.
func (c *Rename) here(t *tx, e entryRecord, from, to *inodeRecord, r *Result) error {
	old, replaced := t.entry(c.ToParent, c.ToName)
	if replaced && old.Inode == e.Inode { // the same name
		r.Attr = t.attr(e)
		return nil
	}
	if replaced {
		if err := replaceable(c.ToName, e.Kind, old, c.Replace); err != nil {
			return err
		}
	}
	if e.Kind == quarry.KindDir && c.Parent != c.ToParent {
		if err := t.checkCycle(e.Inode, c.ToParent); err != nil {
			return err
		}
	}
	if t.header.owns(e.Inode.Slot()) { // an earlier move would still give it its name
		if err := t.free(&Part{Kind: PartMove, Inode: e.Inode}, r); err != nil {
			return err
		}
	}
	if replaced {
		if err := t.displace(KindRename, c.ToParent, c.ToName, old.Inode, removal{path: c.ToPath}, r); err != nil {
			return err
		}
	} else {
		to.Entries++
	}
	if t.header.owns(e.Inode.Slot()) {
		moved := t.namedInode(e.Inode)
		moved.Parent = c.ToParent
		if e.Kind == quarry.KindDir {
			moved.Name = c.ToName
		}
		t.putInode(e.Inode, moved)
	}
	t.delete(entryKey(t.key[:0], c.Parent, c.Name))
	t.putEntry(c.ToParent, c.ToName, e)
	t.changed(c.Parent, from, -1)
	if to != from {
		t.changed(c.ToParent, to, 0)
	}
	r.Attr = t.attr(e)
	return nil
}

// replaceable returns why an entry cannot be replaced by one of a kind, if so.
func replaceable(name string, kind quarry.FileKind, old entryRecord, replace bool) error {
	switch quoted := strconv.Quote(name); {
	case !replace:
		return exists(name, old.Kind)
	case kind == quarry.KindFile && old.Kind == quarry.KindDir:
		return refuse(quarry.IsDir, quoted, "a directory cannot be replaced by a file")
	case kind == quarry.KindDir && old.Kind == quarry.KindFile:
		return refuse(quarry.NotDir, quoted, "a file cannot be replaced by a directory")
	case old.Kind == quarry.KindDir:
		return exists(name, old.Kind)
	}
	return nil
}

var errCycle = refuse(quarry.Invalid, "", "a directory cannot be moved into itself")

// checkCycle returns an Invalid error if below is dir or is in it, at whatever depth.
func (t *tx) checkCycle(dir, below quarry.Inode) error {
	for range depthMax {
		if below == dir {
			return errCycle
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
