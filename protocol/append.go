package protocol

import (
	"slices"
	"sort"

	"github.com/quarryfs/quarry"
)

// Append is the event that a client's record arrives at the primary, with all its bytes
// checked against its checksums. oldest is the session's oldest unsettled sequence in the
// file.
//
// A record that the chunk holds is answered with the place it has, as soon as it is
// committed. Any other is taken only in its turn: the first of a session in a version is its
// oldest unsettled one, each further one follows without a gap. So a seal cuts a suffix of
// what a session sent, and the order in the file is the order of the sequences.
func (m *Member) Append(call Call, ref *quarry.ChunkRef, oldest quarry.Sequence, rec quarry.RecordHeader) []Effect {
	if err := m.ready("append", ref); err != nil {
		return []Effect{Answer{Call: call, Err: err}}
	}
	p := m.primary
	switch {
	case ref.Version < m.r.Promised && !(off(RoleKeptAtFence) && p != nil) && !off(OldRequestAccepted):
		return m.stale(call, "append", ref.Version)
	case p == nil && m.joined == ref.Version && ref.Version == m.r.Promised:
		return m.refuse(call, "append", quarry.Busy, "the server is not the primary yet")
	case p == nil || ref.Version != p.version && !off(OldRequestAccepted):
		return m.refuse(call, "append", quarry.NotPrimary, "the server is not the primary of version %d", ref.Version)
	case rec.Session == 0 || oldest == 0 || rec.Sequence < oldest:
		return m.refuse(call, "append", quarry.Invalid, "session %d, sequence %d, oldest unsettled %d", rec.Session, rec.Sequence, oldest)
	case rec.Length < 1 || rec.Length > quarry.RecordBytesMax:
		return m.refuse(call, "append", quarry.TooLarge, "a record has 1 to %d bytes, this one has %d", quarry.RecordBytesMax, rec.Length)
	case slices.Contains(m.r.Forgotten, rec.Session):
		return m.refuse(call, "append", quarry.SessionExpired, "the session is forgotten in this chunk")
	}
	if have, ok := m.r.Records.Find(rec.Session, rec.Sequence); ok && !off(NoDedup) {
		return m.again(call, have, rec.Length)
	}
	return m.take(call, oldest, rec)
}

// again answers an append of a record that is here already.
func (m *Member) again(call Call, have Record, length int64) []Effect {
	if have.Length != length {
		return m.refuse(call, "append", quarry.Invalid, "sequence %d of session %d has %d bytes here, %d were sent",
			have.Sequence, have.Session, have.Length, length)
	}
	if have.End() <= m.commit || off(DuplicateAckedEarly) {
		return []Effect{Answer{Call: call, Reply: &quarry.AppendReply{Offset: have.Offset}}}
	}
	p := m.primary
	i := sort.Search(len(p.taken), func(k int) bool { return p.taken[k].rec.Offset >= have.Offset })
	if i == len(p.taken) || p.taken[i].rec != have {
		panic("protocol: an uncommitted record that nobody took")
	}
	t := &p.taken[i]
	if len(t.calls) >= callsMax {
		return m.refuse(call, "append", quarry.Busy, "the record is waited for already")
	}
	t.calls = append(t.calls, call)
	return nil
}

// take gives a new record its place.
func (m *Member) take(call Call, oldest quarry.Sequence, h quarry.RecordHeader) []Effect {
	p := m.primary
	length := m.r.DurableLength()
	last, ok := m.r.Records.Last(h.Session)
	first := !ok || last.Offset < p.base || off(NoDedup)
	switch {
	case p.full:
		return m.refuse(call, "append", quarry.Full, "the chunk takes no more records in version %d", p.version)
	case first && h.Sequence != oldest && !off(AnySequenceFirst):
		return m.refuse(call, "append", quarry.Busy, "the first record of the session here must be %d, its oldest unsettled", oldest)
	case !first && h.Sequence != last.Sequence+1 && !off(SequenceGap):
		return m.refuse(call, "append", quarry.Busy, "record %d of the session must come first", last.Sequence+1)
	case length+h.Length > quarry.ChunkBytesMax || m.r.Records.Count() >= RunsMax:
		p.full = true
		return append(m.refuse(call, "append", quarry.Full, "the chunk has %d bytes", length), AskSeal{p.version})
	case len(p.taken) >= takenMax || length-m.commit+h.Length > takenBytesMax:
		return m.refuse(call, "append", quarry.Busy, "too many records wait for their commit")
	}
	rec := Record{h.Session, h.Sequence, length, h.Length}
	if err := m.r.Records.Append(rec); err != nil {
		return []Effect{Answer{Call: call, Err: quarry.Wrap("append", m.r.Handle.String(), err)}}
	}
	p.taken = append(p.taken, taken{rec, h.CRCs, []Call{call}})
	if !p.active {
		return nil
	}
	return m.advance(nil)
}
