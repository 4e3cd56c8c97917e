package meta

import (
	"encoding/binary"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/replica"
)

// chunkEdit is a chunk's record while a command changes it, with what the indexes and
// counters had of it before. saveChunk brings both up to date.
type chunkEdit struct {
	ChunkRecord
	was chunkIndex
}

// chunkIndex is all that indexes and counters have of a chunk. It follows from the record.
type chunkIndex struct {
	exists, open, suspect, garbage bool

	active   bool
	repair   bool // sealed or lost, with fewer copies than wanted; copies says how many
	copies   uint8
	due      LogTime // since when it is in the garbage queue; 0: it is not
	owner    quarry.SessionID
	replicas [listMax]replicaIndex
	n        int
}

type replicaIndex struct {
	server  quarry.ServerID
	owes    quarry.ItemKind
	version quarry.Version
}

func (c *ChunkRecord) index() (x chunkIndex) {
	x.exists = true
	x.open = c.State == quarry.ChunkOpen || c.State == quarry.ChunkSealing
	x.suspect = c.Suspect
	x.garbage = c.Freed != 0
	x.active = x.open || c.Count(ReplicaPending) > 0
	copies := c.Copies()
	x.repair = !x.open && !x.garbage && copies < int(c.Wanted)
	x.copies = uint8(copies)
	if x.garbage && !c.Doomed {
		x.due = c.Freed
	}
	x.owner = c.Owner
	x.n = len(c.Replicas)
	for i := range c.Replicas {
		r := &c.Replicas[i]
		x.replicas[i] = replicaIndex{r.Server, r.Owes, r.OwesVersion}
	}
	return x
}

func (x *chunkIndex) replica(s quarry.ServerID) (r replicaIndex) {
	for i := range x.n {
		if x.replicas[i].server == s {
			return x.replicas[i]
		}
	}
	return r
}

func (x *chunkIndex) missing() bool { return x.repair && x.copies == 0 }

// edit returns a chunk's record to be changed, or nil.
func (t *tx) edit(h quarry.Handle) *chunkEdit {
	c := new(chunkEdit)
	if !t.header.owns(h.Slot()) || !load(&t.state, chunkKey(t.key[:0], h), &c.ChunkRecord, chunkFields) {
		return nil
	}
	c.was = c.index()
	return c
}

// saveChunk writes the record, or removes it if it is garbage without a replica, and brings
// indexes and counters up to date.
func (t *tx) saveChunk(c *chunkEdit) {
	h := c.Handle
	var is chunkIndex
	if c.Doomed && len(c.Replicas) == 0 {
		t.delete(chunkKey(t.key[:0], h))
	} else {
		is = c.index()
		put(t, chunkKey(t.key[:0], h), &c.ChunkRecord, chunkFields)
	}
	t.reindex(h, &c.was, &is)
	c.was = is
}

// reindex brings indexes and counters up to date with what a chunk was and is.
func (t *tx) reindex(h quarry.Handle, was, is *chunkIndex) {
	t.count(was, -1)
	t.count(is, +1)
	if was.active != is.active {
		t.setOrDelete(is.active, activeKey(t.key[:0], h))
	}
	if was.repair && (!is.repair || was.copies != is.copies) {
		t.delete(repairKey(t.key[:0], was.copies, h))
	}
	if is.repair && (!was.repair || was.copies != is.copies) {
		t.set(repairKey(t.key[:0], is.copies, h))
	}
	if was.due != is.due {
		if was.due != 0 {
			t.delete(garbageKey(t.key[:0], was.due, garbageChunk, uint64(h)))
		}
		if is.due != 0 {
			t.set(garbageKey(t.key[:0], is.due, garbageChunk, uint64(h)))
		}
	}
	if was.owner != is.owner {
		if was.owner != 0 {
			t.delete(ownedKey(t.key[:0], was.owner, h))
		}
		if is.owner != 0 {
			t.set(ownedKey(t.key[:0], is.owner, h))
		}
	}
	t.saveReplicas(h, was, is)
}

// saveReplicas brings the indexes by server up to date.
func (t *tx) saveReplicas(h quarry.Handle, was, is *chunkIndex) {
	for _, old := range was.replicas[:was.n] {
		present := is.replica(old.server)
		if present.server == 0 {
			t.delete(serverKey(t.key[:0], old.server, h))
		}
		if old.owes != 0 && present.owes == 0 {
			t.delete(itemKey(t.key[:0], old.server, h))
		}
	}
	for _, r := range is.replicas[:is.n] {
		old := was.replica(r.server)
		if old.server == 0 {
			t.set(serverKey(t.key[:0], r.server, h))
		}
		if r.owes != 0 && r != old {
			item := quarry.Item{Kind: r.owes, Version: r.version}
			put(t, itemKey(t.key[:0], r.server, h), &item, replica.ItemFields)
		}
	}
}

func (t *tx) setOrDelete(set bool, key []byte) {
	if set {
		t.set(key)
	} else {
		t.delete(key)
	}
}

// count adds or takes away what a chunk counts for.
func (t *tx) count(x *chunkIndex, by int64) {
	n := &t.header.Counters
	for _, c := range [...]struct {
		counts bool
		n      *int64
	}{
		{x.exists, &n.Chunks}, {x.open, &n.Open}, {x.suspect, &n.Suspect}, {x.garbage, &n.Garbage},
		{x.repair, &n.UnderCopied}, {x.missing(), &n.Missing},
	} {
		if c.counts {
			*c.n += by
		}
	}
	for _, r := range x.replicas[:x.n] {
		if r.owes != 0 {
			n.Items += by
		}
	}
}

// account adds (by +1) or takes away (by -1) all that indexes and counters have of a record of a
// slot that moves. Entries, pieces and results have nothing there.
func (t *tx) account(key, value []byte, by int64) {
	n := &t.header.Counters
	id := binary.BigEndian.Uint64(key[3:])
	switch key[2] {
	case tableInode:
		var i inodeRecord
		decode(key, value, &i, inodeFields)
		switch {
		case i.Kind == quarry.KindDir:
			n.Dirs += by
		case i.Links > 0:
			n.Files += by
		default:
			n.Trash(by, by*i.Length, i.Doomed)
			t.setOrDelete(by > 0, i.queueKey(t.key[:0], quarry.Inode(id)))
		}
	case tableChunk:
		var c ChunkRecord
		decode(key, value, &c, chunkFields)
		was, is := chunkIndex{}, c.index()
		if by < 0 {
			was, is = is, was
		}
		t.reindex(c.Handle, &was, &is)
	case tableSession:
		var s SessionRecord
		decode(key, value, &s, sessionFields)
		n.Sessions += by
		t.setOrDelete(by > 0, expiryKey(t.key[:0], s.Seen, quarry.SessionID(id)))
	case tableTx:
		n.Transactions += by
		t.setOrDelete(by > 0, coordinatedKey(t.key[:0], TxID(id)))
	case tableIntent:
		var in Intent
		decode(key, value, &in, intentFields)
		n.Intents += by
		t.setOrDelete(by > 0, heldKey(t.key[:0], in.Tx, in.Part.Inode, in.Part.Entry()))
	}
}
