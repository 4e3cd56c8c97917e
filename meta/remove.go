package meta

import (
	"strconv"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// Remove removes a name: of a file, or of an empty directory. NotFound, IsDir, NotDir,
// NotEmpty. Result: Attr, of what was removed; Orphans.
type Remove struct {
	Parent quarry.Inode
	Name   string
	Dir    bool   // the name must be an empty directory; otherwise it must be a file
	Path   string // what the file was called, kept with it to be found by
	Now    bool   // the file is not kept: it cannot be brought back
}

func (*Remove) kind() Kind { return KindRemove }

func (c *Remove) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Parent)
	wire.String(w, 11, &c.Name, quarry.NameBytesMax)
	wire.Bool(w, 12, &c.Dir)
	wire.String(w, 13, &c.Path, quarry.PathBytesMax)
	wire.Bool(w, 14, &c.Now)
}

func (c *Remove) apply(t *tx, r *Result) error {
	parent, err := t.place(c.Parent, c.Name, 0, r)
	if err != nil {
		return err
	}
	e, ok := t.entry(c.Parent, c.Name)
	if !ok {
		return notFound(c.Name)
	}
	name := strconv.Quote(c.Name)
	switch {
	case e.Kind == quarry.KindDir && !c.Dir:
		return refuse(quarry.IsDir, name, "remove it as a directory")
	case e.Kind == quarry.KindFile && c.Dir:
		return refuse(quarry.NotDir, name, "it is a file")
	case !t.header.owns(e.Inode.Slot()) && c.Dir:
		return t.begin(&Transaction{Verb: KindRemove, Parent: c.Parent, Name: c.Name, Inode: e.Inode, Kind: e.Kind}, r)
	case c.Dir:
		i := t.namedInode(e.Inode)
		if i.Entries > 0 {
			return notEmpty(name, i)
		}
		if err := t.untouched(e.Inode, r); err != nil {
			return err
		}
	}
	r.Attr = t.attr(e)
	if c.Dir {
		t.removeDir(e.Inode)
	} else if err := t.displace(KindRemove, c.Parent, c.Name, e.Inode, removal{path: c.Path, now: c.Now}, r); err != nil {
		return err
	}
	t.delete(entryKey(t.key[:0], c.Parent, c.Name))
	t.changed(c.Parent, parent, -1)
	return nil
}

func notEmpty(name string, dir *inodeRecord) error {
	return refuse(quarry.NotEmpty, name, "it has %d entries", dir.Entries)
}

// displace takes a file's last name from it, wherever the file lives: on another shard that
// will be done later, and cannot fail. It is the first change of its command, because it can
// be refused with Busy.
func (t *tx) displace(verb Kind, dir quarry.Inode, name string, file quarry.Inode, how removal, r *Result) error {
	if t.header.owns(file.Slot()) {
		t.unlink(file, how, r)
		return nil
	}
	return t.deliver(&Transaction{
		Verb: verb, Parent: dir, Name: name, Inode: file, Kind: quarry.KindFile,
		Parts: []Part{{Kind: PartUnlink, Inode: file, Path: how.path, Now: how.now}},
	}, r)
}
