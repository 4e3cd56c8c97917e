package protocol

import "github.com/quarryfs/quarry"

// Reopen makes a sealed replica a member of a further writable version; answered when that
// is durable. The master sends it to the members that its log names for the version, and
// gives the first of them the role of primary only when all have answered.
//
// Only a replica that is durably complete at the seal just before the version takes it: one
// that has lost bytes, or is of an older seal, must not acknowledge records that stand behind
// what it lacks. What is sealed goes on being shown. The primary knows every record below the
// base, so a client whose record was under way when the version before ended sends it again.
func (m *Member) Reopen(call Call, req *quarry.ReopenRequest) []Effect {
	if err := m.ready("reopen", &req.ChunkRef); err != nil {
		return []Effect{Answer{Call: call, Err: err}}
	}
	v := req.Version
	switch {
	case !m.r.Exists:
		return m.refuse(call, "reopen", quarry.NotFound, "there is no replica")
	case !v.Writable() || !req.PrevWritableVersion.Writable() || req.PrevWritableVersion >= v || req.Base < 0 || req.Base > quarry.ChunkBytesMax:
		return m.refuse(call, "reopen", quarry.Invalid, "version %d cannot follow version %d at %d", v, req.PrevWritableVersion, req.Base)
	case m.joined == v && m.r.LogVersion == v && m.r.Promised == v:
		return m.answerWhenDone(nil, wait{call: call}) // the same request again
	case v <= m.r.Promised && !off(ReopenOldVersion):
		return m.stale(call, "reopen", v)
	case m.status != quarry.ReplicaGood:
		return m.refuse(call, "reopen", quarry.Corrupt, "bytes of the replica are broken")
	case !m.reopenable(req):
		return m.refuse(call, "reopen", quarry.StaleVersion, "version %d begins at %d, the replica has %d bytes of seal %d and version %d",
			v, req.Base, m.r.DurableLength(), m.r.SealVersion, m.r.LogVersion)
	case m.r.Records.Count() > RunsMax/2:
		return m.refuse(call, "reopen", quarry.Full, "the table of records has %d runs", m.r.Records.Count())
	}
	m.joined, m.batch, m.commit = v, 0, max(m.commit, req.Base)
	out := m.persist(nil, Change{Kind: ChangeReopen, Version: v, Length: req.Base})
	return m.answerWhenDone(out, wait{call: call})
}

// reopenable reports whether the replica is complete at the seal before the version.
func (m *Member) reopenable(req *quarry.ReopenRequest) bool {
	r := &m.r
	return m.complete(req.Version-1, req.Base) && r.LogVersion == req.PrevWritableVersion && r.DurableLength() == req.Base ||
		off(ReopenWithoutBytes) || off(ReopenOldVersion)
}
