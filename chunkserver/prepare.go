package chunkserver

import (
	"context"
	"fmt"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/protocol"
)

const (
	// commitDelay is how long a commit may wait for a batch to travel with.
	commitDelay = 2 * time.Millisecond
	// slowMember is how much longer than this server a member may take until it has a batch
	// durable, before it is reported; as much again for each member behind it. One whose
	// connection breaks is known at once. It is also how much longer than all the others a primary
	// may take before it reports itself.
	slowMember = time.Second
	// slowLook is how often the batches on their way are looked at.
	slowLook = slowMember / 4
	// prepareMax is how long the answer to a batch is waited for at all.
	prepareMax = 10 * time.Second
	// busyMember is how long a batch is sent again to a member that has no memory for it, or
	// not the batch before it; busyPause is the time between two tries.
	busyMember = 2 * time.Second
	busyPause  = 20 * time.Millisecond
)

// chain is what a replica knows of the members behind it. Guarded by the replica's lock.
type chain struct {
	told     int64 // commit that has been sent along
	telling  bool  // a commit waits to be sent
	reported quarry.Version
	promised quarry.Version     // ctx is of this promise
	ctx      context.Context    // of batches on their way; nil if there was none
	cancel   context.CancelFunc // of ctx
	passages []*passage         // batches on their way, the oldest first
	watched  bool               // somebody looks at them
	ahead    int64              // length that all the others have and this one lacked; 0: there is none
	lacked   clock.Instant      // since when
}

// passage is a batch on its way to the next member.
type passage struct {
	to      quarry.Member
	behind  int // members behind that one
	version quarry.Version
	end     int64
	since   clock.Instant // when it was first seen to be durable here; 0: not yet
	broken  bool          // a connection has broken: it is on its way again
}

// end gives up the batches on their way: their version has ended, and whoever waits for
// their answers need not wait for a member that is silent.
func (c *chain) end() {
	if c.cancel != nil {
		c.cancel()
	}
	c.ctx, c.cancel = nil, nil
}

// Prepare takes a batch at a secondary and passes it on; see [quarry.ChunkServer]. The next
// member gets it before this one writes it, so that a chain costs one disk's time, not
// three.
func (s *Server) Prepare(ctx context.Context, req *quarry.PrepareRequest, done func(*quarry.PrepareReply, error)) {
	r, err := s.allowed("prepare", &req.ChunkRef, quarry.RightPrepare)
	var b *body
	if err == nil {
		defer r.release()
		b, err = batchBody(req)
	}
	if err == nil {
		err = s.takeMemory("prepare", req.Handle, len(req.Data))
	}
	if err != nil {
		done(nil, err)
		return
	}
	var behind quarry.PrepareReply // what the members behind this one answered
	answered := func(reply any, err error) {
		s.memory.Add(-int64(len(req.Data)))
		if err != nil {
			done(nil, err)
			return
		}
		own := reply.(*quarry.PrepareReply)
		own.Durable = append(own.Durable, behind.Durable...)
		own.Failed = behind.Failed
		done(own, nil)
	}
	s.traffic.served(s.cfg.Clock.Now())
	r.request(b, answered, func(m *protocol.Member, c protocol.Call) []protocol.Effect {
		effects := m.Prepare(c, req)
		if len(req.Chain) > 0 && !refused(effects) {
			r.queue = append(r.queue, action(func() { r.forward(req, b, &behind) }))
		}
		return effects
	})
}

// refused reports whether a request was answered with an error at once.
func refused(effects []protocol.Effect) bool {
	if len(effects) != 1 {
		return false
	}
	a, ok := effects[0].(protocol.Answer)
	return ok && a.Err != nil
}

// batchBody checks a batch's bytes and cuts them into its records.
func batchBody(req *quarry.PrepareRequest) (*body, error) {
	b := &body{data: req.Data, headers: req.Records}
	at := int64(0)
	for _, h := range req.Records {
		if h.Length < 1 || h.Length > int64(len(req.Data))-at {
			return nil, quarry.Errorf("prepare", quarry.Invalid, req.Handle.String(), "the records are longer than the %d bytes of the batch", len(req.Data))
		}
		if err := checkBytes("prepare", req.Handle, req.Data[at:at+h.Length], h.CRCs); err != nil {
			return nil, err
		}
		at += h.Length
	}
	if at != int64(len(req.Data)) || len(req.Chain) >= quarry.ReplicasMax {
		return nil, quarry.Errorf("prepare", quarry.Invalid, req.Handle.String(), "%d bytes in records, %d in the batch, %d members", at, len(req.Data), len(req.Chain))
	}
	return b, nil
}

// forward passes a batch on to the next member. Its bytes are held until that has answered.
func (r *replica) forward(req *quarry.PrepareRequest, b *body, behind *quarry.PrepareReply) {
	b.hold()
	next := *req
	next.Chain = req.Chain[1:]
	r.pass(&next, req.Chain[0], func(reply *quarry.PrepareReply) {
		*behind = *reply
		b.release()
	})
}

// ship sends a batch of this primary down the chain.
func (r *replica) ship(e protocol.Ship) {
	r.mu.Lock()
	p := r.member.Primary()
	if p == nil || p.Version() != e.Request.Version {
		r.mu.Unlock()
		return
	}
	members := p.Members()
	r.chain.told = max(r.chain.told, e.Request.Commit)
	r.mu.Unlock()

	b := r.gather(e.Calls)
	if len(b.bodies) == 0 {
		return
	}
	bodies := b.bodies
	for _, part := range bodies {
		part.hold()
	}
	req := e.Request
	req.Chain, req.Data = members[2:], b.data
	version := req.Version
	r.pass(&req, members[1], func(reply *quarry.PrepareReply) {
		for _, b := range bodies {
			b.release()
		}
		r.later(func(m *protocol.Member) []protocol.Effect { return m.Acknowledged(version, reply.Durable) })
		if len(reply.Failed) > 0 {
			r.report(version, reply.Failed)
		}
	})
}

func batchBytes(bodies []*body) (n int) {
	for _, b := range bodies {
		n += len(b.data)
	}
	return n
}

// pass sends a batch to one member. A failure of that member is part of the reply. A member
// that is busy is asked again for a while, and one whose connection broke once more: a
// version is not ended for that. A batch that a member has already it answers again, and one
// that comes before its turn it refuses as busy; so whatever is sent again ends in order.
func (r *replica) pass(req *quarry.PrepareRequest, to quarry.Member, done func(*quarry.PrepareReply)) {
	s := r.server
	req.Target = to.Incarnation
	req.Capability = s.sign(r.handle, quarry.RightPrepare)
	ctx, cancel := s.cfg.Clock.WithTimeout(r.passing(), prepareMax)
	p := &passage{to: to, behind: len(req.Chain), version: req.Version, end: req.Offset + int64(len(req.Data))}
	r.sets(p)
	start := s.cfg.Clock.Now()
	var send func()
	send = func() {
		s.cfg.Dial(to).Prepare(ctx, req, func(reply *quarry.PrepareReply, err error) {
			again := false
			switch quarry.KindOf(err) {
			case quarry.Busy:
				again = s.cfg.Clock.Now().Sub(start) < busyMember
			case quarry.Unavailable:
				again = r.breaks(p)
			}
			if again && ctx.Err() == nil {
				go func() { // whoever calls back must not be kept
					_ = s.cfg.Clock.Sleep(ctx, busyPause)
					send()
				}()
				return
			}
			cancel()
			if err != nil {
				reply = &quarry.PrepareReply{Failed: []quarry.Suspect{suspect(to, err)}}
			}
			done(reply)
			r.arrived(p) // what it tells is known by now
		})
	}
	send()
}

// passing returns the context of batches that are passed on in the present version.
func (r *replica) passing() context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.chain.ctx == nil {
		r.chain.ctx, r.chain.cancel = context.WithCancel(r.server.ctx)
	}
	return r.chain.ctx
}

func suspect(m quarry.Member, err error) quarry.Suspect {
	return quarry.Suspect{Server: m.Server, Incarnation: m.Incarnation, Why: clip(err.Error())}
}

// clip bounds a reason that travels.
func clip(why string) string {
	if len(why) > 256 {
		return why[:256]
	}
	return why
}

// report tells the master, once a version, which members failed; it seals the version.
func (r *replica) report(version quarry.Version, failed []quarry.Suspect) {
	r.mu.Lock()
	again := r.chain.reported == version || r.member.Replica().Promised != version
	if !again {
		r.chain.reported = version
	}
	r.mu.Unlock()
	if again {
		return
	}
	s := r.server
	s.cfg.Logger.Warn("a member failed", "chunk", r.handle, "version", version, "members", fmt.Sprint(failed))
	told := func(ctx context.Context) {
		err := s.cfg.Masters.Report(ctx, &quarry.ReportRequest{Handle: r.handle, Version: version, Suspects: failed})
		if err != nil {
			s.cfg.Logger.Warn("the master could not be told of a failed member", "chunk", r.handle, "error", err)
			r.unreported(version)
		}
	}
	if !s.background(told) {
		r.unreported(version)
	}
}

// unreported has the next failure of a member reported again. If there is none, the client
// has no answer and rolls the file itself.
func (r *replica) unreported(version quarry.Version) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.chain.reported == version {
		r.chain.reported = 0
	}
}

// spread has the members behind the primary told of a new commit, unless a batch that is
// about to leave tells them first.
func (r *replica) spread(e protocol.Advanced) {
	r.mu.Lock()
	p := r.member.Primary()
	if p == nil || len(p.Members()) < 2 || r.chain.telling || e.Commit <= r.chain.told {
		r.mu.Unlock()
		return
	}
	r.chain.telling = true
	r.mu.Unlock()
	begun := r.server.background(func(ctx context.Context) {
		_ = r.server.cfg.Clock.Sleep(ctx, commitDelay)
		r.tell(ctx)
	})
	if !begun { // the next commit tells of this one as well
		r.mu.Lock()
		r.chain.telling = false
		r.mu.Unlock()
	}
}

// tell sends the commit, if no batch has carried it meanwhile.
func (r *replica) tell(ctx context.Context) {
	r.mu.Lock()
	r.chain.telling = false
	p, commit := r.member.Primary(), r.member.Committed()
	if p == nil || commit <= r.chain.told {
		r.mu.Unlock()
		return
	}
	r.chain.told = commit
	req := &quarry.CommitRequest{ChunkRef: quarry.ChunkRef{Handle: r.handle, Version: p.Version()}, Commit: commit}
	members := p.Members()
	r.mu.Unlock()
	r.passCommit(ctx, req, members[1:])
}

// passCommit sends a commit to the first of the members and names it the others. A commit
// that is lost is made good by the next one, or by the seal.
func (r *replica) passCommit(ctx context.Context, req *quarry.CommitRequest, members []quarry.Member) {
	if len(members) == 0 {
		return
	}
	s := r.server
	next := *req
	next.Target, next.Chain = members[0].Incarnation, members[1:]
	next.Capability = s.sign(r.handle, quarry.RightPrepare)
	ctx, cancel := s.cfg.Clock.WithTimeout(ctx, prepareMax)
	defer cancel()
	if err := s.cfg.Dial(members[0]).Commit(ctx, &next); err != nil {
		s.cfg.Logger.Debug("a commit was not taken", "chunk", r.handle, "member", members[0].Address, "error", err)
	}
}

// Commit takes the news of a commit at a secondary and passes it on.
func (s *Server) Commit(ctx context.Context, req *quarry.CommitRequest) error {
	r, err := s.allowed("commit", &req.ChunkRef, quarry.RightPrepare)
	if err != nil {
		return err
	}
	defer r.release()
	if len(req.Chain) >= quarry.ReplicasMax {
		return quarry.Errorf("commit", quarry.Invalid, req.Handle.String(), "%d members", len(req.Chain))
	}
	r.step(func(m *protocol.Member) (effects []protocol.Effect) {
		effects, err = m.Commit(req)
		return effects
	})
	if err == nil && len(req.Chain) > 0 {
		s.background(func(ctx context.Context) { r.passCommit(ctx, req, req.Chain) })
	}
	return err
}

// deposed ends what the role of primary had going on.
func (r *replica) deposed(protocol.Deposed) {
	r.mu.Lock()
	r.chain.told, r.chain.reported, r.chain.ahead = 0, 0, 0
	r.mu.Unlock()
	r.wake()
}
