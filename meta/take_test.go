package meta

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/move"
	"github.com/quarryfs/quarry/wire"
)

// TestTakeRefuses sends batches that no other shard has made.
func TestTakeRefuses(t *testing.T) {
	l := newLives(t)
	l.m.room = 300
	for range 3 {
		l.m.step()
	}
	k := MovingOf(l.b.kv).Taking
	if k.Copied() {
		t.Fatal("one batch has everything")
	}
	end := move.End(k.Slots)
	chunk := func(c ChunkRecord) []byte { return wire.Marshal(nil, &c, chunkFields) }
	session := wire.Marshal(nil, &SessionRecord{Seen: 1}, sessionFields)
	result := wire.Marshal(nil, &resultRecord{Sequence: 5}, resultRecordFields)
	for name, p := range map[string]move.Pair{
		"no key":                  {},
		"no slot":                 {Key: []byte{0}},
		"short":                   {Key: table(nil, 1, tableInode)},
		"another slot":            {Key: sessionKey(nil, quarry.SessionID(quarry.MakeInode(10, 1))), Value: session},
		"a number of another":     {Key: table(nil, 1, tableSession, uint64(quarry.MakeInode(2, 1))), Value: session},
		"the shard's":             {Key: headerKey(nil), Value: session},
		"no such table":           {Key: table(nil, 1, 'z', uint64(quarry.MakeInode(1, 1))), Value: session},
		"long key":                {Key: table(nil, 1, tableSession, uint64(quarry.MakeInode(1, 1)), 1), Value: session},
		"value cut":               {Key: sessionKey(nil, quarry.SessionID(quarry.MakeInode(1, 1))), Value: []byte{8}},
		"gone with a value":       {Key: sessionKey(nil, quarry.SessionID(quarry.MakeInode(1, 1))), Value: session, Gone: true},
		"name with a slash":       {Key: entryKey(nil, quarry.MakeInode(1, 1), "a/b"), Value: []byte{8, 1}},
		"entry to nothing":        {Key: entryKey(nil, quarry.MakeInode(1, 1), "a")},
		"piece without an end":    {Key: table(nil, 1, tablePiece, uint64(quarry.MakeInode(1, 1)))},
		"no kind of file":         {Key: inodeKey(nil, quarry.MakeInode(1, 1))},
		"chunk of another handle": {Key: chunkKey(nil, quarry.MakeHandle(1, 1)), Value: chunk(ChunkRecord{Handle: quarry.MakeHandle(1, 2)})},
		"a server twice": {Key: chunkKey(nil, quarry.MakeHandle(1, 1)), Value: chunk(ChunkRecord{
			Handle: quarry.MakeHandle(1, 1), Replicas: []Replica{{Server: 1}, {Server: 1}},
		})},
		"result in a wrong place": {Key: resultKey(nil, quarry.SessionID(quarry.MakeInode(1, 1)), 6), Value: result},
		"transaction of another":  {Key: transactionKey(nil, TxID(quarry.MakeInode(1, 1)))},
		"intent of another":       {Key: intentKey(nil, quarry.MakeInode(1, 1), "x")},
	} {
		b := &Take{move.Batch{Move: 1, Number: k.Number + 1, Cursor: end, Changes: k.Changes, Pairs: []move.Pair{p}}}
		if r := l.b.refused(quarry.Invalid, b); r.Count != 0 {
			t.Error(name)
		}
	}
	good := []move.Pair{{Key: sessionKey(nil, quarry.SessionID(quarry.MakeInode(1, 1))), Value: session}}
	for name, b := range map[string]move.Batch{
		"behind the cursor":      {Move: 1, Number: k.Number + 1, Cursor: move.ChangeKey(0)[:1], Changes: k.Changes, Pairs: good},
		"beyond the slots":       {Move: 1, Number: k.Number + 1, Cursor: []byte{0, 11}, Changes: k.Changes},
		"before its own records": {Move: 1, Number: k.Number + 1, Cursor: k.Cursor, Changes: k.Changes, Pairs: good},
		"another move":           {Move: 2, Number: k.Number + 1, Cursor: end},
	} {
		if r := l.b.refused(quarry.Invalid, &Take{b}); r.Count != 0 {
			t.Error(name)
		}
	}
	for _, n := range []uint64{0, k.Number, k.Number + 2} {
		before := l.b.kv.Copy()
		r := l.b.ok(&Take{move.Batch{Move: 1, Number: n, Cursor: end, Pairs: good}})
		if diff := difference(before, l.b.kv); r.Count != 0 || diff != "" {
			t.Errorf("batch %d was taken after batch %d", n, k.Number)
		}
	}
	// What came goes when the move is cancelled, whatever it was.
	l.b.ok(&Take{move.Batch{Move: 1, Number: k.Number + 1, Cursor: end, Changes: k.Changes, Pairs: good}})
	l.m.cancelled = true
	l.m.finish()
	for l.b.ok(&CleanSlots{Max: 2}).More {
	}
	if l.b.kv.Len() != 1 || Totals(l.b.kv) != (Counters{}) {
		t.Errorf("%d keys are left, counters %+v", l.b.kv.Len(), Totals(l.b.kv))
	}
}

// TestLateBatch has two drivers make the batch that follows the same one: that of the driver who
// knows less comes later.
func TestLateBatch(t *testing.T) {
	a, b := newShard(t), newShardWithout(t, 1)
	a.touch(quarry.RootInode, "a")
	m := newMoving(1, a, b, allSlots, rand.New(rand.NewPCG(1, 1)))
	m.room = 1 << 20
	m.step()
	m.step()
	late, err := NextBatch(a.kv, MovingOf(b.kv).Taking, m.room)
	if err != nil {
		t.Fatal(err)
	}
	a.ok(&Remove{Parent: quarry.RootInode, Name: "a"})
	m.step()
	m.step()
	if r := b.ok(&Take{*late}); r.Count != 0 {
		t.Error("it was taken")
	}
	m.finish()
	if _, err := b.lookup("a"); err == nil {
		t.Error("what was removed is there again")
	}
}

// TestBatchOfAnOldView has nobody make a batch from a state that lacks what the other shard has.
func TestBatchOfAnOldView(t *testing.T) {
	a, b := newShard(t), newShardWithout(t, 1)
	m := newMoving(1, a, b, allSlots, rand.New(rand.NewPCG(1, 1)))
	m.room = 1 << 20
	m.step()
	old := a.kv.Copy()
	a.touch(quarry.RootInode, "a")
	for range 3 {
		m.step()
	}
	k := MovingOf(b.kv).Taking
	if _, err := NextBatch(old, k, 100); quarry.KindOf(err) != quarry.Unavailable || k.Changes == 0 {
		t.Errorf("%v with %d changes taken", err, k.Changes)
	}
	a.ok(&ForgetChanges{Move: 1, Upto: k.Changes})
	for _, bad := range []move.Taking{
		{Move: 1, Slots: allSlots}, {Move: 2, Slots: allSlots, Changes: k.Changes}, {Move: 1, Changes: k.Changes},
		{Move: 1, Changes: k.Changes, Slots: []quarry.SlotRange{{First: 0, Last: 65535}, {First: 9, Last: 3}}},
	} {
		if _, err := NextBatch(a.kv, &bad, 100); quarry.KindOf(err) != quarry.Invalid {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// TestNumbersOfAMove gives no number twice in slots that come to a shard which has given fewer.
func TestNumbersOfAMove(t *testing.T) {
	a, b := newShardOf(t, 99), newShardWithout(t, 1)
	newMoving(1, a, b, []quarry.SlotRange{{First: 50, Last: 99}}, rand.New(rand.NewPCG(1, 1))).finish()
	reserved := b.ok(&ReserveHandles{Term: 1, Count: 5000}).Range
	a.ok(&ReserveHandles{Term: 1, Count: 10_000})
	for range 9 {
		a.ok(&OpenSession{Slot: 1})
	}
	i := a.touch(a.mkdir(quarry.RootInode, "d"), "f")
	used := NewChunk{Handle: quarry.MakeHandle(0, reserved.First+100), Members: []NewMember{member(1)}, Wanted: 1}
	last := a.session
	a.session = a.ok(&OpenSession{Slot: 0}).Session
	a.seq = 0
	a.ok(&OpenOwned{Chunks: []NewChunk{used}})
	newMoving(2, a, b, []quarry.SlotRange{{First: 0, Last: 49}}, rand.New(rand.NewPCG(1, 1))).finish()
	b.session, b.seq = a.session, a.seq
	b.ok(&CloseSession{Session: b.session})
	b.ok(&BeginSeal{Handle: used.Handle, Version: 1})
	b.ok(&Seal{Handle: used.Handle, Version: 2, Lost: true, Members: verdicts(VerdictGone, 1)})
	b.time += 5000
	b.ok(&Collect{KeepMS: 1, Max: 10})
	if !b.gone(used.Handle) {
		t.Fatal("the chunk is still there")
	}
	b.session, b.seq = b.ok(&OpenSession{Slot: 0}).Session, 0
	if r := b.refused(quarry.Busy, &OpenOwned{Chunks: []NewChunk{used}}); r.HandleFloor < 10_000 {
		t.Errorf("the floor is %d", r.HandleFloor)
	}
	if r := b.ok(&ReserveHandles{Term: 1, Count: 10}).Range; r.First < 10_000 {
		t.Errorf("handles from %d are reserved", r.First)
	}
	if b.session.Slot() == last.Slot() || b.session <= a.session {
		t.Errorf("session %x after %x", b.session, a.session)
	}
	if n := b.touch(quarry.RootInode, "n"); n.Number() <= i.Number() {
		t.Errorf("inode %v after %v", n, i)
	}
}

// TestQuietAfterAMove has a shard stand still during a move from it: nothing ends too early because
// of that where the slots have come to. If it did not, nothing has to wait.
func TestQuietAfterAMove(t *testing.T) {
	for _, c := range []struct{ late, quiet int64 }{{0, 0}, {-300, 0}, {10, 160}, {61, 976}, {62, 1000}, {800, 1000}} {
		a, b := newShard(t), newShardWithout(t, 77_000)
		a.seal(a.openTail(a.touch(quarry.RootInode, "f"), 1), 10)
		a.ok(&Remove{Parent: quarry.RootInode, Name: "f"})
		unseen := a.owned(10, 1)
		a.ok(&CloseSession{Session: a.session})
		lives := a.ok(&OpenSession{Slot: 3}).Session
		a.time += 900
		m := newMoving(1, a, b, allSlots, rand.New(rand.NewPCG(1, 1)))
		for MovingOf(b.kv).Taking == nil {
			m.step()
		}
		a.time, b.time = a.time+1000, b.time+1000+LogTime(c.late)
		for !m.done() {
			m.step()
		}
		b.ok(&CleanSlots{Max: 1})
		if until := int64(MovingOf(b.kv).QuietUntil) - int64(b.time); until != c.quiet {
			t.Errorf("%d late: quiet for %d, want %d", c.late, until, c.quiet)
		}
		b.ok(&Collect{KeepMS: 1000, SoonMS: 1000, Max: 10})
		if !b.record(unseen).Doomed {
			t.Errorf("%d late: a chunk that no file ever named is kept", c.late)
		}
		b.time += LogTime(max(c.quiet, 1) - 1)
		if got := Totals(b.kv).Removed == 1 && !Expired(b.kv, b.time, 1000); got != (c.quiet > 0) {
			t.Errorf("%d late: the removed file and the session are kept: %v", c.late, got)
		}
		b.time++
		b.ok(&Collect{KeepMS: 1000, SoonMS: 1000, Max: 10})
		if r := b.ok(&ExpireSessions{ExpiryMS: 1000}); len(r.Sessions) != 1 || r.Sessions[0] != lives || Totals(b.kv).Removed != 0 {
			t.Errorf("%d late: %+v ended, %d removed files are left", c.late, r.Sessions, Totals(b.kv).Removed)
		}
	}
}

// FuzzTake has a shard take hostile batches: it refuses them or takes them, and when the move is
// cancelled nothing is left.
func FuzzTake(f *testing.F) {
	a, b := newShard(f), newShardWithout(f, 1)
	d := a.mkdir(quarry.RootInode, "d")
	a.seal(a.openTail(a.touch(d, "f"), 1, 2), 10)
	a.owned(1, 2)
	a.transactions(d)
	a.ok(&Remove{Parent: d, Name: "f"})
	m := newMoving(1, a, b, allSlots, rand.New(rand.NewPCG(1, 1)))
	m.finish()
	for _, command := range b.log {
		if c, _ := DecodeCommand(command); c.Body.kind() == KindTake {
			f.Add(binary.AppendUvarint(nil, uint64(len(command))), command)
			f.Add(append(binary.AppendUvarint(nil, uint64(len(command))), command...), command)
		}
	}
	f.Fuzz(func(t *testing.T, list, last []byte) {
		s := newShardWithout(t, 1)
		s.ok(&BeginTake{Move: 1, Slots: allSlots, Time: 1 << 62})
		for _, command := range append(commands(list), last) {
			c, err := DecodeCommand(command)
			if err != nil || c.Body.kind() != KindTake {
				continue
			}
			before := s.kv.Copy()
			r := s.send(command) // checks the indexes
			if diff := difference(before, s.kv); r.Count == 0 && diff != "" {
				t.Fatalf("%x was not taken and changed %s", command, diff)
			}
		}
		s.ok(&CancelTake{Move: 1})
		for s.ok(&CleanSlots{Max: 3}).More {
		}
		if s.kv.Len() != 1 || Totals(s.kv) != (Counters{}) {
			t.Fatalf("%d keys are left, counters %+v", s.kv.Len(), Totals(s.kv))
		}
	})
}

// FuzzDecodeMoving reads what another shard says of a move.
func FuzzDecodeMoving(f *testing.F) {
	l := newLives(f)
	for range 4 {
		l.m.step()
		for _, s := range []*shard{l.a, l.b} {
			st := MovingOf(s.kv)
			f.Add(st.Append(nil))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := move.DecodeState(b)
		if err != nil {
			return
		}
		if st.Taking != nil {
			_, _ = NextBatch(l.a.kv, st.Taking, 100) // whatever it is, it does no harm
		}
		again := st.Append(nil)
		if st2, err := move.DecodeState(again); err != nil || !bytes.Equal(st2.Append(nil), again) {
			t.Fatalf("%x became %x, %v", b, again, err)
		}
	})
}
