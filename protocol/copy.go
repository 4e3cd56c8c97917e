package protocol

import "github.com/quarryfs/quarry"

// CanCopy returns an error unless a copy of a sealed chunk may be put in the place of
// whatever is here. The server asks before it fetches the bytes.
func (m *Member) CanCopy(req *quarry.CopyRequest) error {
	if err := m.meant("copy", &req.ChunkRef); err != nil {
		return err
	}
	v := req.Version
	switch {
	case v.Writable() || !req.WritableVersion.Writable() || req.WritableVersion >= v || req.Length < 0 || req.Length > quarry.ChunkBytesMax:
		return quarry.Errorf("copy", quarry.Invalid, m.r.Handle.String(), "version %d cannot seal version %d at %d", v, req.WritableVersion, req.Length)
	case v < m.r.Promised && !off(OldCopyApplied):
		return quarry.Errorf("copy", quarry.StaleVersion, m.r.Handle.String(), "the copy is of version %d, promised is %d", v, m.r.Promised)
	}
	return nil
}

// Copied is the event that the bytes of a sealed chunk have been fetched and checked, with
// its records; answered when they are durable in the place of whatever was here. A copy does
// not serve before [Member.Add]. A chunk that was put together from parts serves at once:
// nobody can ask for it before the log names it, and then no leader need bring the word.
func (m *Member) Copied(call Call, req *quarry.CopyRequest, table *Records, forgotten []quarry.SessionID) []Effect {
	if err := m.CanCopy(req); err != nil {
		return []Effect{Answer{Call: call, Err: err}}
	}
	good := m.status == quarry.ReplicaGood // else it is replaced whatever it holds
	switch {
	case good && m.complete(req.Version, req.Length):
		return m.answerWhenDone(nil, wait{call: call})
	case good && m.r.SealVersion >= req.Version && !off(OldCopyApplied):
		return m.refuse(call, "copy", quarry.StaleVersion, "the copy is of version %d, the replica of %d", req.Version, m.r.SealVersion)
	case table.Length() != req.Length || len(forgotten) > ForgottenMax:
		return m.refuse(call, "copy", quarry.Invalid, "the records cover %d bytes of %d, %d sessions are forgotten", table.Length(), req.Length, len(forgotten))
	}
	c := Change{
		Kind: ChangeCopy, Version: req.Version, WritableVersion: req.WritableVersion, Length: req.Length,
		Table: table, Forgotten: forgotten, Mutable: req.Mutable,
		Serving: len(req.Parts) > 0,
	}
	if off(CopyWithoutRecords) {
		c.Table = nameless(table)
	}
	out := m.depose(nil, quarry.StaleVersion, "the version is sealed")
	m.joined, m.commit = 0, 0
	return m.answerWhenDone(m.persist(out, c), wait{call: call})
}

// nameless is the table of the same bytes without a session in it.
func nameless(t *Records) *Records {
	c := t.Clone()
	for len(c.sessions) > 0 {
		c.Forget(c.sessions[0].session)
	}
	return &c
}

// Add lets a copied replica serve, because the master has logged it; answered when that is
// durable.
func (m *Member) Add(call Call, req *quarry.AddRequest) []Effect {
	if err := m.ready("add", &req.ChunkRef); err != nil {
		return []Effect{Answer{Call: call, Err: err}}
	}
	switch {
	case !m.r.Exists:
		return m.refuse(call, "add", quarry.NotFound, "there is no replica")
	case m.r.SealVersion != req.Version:
		return m.stale(call, "add", req.Version)
	case m.r.Serving && (m.r.Mutable || !req.Mutable):
		return m.answerWhenDone(nil, wait{call: call})
	}
	out := m.persist(nil, Change{Kind: ChangeAdd, Version: req.Version, Mutable: req.Mutable})
	return m.answerWhenDone(out, wait{call: call})
}

// Drop ends a replica that no layout needs; answered when that is durable. A replica that
// has promised more than the request's version stays: somebody knows more of it than the
// one who judged it. One that is lost goes, too, if its disk works.
func (m *Member) Drop(call Call, req *quarry.DropRequest) []Effect {
	if err := m.meant("drop", &req.ChunkRef); err != nil {
		return []Effect{Answer{Call: call, Err: err}}
	}
	switch {
	case !m.r.Exists:
		return m.answerWhenDone(nil, wait{call: call})
	case req.Version < m.r.Promised:
		return m.stale(call, "drop", req.Version)
	}
	out := m.depose(nil, quarry.StaleVersion, "the replica is dropped")
	m.joined, m.commit = 0, 0
	return m.answerWhenDone(m.persist(out, Change{Kind: ChangeDrop, Version: req.Version}), wait{call: call})
}

// complete reports whether the replica is, or will be, complete at this seal.
func (m *Member) complete(v quarry.Version, length int64) bool {
	return m.r.Exists && m.r.SealVersion == v && m.r.SealLength == length
}
