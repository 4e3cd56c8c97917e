package meta

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/quarryfs/quarry"
)

// once sends an operation of the shard's session with a sequence of its own.
func (s *shard) once(seq, oldest quarry.Sequence, b Body) *Result {
	s.t.Helper()
	return s.send(s.encode(quarry.Op{Session: s.session, Sequence: seq, Oldest: oldest}, b))
}

func TestExactlyOnce(t *testing.T) {
	s := newShard(t)
	mk := &Make{Parent: quarry.RootInode, Name: "f", Kind: quarry.KindFile}
	rm := &Remove{Parent: quarry.RootInode, Name: "f"}
	first := s.once(1, 1, mk)
	if again := s.once(1, 1, mk); !reflect.DeepEqual(again, first) {
		t.Errorf("the retry got %+v, the first %+v", again, first)
	}
	refusal := s.once(2, 1, mk)
	if !errors.Is(refusal.Err, quarry.Exists) {
		t.Fatal(refusal.Err)
	}
	if r := s.once(3, 1, rm); r.Err != nil {
		t.Fatal(r.Err)
	}
	if again := s.once(1, 1, mk); !reflect.DeepEqual(again, first) {
		t.Errorf("after the removal the retry got %+v", again)
	}
	if again := s.once(2, 1, mk); again.Err.Error() != refusal.Err.Error() {
		t.Errorf("the retry of a refused operation: %v, first %v", again.Err, refusal.Err)
	}
	if _, err := s.lookup("f"); !errors.Is(err, quarry.NotFound) {
		t.Errorf("a retry made the file again: %v", err)
	}

	// A machine that has just started answers the same.
	s.m.Installed()
	if again := s.once(1, 1, mk); !reflect.DeepEqual(again, first) {
		t.Errorf("after a restart the retry got %+v", again)
	}

	for _, test := range []struct {
		kind        quarry.Kind
		seq, oldest quarry.Sequence
	}{
		{quarry.Invalid, 0, 0}, {quarry.Invalid, 5, 6}, {quarry.Busy, WindowOps + 4, 4},
	} {
		if r := s.once(test.seq, test.oldest, mk); !errors.Is(r.Err, test.kind) {
			t.Errorf("sequence %d, oldest %d: %v, want %v", test.seq, test.oldest, r.Err, test.kind)
		}
	}
	if r := s.once(WindowOps+3, 4, mk); r.Err != nil {
		t.Error(r.Err)
	}
	if r := s.once(3, 3, rm); !errors.Is(r.Err, quarry.Unknown) {
		t.Errorf("an operation whose result is forgotten: %v", r.Err)
	}
	unknown := s.encode(quarry.Op{Session: s.session + 1, Sequence: 1}, mk)
	if r := s.send(unknown); !errors.Is(r.Err, quarry.SessionExpired) {
		t.Errorf("an unknown session: %v", r.Err)
	}
}

// An error that invites a retry must not become the operation's result.
func TestBusyIsNotStored(t *testing.T) {
	s := newShard(t)
	full := reading(s.kv)
	rec, _ := full.session(s.session)
	rec.Owned = ownedMax
	c := s.chunk(1)
	s.setSession(&rec)
	for i := range uint64(ownedMax) {
		s.kv.Set(ownedKey(nil, s.session, quarry.Handle(1e6+i)), nil)
	}
	if r, _ := DecodeResult(s.m.Apply(s.kv, s.encode(quarry.Op{Session: s.session, Sequence: 1, Oldest: 1}, &OpenOwned{Chunks: []NewChunk{c}}))); !errors.Is(r.Err, quarry.Busy) {
		t.Fatal(r.Err)
	}
	s.kv.DeleteRange(ownedKey(nil, s.session, 0), ownedKey(nil, s.session+1, 0))
	if r := s.once(1, 1, &OpenOwned{Chunks: []NewChunk{c}}); r.Err != nil || len(r.Handles) != 1 {
		t.Errorf("the retry: %+v", r)
	}
}

func (s *shard) setSession(r *SessionRecord) {
	tx := &tx{state: *reading(s.kv), kv: s.kv}
	put(tx, sessionKey(nil, s.session), r, sessionFields)
}

func TestSessionLife(t *testing.T) {
	s := newShard(t)
	const expiry = 3600_000
	other := s.ok(&OpenSession{Slot: 9}).Session
	if other == s.session || SessionSlot(other) != 9 {
		t.Errorf("session %x", other)
	}
	if r := s.ok(&KeepSessions{Sessions: []quarry.SessionID{s.session, 1234, other}}); len(r.Sessions) != 1 || r.Sessions[0] != 1234 {
		t.Errorf("unknown sessions %v", r.Sessions)
	}
	s.time += expiry
	if Expired(s.kv, s.time, expiry) {
		t.Error("a session is due at its last moment")
	}
	if r := s.ok(&ExpireSessions{ExpiryMS: expiry}); len(r.Sessions) != 0 {
		t.Errorf("expired %v", r.Sessions)
	}
	s.ok(&KeepSessions{Sessions: []quarry.SessionID{other}})
	s.time++
	if !Expired(s.kv, s.time, expiry) {
		t.Error("no session is due")
	}
	if r := s.ok(&ExpireSessions{ExpiryMS: expiry}); len(r.Sessions) != 1 || r.Sessions[0] != s.session || r.More {
		t.Errorf("expired %+v", r)
	}
	if _, err := Session(s.kv, s.session); !errors.Is(err, quarry.SessionExpired) {
		t.Error("the session is still known")
	}
	if rec, err := Session(s.kv, other); err != nil || rec.Seen != s.time-1 {
		t.Errorf("the other session: %+v, %v", rec, err)
	}
	// Time that goes backwards does nothing.
	s.time = 5
	s.ok(&KeepSessions{Sessions: []quarry.SessionID{other}})
	if got := Time(s.kv); got != 1000+expiry+1 {
		t.Errorf("log time %d", got)
	}
}

func TestCloseSession(t *testing.T) {
	s := newShard(t)
	sealed := s.owned(100, 1, 2)
	open := s.chunk(1, 2)
	s.ok(&OpenOwned{Chunks: []NewChunk{open}})
	r := s.ok(&CloseSession{Session: s.session})
	if len(r.Orphans) != 1 || r.Orphans[0] != open.Handle {
		t.Errorf("orphans %v", r.Orphans)
	}
	if c := s.record(sealed); c.Freed == 0 {
		t.Errorf("the sealed chunk is no garbage: %+v", c)
	}
	if list := ActiveChunks(s.kv, 0, 10); len(list) != 1 || !list[0].Orphan {
		t.Errorf("active %+v", list)
	}
	s.seal(open.Handle, 5)
	if c := s.record(open.Handle); c.Freed == 0 {
		t.Errorf("the orphan is no garbage: %+v", c)
	}
	if n := Totals(s.kv); n.Sessions != 0 || n.Garbage != 2 {
		t.Errorf("counters %+v", n)
	}
	s.ok(&CloseSession{Session: s.session})
	if r := s.do(&Make{Parent: quarry.RootInode, Name: "x", Kind: quarry.KindFile}); !errors.Is(r.Err, quarry.SessionExpired) {
		t.Error(r.Err)
	}
}

// A session that owns more than one command may free ends in several steps, in which it
// takes no operation any more.
func TestEndOfLargeSession(t *testing.T) {
	s := newShard(t)
	s.ok(&ReserveHandles{Term: 1, Count: 4000})
	var chunks []NewChunk
	for range freeStep + 30 {
		chunks = append(chunks, s.chunk(1))
	}
	for ; len(chunks) > 0; chunks = chunks[min(openMax, len(chunks)):] {
		s.ok(&OpenOwned{Chunks: chunks[:min(openMax, len(chunks))]})
	}
	s.time += 10
	r := s.ok(&ExpireSessions{ExpiryMS: 1})
	if !r.More || len(r.Sessions) != 0 || len(r.Orphans) != freeStep {
		t.Fatalf("more %v, ended %v, %d orphans", r.More, r.Sessions, len(r.Orphans))
	}
	if r := s.do(&OpenOwned{Chunks: []NewChunk{s.chunk(1)}}); !errors.Is(r.Err, quarry.SessionExpired) {
		t.Error(r.Err)
	}
	r = s.ok(&ExpireSessions{ExpiryMS: 1})
	if r.More || len(r.Sessions) != 1 || len(r.Orphans) != 30 {
		t.Fatalf("more %v, ended %v, %d orphans", r.More, r.Sessions, len(r.Orphans))
	}
}

func TestSameCommandsSameBytes(t *testing.T) {
	a := newShard(t)
	d := a.mkdir(quarry.RootInode, "d")
	f := a.touch(d, "f")
	h := a.openTail(f, 1, 2, 3)
	a.seal(h, 77)
	a.ok(&Remove{Parent: d, Name: "f"})
	b := NewMemory()
	var m Machine
	for _, command := range a.log {
		m.Installed() // nothing that the machine remembers may matter
		m.Apply(b, command)
	}
	if !bytes.Equal(flatten(a.kv), flatten(b)) {
		t.Error("the same commands gave two states")
	}
}

func flatten(m *Memory) (out []byte) {
	m.Scan(nil, nil, func(key, value []byte) bool {
		out = append(append(append(out, key...), 0), value...)
		return true
	})
	return out
}
