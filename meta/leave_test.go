package meta

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/move"
)

// lives is a shard with something of every kind in slots 0 to 9, and another shard that takes them.
type lives struct {
	a, b       *shard
	dir, empty quarry.Inode
	file       quarry.Inode // sealed, with too few copies
	open       quarry.Inode
	removed    quarry.Inode
	sealed     quarry.Handle
	tail       quarry.Handle
	owned      quarry.Handle
	intent     Intent
	m          *moving
}

func newLives(t testing.TB) *lives {
	l := &lives{a: newShard(t), b: newShardWithout(t, 500_000)}
	a := l.a
	l.dir = a.mkdir(quarry.RootInode, "d")
	l.empty = a.mkdir(l.dir, "empty")
	l.file, l.open, l.removed = a.touch(l.dir, "file"), a.touch(l.dir, "open"), a.touch(l.dir, "removed")
	l.sealed = a.openTail(l.file, 1, 2, 3)
	a.seal(l.sealed, 100)
	a.ok(&DropReplica{Handle: l.sealed, Version: 2, Server: 3, Reason: DropBad})
	l.tail = a.openTail(l.open, 1, 2)
	a.ok(&BeginSeal{Handle: l.tail, Version: 1})
	a.seal(a.openTail(l.removed, 1, 2), 10)
	a.ok(&Remove{Parent: l.dir, Name: "removed"})
	l.owned = a.owned(10, 1, 2)
	l.intent = Intent{Tx: TxID(quarry.MakeInode(900, 1)), Part: *a.ok(&Prepare{
		Tx: TxID(quarry.MakeInode(900, 1)), Part: Part{Kind: PartFreeze, Inode: l.empty},
	}).Part}
	l.m = newMoving(1, a, l.b, []quarry.SlotRange{{First: 0, Last: 9}}, rand.New(rand.NewPCG(1, 1)))
	return l
}

// release takes the slots from the first shard.
func (l *lives) release() {
	for i := 0; ; i++ {
		if k := MovingOf(l.a.kv).Leaving; k != nil && k.Released {
			return
		}
		if l.m.step(); i > 1000 {
			l.a.t.Fatal("the slots are not released")
		}
	}
}

// TestNotOwned has neither of two shards answer anything about slots that belong to none.
func TestNotOwned(t *testing.T) {
	l := newLives(t)
	l.release()
	tx := TxID(quarry.MakeInode(3, 1))
	session := l.a.session
	for _, s := range []*shard{l.a, l.b} {
		for _, b := range []Body{
			&OpenSession{Slot: 7}, &KeepSessions{Sessions: []quarry.SessionID{session}}, &CloseSession{Session: session},
			&OpenTail{File: l.open, Chunk: NewChunk{Handle: 99, Members: []NewMember{member(1)}, Wanted: 1}},
			&BeginSeal{Handle: l.sealed, Version: 1}, &Seal{Handle: l.tail, Version: 2}, &Hold{Handle: l.sealed, Version: 2},
			&DropReplica{Handle: l.sealed, Version: 2, Server: 1}, &AddReplica{Handle: l.sealed, Version: 2},
			&Prepare{Tx: tx, Part: Part{Kind: PartFreeze, Inode: l.empty}}, &Finish{Tx: tx, Part: l.intent.Part},
			&Decide{Tx: tx}, &Forget{Tx: tx}, &Reopen{File: l.file}, &Merge{File: l.file},
			&Make{Parent: l.dir, Name: "x", Kind: quarry.KindFile}, &Link{Parent: l.dir, Name: "x"},
			&Rename{Parent: l.dir, Name: "file", ToParent: l.dir, ToName: "x"}, &Remove{Parent: l.dir, Name: "file"},
			&OpenOwned{Chunks: []NewChunk{{Handle: 99}}},
		} {
			s.session = session
			r := s.refused(quarry.WrongShard, b)
			if slot, ok := RefusedSlot(r.Err); !ok || slot > 9 {
				t.Errorf("%T was refused with slot %d", b, slot)
			}
		}
		for name, read := range map[string]func() error{
			"lookup": func() error { _, err := s.lookup("d"); return err },
			"stat":   func() error { _, err := Stat(s.kv, &quarry.StatRequest{Inode: l.file}); return err },
			"list":   func() error { _, err := List(s.kv, &quarry.ListRequest{Dir: l.dir, Max: 10}, nil); return err },
			"locate": func() error { _, err := Locate(s.kv, &quarry.LocateRequest{File: l.file, Max: 10}); return err },
			"tail":   func() error { _, err := Tail(s.kv, l.file); return err },
			"chunk":  func() error { _, err := ChunkOf(s.kv, l.sealed); return err },
			"session": func() error {
				_, err := Session(s.kv, session)
				return err
			},
			"transaction": func() error { _, _, err := TransactionOf(s.kv, tx); return err },
			"climb":       func() error { _, err := Climb(s.kv, l.dir, 1); return err },
		} {
			if err := read(); !errors.Is(err, quarry.WrongShard) {
				t.Errorf("%s: %v", name, err)
			} else if slot, ok := RefusedSlot(err); !ok || slot > 9 {
				t.Errorf("%s was refused with slot %d", name, slot)
			}
		}
		l.unseen(s)
	}
	l.m.finish()
	l.seen()
}

// unseen wants no scan of an index to show anything of the slots.
func (l *lives) unseen(s *shard) {
	t := s.t
	items, more := Unsettled(s.kv, 3, 10)
	intents, _ := Intents(s.kv, nil, 10)
	strangers, _ := Strangers(s.kv, 0, 10)
	page := &quarry.InventoryRequest{Server: 1, To: ^quarry.Handle(0), Replicas: []quarry.ReplicaInfo{{Handle: l.sealed}, {Handle: 77}}}
	slices.SortFunc(page.Replicas, func(a, b quarry.ReplicaInfo) int { return int(a.Handle) - int(b.Handle) })
	findings, err := Reconcile(s.kv, page, 1, nil)
	if err != nil || len(findings) > 0 {
		t.Errorf("an inventory has findings %+v, %v", findings, err)
	}
	late := s.time + 1e9
	if n := len(items) + len(intents) + len(strangers) + len(ActiveChunks(s.kv, 0, 10)) + len(NextRepairs(s.kv, Repair{}, 10)) +
		len(MissingChunks(s.kv, 0, 10)) + len(ReplicasOf(s.kv, 1, 0, ^quarry.Handle(0), 10)) + len(Transactions(s.kv, 0, 10)); n > 0 || more {
		t.Errorf("%d entries of slots that are not owned are shown", n)
	}
	if Expired(s.kv, late, 1) || Garbage(s.kv, late, 1, 1) {
		t.Error("sessions and garbage of slots that are not owned are due")
	}
	before := s.kv.Copy()
	s.ok(&SettleItems{Server: 3, Items: []quarry.Item{{Kind: quarry.ItemDrop, Handle: l.sealed, Version: 2}}})
	s.ok(&ServerGone{Server: 1, ForGood: true, Max: 10})
	s.time += 1e9
	s.ok(&ExpireSessions{ExpiryMS: 1})
	s.ok(&Collect{KeepMS: 1, Max: 10})
	s.time -= 1e9
	if diff := difference(before, s.kv); diff != "" {
		t.Errorf("commands about servers changed %s of slots that are not owned", diff)
	}
}

// seen wants the second shard to have everything.
func (l *lives) seen() {
	s := l.b
	items, _ := Unsettled(s.kv, 3, 10)
	intents, _ := Intents(s.kv, nil, 10)
	if len(items) != 1 || len(intents) != 1 || intents[0] != l.intent || len(ActiveChunks(s.kv, 0, 10)) != 1 ||
		len(NextRepairs(s.kv, Repair{}, 10)) != 1 || len(ReplicasOf(s.kv, 1, 0, ^quarry.Handle(0), 10)) != 4 {
		s.t.Errorf("items %v, intents %+v, active %v", items, intents, ActiveChunks(s.kv, 0, 10))
	}
	if rec, err := Session(s.kv, l.a.session); err != nil || rec.Owned != 1 {
		s.t.Errorf("the session is %+v, %v", rec, err)
	}
}

// TestTimesOfAMove moves to a shard whose log time is far ahead: ages stay as they are, and
// nothing ends before there was time to show life.
func TestTimesOfAMove(t *testing.T) {
	l := newLives(t)
	a, b := l.a, l.b
	a.time += 300
	l.m.step()
	l.m.step()
	b.time += 50_000 // the shard that the slots leave has no leader meanwhile
	l.m.finish()
	rec, err := Session(b.kv, a.session)
	if err != nil || rec.Seen != 500_000-300 {
		t.Errorf("the session was seen at %d: %v", rec.Seen, err)
	}
	if i := reading(b.kv).anyInode(l.removed); i == nil || i.Removed != 500_000-300 {
		t.Errorf("the removed file is %+v", i)
	}
	b.time += 999
	if Expired(b.kv, b.time, 500) || Garbage(b.kv, b.time, 500, 500) {
		t.Error("something ends while the shard is to be quiet")
	}
	if b.time++; !Expired(b.kv, b.time, 500) || !Garbage(b.kv, b.time, 500, 500) {
		t.Error("nothing ends when the quiet time is over")
	}
}

// TestClosedSlots ends the transactions of slots before they are released: those that are
// coordinated there, and those that have yet to tell a session there its result.
func TestClosedSlots(t *testing.T) {
	near, far := twoShards(t)
	other := near.ok(&OpenSession{Slot: 100}).Session
	far.ok(&OpenSession{Slot: quarry.Slots - 1})
	mk := func(name string) *Make {
		return &Make{Parent: quarry.RootInode, Name: name, Kind: quarry.KindDir, Slot: quarry.Slots - 1}
	}
	r := near.ok(mk("a")) // in a session of slot 0
	near.ok(&BeginLeave{Move: 1, To: 2, Slots: []quarry.SlotRange{{First: 0, Last: 0}}})
	near.ok(&CloseSlots{Move: 1})
	near.refused(quarry.Busy, mk("b"))
	near.refused(quarry.Busy, &Release{Move: 1})
	near.ok(&Decide{Tx: r.Tx})
	near.ok(&Release{Move: 1})
	near.ok(&LeaveOver{Move: 1})

	// The session leaves, the directory stays.
	dir := near.mkdirIn(other, 50)
	near.session, near.seq = other, 10
	r = near.ok(&Make{Parent: dir, Name: "far", Kind: quarry.KindDir, Slot: quarry.Slots - 1})
	near.ok(&BeginLeave{Move: 2, To: 2, Slots: []quarry.SlotRange{{First: 100, Last: 100}}})
	near.refused(quarry.Busy, &Release{Move: 2})
	part := far.ok(&Prepare{Tx: r.Tx, Part: Part{Kind: PartNew, Slot: quarry.Slots - 1, Name: "far", Target: dir}}).Part
	near.ok(&Decide{Tx: r.Tx, Commit: true, Parts: []Part{*part}})
	near.ok(&CloseSlots{Move: 2})
	near.refused(quarry.Busy, &Make{Parent: dir, Name: "c", Kind: quarry.KindDir, Slot: quarry.Slots - 1})
	near.ok(&Release{Move: 2}) // the transaction is still being delivered
}

// mkdirIn makes a directory in a slot, which no entry leads to.
func (s *shard) mkdirIn(_ quarry.SessionID, slot quarry.Slot) quarry.Inode {
	tx := TxID(quarry.MakeInode(quarry.Slots-2, 1))
	part := s.ok(&Prepare{Tx: tx, Part: Part{Kind: PartNew, Slot: slot, Name: "d", Target: 1}}).Part
	s.ok(&Finish{Tx: tx, Commit: true, Part: *part})
	return part.Inode
}

// TestLostChanges has so many changes come that they are not kept: the move is cancelled.
func TestLostChanges(t *testing.T) {
	s := newShard(t)
	s.ok(&BeginLeave{Move: 1, To: 2, Slots: allSlots})
	s.touch(quarry.RootInode, "a")
	s.quick = true
	s.m.header.Leaving.Changes = move.ChangesMax
	s.touch(quarry.RootInode, "b")
	s.quick = false
	s.touch(quarry.RootInode, "c")
	if l := MovingOf(s.kv).Leaving; !l.Lost {
		t.Fatalf("the log of changes grows: %+v", l)
	}
	if _, err := NextBatch(s.kv, &move.Taking{Move: 1, Slots: allSlots}, 1000); !errors.Is(err, quarry.Invalid) {
		t.Error(err)
	}
	s.refused(quarry.Invalid, &Release{Move: 1})
	s.ok(&CancelLeave{Move: 1})
	s.touch(quarry.RootInode, "d")
}

// TestMoveCommands gives the commands of a move where they do not belong.
func TestMoveCommands(t *testing.T) {
	a, b := newShard(t), newShardWithout(t, 1)
	some := []quarry.SlotRange{{First: 5, Last: 9}}
	for _, bad := range []Body{
		&BeginLeave{Move: 0, Slots: some}, &BeginLeave{Move: 1}, &BeginLeave{Move: 1, Slots: []quarry.SlotRange{{First: 1, Last: 5000}}},
		&BeginLeave{Move: 1, Slots: []quarry.SlotRange{{First: 9, Last: 10}, {First: 1, Last: 2}}},
		&CloseSlots{Move: 1}, &ForgetChanges{Move: 1}, &Release{Move: 1}, &LeaveOver{Move: 1}, &CleanSlots{}, &CleanSlots{Max: 1001},
		&BeginTake{Move: 0, Slots: some}, &BeginTake{Move: 1, Slots: some}, &Take{move.Batch{Move: 1, Number: 1}}, &Activate{Move: 1},
	} {
		a.refused(quarry.Invalid, bad)
	}
	b.refused(quarry.Invalid, &BeginLeave{Move: 1, Slots: some})
	m := newMoving(3, a, b, some, rand.New(rand.NewPCG(1, 1)))
	m.step()
	m.step()
	a.refused(quarry.Busy, &BeginLeave{Move: 4, Slots: some})
	b.refused(quarry.Busy, &BeginTake{Move: 4, Slots: some})
	a.refused(quarry.Busy, &CancelLeave{Move: 4})
	b.refused(quarry.Busy, &CancelTake{Move: 4})
	a.refused(quarry.Invalid, &LeaveOver{Move: 3})
	a.refused(quarry.Invalid, &ForgetChanges{Move: 3, Upto: 1})
	b.refused(quarry.Invalid, &Activate{Move: 3})
	m.finish()
	a.refused(quarry.Exists, &CancelLeave{Move: 3})
	b.refused(quarry.Exists, &CancelTake{Move: 3})
	for _, late := range []Body{&BeginLeave{Move: 3, Slots: some}, &BeginLeave{Move: 2, Slots: some}, &Release{Move: 3}} {
		a.refused(quarry.Invalid, late)
	}
	b.refused(quarry.Invalid, &BeginTake{Move: 3, Slots: some})
	// Cancelled before it began: it does not begin any more.
	a.ok(&CancelLeave{Move: 5})
	b.ok(&CancelTake{Move: 5})
	a.refused(quarry.Invalid, &BeginLeave{Move: 5, Slots: some})
	b.refused(quarry.Invalid, &BeginTake{Move: 5, Slots: some})
	a.ok(&Init{Slots: allSlots}) // a leader of a new cluster's shard, too late
	if len(Slots(a.kv)) != 2 || !slices.Equal(Slots(b.kv), some) {
		t.Errorf("%v, %v", Slots(a.kv), Slots(b.kv))
	}
}

// TestInitWhileAllSlotsLeave has a shard's first move take all its slots. A leader that takes office
// before the move is over finds none and gives the shard those of its beginning: too late.
func TestInitWhileAllSlotsLeave(t *testing.T) {
	a := newShard(t)
	a.ok(&BeginLeave{Move: 1, To: 2, Slots: allSlots})
	a.ok(&Release{Move: 1})
	a.ok(&Init{Slots: allSlots})
	if own := Slots(a.kv); len(own) > 0 {
		t.Errorf("the shard has slots that it has released: %v", own)
	}
}

// TestStrangers parts a session from the chunks it owns: they can be linked, and they are freed
// when the session is over.
func TestStrangers(t *testing.T) {
	a, b := newShardOf(t, 2047), newShardWithout(t, 1)
	far := a.ok(&OpenSession{Slot: 1000}).Session
	near := a.session // of slot 7, with the chunks of slot 0 and its directory
	a.session, a.seq = far, 0
	linked, left := a.owned(10, 1, 2), a.owned(20, 1, 2)
	m := newMoving(1, a, b, []quarry.SlotRange{{First: 0, Last: 9}}, rand.New(rand.NewPCG(1, 1)))
	m.finish()
	if list, next := Strangers(b.kv, 0, 10); !slices.Equal(list, []quarry.SessionID{far}) || next != 0 {
		t.Fatalf("strangers %x, %x", list, next)
	}
	if list, _ := Strangers(a.kv, 0, 10); len(list) != 0 {
		t.Fatalf("strangers %x", list)
	}
	b.session = near
	pieces := []quarry.LinkPiece{{Handle: linked, Length: 10}}
	b.refused(quarry.NotFound, &Link{Parent: quarry.RootInode, Name: "f", Pieces: pieces})
	b.refused(quarry.NotFound, &Link{Parent: quarry.RootInode, Name: "f", Pieces: pieces, Owner: near})
	link := &Link{Parent: quarry.RootInode, Name: "f", Pieces: pieces, Owner: far}
	if (&Command{Body: link}).Level() == 0 {
		t.Error("a field that older releases pass over has no level")
	}
	b.ok(link)
	if rec, err := Session(a.kv, far); err != nil || rec.Owned != 2 {
		t.Errorf("the owner is %+v, %v", rec, err)
	}
	// The session's own shard ends it; nothing underflows, and the other one has to be told.
	b.refused(quarry.Exists, &Disown{Session: near})
	a.ok(&CloseSession{Session: far})
	if r := b.ok(&Disown{Session: far}); r.Count != 1 || r.More {
		t.Errorf("%+v", r)
	}
	if c := b.record(left); c.Owner != 0 || c.Freed == 0 {
		t.Errorf("the chunk is %+v", c)
	}
	b.refused(quarry.NotFound, &Link{Parent: quarry.RootInode, Name: "g", Pieces: []quarry.LinkPiece{{Handle: left, Length: 20}}, Owner: far})

	// The session's slot follows: it is over, and known to be.
	c := newShardWithout(t, 1)
	s2 := a.ok(&OpenSession{Slot: 1001}).Session
	a.session, a.seq = s2, 0
	ch := a.chunk(1)
	ch.Handle = quarry.MakeHandle(500, ch.Handle.Number())
	a.ok(&OpenOwned{Chunks: []NewChunk{ch}})
	newMoving(2, a, c, []quarry.SlotRange{{First: 500, Last: 500}}, m.rand).finish()
	a.ok(&CloseSession{Session: s2})
	newMoving(3, a, c, []quarry.SlotRange{{First: 1001, Last: 1001}}, m.rand).finish()
	if list, _ := Strangers(c.kv, 0, 10); !slices.Equal(list, []quarry.SessionID{s2}) {
		t.Fatalf("strangers %x", list)
	}
	if r := c.ok(&Disown{Session: s2}); len(r.Orphans) != 1 {
		t.Errorf("%+v", r)
	}
}

// A session may own as many chunks as ever though those it owned have gone with their slot.
func TestOwnedElsewhere(t *testing.T) {
	a, b := newShard(t), newShardWithout(t, 1)
	chunk := func(slot quarry.Slot) NewChunk {
		c := a.chunk(1)
		c.Handle = quarry.MakeHandle(slot, c.Handle.Number())
		return c
	}
	a.ok(&OpenOwned{Chunks: []NewChunk{chunk(100)}})
	newMoving(1, a, b, []quarry.SlotRange{{First: 100, Last: 100}}, rand.New(rand.NewPCG(1, 1))).finish()
	rec, _ := Session(a.kv, a.session)
	rec.Owned = ownedMax
	a.setSession(&rec)
	a.ok(&OpenOwned{Chunks: []NewChunk{chunk(1)}})
	if rec, _ := Session(a.kv, a.session); rec.Owned != 1 {
		t.Errorf("the session owns %d chunks", rec.Owned)
	}
	// When they come back there are more of them than were counted.
	newMoving(2, b, a, []quarry.SlotRange{{First: 100, Last: 100}}, rand.New(rand.NewPCG(1, 1))).finish()
	for _, h := range a.ownedBy(a.session) {
		a.seal(h, 10)
		dir := a.ok(&Make{Parent: quarry.RootInode, Name: h.String(), Kind: quarry.KindDir, Slot: h.Slot()}).Attr.Inode
		a.ok(&Link{Parent: dir, Name: "f", Pieces: []quarry.LinkPiece{{Handle: h, Length: 10}}})
	}
	if rec, _ := Session(a.kv, a.session); rec.Owned != 0 {
		t.Errorf("the session owns %d chunks", rec.Owned)
	}
}

func (s *shard) ownedBy(id quarry.SessionID) []quarry.Handle { return reading(s.kv).owned(id, 10) }

// TestAllSlotsInAMoment has a shard come to own every slot while a transaction is under way, which
// may be moving a directory: another one does not move beside it.
func TestAllSlotsInAMoment(t *testing.T) {
	near, far := twoShards(t)
	from, to := near.mkdir(quarry.RootInode, "from"), near.mkdir(quarry.RootInode, "to")
	near.mkdir(from, "d")
	far.ok(&CloseSession{Session: far.session})
	under := near.ok(&Make{Parent: to, Name: "far", Kind: quarry.KindDir, Slot: quarry.Slots - 1}).Tx
	newMoving(1, far, near, Slots(far.kv), rand.New(rand.NewPCG(1, 1))).finish()
	rename := &Rename{Parent: from, Name: "d", ToParent: to, ToName: "d"}
	r := near.ok(rename)
	if x, _, _ := TransactionOf(near.kv, r.Tx); r.Tx == 0 || !x.Ordered() {
		t.Fatalf("a directory has moved though transaction %x may be moving one", uint64(under))
	}
	near.ok(&Decide{Tx: under})
	near.ok(&Decide{Tx: r.Tx})
	if r := near.ok(rename); r.Tx != 0 {
		t.Error("a shard that owns every slot needs a transaction to move a directory")
	}
}

// Pieces and their chunks move together.
func TestLinkOfAnotherSlot(t *testing.T) {
	s := newShard(t)
	c := s.chunk(1)
	c.Handle = quarry.MakeHandle(100, c.Handle.Number())
	s.ok(&OpenOwned{Chunks: []NewChunk{c}})
	s.seal(c.Handle, 10)
	s.refused(quarry.Invalid, &Link{Parent: quarry.RootInode, Name: "f", Pieces: []quarry.LinkPiece{{Handle: c.Handle, Length: 10}}})
}
