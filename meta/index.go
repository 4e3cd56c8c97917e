package meta

import (
	"github.com/quarryfs/quarry"
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
	if !load(&t.state, chunkKey(t.key[:0], h), &c.ChunkRecord, chunkFields) {
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
	was := &c.was
	t.count(was, -1)
	t.count(&is, +1)
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
	t.saveReplicas(h, was, &is)
	*was = is
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
			put(t, itemKey(t.key[:0], r.server, h), &item, itemFields)
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
