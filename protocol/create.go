package protocol

import "github.com/quarryfs/quarry"

// Create begins an empty replica of a new chunk; answered when it is durable. Only the
// master that took the handle sends it, and never again once the chunk is logged.
func (m *Member) Create(call Call, req *quarry.CreateRequest) []Effect {
	if err := m.ready("create", &req.ChunkRef); err != nil {
		return []Effect{Answer{Call: call, Err: err}}
	}
	v := req.Version
	switch {
	case !v.Writable():
		return m.refuse(call, "create", quarry.Invalid, "version %d is not a writable one", v)
	case !m.r.Exists:
		m.joined, m.batch, m.commit = v, 0, 0
		out := m.persist(nil, Change{Kind: ChangeCreate, Version: v, Mutable: req.Mutable})
		return m.answerWhenDone(out, wait{call: call})
	case m.r.Promised == v && m.r.LogVersion == v && m.joined == v:
		return m.answerWhenDone(nil, wait{call: call}) // the same request again
	}
	return m.stale(call, "create", v)
}

// Activate gives the member the role of primary of the version it is in; answered when that
// is durable. A server takes the role of a version once: what it held in memory is gone
// after a restart, so that version must be sealed.
func (m *Member) Activate(call Call, req *quarry.ActivateRequest) []Effect {
	if err := m.ready("activate", &req.ChunkRef); err != nil {
		return []Effect{Answer{Call: call, Err: err}}
	}
	v := req.Version
	switch {
	case !m.r.Exists:
		return m.refuse(call, "activate", quarry.NotFound, "there is no replica")
	case v != m.r.Promised || v != m.r.LogVersion || v != m.joined:
		return m.stale(call, "activate", v)
	case m.primary != nil && m.primary.version == v && !off(RoleTakenTwice):
		return m.answerWhenDone(nil, wait{call: call, kind: waitActive, ver: v}) // the same request again
	case m.r.Adopted >= v && !off(RoleTakenTwice):
		return m.refuse(call, "activate", quarry.StaleVersion, "the role of version %d was taken before", v)
	case req.Base != m.r.DurableLength():
		return m.refuse(call, "activate", quarry.Invalid, "the version begins at %d, the replica has %d bytes", req.Base, m.r.DurableLength())
	case !m.leads(req.Members):
		return m.refuse(call, "activate", quarry.Invalid, "the members do not begin with this server, or are too many or doubled")
	}
	m.primary = newPrimary(v, req.Members, req.Base)
	m.commit = max(m.commit, req.Base)
	out := m.persist(nil, Change{Kind: ChangeAdopt, Version: v})
	return m.answerWhenDone(out, wait{call: call, kind: waitActive, ver: v})
}

// leads reports whether a list of members begins with this one and names each server once.
func (m *Member) leads(members []quarry.Member) bool {
	if len(members) == 0 || len(members) > quarry.ReplicasMax || members[0].Server != m.self {
		return false
	}
	for i := range members {
		for j := range i {
			if members[i].Server == members[j].Server {
				return false
			}
		}
	}
	return true
}
