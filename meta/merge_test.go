package meta

import (
	"slices"
	"testing"

	"github.com/quarryfs/quarry"
)

// pieces returns a file with one sealed chunk of each length.
func (s *shard) pieces(name string, lengths ...int64) (quarry.Inode, []quarry.Handle) {
	s.t.Helper()
	f := s.touch(quarry.RootInode, name)
	var handles []quarry.Handle
	for _, n := range lengths {
		h := s.openTail(f, 1, 2, 3)
		s.seal(h, n)
		handles = append(handles, h)
	}
	return f, handles
}

// merging returns the command that merges chunks whose pieces begin at offset.
func (s *shard) merging(f quarry.Inode, offset int64, handles ...quarry.Handle) *Merge {
	c := s.chunk(3, 4)
	c.Handle = quarry.MakeHandle(f.Slot(), c.Handle.Number())
	m := &Merge{File: f, Offset: offset, Chunk: c, CRC: 77}
	for _, h := range handles {
		m.Parts = append(m.Parts, MergePart{h, s.record(h).Version})
	}
	return m
}

func TestMerge(t *testing.T) {
	s := newShard(t)
	f, h := s.pieces("f", 10, 20, 30, 40)
	s.refused(quarry.StaleVersion, s.merging(f, 0, h[1], h[2]))
	s.refused(quarry.StaleVersion, s.merging(f, 10, h[2], h[1]))
	s.refused(quarry.StaleVersion, s.merging(f, 10, h[1], h[3]))
	s.refused(quarry.Invalid, s.merging(f, 10, h[1]))
	s.refused(quarry.Invalid, s.merging(f, 101, h[1], h[2]))
	other, _ := s.pieces("g", 10, 20, 30)
	s.refused(quarry.StaleVersion, s.merging(other, 10, h[1], h[2]))
	stale := s.merging(f, 10, h[1], h[2])
	stale.Parts[1].Version = 4
	s.refused(quarry.StaleVersion, stale)

	m := s.merging(f, 10, h[1], h[2])
	r := s.ok(m)
	s.ok(m) // once more
	c := s.record(m.Chunk.Handle)
	if c.State != quarry.ChunkSealed || c.Version != 2 || c.WritableVersion != 1 || c.Length != 50 || c.CRC != 77 || !c.CRCKnown || c.Position != 10 || c.Count(ReplicaHolding) != 2 {
		t.Errorf("the new chunk is %+v", c)
	}
	if r.Attr.Length != 100 || r.Attr.LayoutVersion != 1 {
		t.Errorf("the file is %+v", r.Attr)
	}
	l, err := Locate(s.kv, &quarry.LocateRequest{File: f, Max: 10})
	if err != nil || len(l.Pieces) != 3 || l.Pieces[1].Handle != c.Handle || l.Pieces[1].Offset != 10 || l.Pieces[1].Length != 50 || l.Pieces[2].Offset != 60 {
		t.Errorf("the layout is %+v, %v", l, err)
	}
	for _, old := range h[1:3] { // kept for those who ask for fates
		if o, err := ChunkOf(s.kv, old); err != nil || o.Freed == 0 || o.Refs != 0 || o.Count(ReplicaHolding) != 3 {
			t.Errorf("an old chunk is %+v, %v", o, err)
		}
	}
	s.refused(quarry.StaleVersion, s.merging(f, 10, h[1], h[2]))
	s.time += 100
	s.ok(&Collect{KeepMS: 1000, Max: 10})
	if o, err := ChunkOf(s.kv, h[1]); err != nil || o.Doomed {
		t.Error("an old chunk is freed at once")
	}
	s.time += 2000
	s.ok(&Collect{KeepMS: 1000, Max: 10})
	if _, err := ChunkOf(s.kv, h[1]); err == nil {
		t.Error("an old chunk is never freed")
	}
	// The last piece, too, and then it is opened again; an open tail is no part.
	last := s.merging(f, 10, c.Handle, h[3])
	s.ok(last)
	s.ok(s.reopening(f, last.Chunk.Handle))
	s.refused(quarry.StaleVersion, s.merging(f, 0, h[0], last.Chunk.Handle))
	s.seal(last.Chunk.Handle, 95)
	s.ok(s.merging(f, 0, h[0], last.Chunk.Handle))
}

func TestMergeRun(t *testing.T) {
	s := newShard(t)
	small := func(n int) []int64 { return slices.Repeat([]int64{7}, n) }
	f, _ := s.pieces("few", small(MergeMin-1)...)
	if _, run := MergeRun(s.kv, f, MergeMin, nil); run != nil {
		t.Errorf("%d pieces are to be merged", len(run))
	}
	f, h := s.pieces("some", slices.Concat([]int64{MergeBytesMax + 1}, small(MergeMin+1), []int64{MergeBytesMax + 1}, small(3))...)
	s.openTail(f, 1, 2)
	offset, run := MergeRun(s.kv, f, MergeMin, nil)
	if offset != MergeBytesMax+1 || len(run) != MergeMin+1 || run[0].Handle != h[1] {
		t.Errorf("%d pieces at %d", len(run), offset)
	}
	f, _ = s.pieces("large", slices.Repeat([]int64{MergeBytesMax}, 20)...)
	if offset, run = MergeRun(s.kv, f, MergeMin, nil); len(run) != 12 || offset%MergeBytesMax != 0 {
		t.Errorf("%d pieces at %d", len(run), offset)
	}
	f, many := s.pieces("many", small(MergeMax+5)...)
	if offset, run = MergeRun(s.kv, f, MergeMin, nil); offset != 0 || len(run) != MergeMax {
		t.Errorf("%d pieces at %d", len(run), offset)
	}
	// One that is unfit is in no run, and ends the one before it.
	unfit := func(h quarry.Handle) bool { return h == many[3] }
	if at, rest := MergeRun(s.kv, f, MergeMin, unfit); at != 4*7 || len(rest) != MergeMax || rest[0].Handle != many[4] {
		t.Errorf("%d pieces at %d", len(rest), at)
	}
	// What is found can be merged.
	m := &Merge{File: f, Offset: offset, Chunk: s.chunk(1, 2), CRC: 1}
	for _, c := range run {
		m.Parts = append(m.Parts, MergePart{c.Handle, c.Version})
	}
	m.Chunk.Handle = quarry.MakeHandle(f.Slot(), m.Chunk.Handle.Number())
	s.ok(m)
}

// TestMergePut: the records of a chunk that was put have names which appended ones have as well,
// so they never come into one chunk.
func TestMergePut(t *testing.T) {
	s := newShard(t)
	put := s.owned(10, 1, 2, 3)
	f := s.ok(&Link{Parent: quarry.RootInode, Name: "f", Pieces: []quarry.LinkPiece{{Handle: put, Length: 10}}}).Attr.Inode
	var tails []quarry.Handle
	for range 2 {
		tails = append(tails, s.openTail(f, 1, 2, 3))
		s.seal(tails[len(tails)-1], 7)
	}
	s.refused(quarry.Invalid, s.merging(f, 0, put, tails[0]))
	s.refused(quarry.Invalid, s.merging(f, 0, put, tails[0], tails[1]))
	if offset, run := MergeRun(s.kv, f, 2, nil); offset != 10 || len(run) != 2 {
		t.Errorf("%d pieces at %d are to be merged", len(run), offset)
	}
	s.ok(s.merging(f, 10, tails...))
}

// merge merges some pieces of some file, if they can be.
func (m *model) merge() {
	n := m.node()
	if len(n.pieces) < 2 || n.gone {
		return
	}
	from := m.rand.IntN(len(n.pieces) - 1)
	to := from + 2 + m.rand.IntN(len(n.pieces)-from-1)
	parts := n.pieces[from:to]
	kind, length := quarry.Kind(0), int64(0)
	c := m.newChunk()
	b := &Merge{File: n.inode, Offset: parts[0].Offset, Chunk: c, CRC: uint32(c.Handle)}
	for _, p := range parts {
		if p.Handle == 0 || p.Length == quarry.OpenEnded {
			return
		}
		rec := m.record(p.Handle)
		b.Parts = append(b.Parts, MergePart{p.Handle, rec.Version})
		switch {
		case kind != 0:
		case rec.State != quarry.ChunkSealed:
			kind = quarry.StaleVersion
		case rec.Suspect || !m.appended[p.Handle]:
			kind = quarry.Invalid
		case rec.Length != p.Length:
			kind = quarry.StaleVersion
		}
		length += p.Length
	}
	if r := m.want(kind, b); r.Err == nil {
		piece := quarry.Piece{Offset: parts[0].Offset, Length: length, Handle: c.Handle, Kind: quarry.PieceChunk}
		n.pieces = slices.Concat(n.pieces[:from:from], []quarry.Piece{piece}, n.pieces[to:])
		m.opened(c)
		m.appended[c.Handle] = true
	}
}
