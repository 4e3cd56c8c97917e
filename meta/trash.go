package meta

import (
	"encoding/binary"
	"strconv"
	"strings"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// unlinkersMax is how many of the transactions that have removed a file from other shards are
// remembered, the last ones: a message of one of them that comes late finds out that it was
// heeded, even if the file was brought back since.
const unlinkersMax = 16

// removal is how a file loses its last name.
type removal struct {
	path string // what it was called, to be shown and found by
	now  bool   // it is not to be kept
	tx   TxID   // of another shard's change; 0: one of this shard
	atNS int64  // when it was removed, to be shown; 0: now
}

// unlink takes a file's last name from it. Unless it is not to be kept it waits in the garbage queue, with
// its layout, and can be brought back. An open chunk of it goes to the result's orphans.
func (t *tx) unlink(id quarry.Inode, how removal, r *Result) {
	file := t.namedInode(id)
	t.header.Counters.Files--
	if how.now && !file.Chunks {
		if file.Length > 0 { // one inline piece
			t.delete(pieceKey(t.key[:0], id, uint64(file.Length)))
		}
		t.delete(inodeKey(t.key[:0], id))
		return
	}
	t.header.Counters.Trash(+1, file.Length, how.now)
	file.Links, file.Path, file.RemovedNS, file.Doomed = 0, how.path, t.wallNS, how.now
	if how.atNS != 0 {
		file.RemovedNS = how.atNS
	}
	if how.tx != 0 && !off(UnlinkedAgain) {
		file.Unlinkers = append(file.Unlinkers, how.tx)
		file.Unlinkers = file.Unlinkers[max(0, len(file.Unlinkers)-unlinkersMax):]
	}
	if h, open := t.openTail(id, file); open {
		r.Orphans = append(r.Orphans, h)
	}
	if how.now && !file.Appended {
		t.queue(id, file, neverSeen) // who put it has settled every record before it had its name
	} else {
		t.queue(id, file, t.now())
	}
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

// queueKey is the key of a removed file in the queues of garbage.
func (i *inodeRecord) queueKey(dst []byte, id quarry.Inode) []byte {
	kind := garbageFile
	if i.Doomed && i.Removed > neverSeen {
		kind = garbageSoon
	}
	return garbageKey(dst, i.Removed, kind, uint64(id))
}

// queue puts a removed file into the queue of garbage, as removed at a time.
func (t *tx) queue(id quarry.Inode, file *inodeRecord, at LogTime) {
	file.Removed = at
	t.putInode(id, file)
	t.set(file.queueKey(t.key[:0], id))
}

// removed returns a file that can be brought back.
func (t *tx) removed(id quarry.Inode, r *Result) (*inodeRecord, error) {
	if err := t.free(&Part{Kind: PartRestore, Inode: id}, r); err != nil {
		return nil, err
	}
	i := t.anyInode(id)
	if i == nil || i.Links > 0 || i.Doomed && !off(HalfRestored) {
		return nil, refuse(quarry.NotFound, "", "file %v is not in the trash (any more)", id)
	}
	return i, nil
}

// restore makes a removed file a file again, whose entry is in a directory.
func (t *tx) restore(id quarry.Inode, file *inodeRecord, dir quarry.Inode) {
	t.header.Counters.Files++
	t.header.Counters.Trash(-1, -file.Length, false)
	t.delete(file.queueKey(t.key[:0], id))
	file.Links, file.Removed, file.Parent = 1, 0, dir
	t.putInode(id, file)
}

// Undelete gives a removed file a name again: the file is what it was. NotFound: the directory
// is gone, or the file is not in the trash (any more). Exists: the name is taken. Result: Attr.
type Undelete struct {
	Parent quarry.Inode
	Name   string
	Inode  quarry.Inode
}

func (*Undelete) kind() Kind { return KindUndelete }

func (c *Undelete) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Parent)
	wire.String(w, 11, &c.Name, quarry.NameBytesMax)
	wire.Uint(w, 12, &c.Inode)
}

func (c *Undelete) apply(t *tx, r *Result) error {
	parent, err := t.place(c.Parent, c.Name, 0, r)
	if err != nil {
		return err
	}
	if e, ok := t.entry(c.Parent, c.Name); ok {
		return exists(c.Name, e.Kind)
	}
	switch slot := c.Inode.Slot(); {
	case slot >= quarry.Slots:
		return refuse(quarry.Invalid, strconv.Quote(c.Name), "there is no inode %v", c.Inode)
	case !t.header.owns(slot):
		return t.begin(&Transaction{Verb: KindUndelete, Parent: c.Parent, Name: c.Name, Inode: c.Inode, Kind: quarry.KindFile}, r)
	}
	file, err := t.removed(c.Inode, r)
	if err != nil {
		return err
	}
	file.Path, file.RemovedNS = "", 0
	t.restore(c.Inode, file, c.Parent)
	t.putEntry(c.Parent, c.Name, entryRecord{c.Inode, quarry.KindFile})
	t.changed(c.Parent, parent, +1)
	r.Attr = file.attr(c.Inode)
	return nil
}

// prepareRestore makes a removed file a file again, before any entry leads to it: once the entry is
// there, whoever follows it must find the file. Nobody collects it meanwhile. What it was called is
// kept for the case that the transaction is given up.
func (t *tx) prepareRestore(p *Part, r *Result) error {
	file, err := t.removed(p.Inode, r)
	if err != nil {
		return err
	}
	t.restore(p.Inode, file, p.Target)
	r.Attr = file.attr(p.Inode)
	return nil
}

// finishRestore ends what prepareRestore has begun. A commit may find the file removed again, or
// even collected: whoever removed it has seen the entry. What is given up was removed when it was;
// only the time for which it is kept begins anew, because somebody may have appended meanwhile, who
// asks for the fate of a record.
func (t *tx) finishRestore(id quarry.Inode, commit bool, r *Result) {
	switch file := t.inode(id); {
	case file == nil:
	case commit:
		file.Path, file.RemovedNS = "", 0
		t.putInode(id, file)
	default:
		t.unlink(id, removal{path: file.Path, atNS: file.RemovedNS}, r)
	}
}

// removedScan is the most entries of the queue that one Removed looks at.
const removedScan = 4096

// Removed returns a page of the files that were removed and can be brought back, in the order in
// which they were removed. Those that a transaction is bringing back are left out.
func Removed(v View, req *quarry.RemovedRequest) (*quarry.RemovedReply, error) {
	if req.Max < 1 || req.Max > quarry.RemovedMax || len(req.Path) > quarry.PathBytesMax {
		return nil, quarry.Errorf("removed", quarry.Invalid, "", "%d files; from 1 to %d can be listed", req.Max, quarry.RemovedMax)
	}
	s := reading(v)
	from := garbageKey(nil, LogTime(req.After), garbageFile, uint64(req.AfterFile))
	reply := &quarry.RemovedReply{After: req.After, AfterFile: req.AfterFile}
	var looked []garbageEntry
	s.index(append(from, 0), after(table(nil, shardSlot, tableGarbage)), func(key, _ []byte) bool {
		if len(looked) == removedScan {
			reply.More = true
			return false
		}
		looked = append(looked, garbageAt(key))
		return true
	})
	for _, g := range looked {
		if len(reply.Files) == req.Max {
			reply.More = true
			break
		}
		if g.kind != garbageFile { // chunks of one instant stand behind its files
			reply.After, reply.AfterFile = uint64(g.at)+1, 0
			continue
		}
		id := quarry.Inode(g.id)
		reply.After, reply.AfterFile = uint64(g.at), id
		if i := s.anyInode(id); i != nil && !i.Doomed && below(i.Path, strings.TrimSuffix(req.Path, "/")) {
			reply.Files = append(reply.Files, quarry.RemovedFile{
				Inode: id, Path: i.Path, Length: i.Length, Mode: i.Mode, RemovedNS: i.RemovedNS,
			})
		}
	}
	return reply, nil
}

// below reports whether a path is that of dir or below it; "" is the root.
func below(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (dir == "" || rest == "" || rest[0] == '/')
}

func garbageAt(key []byte) garbageEntry {
	return garbageEntry{at: LogTime(binary.BigEndian.Uint64(key[3:])), kind: garbageKind(key[11]), id: lastNumber(key)}
}
