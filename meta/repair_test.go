package meta

import (
	"errors"
	"slices"
	"testing"

	"github.com/quarryfs/quarry"
)

// sealedFile returns the sealed chunk of a file with replicas that all hold, wanted so many
// times.
func (s *shard) sealedFile(name string, wanted uint8, servers ...quarry.ServerID) quarry.Handle {
	s.t.Helper()
	f := s.touch(quarry.RootInode, name)
	c := s.chunk(servers...)
	c.Wanted = wanted
	s.ok(&OpenTail{File: f, Chunk: c})
	s.seal(c.Handle, 100)
	return c.Handle
}

func TestDropReplica(t *testing.T) {
	s := newShard(t)
	h := s.sealedFile("f", 2, 1, 2, 3)
	drop := func(server quarry.ServerID, why DropReason) *DropReplica {
		return &DropReplica{Handle: h, Version: 2, Server: server, Reason: why}
	}
	s.ok(drop(9, DropBad))
	s.refused(quarry.Invalid, drop(1, 0))
	s.refused(quarry.StaleVersion, &DropReplica{Handle: h, Version: 1, Server: 1, Reason: DropBad})
	s.ok(drop(1, DropSurplus))
	s.ok(drop(1, DropSurplus))
	s.refused(quarry.Busy, drop(2, DropSurplus))
	if want := []ReplicaState{ReplicaDropping, ReplicaHolding, ReplicaHolding}; !slices.Equal(s.states(h), want) {
		t.Errorf("replicas %v", s.states(h))
	}
	s.ok(drop(1, DropGone))
	s.ok(drop(2, DropBad))
	if list := NextRepairs(s.kv, Repair{}, 5); len(list) != 1 || list[0] != (Repair{1, h}) {
		t.Errorf("repairs %v", list)
	}
	// The last replica is broken: it is all there is, so it stays.
	s.ok(drop(3, DropBad))
	c := s.record(h)
	if c.Replica(3).State != ReplicaBad || c.State != quarry.ChunkLost || c.Replica(3).Owes != 0 {
		t.Errorf("the last replica is %+v of %v chunk", c.Replica(3), c.State)
	}
	if m := c.Chunk().Members; len(m) != 1 || m[0].Server != 3 {
		t.Errorf("readers are told %v", m)
	}
	if n := Totals(s.kv); n.Missing != 1 || n.UnderCopied != 1 || n.Items != 1 {
		t.Errorf("counters %+v", n)
	}
	// A good copy turns up: the chunk is there again, the bad one can go.
	s.ok(&Hold{Handle: h, Version: 2, Holders: holders(uint32(h), 4)})
	if c := s.record(h); c.State != quarry.ChunkSealed || c.Replica(3).State != ReplicaDropping {
		t.Errorf("after a good copy: %+v", c)
	}
	open := s.openTail(s.touch(quarry.RootInode, "g"), 1, 2)
	s.refused(quarry.StaleVersion, &DropReplica{Handle: open, Version: 1, Server: 1, Reason: DropGone})
}

func TestAddReplica(t *testing.T) {
	s := newShard(t)
	h := s.sealedFile("f", 3, 1, 2)
	add := func(crc uint32, server quarry.ServerID) *AddReplica {
		return &AddReplica{Handle: h, Version: 2, Copy: holders(crc, server)[0]}
	}
	s.refused(quarry.Corrupt, add(77, 3))
	s.refused(quarry.StaleVersion, &AddReplica{Handle: h, Version: 3, Copy: holders(uint32(h), 3)[0]})
	s.refused(quarry.Invalid, &AddReplica{Handle: h, Version: 2, Copy: Holder{CRC: uint32(h)}})
	s.ok(add(uint32(h), 3))
	s.ok(add(uint32(h), 3))
	if n := Totals(s.kv); n.UnderCopied != 0 {
		t.Errorf("counters %+v", n)
	}
	s.ok(&DropReplica{Handle: h, Version: 2, Server: 3, Reason: DropBad})
	s.refused(quarry.Busy, add(uint32(h), 3)) // the drop that is owed would take the copy
	for id := quarry.ServerID(10); len(s.record(h).Replicas) < listMax; id++ {
		s.ok(add(uint32(h), id))
	}
	s.refused(quarry.Busy, add(uint32(h), 99))
	s.ok(&Remove{Parent: quarry.RootInode, Name: "f"})
	s.time += 10
	s.ok(&Collect{KeepMS: 1, Max: 10})
	s.refused(quarry.NotFound, add(uint32(h), 3))
}

func TestServerGone(t *testing.T) {
	s := newShard(t)
	a, b, c := s.sealedFile("a", 2, 1, 2), s.sealedFile("b", 2, 1, 3), s.sealedFile("c", 2, 2, 3)
	open := s.openTail(s.touch(quarry.RootInode, "d"), 1, 2)
	s.refused(quarry.Invalid, &ServerGone{Server: 1})
	r := s.ok(&ServerGone{Server: 1, Max: 1})
	if r.Count != 1 || !r.More || r.Next != b {
		t.Errorf("first page %+v", r)
	}
	r = s.ok(&ServerGone{Server: 1, From: r.Next, Max: 10})
	if r.Count != 1 || r.More {
		t.Errorf("second page %+v", r)
	}
	if list := NextRepairs(s.kv, Repair{}, 9); !slices.Equal(list, []Repair{{1, a}, {1, b}}) {
		t.Errorf("repairs %v", list)
	}
	if list := NextRepairs(s.kv, Repair{1, a}, 9); !slices.Equal(list, []Repair{{1, b}}) {
		t.Errorf("repairs after the first %v", list)
	}
	if s.record(open).Replica(1).State != ReplicaMember {
		t.Errorf("members of an open chunk: %v", s.record(open).Replicas)
	}
	// It comes back with what it had.
	s.ok(&Hold{Handle: a, Version: 2, Holders: holders(uint32(a), 1)})
	// Its disk does not.
	r = s.ok(&ServerGone{Server: 1, Disk: quarry.DiskID{99}, ForGood: true, Max: 10})
	if r.Count != 0 {
		t.Errorf("another disk: %+v", r)
	}
	s.ok(&ServerGone{Server: 1, Disk: quarry.DiskID{1}, ForGood: true, Max: 10})
	if list := ReplicasOf(s.kv, 1, 0, ^quarry.Handle(0), 9); !slices.Equal(list, []quarry.Handle{open}) {
		t.Errorf("replicas of the server %v", list)
	}
	// Without it the last replicas of a and b are at 2 and 3.
	for _, id := range []quarry.ServerID{2, 3} {
		s.ok(&ServerGone{Server: id, ForGood: true, Max: 10})
	}
	for _, h := range []quarry.Handle{a, b, c} {
		if s.record(h).State != quarry.ChunkLost {
			t.Errorf("chunk %v is %v", h, s.record(h).State)
		}
	}
	if n := Totals(s.kv); n.Missing != 3 {
		t.Errorf("counters %+v", n)
	}
}

func TestRepairsAreInOrderOfRisk(t *testing.T) {
	s := newShard(t)
	a, b := s.sealedFile("a", 3, 1, 2), s.sealedFile("b", 3, 3)
	if list := NextRepairs(s.kv, Repair{}, 9); !slices.Equal(list, []Repair{{1, b}, {2, a}}) {
		t.Errorf("repairs %v", list)
	}
}

// What no file has ever named goes as soon as its session has ended; a removed file is kept.
func TestNeverSeenIsNotKept(t *testing.T) {
	s := newShard(t)
	linked := s.owned(10, 1, 2)
	s.ok(&Link{Parent: quarry.RootInode, Name: "f", Pieces: []quarry.LinkPiece{{Handle: linked, Length: 10}}})
	s.ok(&Remove{Parent: quarry.RootInode, Name: "f"})
	sealed := s.owned(10, 1, 2)
	open := s.chunk(1, 2)
	s.ok(&OpenOwned{Chunks: []NewChunk{open}})
	const forever = 1 << 40
	if Garbage(s.kv, s.time, forever, forever) {
		t.Error("what a live session owns is garbage")
	}
	r := s.ok(&CloseSession{Session: s.session})
	if !slices.Equal(r.Orphans, []quarry.Handle{open.Handle}) || !Garbage(s.kv, s.time, forever, forever) {
		t.Errorf("orphans %v", r.Orphans)
	}
	s.seal(open.Handle, 10)
	if r := s.ok(&Collect{KeepMS: forever, Max: 100}); r.Count != 2 || r.More {
		t.Errorf("collected %+v", r)
	}
	for h, doomed := range map[quarry.Handle]bool{linked: false, sealed: true, open.Handle: true} {
		if c := s.record(h); c.Doomed != doomed {
			t.Errorf("chunk %v: %+v", h, c)
		}
	}
	if Garbage(s.kv, s.time, forever, forever) || !Garbage(s.kv, s.time+100, 10, 10) {
		t.Error("the removed file is not due when it should be")
	}
}

func TestCollect(t *testing.T) {
	s := newShard(t)
	f := s.touch(quarry.RootInode, "f")
	var handles []quarry.Handle
	for range 5 {
		h := s.openTail(f, 1, 2)
		s.seal(h, 10)
		handles = append(handles, h)
	}
	tail := s.openTail(f, 1, 2)
	r := s.ok(&Remove{Parent: quarry.RootInode, Name: "f"})
	if !slices.Equal(r.Orphans, []quarry.Handle{tail}) {
		t.Errorf("orphans %v", r.Orphans)
	}
	if list := ActiveChunks(s.kv, 0, 9); len(list) != 1 || !list[0].Orphan {
		t.Errorf("active %v", list)
	}
	s.time += 1000
	s.ok(&Collect{KeepMS: 10, Max: 100}) // the tail is open: nothing goes
	if n := Totals(s.kv); n.Removed != 1 || n.Garbage != 0 {
		t.Errorf("counters %+v", n)
	}
	s.seal(tail, 10)
	if Garbage(s.kv, s.time+9, 10, 10) || !Garbage(s.kv, s.time+10, 10, 10) {
		t.Error("the file is not due when it should be")
	}
	s.time += 10
	s.refused(quarry.Invalid, &Collect{KeepMS: 10})
	for want := 6; want >= 0; want -= 2 {
		if r := s.ok(&Collect{KeepMS: 10, Max: 2}); r.More != (want > 0) || r.Count != min(2, want+1) {
			t.Errorf("%d pieces left: %+v", want, r)
		}
	}
	if n := Totals(s.kv); n.Removed != 0 || n.Garbage != 6 || n.Chunks != 6 || n.Items != 12 {
		t.Errorf("counters %+v", n)
	}
	if _, err := ChunkOf(s.kv, handles[0]); !errors.Is(err, quarry.NotFound) {
		t.Errorf("a doomed chunk: %v", err)
	}
	// The records go when every server has dropped, or is gone for good.
	items, more := Unsettled(s.kv, 1, 4)
	if len(items) != 4 || !more {
		t.Errorf("items %v, %v", items, more)
	}
	wrong := items[0]
	wrong.Version++
	if r := s.ok(&SettleItems{Server: 1, Items: []quarry.Item{wrong}}); r.Count != 0 {
		t.Errorf("an item of another version was settled")
	}
	s.ok(&SettleItems{Server: 1, Items: append(items, items...)})
	items, _ = Unsettled(s.kv, 1, 4)
	s.ok(&SettleItems{Server: 1, Items: items})
	if n := Totals(s.kv); n.Chunks != 6 || n.Items != 6 {
		t.Errorf("counters %+v", n)
	}
	s.ok(&ServerGone{Server: 2, ForGood: true, Max: 100})
	if n := Totals(s.kv); n.Chunks != 0 || n.Items != 0 || !s.gone(tail) {
		t.Errorf("counters %+v", n)
	}
}

func TestReconcile(t *testing.T) {
	s := newShard(t)
	sealed := func(h quarry.Handle) quarry.ReplicaInfo {
		return quarry.ReplicaInfo{Handle: h, Promised: 2, LogVersion: 1, SealVersion: 2, Length: 100, Status: quarry.ReplicaGood, Serving: true}
	}
	keep := s.sealedFile("keep", 2, 1, 2)
	extra := s.sealedFile("extra", 2, 2, 3)                                // not at server 1
	few := s.sealedFile("few", 3, 2, 3)                                    // a copy is wanted
	away := s.sealedFile("away", 2, 1, 2, 3)                               // server 1 was declared gone
	missing := s.sealedFile("missing", 2, 1, 2)                            // not reported
	short := s.sealedFile("short", 2, 1, 2)                                // reported with fewer bytes
	rotten := s.sealedFile("rotten", 2, 1, 2)                              // reported as corrupt
	pending := s.openTail(s.touch(quarry.RootInode, "pending"), 1, 2)      // has not applied its seal
	open := s.openTail(s.touch(quarry.RootInode, "open"), 1, 2)            // as it should be
	openMissing := s.openTail(s.touch(quarry.RootInode, "openMissing"), 1) // not reported
	openLost := s.openTail(s.touch(quarry.RootInode, "openLost"), 1, 2)    // reported as lost
	stranger := s.openTail(s.touch(quarry.RootInode, "stranger"), 2)       // no member
	dropping := s.sealedFile("dropping", 2, 1, 2, 3)                       // its drop is owed
	unadded := s.sealedFile("unadded", 2, 1, 2)                            // does not serve yet
	s.ok(&DropReplica{Handle: dropping, Version: 2, Server: 1, Reason: DropSurplus})
	s.ok(&BeginSeal{Handle: pending, Version: 1})
	s.ok(&Seal{Handle: pending, Version: 2, Length: 70, Members: verdicts(VerdictGood, 1, 2)})
	s.ok(&ServerGone{Server: 1, From: away, Max: 1})
	s.ok(&ReserveHandles{Term: 2, Count: 100})
	unlogged := quarry.MakeHandle(0, 900) // of term 1
	mine := quarry.MakeHandle(0, 1050)    // of term 2
	inHand := quarry.MakeHandle(0, 1051)
	beyond := quarry.MakeHandle(0, 1101)

	page := &quarry.InventoryRequest{Server: 1, From: 0, To: ^quarry.Handle(0)}
	for _, h := range []quarry.Handle{keep, extra, few, away, short, rotten, dropping, unadded} {
		r := sealed(h)
		switch h {
		case short:
			r.Length = 99
		case rotten:
			r.Status = quarry.ReplicaCorrupt
		case unadded:
			r.Serving = false
		}
		page.Replicas = append(page.Replicas, r)
	}
	for _, h := range []quarry.Handle{pending, open, openLost, stranger, unlogged, mine, inHand, beyond} {
		r := quarry.ReplicaInfo{Handle: h, Promised: 1, LogVersion: 1, Length: 77, Status: quarry.ReplicaGood}
		if h == openLost {
			r.Status = quarry.ReplicaLost
		}
		page.Replicas = append(page.Replicas, r)
	}
	slices.SortFunc(page.Replicas, func(a, b quarry.ReplicaInfo) int { return int(a.Handle) - int(b.Handle) })
	busy := func(h quarry.Handle) bool { return h == inHand }

	want := map[quarry.Handle]Action{
		extra: ActionDrop, few: ActionSeal, away: ActionSurplus, missing: ActionMissing, short: ActionBad, rotten: ActionBad,
		pending: ActionSeal, openMissing: ActionSuspect, openLost: ActionSuspect, stranger: ActionDrop, unadded: ActionSeal,
		unlogged: ActionDrop, mine: ActionDrop, beyond: ActionAlarm,
	}
	for _, term := range []uint64{2, 3} {
		if term == 3 { // this leader has reserved nothing: it must not judge what has no record
			delete(want, unlogged)
			delete(want, mine)
		}
		list, err := Reconcile(s.kv, page, term, busy)
		if err != nil {
			t.Fatal(err)
		}
		got := map[quarry.Handle]Action{}
		for _, f := range list {
			got[f.Handle] = f.Action
			if f.Chunk != nil && f.Version != f.Chunk.Version || f.Chunk == nil && f.Version != 1 {
				t.Errorf("version of %+v", f)
			}
		}
		for h := range want {
			if got[h] != want[h] {
				t.Errorf("term %d, chunk %v: action %d, want %d", term, h, got[h], want[h])
			}
			delete(got, h)
		}
		if len(got) > 0 {
			t.Errorf("term %d: unexpected actions %v", term, got)
		}
	}
	page.Replicas[1].Handle = page.Replicas[0].Handle
	if _, err := Reconcile(s.kv, page, 2, nil); !errors.Is(err, quarry.Invalid) {
		t.Errorf("a page out of order: %v", err)
	}
}

// A surplus copy goes only when as many others hold as are wanted; until then it stays.
func TestReconcileKeepsWhatMayBeNeeded(t *testing.T) {
	c := ChunkRecord{
		State: quarry.ChunkSealed, Version: 2, WritableVersion: 1, Length: 5, LengthKnown: true, Wanted: 2, Refs: 1,
		Replicas: []Replica{{Server: 1, State: ReplicaHolding}, {Server: 2, State: ReplicaPending}, {Server: 3, State: ReplicaAway}},
	}
	r := quarry.ReplicaInfo{SealVersion: 2, Length: 5, Status: quarry.ReplicaGood, Serving: true}
	if got := compare(&c, nil, &r); got != 0 {
		t.Errorf("unlisted: action %d", got)
	}
	if got := compare(&c, &c.Replicas[2], &r); got != 0 {
		t.Errorf("away: action %d", got)
	}
	// A log of an older version is no replica of this seal, however long it is.
	r = quarry.ReplicaInfo{LogVersion: 3, SealVersion: 0, Length: 9, Status: quarry.ReplicaGood}
	if got := compare(&c, &c.Replicas[1], &r); got != ActionBad {
		t.Errorf("log of another version: action %d", got)
	}
	c.PrevWritableVersion, c.Base = 3, 5 // it never opened the version, whose seal is its base
	if got := compare(&c, &c.Replicas[1], &r); got != ActionSeal {
		t.Errorf("complete as of the base: action %d", got)
	}
}
