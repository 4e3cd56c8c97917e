package protocol

import "github.com/quarryfs/quarry"

// Fence makes a version promised, ends a role of a lower one, and is answered, when that is
// durable, with what is durable here. The same fence is answered again; a lower one is
// refused.
func (m *Member) Fence(call Call, req *quarry.FenceRequest) []Effect {
	v := req.Version
	if err := m.meant("fence", &req.ChunkRef); err != nil {
		return []Effect{Answer{Call: call, Err: err}}
	}
	if !m.r.Exists || m.status == quarry.ReplicaLost { // nothing to be made durable
		return []Effect{Answer{Call: call, Reply: m.fenceReply(v)}}
	}
	if v < m.r.Promised {
		return m.stale(call, "fence", v)
	}
	out := m.promise(nil, v)
	if off(PromiseNotDurable) || off(FenceReportsUnsynced) {
		reply := m.fenceReply(v)
		if off(FenceReportsUnsynced) {
			reply.DurableLength = m.r.DurableLength()
		}
		return append(out, Answer{Call: call, Reply: reply})
	}
	return m.answerWhenDone(out, wait{call: call, kind: waitFenced, ver: v})
}

// Fencing answers a fence of which the disk has not said that it is durable: the role that it
// ends is over in this life of the process, and a life that follows does not take it up. What is
// here it does not tell; only the answer to the fence itself does.
func (m *Member) Fencing(req *quarry.FenceRequest) (*quarry.FenceReply, error) {
	if err := m.meant("fence", &req.ChunkRef); err != nil {
		return nil, err
	}
	if v := m.r.Promised; v != req.Version {
		return nil, quarry.Errorf("fence", quarry.StaleVersion, m.r.Handle.String(), "version %d is promised, not %d", v, req.Version)
	}
	return &quarry.FenceReply{Version: req.Version, Incarnation: m.incarnation, Status: quarry.ReplicaWaiting}, nil
}

// Promise makes a version promised that a lease grant names; answered when it is durable.
// Without a replica there is nothing to promise.
func (m *Member) Promise(call Call, v quarry.Version) []Effect {
	switch {
	case m.suspended:
		return []Effect{Answer{Call: call, Err: m.awake("promise")}}
	case m.status == quarry.ReplicaLost || !m.r.Exists:
		return []Effect{Answer{Call: call}}
	}
	return m.answerWhenDone(m.promise(nil, v), wait{call: call})
}

func (m *Member) fenceReply(v quarry.Version) *quarry.FenceReply {
	d := &m.durable
	reply := &quarry.FenceReply{Version: v, Incarnation: m.incarnation, Status: m.state()}
	if d.exists {
		reply.LogVersion, reply.DurableLength, reply.Commit = d.logVersion, d.length, m.commit
		reply.SealVersion, reply.SealLength = d.sealVersion, d.sealLength
	}
	return reply
}
