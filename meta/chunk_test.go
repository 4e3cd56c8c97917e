package meta

import (
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/quarryfs/quarry"
)

func TestOpenTail(t *testing.T) {
	s := newShard(t)
	f := s.touch(quarry.RootInode, "f")
	d := s.mkdir(quarry.RootInode, "d")
	c := s.chunk(1, 2, 3)
	open := OpenTail{File: f, Session: s.session, Chunk: c}
	bad := func(change func(*OpenTail)) *OpenTail {
		o := open
		o.Chunk.Members = slices.Clone(o.Chunk.Members)
		change(&o)
		return &o
	}
	s.refused(quarry.IsDir, bad(func(o *OpenTail) { o.File = d }))
	s.refused(quarry.NotFound, bad(func(o *OpenTail) { o.File = 99 }))
	s.refused(quarry.SessionExpired, bad(func(o *OpenTail) { o.Session = 1 }))
	s.refused(quarry.StaleVersion, bad(func(o *OpenTail) { o.Last = 5 }))
	s.refused(quarry.Invalid, bad(func(o *OpenTail) { o.Chunk.Handle = quarry.MakeHandle(5, 1) }))
	s.refused(quarry.Invalid, bad(func(o *OpenTail) { o.Chunk.Handle = 1001 }))
	s.refused(quarry.Invalid, bad(func(o *OpenTail) { o.Chunk.Handle = 0 }))
	s.refused(quarry.Invalid, bad(func(o *OpenTail) { o.Chunk.Members = nil }))
	s.refused(quarry.Invalid, bad(func(o *OpenTail) { o.Chunk.Members[1] = o.Chunk.Members[0] }))
	s.refused(quarry.Invalid, bad(func(o *OpenTail) { o.Chunk.Members[1].Server = 0 }))
	s.refused(quarry.Invalid, bad(func(o *OpenTail) { o.Chunk.Members[1].Incarnation = 0 }))
	s.refused(quarry.Invalid, bad(func(o *OpenTail) { o.Chunk.Wanted = 0 }))
	s.refused(quarry.Invalid, bad(func(o *OpenTail) { o.Chunk.Wanted = 9 }))

	r := s.ok(&open)
	if r.Piece.Length != quarry.OpenEnded || r.Piece.Handle != c.Handle || !r.Attr.Open || r.Chunk.Version != 1 {
		t.Errorf("opened %+v", r)
	}
	if again := s.ok(&open); again.Chunk.Handle != c.Handle {
		t.Errorf("the same command again: %+v", again)
	}
	// Two writers come at the same time: the second one is told the first one's chunk.
	r = s.refused(quarry.Exists, bad(func(o *OpenTail) { o.Chunk = s.chunk(4, 5) }))
	if r.Chunk == nil || r.Chunk.Handle != c.Handle || r.Piece.Handle != c.Handle {
		t.Errorf("the second writer is told %+v", r)
	}
	s.seal(c.Handle, 10)
	r = s.refused(quarry.StaleVersion, bad(func(o *OpenTail) { o.Chunk = s.chunk(4, 5) }))
	if r.Chunk == nil || r.Chunk.Version != 2 || r.Piece.Length != 10 {
		t.Errorf("after the seal the second writer is told %+v", r)
	}
	s.refused(quarry.StaleVersion, bad(func(o *OpenTail) { o.Chunk, o.Last, o.Version = s.chunk(4), c.Handle, 1 }))
	s.refused(quarry.Invalid, bad(func(o *OpenTail) { o.Last, o.Version = c.Handle, 2 })) // the handle is used
	s.ok(bad(func(o *OpenTail) { o.Chunk, o.Last, o.Version = s.chunk(4, 5), c.Handle, 2 }))
	if n := Totals(s.kv); n.Chunks != 2 || n.Open != 1 || n.UnderCopied != 0 {
		t.Errorf("counters %+v", n)
	}
}

func TestSeal(t *testing.T) {
	s := newShard(t)
	f := s.touch(quarry.RootInode, "f")
	h := s.openTail(f, 1, 2, 3)
	s.refused(quarry.NotFound, &BeginSeal{Handle: h + 1, Version: 1})
	s.refused(quarry.StaleVersion, &BeginSeal{Handle: h, Version: 2})
	seal := Seal{Handle: h, Version: 2, Length: 100}
	seal.Members = append(verdicts(VerdictGood, 1), verdicts(VerdictBad, 3)...)
	s.refused(quarry.StaleVersion, &seal)
	if r := s.ok(&BeginSeal{Handle: h, Version: 1}); r.Chunk.State != quarry.ChunkSealing || r.Chunk.Version != 2 {
		t.Errorf("sealing %+v", r.Chunk)
	}
	s.ok(&BeginSeal{Handle: h, Version: 1})
	for id := quarry.ServerID(1); id <= 3; id++ {
		items, more := Unsettled(s.kv, id, 10)
		if want := (quarry.Item{Kind: quarry.ItemFence, Handle: h, Version: 2}); len(items) != 1 || items[0] != want || more {
			t.Errorf("server %d owes %v", id, items)
		}
	}
	s.refused(quarry.StaleVersion, &Hold{Handle: h, Version: 2, Holders: holders(1, 1)})
	for _, bad := range []Seal{
		{Handle: h, Version: 2, Length: 100},
		{Handle: h, Version: 2, Length: -1, Members: verdicts(VerdictGood, 1)},
		{Handle: h, Version: 2, Length: quarry.ChunkBytesMax + 1, Members: verdicts(VerdictGood, 1)},
		{Handle: h, Version: 2, Length: 1, Members: verdicts(VerdictGood, 4)},
		{Handle: h, Version: 2, Length: 1, Members: verdicts(VerdictGood, 1, 1)},
		{Handle: h, Version: 2, Length: 1, Members: verdicts(VerdictGone+1, 1)},
		{Handle: h, Version: 2, Length: 1, Members: verdicts(VerdictGood, 1), Lost: true},
	} {
		s.refused(quarry.Invalid, &bad)
	}
	r := s.ok(&seal)
	if want := []ReplicaState{ReplicaPending, ReplicaAway, ReplicaDropping}; !slices.Equal(s.states(h), want) {
		t.Errorf("replicas %v, want %v", r.Chunk.Replicas, want)
	}
	attr, _ := s.lookup("f")
	if attr.Length != 100 || attr.Open || attr.LayoutVersion != 0 {
		t.Errorf("the file is %+v", attr)
	}
	s.ok(&seal)
	other := seal
	other.Length = 99 // a length that was decided is never changed
	if r := s.refused(quarry.StaleVersion, &other); r.Chunk.Length != 100 {
		t.Errorf("told %+v", r.Chunk)
	}
	for id, kind := range map[quarry.ServerID]quarry.ItemKind{1: 0, 2: quarry.ItemFence, 3: quarry.ItemDrop} {
		if items, _ := Unsettled(s.kv, id, 10); kind == 0 && len(items) > 0 || kind != 0 && (len(items) != 1 || items[0].Kind != kind) {
			t.Errorf("server %d owes %v", id, items)
		}
	}
	if m := r.Chunk.Chunk().Members; len(m) != 1 || m[0].Server != 1 {
		t.Errorf("readers are told %v", m)
	}
	if n := Totals(s.kv); n.UnderCopied != 1 || n.Missing != 0 || n.Items != 2 {
		t.Errorf("counters %+v", n)
	}
}

// A chunk that was opened and never written to leaves no piece, and becomes garbage.
func TestSealOfNothing(t *testing.T) {
	s := newShard(t)
	f := s.touch(quarry.RootInode, "f")
	first := s.openTail(f, 1, 2)
	s.seal(first, 10)
	empty := s.openTail(f, 1, 2)
	s.seal(empty, 0)
	if c := s.record(empty); c.Freed == 0 || c.Refs != 0 {
		t.Errorf("the empty chunk is %+v", c)
	}
	next := s.openTail(f, 1, 2)
	s.seal(next, 5)
	r, err := Locate(s.kv, &quarry.LocateRequest{File: f, Max: 10})
	if err != nil || len(r.Pieces) != 2 || r.Pieces[1].Handle != next || r.Pieces[1].Offset != 10 || r.Attr.Length != 15 {
		t.Errorf("the layout is %+v, %v", r, err)
	}
}

func TestLostChunk(t *testing.T) {
	s := newShard(t)
	f := s.touch(quarry.RootInode, "f")
	h := s.openTail(f, 1, 2)
	s.ok(&BeginSeal{Handle: h, Version: 1})
	lost := &Seal{Handle: h, Version: 2, Lost: true, Members: append(verdicts(VerdictBad, 1), verdicts(VerdictGone, 2)...)}
	s.ok(lost)
	s.ok(lost)
	if c := s.record(h); c.State != quarry.ChunkLost || !slices.Equal(s.states(h), []ReplicaState{ReplicaBad}) {
		t.Errorf("the lost chunk is %+v", c)
	}
	if list := MissingChunks(s.kv, 0, 5); len(list) != 1 || list[0] != h {
		t.Errorf("missing %v", list)
	}
	if list := NextRepairs(s.kv, Repair{}, 5); len(list) != 0 {
		t.Errorf("a chunk without a copy is to be copied: %v", list)
	}
	r := s.refused(quarry.Corrupt, &OpenTail{File: f, Last: h, Version: 2, Chunk: s.chunk(3)})
	if !r.Attr.Open || r.Chunk.State != quarry.ChunkLost {
		t.Errorf("told %+v", r)
	}
	// The member was not as bad as it seemed: the seal succeeds after all.
	s.ok(&Seal{Handle: h, Version: 2, Length: 40, Suspect: true, Members: verdicts(VerdictGood, 1)})
	s.ok(&Hold{Handle: h, Version: 2, Holders: holders(5, 1)})
	if a, _ := s.lookup("f"); a.Open || a.Length != 40 {
		t.Errorf("the file is %+v", a)
	}
	if n := Totals(s.kv); n.Missing != 0 || n.UnderCopied != 1 || n.Suspect != 1 {
		t.Errorf("counters %+v", n)
	}
}

func TestRemoveWhileLost(t *testing.T) {
	s := newShard(t)
	f := s.touch(quarry.RootInode, "f")
	h := s.openTail(f, 1)
	s.ok(&BeginSeal{Handle: h, Version: 1})
	s.ok(&Seal{Handle: h, Version: 2, Lost: true, Members: verdicts(VerdictGone, 1)})
	if r := s.ok(&Remove{Parent: quarry.RootInode, Name: "f"}); len(r.Orphans) != 0 {
		t.Errorf("orphans %v", r.Orphans)
	}
	s.time += 10
	s.ok(&Collect{KeepMS: 1, Max: 10})
	if n := Totals(s.kv); n.Chunks != 0 || n.Removed != 0 {
		t.Errorf("counters %+v", n)
	}
}

func TestHold(t *testing.T) {
	s := newShard(t)
	f := s.touch(quarry.RootInode, "f")
	h := s.openTail(f, 1, 2, 3)
	s.ok(&BeginSeal{Handle: h, Version: 1})
	s.ok(&Seal{Handle: h, Version: 2, Length: 9, Members: verdicts(VerdictGood, 1, 2, 3)})
	if list := ActiveChunks(s.kv, 0, 9); len(list) != 1 || list[0].State != quarry.ChunkSealed || list[0].Orphan {
		t.Errorf("active %v", list)
	}
	// Two of three agree: the third one's bytes are wrong.
	r := s.ok(&Hold{Handle: h, Version: 2, Holders: append(holders(7, 1), holders(8, 2, 3)...)})
	if r.Count != 1 || r.Chunk.CRC != 8 || !r.Chunk.Suspect {
		t.Errorf("held %+v", r)
	}
	if want := []ReplicaState{ReplicaDropping, ReplicaHolding, ReplicaHolding}; !slices.Equal(s.states(h), want) {
		t.Errorf("replicas %v", s.states(h))
	}
	if list := ActiveChunks(s.kv, 0, 9); len(list) != 0 {
		t.Errorf("active %v", list)
	}
	if list := NextRepairs(s.kv, Repair{}, 9); len(list) != 1 || list[0] != (Repair{2, h}) {
		t.Errorf("repairs %v", list)
	}
	// The server that has to drop does not hold, whatever it says; a stranger does.
	s.ok(&Hold{Handle: h, Version: 2, Holders: holders(8, 1, 4)})
	if want := []ReplicaState{ReplicaDropping, ReplicaHolding, ReplicaHolding, ReplicaHolding}; !slices.Equal(s.states(h), want) {
		t.Errorf("replicas %v", s.states(h))
	}
	s.ok(&Hold{Handle: h, Version: 2, Holders: holders(8, 5)})
	if n := len(s.record(h).Replicas); n != 4 {
		t.Errorf("a copy that nobody wants was taken in: %v", s.record(h).Replicas)
	}
	s.refused(quarry.StaleVersion, &Hold{Handle: h, Version: 4, Holders: holders(8, 5)})
	s.refused(quarry.Invalid, &Hold{Handle: h, Version: 2, Holders: []Holder{{CRC: 8}}})
}

func TestSilentMemberComesBack(t *testing.T) {
	s := newShard(t)
	f := s.touch(quarry.RootInode, "f")
	h := s.openTail(f, 1, 2, 3)
	s.ok(&BeginSeal{Handle: h, Version: 1})
	s.ok(&Seal{Handle: h, Version: 2, Length: 9, Members: verdicts(VerdictGood, 1, 2)})
	s.ok(&Hold{Handle: h, Version: 2, Holders: holders(8, 1, 2)})
	s.ok(&SettleItems{Server: 3, Items: []quarry.Item{{Kind: quarry.ItemFence, Handle: h, Version: 2}}})
	if items, _ := Unsettled(s.kv, 3, 9); len(items) != 0 || s.record(h).Replica(3).State != ReplicaAway {
		t.Errorf("server 3 owes %v, is %v", items, s.record(h).Replica(3))
	}
	s.ok(&Hold{Handle: h, Version: 2, Holders: holders(8, 3)})
	if n := Totals(s.kv); n.UnderCopied != 0 || s.record(h).Count(ReplicaHolding) != 3 {
		t.Errorf("counters %+v", n)
	}
}

// TestLinkForAnOwner links in a session what another one owns, as the process does that goes on with a
// put: whoever names the owner and its chunks, and each chunk once.
func TestLinkForAnOwner(t *testing.T) {
	s := newShard(t)
	owner, stranger := s.session, s.ok(&OpenSession{Slot: 9}).Session
	a, b, open := s.owned(100, 1, 2), s.owned(50, 2, 3), s.chunk(1)
	s.ok(&OpenOwned{Chunks: []NewChunk{open}})
	first := s.seq
	s.session, s.seq = s.ok(&OpenSession{Slot: 8}).Session, 0
	more := s.chunk(3, 4)
	s.ok(&OpenOwned{Chunks: []NewChunk{more}, Owner: owner})
	s.seal(more.Handle, 7)
	pieces := []quarry.LinkPiece{{Handle: a, Length: 100}, {Handle: b, Length: 50}, {Handle: more.Handle, Length: 7}}
	link := func(owner quarry.SessionID, pieces ...quarry.LinkPiece) *Link {
		return &Link{Parent: quarry.RootInode, Name: "f", Pieces: pieces, Owner: owner}
	}
	s.refused(quarry.NotFound, link(0, pieces...))        // they are not the session's own
	s.refused(quarry.NotFound, link(stranger, pieces...)) // another one has none
	s.refused(quarry.NotFound, link(owner+1<<20, pieces...))
	s.refused(quarry.NotFound, link(owner, append(pieces, quarry.LinkPiece{Handle: quarry.MakeHandle(0, 999), Length: 1})...))
	s.refused(quarry.Invalid, link(owner, append(pieces, quarry.LinkPiece{Handle: open.Handle, Length: 1})...))
	s.refused(quarry.SessionExpired, &OpenOwned{Chunks: []NewChunk{s.chunk(1)}, Owner: owner + 1<<20})
	r := s.ok(link(owner, pieces...))
	if r.Attr.Length != 157 {
		t.Errorf("linked %+v", r.Attr)
	}
	if rec, err := Session(s.kv, owner); err != nil || rec.Owned != 1 {
		t.Errorf("the owner has %d chunks, %v; one is left to it", rec.Owned, err)
	}
	late := link(0, pieces[:2]...) // what the first process had sent, and what comes behind the other's
	late.Replace = true
	if r := s.send(s.encode(quarry.Op{Session: owner, Sequence: first + 1, Oldest: first + 1}, late)); !errors.Is(r.Err, quarry.NotFound) {
		t.Errorf("they are linked once more: %v", r.Err)
	}
	s.ok(&CloseSession{Session: owner})
	if c := s.record(a); c.Freed != 0 || !c.Linked {
		t.Errorf("the end of the owner takes a linked chunk away: %+v", c)
	}
	if r := s.send(s.encode(quarry.Op{Session: owner, Sequence: first + 2, Oldest: first + 2}, late)); !errors.Is(r.Err, quarry.SessionExpired) {
		t.Errorf("the owner is gone: %v", r.Err)
	}
	if dir, _ := s.lookup("f"); dir.Length != 157 {
		t.Errorf("the file is %+v", dir)
	}
}

func TestReserveHandles(t *testing.T) {
	s := newShard(t)
	a := s.ok(&ReserveHandles{Term: 4, Count: 10}).Range
	b := s.ok(&ReserveHandles{Term: 4, Count: 5}).Range
	c := s.ok(&ReserveHandles{Term: 5, Count: 1}).Range
	if b.First != a.First+10 || c.First != b.First+5 {
		t.Errorf("ranges %v %v %v", a, b, c)
	}
	s.refused(quarry.StaleVersion, &ReserveHandles{Term: 4, Count: 1})
	s.refused(quarry.Invalid, &ReserveHandles{Term: 5})
	s.refused(quarry.Invalid, &ReserveHandles{Term: 5, Count: ReserveMax + 1})
}

func TestLink(t *testing.T) {
	s := newShard(t)
	d := s.mkdir(quarry.RootInode, "d")
	a, b := s.owned(100, 1, 2), s.owned(50, 2, 3)
	open := s.chunk(1)
	s.ok(&OpenOwned{Chunks: []NewChunk{open}})
	link := func(pieces ...quarry.LinkPiece) *Link {
		return &Link{Parent: d, Name: "f", Pieces: pieces, Mode: 0o600}
	}
	for _, bad := range [][]quarry.LinkPiece{
		{{}}, {{Handle: a, Length: 1, Inline: []byte("x")}}, {{Handle: a}}, {{Handle: a, Length: 101}},
		{{Handle: a, Length: -1}}, {{Handle: a, Length: math.MinInt64}}, {{Handle: a, Length: 1}, {Handle: a, Length: 1}},
		{{Handle: open.Handle, Length: 1}}, {{Inline: []byte("x")}, {Inline: []byte("y")}},
	} {
		s.refused(quarry.Invalid, link(bad...))
	}
	s.refused(quarry.NotFound, link(quarry.LinkPiece{Handle: 9999, Length: 1}))
	whole := link(quarry.LinkPiece{Handle: a, Length: 90}, quarry.LinkPiece{Handle: b, Length: 50}, quarry.LinkPiece{Inline: []byte("tail")})
	r := s.ok(whole)
	if r.Attr.Length != 144 || r.Attr.Mode != 0o600 {
		t.Errorf("linked %+v", r.Attr)
	}
	if c := s.record(b); c.Refs != 1 || !c.Linked || c.Owner != 0 || c.File != r.Attr.Inode || c.Position != 90 {
		t.Errorf("the chunk is %+v", c)
	}
	whole.Name = "g"
	s.refused(quarry.NotFound, whole) // a range is linked once
	other := s.ok(&OpenSession{}).Session
	theirs := s.send(s.encode(quarry.Op{Session: other, Sequence: 1}, &OpenOwned{Chunks: []NewChunk{s.chunk(1)}})).Handles[0]
	s.seal(theirs, 10)
	foreign := link(quarry.LinkPiece{Handle: theirs, Length: 1})
	foreign.Name = "h"
	s.refused(quarry.NotFound, foreign)
	s.refused(quarry.Exists, link())
	s.refused(quarry.IsDir, &Link{Parent: quarry.RootInode, Name: "d", Replace: true})

	replace := link(quarry.LinkPiece{Inline: []byte("small")})
	replace.Replace = true
	again := s.ok(replace)
	if again.Attr.Inode == r.Attr.Inode || again.Attr.Length != 5 {
		t.Errorf("replaced by %+v", again.Attr)
	}
	if n := Totals(s.kv); n.Files != 1 || n.Removed != 1 {
		t.Errorf("counters %+v", n)
	}
	if dir, _ := s.lookup("d"); dir.Entries != 1 {
		t.Errorf("the directory is %+v", dir)
	}
}

func TestLocate(t *testing.T) {
	s := newShard(t)
	a, b := s.owned(100, 1, 2), s.owned(50, 2, 3)
	f := s.ok(&Link{Parent: quarry.RootInode, Name: "f", Pieces: []quarry.LinkPiece{
		{Handle: a, Length: 100}, {Inline: []byte("0123456789")}, {Handle: b, Length: 40},
	}}).Attr.Inode
	tail := s.openTail(f, 1)
	for _, test := range []struct {
		offset int64
		max    int
		first  int64 // offset of the first piece
		pieces int
		chunks int
		more   bool
	}{
		{0, 10, 0, 4, 3, false}, {99, 1, 0, 1, 1, true}, {100, 1, 100, 1, 0, true}, {109, 2, 100, 2, 1, true},
		{149, 9, 110, 2, 2, false}, {150, 9, 150, 1, 1, false}, {1 << 50, 9, 150, 1, 1, false},
		{math.MaxInt64, 9, 150, 1, 1, false},
	} {
		r, err := Locate(s.kv, &quarry.LocateRequest{File: f, Offset: test.offset, Max: test.max})
		if err != nil || len(r.Pieces) != test.pieces || len(r.Chunks) != test.chunks || r.More != test.more || r.Pieces[0].Offset != test.first {
			t.Errorf("%+v: %+v, %v", test, r, err)
		}
	}
	st, err := Stat(s.kv, &quarry.StatRequest{Inode: f})
	if err != nil || st.Tail.Handle != tail || st.Piece.Offset != 150 || st.Piece.Length != quarry.OpenEnded {
		t.Errorf("stat %+v, %v", st, err)
	}
	for kind, req := range map[quarry.Kind]quarry.LocateRequest{
		quarry.Invalid: {File: f, Offset: -1, Max: 1}, quarry.IsDir: {File: quarry.RootInode, Max: 1}, quarry.NotFound: {File: 99, Max: 1},
	} {
		if _, err := Locate(s.kv, &req); !errors.Is(err, kind) {
			t.Errorf("%+v: %v", req, err)
		}
	}
}
