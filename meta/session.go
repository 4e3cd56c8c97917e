package meta

import (
	"encoding/binary"
	"fmt"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

const (
	sessionsMax = 1000 // in one command
	ownedMax    = 2 * quarry.PiecesMax
	// freeStep is the most chunks that one command frees when sessions end.
	freeStep = orphansMax
)

// OpenSession opens a session in a slot that the shard owns. Result: Session.
type OpenSession struct{ Slot quarry.Slot }

func (*OpenSession) kind() Kind { return KindOpenSession }

func (c *OpenSession) fields(w *wire.Walk) { wire.Uint(w, 10, &c.Slot) }

func (c *OpenSession) apply(t *tx, r *Result) error {
	if err := t.checkSlot(c.Slot); err != nil {
		return err
	}
	n := t.header.NextSession
	if n > quarry.NumberMax {
		return refuse(quarry.NoSpace, "", "all session numbers are used")
	}
	t.header.NextSession++
	t.header.Counters.Sessions++
	r.Session = quarry.SessionID(quarry.MakeInode(c.Slot, n))
	t.putSession(r.Session, &SessionRecord{OpenedNS: t.wallNS}, true)
	return nil
}

// KeepSessions keeps sessions alive. WrongShard: the slot of one of them lives elsewhere. Result:
// Sessions, those that are not known (any more).
type KeepSessions struct {
	Sessions []quarry.SessionID // at most 1,000
}

func (*KeepSessions) kind() Kind { return KindKeepSessions }

func (c *KeepSessions) fields(w *wire.Walk) { wire.Uints(w, 10, &c.Sessions, sessionsMax) }

func (c *KeepSessions) apply(t *tx, r *Result) error {
	for _, id := range c.Sessions {
		if err := t.checkSlot(SessionSlot(id)); err != nil {
			return err
		}
	}
	for _, id := range c.Sessions {
		s, err := t.liveSession(id)
		if err != nil {
			r.Sessions = append(r.Sessions, id)
			continue
		}
		t.putSession(id, &s, true)
	}
	return nil
}

// putSession writes a session's record; seen says that it shows life at this instant.
func (t *tx) putSession(id quarry.SessionID, s *SessionRecord, seen bool) {
	if now := t.now(); seen && s.Seen != now {
		if s.Seen != 0 {
			t.delete(expiryKey(t.key[:0], s.Seen, id))
		}
		s.Seen = now
		t.set(expiryKey(t.key[:0], s.Seen, id))
	}
	put(t, sessionKey(t.key[:0], id), s, sessionFields)
}

// CloseSession ends a session at its client's word: its results are forgotten and the chunks
// it owns become garbage. A session that is not known is a success. Result: Orphans; More: it
// owns more chunks than one command frees.
type CloseSession struct{ Session quarry.SessionID }

func (*CloseSession) kind() Kind { return KindCloseSession }

func (c *CloseSession) fields(w *wire.Walk) { wire.Uint(w, 10, &c.Session) }

func (c *CloseSession) apply(t *tx, r *Result) error {
	if err := t.checkSlot(SessionSlot(c.Session)); err != nil {
		return err
	}
	if s, ok := t.session(c.Session); ok {
		t.endSession(c.Session, s, r)
	}
	return nil
}

// ExpireSessions ends the sessions that showed no life for ExpiryMS of log time, the oldest
// first. Result: Sessions, those that have ended; Orphans; More.
type ExpireSessions struct{ ExpiryMS uint64 }

func (*ExpireSessions) kind() Kind { return KindExpireSessions }

func (c *ExpireSessions) fields(w *wire.Walk) { wire.Uint(w, 10, &c.ExpiryMS) }

func (c *ExpireSessions) apply(t *tx, r *Result) error {
	// A session may hold a thousand results, so a command ends few of them.
	const step = 16
	due := t.expired(t.now(), c.ExpiryMS, step)
	for _, id := range due {
		s, ok := t.session(id)
		if !ok {
			panic(fmt.Sprintf("meta: the state is broken: session %x has an expiry and no record", uint64(id)))
		}
		if !t.endSession(id, s, r) {
			return nil
		}
		r.Sessions = append(r.Sessions, id)
	}
	r.More = len(due) == step
	return nil
}

// Expired reports whether a session is due to be ended by [ExpireSessions] at log time now.
func Expired(v View, now LogTime, expiryMS uint64) bool {
	s := reading(v)
	return len(s.expired(now, expiryMS, 1)) > 0
}

// expired returns at most n sessions that are due.
func (s *state) expired(now LogTime, expiryMS uint64, n int) (due []quarry.SessionID) {
	if uint64(now) <= expiryMS || now < LogTime(s.header.QuietUntil) {
		return nil
	}
	hi := expiryKey(nil, now-LogTime(expiryMS), 0)
	s.index(table(nil, shardSlot, tableExpiry), hi, func(key, _ []byte) bool {
		due = append(due, quarry.SessionID(lastNumber(key)))
		return len(due) < n
	})
	return due
}

// endSession frees what the session owns, as far as one command may, and then removes it. It
// reports whether it has; if not, the result says More.
func (t *tx) endSession(id quarry.SessionID, s SessionRecord, r *Result) bool {
	free := freeStep - r.Count
	owned := t.owned(id, free+1)
	for _, h := range owned[:min(free, len(owned))] {
		t.release(h, r)
		r.Count++
		s.disown(1)
	}
	if len(owned) > free {
		s.Closed, r.More = true, true
		t.putSession(id, &s, false)
		return false
	}
	t.delete(expiryKey(t.key[:0], s.Seen, id))
	t.forgetResults(id)
	t.delete(sessionKey(t.key[:0], id))
	t.header.Counters.Sessions--
	return true
}

// owned returns at most n chunks that a session owns.
func (s *state) owned(id quarry.SessionID, n int) (handles []quarry.Handle) {
	if n <= 0 {
		return nil
	}
	s.index(table(nil, shardSlot, tableOwned, uint64(id)), after(table(nil, shardSlot, tableOwned, uint64(id))), func(key, _ []byte) bool {
		handles = append(handles, quarry.Handle(lastNumber(key)))
		return len(handles) < n
	})
	return handles
}

// release takes a chunk from the session that owns it.
func (t *tx) release(h quarry.Handle, r *Result) {
	c := t.edit(h)
	c.Owner = 0
	if c.State == quarry.ChunkOpen || c.State == quarry.ChunkSealing {
		r.Orphans = append(r.Orphans, h)
	} else {
		c.Freed = t.freed(&c.ChunkRecord)
	}
	t.saveChunk(c)
}

// forgetResults removes all results of a session.
func (t *tx) forgetResults(id quarry.SessionID) {
	var places []uint16
	t.scan(table(nil, uint16(SessionSlot(id)), tableResult, uint64(id)), nil, func(key, _ []byte) bool {
		places = append(places, binary.BigEndian.Uint16(key[len(key)-2:]))
		return true
	})
	for _, p := range places {
		t.delete(resultKey(t.key[:0], id, p))
	}
}

// disown notes that n chunks do not belong to a session any more, if it is kept here.
func (t *tx) disown(id quarry.SessionID, n uint64) {
	if s, ok := t.session(id); ok {
		s.disown(n)
		t.putSession(id, &s, false)
	}
}

func (s *SessionRecord) disown(n uint64) { s.Owned -= min(n, s.Owned) }

// recall returns the result that the operation had before, if it is done. The place is where
// its result belongs.
func (t *tx) recall(op *quarry.Op) (place uint16, result []byte, done bool, err error) {
	switch {
	case op.Session == 0 || op.Sequence == 0:
		return 0, nil, false, refuse(quarry.Invalid, "", "the operation has no session or no sequence")
	case op.Oldest > op.Sequence:
		return 0, nil, false, refuse(quarry.Invalid, "", "operation %d comes before the oldest unsettled one, %d", op.Sequence, op.Oldest)
	case op.Sequence-op.Oldest >= WindowOps:
		return 0, nil, false, refuse(quarry.Busy, "", "more than %d operations of the session are unsettled", WindowOps)
	}
	if _, err := t.liveSession(op.Session); err != nil {
		return 0, nil, false, err // of WrongShard: whether the operation was done is known there
	}
	place = uint16(op.Sequence % WindowOps)
	var rec resultRecord
	if !load(&t.state, resultKey(t.key[:0], op.Session, place), &rec, resultRecordFields) || rec.Sequence < op.Sequence {
		return place, nil, false, nil
	}
	if rec.Sequence > op.Sequence {
		if off(OldResultForgotten) {
			return place, nil, false, nil
		}
		return 0, nil, false, refuse(quarry.Unknown, "", "operation %d is so old that its result is forgotten", op.Sequence)
	}
	return place, rec.Result, true, nil
}

func (t *tx) setResult(op *quarry.Op, place uint16, result []byte) {
	if off(ResultsNotReplicated) {
		return
	}
	rec := resultRecord{Sequence: op.Sequence, Result: result}
	put(t, resultKey(t.key[:0], op.Session, place), &rec, resultRecordFields)
}

// Session returns what the shard keeps of a session. SessionExpired: it is not known (any more).
// WrongShard.
func Session(v View, id quarry.SessionID) (SessionRecord, error) {
	r, err := reading(v).liveSession(id)
	return r, named("session", "", err)
}
