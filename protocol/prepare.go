package protocol

import "github.com/quarryfs/quarry"

// Prepare is the event that a batch arrives at a secondary, with all its bytes checked
// against its checksums; answered when it is durable here. The server passes the batch on to
// the members behind it, and joins their answers to this one.
//
// Only the version that is promised and that the bytes belong to is taken, and only the next
// batch. A batch that is here already is answered again.
func (m *Member) Prepare(call Call, req *quarry.PrepareRequest) []Effect {
	if err := m.ready("prepare", &req.ChunkRef); err != nil {
		return []Effect{Answer{Call: call, Err: err}}
	}
	v, length := req.Version, m.r.DurableLength()
	switch {
	case !m.r.Exists:
		return m.refuse(call, "prepare", quarry.NotFound, "there is no replica")
	case (v != m.r.Promised || v != m.r.LogVersion || v != m.joined) && !off(OldPrepareAccepted):
		return m.stale(call, "prepare", v)
	case m.primary != nil:
		return m.refuse(call, "prepare", quarry.Invalid, "the server is the primary of version %d itself", v)
	}
	records, end, err := m.batchRecords(req)
	switch {
	case err != nil:
		return []Effect{Answer{Call: call, Err: err}}
	case req.Batch != 0 && req.Batch <= m.batch && end <= length:
		return m.prepared(nil, call, req.Commit) // the same batch again
	case (req.Batch != m.batch+1 || req.Offset != length) && !off(GapAccepted):
		return m.refuse(call, "prepare", quarry.Busy, "batch %d at %d must come after batch %d and byte %d", req.Batch, req.Offset, m.batch, length)
	}
	c := Change{Kind: ChangeBatch, Version: m.r.LogVersion, Records: records}
	if err := m.r.Apply(&c); err != nil {
		m.r.Records.Cut(length)
		return []Effect{Answer{Call: call, Err: quarry.Wrap("prepare", m.r.Handle.String(), err)}}
	}
	m.batch, m.written = req.Batch, m.r.DurableLength()
	out := m.ticket(nil, c, []Call{call})
	return m.prepared(out, call, req.Commit)
}

// prepared answers a batch when everything asked for is durable, and takes the commit that
// came with it.
func (m *Member) prepared(out []Effect, call Call, commit int64) []Effect {
	out = m.learnCommit(out, commit)
	if off(AckBeforeSync) {
		return append(out, Answer{Call: call, Reply: &quarry.PrepareReply{Durable: []quarry.MemberLength{{Server: m.self, Length: m.written}}}})
	}
	return m.answerWhenDone(out, wait{call: call, kind: waitPrepared})
}

// Commit is the event that the primary tells how far the version is committed.
func (m *Member) Commit(req *quarry.CommitRequest) ([]Effect, error) {
	if err := m.ready("commit", &req.ChunkRef); err != nil {
		return nil, err
	}
	if !m.r.Exists || req.Version != m.r.LogVersion || req.Version != m.joined {
		return nil, quarry.Errorf("commit", quarry.StaleVersion, m.r.Handle.String(), "version %d, the bytes are of %d", req.Version, m.r.LogVersion)
	}
	return m.learnCommit(nil, req.Commit), nil
}

// learnCommit raises the commit to what the primary says. What is committed is durable
// here; a commit beyond that can only be a lie, and is cut.
func (m *Member) learnCommit(out []Effect, commit int64) []Effect {
	have := m.durable.length
	if off(AckBeforeSync) || off(Majority) {
		have = m.written
	}
	if commit = min(commit, have); commit <= m.commit || m.primary != nil {
		return out
	}
	m.commit = commit
	return append(out, Advanced{Commit: commit})
}

// batchRecords gives the records of a batch their places; it returns their end.
func (m *Member) batchRecords(req *quarry.PrepareRequest) ([]Record, int64, error) {
	invalid := func(format string, args ...any) ([]Record, int64, error) {
		return nil, 0, quarry.Errorf("prepare", quarry.Invalid, m.r.Handle.String(), format, args...)
	}
	if n := len(req.Records); n == 0 || n > BatchRecordsMax || req.Offset < 0 || req.Offset > quarry.ChunkBytesMax {
		return invalid("a batch of %d records at byte %d", n, req.Offset)
	}
	at := req.Offset
	if off(GapAccepted) && req.Batch > m.batch {
		at = m.r.DurableLength()
	}
	records := make([]Record, len(req.Records))
	for i, h := range req.Records {
		if h.Session == 0 || h.Sequence == 0 || h.Length < 1 || h.Length > quarry.RecordBytesMax || at+h.Length > quarry.ChunkBytesMax {
			return invalid("record %d of session %d has %d bytes at %d", h.Sequence, h.Session, h.Length, at)
		}
		records[i] = Record{h.Session, h.Sequence, at, h.Length}
		at += h.Length
	}
	return records, at, nil
}
