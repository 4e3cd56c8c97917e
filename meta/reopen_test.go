package meta

import (
	"slices"
	"testing"

	"github.com/quarryfs/quarry"
)

// reopening returns the command that opens a sealed chunk of a file again by all its replicas.
func (s *shard) reopening(file quarry.Inode, h quarry.Handle) *Reopen {
	c := s.record(h)
	r := &Reopen{File: file, Handle: h, Version: c.Version}
	for _, m := range c.Replicas {
		r.Members = append(r.Members, NewMember{Server: m.Server, Incarnation: m.Incarnation + 1, Disk: m.Disk})
	}
	return r
}

// TestReopen opens the last chunk of a file again and seals it; the layout shows one piece.
func TestReopen(t *testing.T) {
	s := newShard(t)
	f := s.touch(quarry.RootInode, "f")
	first := s.openTail(f, 1, 2)
	s.seal(first, 10)
	h := s.openTail(f, 1, 2, 3)
	s.refused(quarry.Exists, &Reopen{File: f, Handle: first, Version: 2, Members: s.reopening(f, first).Members})
	s.seal(h, 100)
	good := s.reopening(f, h)
	slices.Reverse(good.Members)
	for _, bad := range []Reopen{
		{File: f, Handle: h, Version: 2, Members: good.Members[:2]},
		{File: f, Handle: h, Version: 2, Members: good.Members[:1]},
		{File: f, Handle: h, Version: 2},
		{File: f, Handle: h, Version: 2, Members: append(slices.Clone(good.Members[:2]), good.Members[1])},
		{File: f, Handle: h, Version: 2, Members: append(slices.Clone(good.Members[:2]), member(4))},
		{File: f, Handle: h, Version: 2, Members: append(slices.Clone(good.Members[:2]), NewMember{Server: 1, Incarnation: 11, Disk: quarry.DiskID{9}})},
		{File: f, Handle: h, Version: 2, Members: append(slices.Clone(good.Members[:2]), NewMember{Server: 1, Incarnation: 9, Disk: quarry.DiskID{1}})},
	} {
		s.refused(quarry.Invalid, &bad)
	}
	s.refused(quarry.StaleVersion, &Reopen{File: f, Handle: first, Version: 2, Members: s.reopening(f, first).Members})
	s.refused(quarry.StaleVersion, &Reopen{File: f, Handle: h, Version: 4, Members: good.Members})
	s.refused(quarry.NotFound, &Reopen{File: f + 99, Handle: h, Version: 2, Members: good.Members})
	r := s.ok(good)
	c := r.Chunk
	if c.State != quarry.ChunkOpen || c.Version != 3 || c.WritableVersion != 3 || c.PrevWritableVersion != 1 || c.Base != 100 || c.LengthKnown || c.CRCKnown {
		t.Errorf("opened again it is %+v", c)
	}
	if p := c.Chunk().Members; len(p) != 3 || p[0].Server != 3 || p[0].Incarnation != 31 {
		t.Errorf("its members are %v", p)
	}
	if r.Attr.Length != 10 || !r.Attr.Open || r.Piece.Offset != 10 || r.Piece.Length != quarry.OpenEnded || r.Attr.LayoutVersion != 0 {
		t.Errorf("the file is %+v, its tail %+v", r.Attr, r.Piece)
	}
	attr, err := s.lookup("f")
	list, err2 := List(s.kv, &quarry.ListRequest{Dir: quarry.RootInode, Max: 10}, nil)
	if err != nil || err2 != nil || attr.Length != 110 || !attr.Open || list.Entries[0].Attr.Length != 110 {
		t.Errorf("who looks it up sees %+v, %v; who lists it %+v, %v", attr, err, list, err2)
	}
	s.ok(good) // once more, as by who does not know whether it was applied
	s.refused(quarry.StaleVersion, &Hold{Handle: h, Version: 2, Holders: holders(uint32(h), 1)})
	s.refused(quarry.StaleVersion, &AddReplica{Handle: h, Version: 2, Copy: holders(uint32(h), 5)[0]})
	s.ok(&BeginSeal{Handle: h, Version: 3})
	s.refused(quarry.Exists, good)
	s.refused(quarry.Invalid, &Seal{Handle: h, Version: 4, Length: 99, Members: verdicts(VerdictGood, 1, 2)})
	s.ok(&Seal{Handle: h, Version: 4, Length: 150, Members: verdicts(VerdictGood, 1, 2)})
	l, err := Locate(s.kv, &quarry.LocateRequest{File: f, Max: 10})
	if err != nil || len(l.Pieces) != 2 || l.Pieces[1].Handle != h || l.Pieces[1].Length != 150 || l.Attr.Length != 160 {
		t.Errorf("the layout is %+v, %v", l, err)
	}
	// Two have not confirmed the seal, and the third is away.
	s.refused(quarry.Busy, s.reopening(f, h))
	s.ok(&Hold{Handle: h, Version: 4, Holders: holders(uint32(h), 1, 2)})
	s.refused(quarry.Busy, s.reopening(f, h))
	s.ok(&Hold{Handle: h, Version: 4, Holders: holders(uint32(h), 3)})
	s.ok(s.reopening(f, h))
}

// TestReopenUnfit: chunks that must not grow stay sealed.
func TestReopenUnfit(t *testing.T) {
	s := newShard(t)
	full := s.touch(quarry.RootInode, "full")
	h := s.openTail(full, 1, 2)
	s.seal(h, ReopenBytesMax+1)
	s.refused(quarry.Full, s.reopening(full, h))
	alone := s.touch(quarry.RootInode, "alone")
	h = s.openTail(alone, 1)
	s.seal(h, 10)
	s.refused(quarry.Invalid, s.reopening(alone, h))
	part := s.owned(10, 1, 2)
	f := s.ok(&Link{Parent: quarry.RootInode, Name: "part", Pieces: []quarry.LinkPiece{{Handle: part, Length: 9}}}).Attr.Inode
	s.refused(quarry.Invalid, s.reopening(f, part)) // its last byte is not the file's
	whole := s.owned(10, 1, 2)
	f = s.ok(&Link{Parent: quarry.RootInode, Name: "whole", Pieces: []quarry.LinkPiece{{Handle: whole, Length: 10}}}).Attr.Inode
	s.refused(quarry.Invalid, s.reopening(f, whole)) // the session that put it appends with the same sequences
	s.seal(s.openTail(f, 1, 2), 5)
	tail := s.openTail(f, 1, 2)
	s.seal(tail, 10)
	s.ok(s.reopening(f, tail)) // behind the chunk that was put, one goes on as ever
	s.ok(&Remove{Parent: quarry.RootInode, Name: "whole"})
	s.seal(tail, 10)
	s.refused(quarry.NotFound, s.reopening(f, tail))
	odd := s.touch(quarry.RootInode, "odd")
	h = s.openTail(odd, 1, 2)
	s.ok(&BeginSeal{Handle: h, Version: 1})
	s.ok(&Seal{Handle: h, Version: 2, Length: 5, Suspect: true, Members: verdicts(VerdictGood, 1, 2)})
	s.ok(&Hold{Handle: h, Version: 2, Holders: holders(1, 1, 2)})
	s.refused(quarry.Invalid, s.reopening(odd, h))
}

// reopen opens the last chunk of some file again, if it can be.
func (m *model) reopen() {
	n := m.node()
	last := len(n.pieces) - 1
	if last < 0 || n.gone || n.pieces[last].Handle == 0 || n.pieces[last].Length == quarry.OpenEnded {
		return
	}
	h := n.pieces[last].Handle
	c := m.record(h)
	kind := quarry.Kind(0)
	switch {
	case c.State != quarry.ChunkSealed:
		kind = quarry.StaleVersion
	case c.Suspect || !m.appended[h] || len(c.Replicas) < 2 || len(c.Replicas) > quarry.ReplicasMax || n.pieces[last].Length != c.Length:
		kind = quarry.Invalid
	case c.Count(ReplicaHolding) < len(c.Replicas):
		kind = quarry.Busy
	}
	if len(c.Replicas) > quarry.ReplicasMax {
		return // cannot be said
	}
	if r := m.want(kind, m.reopening(n.inode, h)); r.Err == nil {
		n.pieces[last].Length = quarry.OpenEnded
		delete(m.lengths, h)
	}
}
