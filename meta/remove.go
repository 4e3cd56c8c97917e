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
	Dir    bool // the name must be an empty directory; otherwise it must be a file
}

func (*Remove) kind() Kind { return KindRemove }

func (c *Remove) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Parent)
	wire.String(w, 11, &c.Name, quarry.NameBytesMax)
	wire.Bool(w, 12, &c.Dir)
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
	} else if err := t.displace(KindRemove, c.Parent, c.Name, e.Inode, r); err != nil {
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
func (t *tx) displace(verb Kind, dir quarry.Inode, name string, file quarry.Inode, r *Result) error {
	if t.header.owns(file.Slot()) {
		t.unlink(file, r)
		return nil
	}
	return t.deliver(&Transaction{
		Verb: verb, Parent: dir, Name: name, Inode: file, Kind: quarry.KindFile,
		Parts: []Part{{Kind: PartUnlink, Inode: file}},
	}, r)
}

// unlink takes a file's last name from it. A file without chunks is gone at once; another
// one waits, with its layout, in the garbage queue. Its open chunk, if it has one, goes to
// the result's orphans, and the file into the queue when that is sealed.
func (t *tx) unlink(id quarry.Inode, r *Result) {
	file := t.namedInode(id)
	t.header.Counters.Files--
	if !file.Chunks {
		if file.Length > 0 { // at most one inline piece
			t.delete(pieceKey(t.key[:0], id, uint64(file.Length)))
		}
		t.delete(inodeKey(t.key[:0], id))
		return
	}
	file.Links = 0
	t.header.Counters.Removed++
	if h, open := t.openTail(id, file); open {
		r.Orphans = append(r.Orphans, h)
		t.putInode(id, file)
		return
	}
	t.trash(id, file)
}

// openTail returns the chunk of the file's tail if it has yet to be sealed. The length of a
// lost chunk will never be decided.
func (s *state) openTail(id quarry.Inode, file *inodeRecord) (quarry.Handle, bool) {
	if !file.Open {
		return 0, false
	}
	p, _, _ := s.lastPiece(id, file)
	return p.Handle, s.piecedChunk(p.Handle).State != quarry.ChunkLost
}

// trash puts a removed file into the garbage queue.
func (t *tx) trash(id quarry.Inode, file *inodeRecord) {
	file.Removed = t.now()
	t.putInode(id, file)
	t.set(garbageKey(t.key[:0], file.Removed, garbageFile, uint64(id)))
}
