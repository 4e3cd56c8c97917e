package meta

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// DropReason says why a replica is taken out of a chunk's record.
type DropReason uint8

// The reasons to drop a replica.
const (
	// DropGone: there is nothing at that server. The record forgets the replica.
	DropGone DropReason = 1
	// DropBad: its bytes are broken or incomplete. It is removed as soon as another replica
	// holds; until then it is kept as the last resort.
	DropBad DropReason = 2
	// DropSurplus: as many others hold as are wanted.
	DropSurplus DropReason = 3
)

// DropReplica takes a replica out of a sealed or lost chunk's record. Busy: it is surplus
// only by its own copy. StaleVersion: the chunk is open, being sealed, or at another version.
// A server that the record does not list is a success. Result: Chunk, with errors too.
type DropReplica struct {
	Handle  quarry.Handle
	Version quarry.Version
	Server  quarry.ServerID
	Reason  DropReason
}

func (*DropReplica) kind() Kind { return KindDropReplica }

func (c *DropReplica) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Handle)
	wire.Uint(w, 11, &c.Version)
	wire.Uint(w, 12, &c.Server)
	wire.Uint(w, 13, &c.Reason)
}

func (c *DropReplica) apply(t *tx, r *Result) error {
	chunk, err := t.editKnown(c.Handle)
	if err != nil {
		return err
	}
	r.Chunk = &chunk.ChunkRecord
	if chunk.was.open || chunk.Version != c.Version {
		return staleVersion(&chunk.ChunkRecord)
	}
	replica := chunk.Replica(c.Server)
	if replica == nil {
		return nil
	}
	switch c.Reason {
	case DropGone:
		chunk.forget(c.Server)
	case DropBad:
		if replica.State != ReplicaDropping {
			replica.State, replica.Owes, replica.OwesVersion = ReplicaBad, 0, 0
		}
	case DropSurplus:
		others := chunk.Count(ReplicaHolding)
		if replica.State == ReplicaHolding {
			others--
		}
		if replica.State != ReplicaDropping && others < int(chunk.Wanted) && !off(LastCopyDropped) {
			return refuse(quarry.Busy, c.Handle.String(), "%d other replicas hold, %d are wanted", others, chunk.Wanted)
		}
		replica.Drop(chunk.Version)
	default:
		return refuse(quarry.Invalid, c.Handle.String(), "%d is no reason to drop a replica", c.Reason)
	}
	chunk.settleBad()
	t.saveChunk(chunk)
	return nil
}

// forget takes the replica at a server out of the record.
func (c *ChunkRecord) forget(s quarry.ServerID) {
	kept := c.Replicas[:0]
	for _, r := range c.Replicas {
		if r.Server != s {
			kept = append(kept, r)
		}
	}
	c.Replicas = kept
}

// AddReplica notes a copy that a server has made of a sealed chunk. NotFound: nothing needs
// the chunk any more. StaleVersion: it is not sealed at this version. Corrupt: the copy has
// another checksum. Busy: the server has yet to drop an earlier replica, or the record lists
// too many. Held there already: a success. Result: Chunk, with errors but NotFound.
type AddReplica struct {
	Handle  quarry.Handle
	Version quarry.Version
	Copy    Holder
}

func (*AddReplica) kind() Kind { return KindAddReplica }

func (c *AddReplica) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Handle)
	wire.Uint(w, 11, &c.Version)
	wire.Message(w, 12, &c.Copy, holderFields)
}

func (c *AddReplica) apply(t *tx, r *Result) error {
	chunk, err := t.editKnown(c.Handle)
	if err != nil {
		return err
	}
	subject := c.Handle.String()
	if chunk.Freed != 0 {
		return refuse(quarry.NotFound, subject, "nothing needs the chunk any more")
	}
	r.Chunk = &chunk.ChunkRecord
	present := chunk.Replica(c.Copy.Server)
	switch {
	case chunk.State != quarry.ChunkSealed || chunk.Version != c.Version && !off(CopyOfOldSeal):
		return staleVersion(&chunk.ChunkRecord)
	case c.Copy.Server == 0 || c.Copy.Disk.IsZero():
		return refuse(quarry.Invalid, subject, "the copy has no server or disk")
	case chunk.CRCKnown && chunk.CRC != c.Copy.CRC:
		return refuse(quarry.Corrupt, subject, "the copy's checksum is %08x instead of %08x", c.Copy.CRC, chunk.CRC)
	case present != nil && present.State == ReplicaDropping:
		return refuse(quarry.Busy, subject, "server %d has yet to drop an earlier replica", c.Copy.Server)
	case present == nil && len(chunk.Replicas) == listMax:
		return refuse(quarry.Busy, subject, "the record lists %d replicas", listMax)
	}
	if present == nil {
		chunk.Replicas = append(chunk.Replicas, Replica{})
		present = &chunk.Replicas[len(chunk.Replicas)-1]
	}
	*present = Replica{
		Server: c.Copy.Server, Incarnation: c.Copy.Incarnation, Disk: c.Copy.Disk, State: ReplicaHolding,
	}
	chunk.CRC, chunk.CRCKnown = c.Copy.CRC, true
	chunk.settleBad()
	t.saveChunk(chunk)
	return nil
}

// goneMax is the most replicas that one ServerGone goes through.
const goneMax = 1000

// ServerGone notes that the replicas of a server, or of one of its disks, cannot be relied
// upon: they do not count as copies any more, and are taken back when they prove complete.
// Gone for good, they are forgotten, and so is what they owe. Members of open chunks stay:
// their chunks are to be sealed. Result: Count, the records that changed; Next, More.
type ServerGone struct {
	Server  quarry.ServerID
	Disk    quarry.DiskID // zero: all disks
	ForGood bool
	From    quarry.Handle // begin here; 0: with the first
	Max     int           // handles to go through, 1 to 1,000
}

func (*ServerGone) kind() Kind { return KindServerGone }

func (c *ServerGone) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Server)
	wire.Fixed16(w, 11, &c.Disk)
	wire.Bool(w, 12, &c.ForGood)
	wire.Uint(w, 13, &c.From)
	wire.Uint(w, 14, &c.Max)
}

func (c *ServerGone) apply(t *tx, r *Result) error {
	if c.Max < 1 || c.Max > goneMax {
		return refuse(quarry.Invalid, "", "%d handles; from 1 to %d can be asked for", c.Max, goneMax)
	}
	handles := t.replicasOf(c.Server, c.From, ^quarry.Handle(0), c.Max+1)
	if len(handles) > c.Max {
		r.More, r.Next = true, handles[c.Max]
		handles = handles[:c.Max]
	}
	for _, h := range handles {
		chunk := t.edit(h)
		replica := chunk.Replica(c.Server)
		if !c.Disk.IsZero() && replica.Disk != c.Disk || replica.State == ReplicaMember {
			continue
		}
		switch {
		case c.ForGood:
			chunk.forget(c.Server)
			chunk.settleBad()
		case replica.State == ReplicaHolding || replica.State == ReplicaPending:
			replica.State = ReplicaAway
		default:
			continue
		}
		t.saveChunk(chunk)
		r.Count++
	}
	return nil
}

// Repair is a sealed chunk with fewer copies than wanted.
type Repair struct {
	Copies uint8
	Handle quarry.Handle
}

// NextRepairs returns at most n sealed chunks with fewer copies than wanted, but at least
// one, those with the fewest copies first; it begins after the given one, the zero Repair
// for the first.
func NextRepairs(v View, past Repair, n int) (list []Repair) {
	s := reading(v)
	if past.Copies == 0 {
		past = Repair{Copies: 1}
	}
	s.index(repairKey(nil, past.Copies, past.Handle+1), after(table(nil, shardSlot, tableRepair)), func(key, _ []byte) bool {
		list = append(list, Repair{Copies: key[3], Handle: quarry.Handle(lastNumber(key))})
		return len(list) < n
	})
	return list
}

// MissingChunks returns at most n chunks that have no copy that counts, after the given one.
func MissingChunks(v View, past quarry.Handle, n int) (list []quarry.Handle) {
	s := reading(v)
	s.index(repairKey(nil, 0, past+1), repairKey(nil, 1, 0), func(key, _ []byte) bool {
		list = append(list, quarry.Handle(lastNumber(key)))
		return len(list) < n
	})
	return list
}

// ReplicasOf returns at most n chunks whose records list a replica at the server, of the
// handles from first to last, both included, in their order.
func ReplicasOf(v View, server quarry.ServerID, first, last quarry.Handle, n int) []quarry.Handle {
	s := reading(v)
	return s.replicasOf(server, first, last, n)
}

func (s *state) replicasOf(server quarry.ServerID, first, last quarry.Handle, n int) (list []quarry.Handle) {
	hi := append(serverKey(nil, server, last), 0)
	s.index(serverKey(nil, server, first), hi, func(key, _ []byte) bool {
		list = append(list, quarry.Handle(lastNumber(key)))
		return len(list) < n
	})
	return list
}
