package meta

import (
	"fmt"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// BeginSeal ends a chunk's writable version: every member owes a fence of the next version.
// A version that has ended already is a success. StaleVersion: the chunk is at another one.
// Result: Chunk, with this error too.
type BeginSeal struct {
	Handle  quarry.Handle
	Version quarry.Version // the writable one
}

func (*BeginSeal) kind() Kind { return KindBeginSeal }

func (c *BeginSeal) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Handle)
	wire.Uint(w, 11, &c.Version)
}

func (c *BeginSeal) apply(t *tx, r *Result) error {
	chunk, err := t.editKnown(c.Handle)
	if err != nil {
		return err
	}
	r.Chunk = &chunk.ChunkRecord
	if chunk.WritableVersion != c.Version {
		return staleVersion(&chunk.ChunkRecord)
	}
	if chunk.State != quarry.ChunkOpen {
		return nil
	}
	chunk.State = quarry.ChunkSealing
	chunk.Version++
	for i := range chunk.Replicas {
		m := &chunk.Replicas[i]
		m.Owes, m.OwesVersion = quarry.ItemFence, chunk.Version
	}
	t.saveChunk(chunk)
	return nil
}

// editKnown returns a chunk's record to be changed, or NotFound or WrongShard.
func (t *tx) editKnown(h quarry.Handle) (*chunkEdit, error) {
	if err := t.checkSlot(h.Slot()); err != nil {
		return nil, err
	}
	if c := t.edit(h); c != nil {
		return c, nil
	}
	return nil, refuse(quarry.NotFound, h.String(), "there is no such chunk")
}

func staleVersion(c *ChunkRecord) error {
	return refuse(quarry.StaleVersion, c.Handle.String(), "the chunk is %v at version %d", c.State, c.Version)
}

// Verdict is what the sealer found out about a member.
type Verdict uint8

// The verdicts about a member.
const (
	// VerdictSilent: it has not replied. It owes a fence and may yet prove to be complete.
	VerdictSilent Verdict = 0
	// VerdictGood: its reply was good; it is fenced, and has every byte of the seal.
	VerdictGood Verdict = 1
	// VerdictBad: it is fenced, and what it has cannot hold the seal.
	VerdictBad Verdict = 2
	// VerdictGone: it has nothing, or its server or disk is gone for good.
	VerdictGone Verdict = 3
)

// MemberVerdict is the verdict about one member.
type MemberVerdict struct {
	Server  quarry.ServerID
	Verdict Verdict
}

func memberVerdictFields(w *wire.Walk, v *MemberVerdict) {
	wire.Uint(w, 1, &v.Server)
	wire.Uint(w, 2, &v.Verdict)
}

// Seal decides the length of a chunk whose version was ended by [BeginSeal]: it is sealed,
// or lost. The open-ended piece of its file, if it is one, becomes a fixed one; a piece of no
// bytes goes away. Sealed at this version and length already: a success. StaleVersion: the
// chunk is at another version or was sealed at another length. Invalid: no member is good.
// Result: Chunk, with StaleVersion too.
type Seal struct {
	Handle  quarry.Handle
	Version quarry.Version // the one that BeginSeal made
	Length  int64
	Suspect bool            // no member of the version answered: the length may be short
	Lost    bool            // every member is bad or gone: there is no length
	Members []MemberVerdict // those that are not named are silent
}

func (*Seal) kind() Kind { return KindSeal }

func (c *Seal) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Handle)
	wire.Uint(w, 11, &c.Version)
	wire.Uint(w, 12, &c.Length)
	wire.Bool(w, 13, &c.Suspect)
	wire.Bool(w, 14, &c.Lost)
	wire.List(w, 15, &c.Members, quarry.ReplicasMax, memberVerdictFields)
}

func (c *Seal) apply(t *tx, r *Result) error {
	chunk, err := t.editKnown(c.Handle)
	if err != nil {
		return err
	}
	r.Chunk = &chunk.ChunkRecord
	// A lost chunk may be sealed after all when a member comes back.
	decided := chunk.State == quarry.ChunkSealed || chunk.State == quarry.ChunkLost && (chunk.LengthKnown || c.Lost)
	decided = decided && !off(SealedTwice)
	switch {
	case chunk.Version != c.Version || chunk.State == quarry.ChunkOpen || chunk.Doomed:
		return staleVersion(&chunk.ChunkRecord)
	case decided && chunk.LengthKnown == !c.Lost && (c.Lost || chunk.Length == c.Length):
		return nil
	case decided:
		return refuse(quarry.StaleVersion, c.Handle.String(), "the chunk is %v with %d bytes", chunk.State, chunk.Length)
	}
	if err := c.check(&chunk.ChunkRecord); err != nil {
		return err
	}
	c.judge(&chunk.ChunkRecord)
	chunk.Suspect = chunk.Suspect || c.Suspect
	chunk.State = quarry.ChunkLost
	if !c.Lost {
		chunk.State, chunk.Length, chunk.LengthKnown = quarry.ChunkSealed, c.Length, true
	}
	t.closeTail(chunk)
	if chunk.Orphan() {
		chunk.Freed = t.freed(&chunk.ChunkRecord)
	}
	t.saveChunk(chunk)
	return nil
}

// check returns why the chunk cannot be sealed so.
func (c *Seal) check(chunk *ChunkRecord) error {
	subject, good := c.Handle.String(), 0
	for i, m := range c.Members {
		if chunk.Replica(m.Server) == nil || m.Verdict > VerdictGone {
			return refuse(quarry.Invalid, subject, "server %d is no member, or has no such verdict", m.Server)
		}
		for _, before := range c.Members[:i] {
			if before.Server == m.Server {
				return refuse(quarry.Invalid, subject, "server %d comes twice", m.Server)
			}
		}
		if m.Verdict == VerdictGood {
			good++
		}
	}
	switch {
	case c.Lost && good > 0:
		return refuse(quarry.Invalid, subject, "a chunk with a good member is not lost")
	case !c.Lost && good == 0:
		return refuse(quarry.Invalid, subject, "no member is good")
	case !c.Lost && (c.Length < chunk.Base || c.Length > quarry.ChunkBytesMax):
		return refuse(quarry.Invalid, subject, "%d bytes; it began with %d and holds %d", c.Length, chunk.Base, quarry.ChunkBytesMax)
	}
	return nil
}

// judge gives each member the state that follows from its verdict. What a lost chunk's
// members have, however broken, is not dropped: it is all that there is.
func (c *Seal) judge(chunk *ChunkRecord) {
	kept := chunk.Replicas[:0]
	for _, m := range chunk.Replicas {
		verdict := VerdictSilent
		for _, v := range c.Members {
			if v.Server == m.Server {
				verdict = v.Verdict
			}
		}
		switch verdict {
		case VerdictGone:
			continue
		case VerdictGood:
			m.State, m.Owes, m.OwesVersion = ReplicaPending, 0, 0
		case VerdictBad:
			if m.State, m.Owes, m.OwesVersion = ReplicaBad, 0, 0; !c.Lost {
				m.Drop(chunk.Version)
			}
		case VerdictSilent: // it owes its fence until it says otherwise
			if m.State != ReplicaBad {
				m.State = ReplicaAway
			}
		}
		kept = append(kept, m)
	}
	chunk.Replicas = kept
}

// closeTail ends the open-ended piece of the chunk's file, if the chunk is its tail.
func (t *tx) closeTail(c *chunkEdit) {
	id := c.File
	if id == 0 {
		return
	}
	file := t.anyInode(id)
	if file == nil || !file.Open {
		return
	}
	p, _, _ := t.lastPiece(id, file)
	if p.Handle != c.Handle {
		return
	}
	before := file.Length
	if c.LengthKnown {
		t.fixTail(c, file, p)
	}
	if file.Links == 0 {
		t.header.Counters.Trash(0, file.Length-before, file.Doomed)
	}
	t.putInode(id, file)
}

// fixTail makes the open-ended piece a fixed one.
func (t *tx) fixTail(c *chunkEdit, file *inodeRecord, p pieceRecord) {
	t.delete(pieceKey(t.key[:0], c.File, openEnd))
	file.Open = false
	file.ModifiedNS = t.wallNS
	if p.Length = c.Length - p.ChunkOffset; p.Length > 0 {
		file.Length += p.Length
		t.putPiece(c.File, uint64(file.Length), &p)
		return
	}
	if c.Refs--; c.Refs == 0 {
		c.File = 0
	}
}

// ChunkOf returns a chunk's record. NotFound: there is none, or it is being dropped. WrongShard.
func ChunkOf(v View, h quarry.Handle) (*ChunkRecord, error) {
	s := reading(v)
	if err := s.checkSlot(h.Slot()); err != nil {
		return nil, named("chunk", "", err)
	}
	c := s.chunk(h)
	if c == nil || c.Doomed {
		return nil, quarry.Errorf("chunk", quarry.NotFound, h.String(), "there is no such chunk")
	}
	return c, nil
}

// Active is a chunk that the leader must attend to.
type Active struct {
	Handle quarry.Handle
	State  quarry.ChunkState // sealed: replicas have not confirmed the seal yet
	Orphan bool              // open, though nothing needs it: to be sealed
}

// ActiveChunks returns the open chunks, those being sealed, and those with replicas that have
// not confirmed their seal: at most n, in the order of their handles, after the given one.
func ActiveChunks(v View, past quarry.Handle, n int) (list []Active) {
	s := reading(v)
	s.index(activeKey(nil, past+1), after(table(nil, shardSlot, tableActive)), func(key, _ []byte) bool {
		list = append(list, Active{Handle: quarry.Handle(lastNumber(key))})
		return len(list) < n
	})
	for i := range list {
		c := s.chunk(list[i].Handle)
		if c == nil {
			panic(fmt.Sprintf("meta: the state is broken: chunk %v is active and has no record", list[i].Handle))
		}
		list[i].State = c.State
		if c.State != quarry.ChunkSealed {
			list[i].Orphan = c.Orphan() || c.File != 0 && s.inode(c.File) == nil
		}
	}
	return list
}
