package meta

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// Holder is a server whose replica is complete at the seal, durably.
type Holder struct {
	NewMember
	CRC uint32 // of the chunk's bytes at that replica
}

func holderFields(w *wire.Walk, h *Holder) {
	newMemberFields(w, &h.NewMember)
	wire.Uint(w, 4, &h.CRC)
}

// Hold notes replicas that have confirmed the seal. A server that the record does not list,
// or lists as away, is taken in while copies are wanted, or ignored. The first confirmation
// decides the checksum, by majority; a replica with another one is bad, and the chunk
// suspect. StaleVersion: the chunk is not sealed at this version, or is being dropped.
// Result: Chunk, with this error too; Count, the replicas that differ.
type Hold struct {
	Handle  quarry.Handle
	Version quarry.Version
	Holders []Holder // 1 to ReplicasMax
}

func (*Hold) kind() Kind { return KindHold }

func (c *Hold) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Handle)
	wire.Uint(w, 11, &c.Version)
	wire.List(w, 12, &c.Holders, quarry.ReplicasMax, holderFields)
}

func (c *Hold) apply(t *tx, r *Result) error {
	chunk, err := t.editKnown(c.Handle)
	if err != nil {
		return err
	}
	r.Chunk = &chunk.ChunkRecord
	if chunk.was.open || chunk.Version != c.Version || !chunk.LengthKnown || chunk.Doomed {
		return staleVersion(&chunk.ChunkRecord)
	}
	for _, h := range c.Holders {
		if h.Server == 0 || h.Disk.IsZero() {
			return refuse(quarry.Invalid, c.Handle.String(), "a holder has no server or disk")
		}
	}
	if !chunk.CRCKnown && len(c.Holders) > 0 {
		chunk.CRC, chunk.CRCKnown = majority(c.Holders), true
	}
	for i := range c.Holders {
		h := &c.Holders[i]
		if h.CRC != chunk.CRC {
			r.Count++
			chunk.differs(h.Server)
			continue
		}
		chunk.hold(h)
	}
	chunk.settleBad()
	t.saveChunk(chunk)
	return nil
}

// majority returns the checksum that most of the holders have; the first of equals.
func majority(holders []Holder) uint32 {
	best, most := uint32(0), 0
	for i := range holders {
		n := 0
		for j := range holders {
			if holders[j].CRC == holders[i].CRC {
				n++
			}
		}
		if n > most {
			best, most = holders[i].CRC, n
		}
	}
	return best
}

// hold notes that a server holds the seal.
func (c *ChunkRecord) hold(h *Holder) {
	r := c.Replica(h.Server)
	switch {
	case r == nil:
		if c.Copies() >= int(c.Wanted) || len(c.Replicas) == listMax {
			return
		}
		c.Replicas = append(c.Replicas, Replica{
			Server: h.Server, Incarnation: h.Incarnation, Disk: h.Disk, State: ReplicaHolding,
		})
	case r.State == ReplicaDropping, r.State == ReplicaAway && c.Copies() >= int(c.Wanted):
		return
	default:
		r.State, r.Owes, r.OwesVersion = ReplicaHolding, 0, 0
		r.Disk = h.Disk
	}
	if c.State == quarry.ChunkLost {
		c.State = quarry.ChunkSealed
	}
}

// differs notes that the replica at a server has other bytes than it should.
func (c *ChunkRecord) differs(s quarry.ServerID) {
	c.Suspect = true
	if r := c.Replica(s); r != nil && r.State != ReplicaDropping {
		r.State, r.Owes, r.OwesVersion = ReplicaBad, 0, 0
	}
}

// settleBad has the bad replicas dropped once a good one holds, and says that the chunk is
// lost when no replica is left that may be good.
func (c *ChunkRecord) settleBad() {
	if c.Count(ReplicaHolding) > 0 {
		for i := range c.Replicas {
			if r := &c.Replicas[i]; r.State == ReplicaBad {
				r.Drop(c.Version)
			}
		}
		return
	}
	if c.State == quarry.ChunkSealed && c.Count(ReplicaPending, ReplicaAway) == 0 {
		c.State = quarry.ChunkLost
	}
}
