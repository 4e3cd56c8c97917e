package meta

import (
	"fmt"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// collectMax is the most pieces and chunks that one Collect frees.
const collectMax = 1000

// Collect frees garbage that has been kept for KeepMS of log time, the oldest first: the pieces of removed
// files, and chunks, whose replicas are then owed as drops. Removed files that were not to be kept go after
// SoonMS; at once what no file has ever named, and files that were put and not to be kept. The record of a
// chunk goes when all its drops are settled. Both times must be longer than sessions live without being kept
// alive: until then somebody may ask for the fate of a record. Result: Count, what was freed; More.
type Collect struct {
	KeepMS uint64
	Max    int // pieces, files and chunks to free, 1 to 1,000
	SoonMS uint64
}

func (*Collect) kind() Kind { return KindCollect }

func (c *Collect) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.KeepMS)
	wire.Uint(w, 11, &c.Max)
	wire.Uint(w, 12, &c.SoonMS)
}

func (c *Collect) apply(t *tx, r *Result) error {
	if c.Max < 1 || c.Max > collectMax {
		return refuse(quarry.Invalid, "", "%d pieces and chunks; from 1 to %d can be freed", c.Max, collectMax)
	}
	due := t.garbage(t.now(), c.KeepMS, c.SoonMS, c.Max)
	r.More = len(due) == c.Max
	for _, g := range due {
		if r.Count >= c.Max {
			r.More = true
			return nil
		}
		if g.kind != garbageChunk {
			t.freeFile(g, c.Max, r)
			continue
		}
		chunk := t.edit(quarry.Handle(g.id))
		if chunk == nil {
			panic(fmt.Sprintf("meta: the state is broken: chunk %x is garbage and has no record", g.id))
		}
		t.doom(chunk)
		r.Count++
	}
	return nil
}

// neverSeen stands for the time since when a chunk is garbage that no file has ever named, and
// whose session has ended: nobody can read it or ask for a fate in it, so it is not kept.
const neverSeen LogTime = 1

// freed returns since when a chunk is garbage that becomes it in this command.
func (t *tx) freed(c *ChunkRecord) LogTime {
	if !c.Linked {
		return neverSeen
	}
	return t.now()
}

// Garbage reports whether there is anything to collect at log time now; see [Collect].
func Garbage(v View, now LogTime, keepMS, soonMS uint64) bool {
	s := reading(v)
	return len(s.garbage(now, keepMS, soonMS, 1)) > 0
}

// garbageEntry is an entry of the garbage queue.
type garbageEntry struct {
	at   LogTime
	kind garbageKind
	id   uint64
}

// garbage returns at most n entries of the queues of garbage that are due.
func (s *state) garbage(now LogTime, keepMS, soonMS uint64, n int) (due []garbageEntry) {
	if off(TrashFreedEarly) {
		keepMS, soonMS = 0, 0
	}
	for _, queue := range [...]struct {
		table  byte
		keepMS uint64
	}{{tableSoon, soonMS}, {tableGarbage, keepMS}} {
		before := neverSeen + 1
		if uint64(now) > queue.keepMS && now >= LogTime(s.header.QuietUntil) {
			before = max(before, now-LogTime(queue.keepMS)+1)
		}
		hi := table(nil, shardSlot, queue.table, uint64(before))
		s.index(table(nil, shardSlot, queue.table), hi, func(key, _ []byte) bool {
			due = append(due, garbageAt(key))
			return len(due) < n
		})
		if len(due) >= n {
			break
		}
	}
	return due
}

// freeFile frees pieces of a removed file until the result counts limit, and the file when
// none is left. One whose tail has yet to be sealed waits as if it were just removed.
func (t *tx) freeFile(g garbageEntry, limit int, r *Result) {
	id := quarry.Inode(g.id)
	file := t.anyInode(id)
	if file == nil || file.Links > 0 {
		panic(fmt.Sprintf("meta: the state is broken: file %v is garbage and is %+v", id, file))
	}
	if !file.Doomed || file.Removed != neverSeen { // of those no tail has yet to be sealed
		if _, open := t.openTail(id, file); open {
			t.delete(file.queueKey(t.key[:0], id))
			t.queue(id, file, t.now())
			r.Count++
			return
		}
	}
	t.freePieces(id, file, limit-r.Count, r)
}

// freePieces frees the first pieces of a removed file, at most room of them, and the file if there
// are fewer. One without chunks goes whole, and its bytes are not read.
func (t *tx) freePieces(id quarry.Inode, file *inodeRecord, room int, r *Result) {
	type place struct {
		end    uint64
		handle quarry.Handle
	}
	var pieces []place
	if !file.Chunks && file.Length > 0 { // one inline piece
		pieces = []place{{end: uint64(file.Length)}}
	} else {
		t.scan(table(nil, uint16(id.Slot()), tablePiece, uint64(id)), nil, func(key, value []byte) bool {
			var p pieceRecord
			decode(key, value, &p, pieceFields)
			pieces = append(pieces, place{lastNumber(key), p.Handle})
			return len(pieces) < room
		})
	}
	for _, p := range pieces {
		t.delete(pieceKey(t.key[:0], id, p.end))
		if p.handle != 0 {
			t.unref(p.handle)
		}
		r.Count++
	}
	if len(pieces) == room && file.Chunks { // there may be others, and the file itself counts too
		r.More = true
		if pieces[room-1].end == openEnd {
			file.Open = false // its tail was lost; nobody looks for it any more
		}
		t.delete(file.queueKey(t.key[:0], id))
		if !file.Doomed { // nobody can have it back; the next Collect goes on with it
			file.Doomed = true
			t.header.Counters.Trash(-1, -file.Length, false)
			t.header.Counters.Trash(+1, file.Length, true)
		}
		t.queue(id, file, neverSeen)
		return
	}
	t.delete(file.queueKey(t.key[:0], id))
	t.delete(inodeKey(t.key[:0], id))
	t.header.Counters.Trash(-1, -file.Length, file.Doomed)
	r.Count++
}

// unref takes a piece's reference from a chunk. A chunk without references has been kept
// with its file.
func (t *tx) unref(h quarry.Handle) {
	c := t.edit(h)
	if c == nil {
		panic(fmt.Sprintf("meta: the state is broken: a piece names chunk %v, which has no record", h))
	}
	if c.Refs--; c.Refs > 0 {
		t.saveChunk(c)
		return
	}
	c.File = 0
	t.doom(c)
}

// doom has every replica of a chunk dropped.
func (t *tx) doom(c *chunkEdit) {
	if c.Freed == 0 {
		c.Freed = t.now()
	}
	c.Doomed = true
	for i := range c.Replicas {
		c.Replicas[i].Drop(c.Version)
	}
	if off(DropForgotten) {
		c.Replicas = nil
	}
	t.saveChunk(c)
}
