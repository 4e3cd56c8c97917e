package protocol

import (
	"slices"

	"github.com/quarryfs/quarry"
)

// waitsMax bounds the requests at one replica that wait for its disk.
const waitsMax = 4096

// Member is one replica of a chunk at a chunk server: what its disk knows of it, and what
// this life of the process knows besides. It exists also where there is no replica, so that
// a request for one has somebody to answer it.
//
// Each method is one event. Those that return effects begin something; their Call is
// answered in the same step or in a later one. The others look, and answer at once. Not safe
// for concurrent use.
type Member struct {
	self        quarry.ServerID
	incarnation quarry.Incarnation
	status      quarry.ReplicaStatus

	r       Replica // as it is when everything asked for is durable
	durable durable // what of it is durable

	asked   Ticket // the last one given
	done    Ticket // all up to here are durable
	pending []step // asked and not done, in order
	waits   []wait // requests answered when a ticket is done, in order

	written int64          // end of the last batch that was asked for; records behind it are only taken
	joined  quarry.Version // the writable version that this incarnation is a member of
	batch   uint64         // the last batch of joined that is taken
	commit  int64          // bytes known to be durable at all members
	primary *Primary       // nil without the role
	single  bool           // see Singly

	suspended bool // see Suspend
}

// durable is what a crash at this instant would leave, as far as the protocol asks for it.
type durable struct {
	exists, serving, mutable                   bool
	promised, logVersion, adopted, sealVersion quarry.Version
	sealLength, length                         int64
}

// step is a change on its way to the disk.
type step struct {
	kind  ChangeKind
	after durable // what is durable then
}

// wait is a request that is answered when a ticket is done.
type wait struct {
	ticket Ticket
	call   Call
	kind   waitKind
	ver    quarry.Version
	seal   int64
}

type waitKind uint8

const (
	waitDone waitKind = iota // no reply but that it is done
	waitActive
	waitPrepared
	waitFenced
	waitSealed
)

// NewMember returns the member for a handle of which this server has no replica.
func NewMember(handle quarry.Handle, self quarry.ServerID, inc quarry.Incarnation) *Member {
	return RecoverMember(Replica{Handle: handle}, self, inc)
}

// RecoverMember returns the member for a replica that was found on a disk at the start of
// incarnation inc. It is complete up to its seal and answers fences, but is no member of
// the version it was in: only the incarnation that opened a version belongs to it.
func RecoverMember(r Replica, self quarry.ServerID, inc quarry.Incarnation) *Member {
	m := &Member{self: self, incarnation: inc, status: quarry.ReplicaGood, r: r.Clone()}
	m.written = m.r.DurableLength()
	m.durable = m.planned()
	if off(RestartedMemberStays) {
		m.joined = r.LogVersion
	}
	return m
}

// Handle returns the chunk's handle.
func (m *Member) Handle() quarry.Handle { return m.r.Handle }

// Exists reports whether there is a replica here, durably.
func (m *Member) Exists() bool { return m.durable.exists }

// Idle reports whether nothing is under way here and there is no replica: the member may be
// forgotten.
func (m *Member) Idle() bool {
	return !m.durable.exists && len(m.pending) == 0 && len(m.waits) == 0
}

// Committed returns the length that is known to be durable at all members of the version.
func (m *Member) Committed() int64 { return m.commit }

// DurableLength returns the length up to which the replica is durable here.
func (m *Member) DurableLength() int64 { return m.durable.length }

// Primary returns the role of primary, nil if the member does not have it.
func (m *Member) Primary() *Primary { return m.primary }

// Replica returns the replica as it will be when all changes asked for are durable. The
// caller does not change it, nor keep it beyond the next event. For a checkpoint of the
// disk's journal, take the replica that its changes were applied to instead.
func (m *Member) Replica() *Replica { return &m.r }

// Info returns what the server reports of the replica to its master: what is durable.
func (m *Member) Info() quarry.ReplicaInfo {
	d := &m.durable
	info := quarry.ReplicaInfo{
		Handle: m.r.Handle, Promised: d.promised, LogVersion: d.logVersion, SealVersion: d.sealVersion,
		Length: d.length, Status: m.state(), Serving: d.serving, Mutable: d.mutable,
	}
	if d.sealVersion != 0 && d.sealVersion > d.logVersion {
		info.Length = d.sealLength
	}
	return info
}

// Durable is the event that the changes up to ticket are durable, in their order.
func (m *Member) Durable(ticket Ticket) []Effect {
	if ticket <= m.done {
		return nil // of a disk that has failed since
	}
	if ticket > m.asked {
		panic("protocol: durable before it was asked for")
	}
	n := int(ticket - m.done)
	last := m.pending[n-1]
	sealed, adopted := false, false
	for _, s := range m.pending[:n] {
		if s.kind == ChangeCopy || s.kind == ChangeDrop { // whole again, or nothing
			m.status = quarry.ReplicaGood
		}
		sealed = sealed || s.kind == ChangeSeal || s.kind == ChangeCopy || s.kind == ChangeAdd
		adopted = adopted || s.kind == ChangeAdopt && m.primary != nil && m.primary.version == s.after.adopted
	}
	m.durable, m.done = last.after, ticket
	m.pending = slices.Delete(m.pending, 0, n)
	out := m.answerWaits(nil)
	if sealed {
		out = append(out, Advanced{Commit: m.commit, Sealed: true})
	}
	if p := m.primary; p != nil {
		p.active = p.active || adopted
		p.acked[0] = max(p.acked[0], m.durable.length)
		out = m.advance(out)
	}
	return out
}

// Fail is the event that the disk failed, or that the replica turned out to hold less than
// it acknowledged: nothing more is durable, and the replica is lost. Everything under way is
// answered with Unavailable.
//
// The server keeps the member for as long as its process lives: an empty one in its place
// could be created by a delayed CREATE, and would then answer a fence as a good member that
// has nothing. Only a copy of the sealed chunk, on another disk, takes its place.
func (m *Member) Fail() []Effect {
	out := m.depose(nil, quarry.Unavailable, "the disk failed")
	m.status = quarry.ReplicaLost
	for _, w := range m.waits {
		out = append(out, m.unavailable("store", w.call))
	}
	m.waits, m.pending, m.done = nil, nil, m.asked // no ticket is used twice
	return append(out, Advanced{Commit: m.commit})
}

// Suspend is the event that the disk works, but refused a change, because of why: it is full,
// perhaps. What was asked for behind that change may have been made, or not, and only the
// disk knows; so everything under way is answered with an error, and everything else refused
// as Unavailable, until the server has made the member anew from its disk
// ([RecoverMember]). As after a restart it then is no member of its version any more; but it
// answers fences with all that it acknowledged, and the version can be sealed.
func (m *Member) Suspend(why error) []Effect {
	out := m.depose(nil, quarry.Unavailable, "the disk refused a change")
	for _, w := range m.waits {
		out = append(out, Answer{Call: w.call, Err: quarry.Wrap("store", m.r.Handle.String(), why)})
	}
	m.waits, m.pending, m.done = nil, nil, m.asked // no ticket is used twice
	m.suspended = true
	return append(out, Advanced{Commit: m.commit})
}

// Suspended reports whether the member is to be made anew from its disk.
func (m *Member) Suspended() bool { return m.suspended }

// awake returns an error if the member is suspended.
func (m *Member) awake(op string) error {
	if m.suspended {
		return quarry.Errorf(op, quarry.Unavailable, m.r.Handle.String(), "the replica is read anew from its disk")
	}
	return nil
}

// Corrupt is the event that bytes of the replica do not match their checksums. Until it is
// copied anew it counts for no seal.
func (m *Member) Corrupt() {
	if m.status == quarry.ReplicaGood {
		m.status = quarry.ReplicaCorrupt
	}
}

// Forget is the event that a session has expired and that its records are to be dropped
// from the table; answered when that is durable. FATE says unknown of them from then on, and
// no record of the session is taken here. Busy: one is on its way.
func (m *Member) Forget(call Call, session quarry.SessionID) []Effect {
	switch {
	case m.suspended:
		return []Effect{Answer{Call: call, Err: m.awake("forget")}}
	case m.status == quarry.ReplicaLost || !m.r.Exists:
		return m.refuse(call, "forget", quarry.NotFound, "there is no replica")
	case len(m.r.Forgotten) >= ForgottenMax:
		return m.refuse(call, "forget", quarry.TooLarge, "%d sessions are forgotten already", ForgottenMax)
	case m.primary != nil && slices.ContainsFunc(m.primary.taken, func(t taken) bool { return t.rec.Session == session }):
		return m.refuse(call, "forget", quarry.Busy, "a record of the session waits for its commit")
	case slices.Contains(m.r.Forgotten, session):
		return m.answerWhenDone(nil, wait{call: call})
	}
	return m.answerWhenDone(m.persist(nil, Change{Kind: ChangeForget, Session: session}), wait{call: call})
}

// Clone returns a copy that shares nothing with m.
func (m *Member) Clone() *Member {
	c := *m
	c.r = m.r.Clone()
	c.pending, c.waits = slices.Clone(m.pending), slices.Clone(m.waits)
	c.primary = m.primary.clone()
	return &c
}

// planned is what will be durable when everything asked for is.
func (m *Member) planned() durable {
	r := &m.r
	return durable{
		exists: r.Exists, serving: r.Serving, mutable: r.Mutable,
		promised: r.Promised, logVersion: r.LogVersion, adopted: r.Adopted, sealVersion: r.SealVersion,
		sealLength: r.SealLength, length: m.written,
	}
}

// persist makes a change of the member's own choosing: it always follows its state.
func (m *Member) persist(out []Effect, c Change) []Effect {
	if err := m.r.Apply(&c); err != nil {
		panic("protocol: " + err.Error())
	}
	m.written = m.r.DurableLength()
	if p := m.primary; p != nil {
		m.written = p.shipped
	}
	return m.ticket(out, c, nil)
}

// ticket asks for a change that m.r and m.written hold already.
func (m *Member) ticket(out []Effect, c Change, calls []Call) []Effect {
	m.asked++
	m.pending = append(m.pending, step{kind: c.Kind, after: m.planned()})
	return append(out, Persist{m.asked, c, calls})
}

// answerWhenDone answers w when all that is asked for is durable: at once, if it is.
func (m *Member) answerWhenDone(out []Effect, w wait) []Effect {
	if len(m.waits) >= waitsMax {
		return append(out, m.error("store", w.call, quarry.Busy, "too many requests wait for the disk"))
	}
	w.ticket = m.asked
	m.waits = append(m.waits, w)
	return m.answerWaits(out)
}

func (m *Member) answerWaits(out []Effect) []Effect {
	n := 0
	for ; n < len(m.waits) && m.waits[n].ticket <= m.done; n++ {
		out = append(out, m.answer(&m.waits[n]))
	}
	m.waits = slices.Delete(m.waits, 0, n)
	return out
}

func (m *Member) answer(w *wait) Effect {
	switch w.kind {
	case waitActive:
		if m.primary == nil || m.primary.version != w.ver {
			return m.error("activate", w.call, quarry.StaleVersion, "the version ended before the role began")
		}
	case waitPrepared:
		return Answer{Call: w.call, Reply: &quarry.PrepareReply{Durable: []quarry.MemberLength{{Server: m.self, Length: m.durable.length}}}}
	case waitFenced:
		return Answer{Call: w.call, Reply: m.fenceReply(w.ver)}
	case waitSealed:
		holds := m.durable.sealVersion == w.ver && m.durable.sealLength == w.seal
		return Answer{Call: w.call, Reply: &quarry.SealReply{Holds: holds}}
	}
	return Answer{Call: w.call}
}

// state is the replica's status as others may know it.
func (m *Member) state() quarry.ReplicaStatus {
	if m.status == quarry.ReplicaGood && !m.durable.exists {
		return quarry.ReplicaMissing
	}
	return m.status
}

// promise raises the promised version, and ends a role and a membership of lower ones.
func (m *Member) promise(out []Effect, v quarry.Version) []Effect {
	if v <= m.r.Promised {
		return out
	}
	if !off(RoleKeptAtFence) {
		out = m.depose(out, quarry.StaleVersion, "the version has ended")
	}
	return m.persist(out, Change{Kind: ChangePromise, Version: v})
}

// meant returns an error unless a request is for this incarnation.
func (m *Member) meant(op string, ref *quarry.ChunkRef) error {
	if err := m.awake(op); err != nil {
		return err
	}
	if ref.Target != m.incarnation && !off(RequestsOutliveDisk) && !off(RestartedMemberStays) {
		return quarry.Errorf(op, quarry.StaleVersion, m.r.Handle.String(),
			"the request is for incarnation %d of the server, this is %d", ref.Target, m.incarnation)
	}
	return nil
}

// ready returns an error unless a request is for this incarnation and the replica is not
// lost.
func (m *Member) ready(op string, ref *quarry.ChunkRef) error {
	if err := m.meant(op, ref); err != nil {
		return err
	}
	if m.status == quarry.ReplicaLost {
		return quarry.Errorf(op, quarry.Unavailable, m.r.Handle.String(), "the replica is lost: its disk failed")
	}
	return nil
}

func (m *Member) error(op string, call Call, kind quarry.Kind, format string, args ...any) Effect {
	return Answer{Call: call, Err: quarry.Errorf(op, kind, m.r.Handle.String(), format, args...)}
}

func (m *Member) refuse(call Call, op string, kind quarry.Kind, format string, args ...any) []Effect {
	return []Effect{m.error(op, call, kind, format, args...)}
}

func (m *Member) unavailable(op string, call Call) Effect {
	return m.error(op, call, quarry.Unavailable, "the disk failed")
}

func (m *Member) stale(call Call, op string, v quarry.Version) []Effect {
	if v == m.r.Promised && v == m.r.LogVersion {
		return m.refuse(call, op, quarry.StaleVersion, "the server was started anew since version %d began, and is no member of it", v)
	}
	return m.refuse(call, op, quarry.StaleVersion, "the request is of version %d, promised is %d, the bytes are of %d", v, m.r.Promised, m.r.LogVersion)
}
