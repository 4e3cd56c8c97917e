package protocol

import "github.com/quarryfs/quarry"

// Seal cuts a replica to the length at which a version ended; answered when the cut and the
// chunk's index beside its bytes are durable. The reply lacks the checksum, which is the
// server's to fill in.
//
// Only a replica whose bytes are of that version, or that shares the whole length with the
// version before, can hold the seal. Any other answers that it does not, whatever its
// length: bytes left over from an older version may differ. It keeps what it has, and is
// dropped and copied anew by the master.
func (m *Member) Seal(call Call, req *quarry.SealRequest) []Effect {
	if err := m.ready("seal", &req.ChunkRef); err != nil {
		return []Effect{Answer{Call: call, Err: err}}
	}
	v := req.Version
	switch {
	case !m.r.Exists:
		return m.refuse(call, "seal", quarry.NotFound, "there is no replica")
	case v.Writable() || !req.WritableVersion.Writable() || req.WritableVersion >= v || req.Length < 0 || req.Length > quarry.ChunkBytesMax:
		return m.refuse(call, "seal", quarry.Invalid, "version %d cannot seal version %d at %d", v, req.WritableVersion, req.Length)
	case v < m.r.Promised:
		return m.stale(call, "seal", v)
	}
	out := m.depose(m.promise(nil, v), quarry.StaleVersion, "the version is sealed")
	answer := wait{call: call, kind: waitSealed, ver: v, seal: req.Length}
	if m.r.SealVersion == v || m.status != quarry.ReplicaGood || !m.canHold(req) {
		return m.answerWhenDone(out, answer) // sealed before, or not to be
	}
	m.commit = min(m.commit, req.Length)
	out = m.persist(out, Change{Kind: ChangeSeal, Version: v, WritableVersion: req.WritableVersion, Length: req.Length, Position: req.Position})
	return m.answerWhenDone(out, answer)
}

// canHold reports whether the replica's bytes up to the sealed length are the chunk's.
func (m *Member) canHold(req *quarry.SealRequest) bool {
	same := m.r.LogVersion == req.WritableVersion || req.PrevWritableVersion != 0 && m.r.LogVersion == req.PrevWritableVersion
	return (same || off(SealAnyLog)) && req.Length <= m.r.DurableLength() && m.r.Records.Boundary(req.Length)
}
