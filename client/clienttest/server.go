package clienttest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/protocol"
)

// Server is a chunk server in memory. What it stores survives Kill and Restart.
type Server struct {
	quarry.ChunkServer // nil: what is not offered

	c  *Cluster
	id quarry.ServerID

	mu          sync.Mutex
	incarnation quarry.Incarnation
	down        bool
	hung        chan struct{} // closed when the server goes on; nil: it does not hang
	faults      Faults
	replicas    map[quarry.Handle]*replica
	calls       protocol.Call
	waiting     map[protocol.Call]*waiting
	counts      map[string]int
	inFlight    int64 // bytes of appends
	inFlightMax int64
	after       []func() // to be called without the lock
}

// Faults are what is wrong with a server's answers.
type Faults struct {
	Slow      time.Duration // each read takes this much longer
	Corrupt   bool          // reads return a flipped bit
	NoLease   bool          // END and reads that are not validated need the master's word
	LoseAcks  int           // so many of the next appends are carried out and their answers lost
	Busy      int           // so many of the next appends are refused with Busy
	DropReads int           // so many of the next reads fail with Unavailable
	Refuse    error         // appends fail with this
}

// replica is a chunk on a server.
type replica struct {
	m       *protocol.Member
	data    []byte
	zeros   int64 // length of a sealed chunk of zeros that takes no memory
	members []quarry.Member
	ships   []protocol.Ship
	sending bool
	changed chan struct{} // closed when more may be read
}

// waiting is a request that the member has not answered.
type waiting struct {
	handle quarry.Handle
	data   []byte
	done   func(any, error)
}

func newServer(c *Cluster, id quarry.ServerID) *Server {
	return &Server{
		c: c, id: id, incarnation: quarry.Incarnation(100 * id), replicas: map[quarry.Handle]*replica{},
		waiting: map[protocol.Call]*waiting{}, counts: map[string]int{},
	}
}

// ID returns the server's number.
func (s *Server) ID() quarry.ServerID { return s.id }

// Address returns where the server would listen.
func (s *Server) Address() string { return fmt.Sprintf("10.0.0.%d:7500", s.id) }

// member returns the server as the registry knows it.
func (s *Server) member() quarry.Member {
	s.mu.Lock()
	defer s.mu.Unlock()
	return quarry.Member{
		Server: s.id, Incarnation: s.incarnation, Disk: quarry.DiskID{byte(s.id)},
		Address: s.Address(), Rack: fmt.Sprintf("rack%d", s.id),
	}
}

func (s *Server) usable() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.down && s.hung == nil
}

// SetFaults changes what is wrong with the server's answers.
func (s *Server) SetFaults(f Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = f
}

// Kill ends the server: connections are refused, requests under way fail.
func (s *Server) Kill() {
	s.mu.Lock()
	s.down = true
	s.incarnation++
	for call := range s.waiting {
		s.answer(protocol.Answer{Call: call, Err: s.refused()})
	}
	for _, r := range s.replicas {
		if r.m != nil {
			stored := r.m.Replica().Clone()
			stored.Records.Cut(int64(len(r.data)))
			r.m = protocol.RecoverMember(stored, s.id, s.incarnation)
		}
		r.ships, r.sending = nil, false
	}
	s.unlock()
}

// Restart starts a killed server as another incarnation, with what it had stored.
func (s *Server) Restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = false
}

// Hang stops the server without a sign; Resume lets it go on where it was.
func (s *Server) Hang() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hung == nil {
		s.hung = make(chan struct{})
	}
}

// Resume ends Hang.
func (s *Server) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hung != nil {
		close(s.hung)
		s.hung = nil
	}
}

// Lose removes a replica, as a repair does that put it elsewhere.
func (s *Server) Lose(h quarry.Handle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.replicas, h)
}

// Count returns how often an operation was called.
func (s *Server) Count(op string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[op]
}

// InFlightMax returns the most bytes of appends that were under way here at one time.
func (s *Server) InFlightMax() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inFlightMax
}

func (s *Server) refused() error {
	return quarry.Errorf("dial", quarry.Unavailable, s.Address(), "connection refused")
}

// reach is what every request goes through before it comes to the server.
func (s *Server) reach(ctx context.Context, op string, ref *quarry.ChunkRef, need quarry.Rights) error {
	s.mu.Lock()
	s.counts[op]++
	hung, down := s.hung, s.down
	s.mu.Unlock()
	if hung != nil {
		select {
		case <-hung:
		case <-ctx.Done():
			return quarry.Errorf(op, quarry.Unavailable, "", "no answer: %w", ctx.Err())
		case <-s.c.ctx.Done():
			return quarry.Unavailable
		}
	}
	if down {
		return s.refused()
	}
	if err := s.c.clock.Sleep(ctx, s.c.config.Delay); err != nil {
		return err
	}
	return s.c.keys.Verify(s.c.id, ref.Handle, ref.Capability, need)
}

// unlock carries out what was put off until the lock is free.
func (s *Server) unlock() {
	after := s.after
	s.after = nil
	s.mu.Unlock()
	for _, f := range after {
		f()
	}
}

// begin hands a request to a member and has done called with its answer.
func (s *Server) begin(h quarry.Handle, data []byte, event func(*replica, protocol.Call) []protocol.Effect, done func(any, error)) {
	s.mu.Lock()
	defer s.unlock()
	r := s.replicas[h]
	if r == nil {
		r = &replica{m: protocol.NewMember(h, s.id, s.incarnation), changed: make(chan struct{})}
		s.replicas[h] = r
	}
	s.calls++
	call := s.calls
	s.waiting[call] = &waiting{h, data, done}
	s.do(r, event(r, call))
	if r.m.Idle() {
		delete(s.replicas, h)
	}
}

// do carries out what a member asks for; everything is durable at once.
func (s *Server) do(r *replica, effects []protocol.Effect) {
	for len(effects) > 0 {
		e := effects[0]
		effects = effects[1:]
		switch e := e.(type) {
		case protocol.Persist:
			for _, call := range e.Calls {
				r.data = append(r.data, s.waiting[call].data...)
			}
			if e.Change.Kind == protocol.ChangeSeal {
				r.data = r.data[:e.Change.Length]
			}
			effects = append(effects, r.m.Durable(e.Ticket)...)
		case protocol.Answer:
			s.answer(e)
		case protocol.Ship:
			// A batch may be answered at once and its calls forgotten: its bytes are in r.data.
			r.ships = append(r.ships, e)
			if life := s.incarnation; !r.sending {
				r.sending = true
				s.c.background(func() { s.ship(r, life) })
			}
		case protocol.Advanced:
			close(r.changed)
			r.changed = make(chan struct{})
		}
	}
}

func (s *Server) answer(a protocol.Answer) {
	w := s.waiting[a.Call]
	if w == nil {
		return
	}
	delete(s.waiting, a.Call)
	s.after = append(s.after, func() { w.done(a.Reply, a.Err) })
}

// ship sends a primary's batches to the secondaries, one after the other, in one life of the
// server.
func (s *Server) ship(r *replica, life quarry.Incarnation) {
	for {
		s.mu.Lock()
		if s.incarnation != life {
			s.mu.Unlock()
			return
		}
		if len(r.ships) == 0 {
			r.sending = false
			s.mu.Unlock()
			return
		}
		req := r.ships[0].Request
		r.ships = r.ships[1:]
		members := r.members
		end := req.Offset
		for _, h := range req.Records {
			end += h.Length
		}
		if end > int64(len(r.data)) { // the role is over and the chunk was cut
			s.mu.Unlock()
			continue
		}
		req.Data = slices.Clone(r.data[req.Offset:end])
		s.mu.Unlock()
		var durable []quarry.MemberLength
		for _, m := range members[1:] {
			one := req
			one.ChunkRef = s.peerRef(&req.ChunkRef, m, quarry.RightPrepare)
			ctx, cancel := s.c.clock.WithTimeout(s.c.ctx, time.Second)
			reply, err := await(ctx, func(done func(*quarry.PrepareReply, error)) { s.c.Server(m.Server).Prepare(ctx, &one, done) })
			cancel()
			if err != nil {
				s.c.suspect(req.Handle)
				continue
			}
			durable = append(durable, reply.Durable...)
		}
		s.mu.Lock()
		if s.incarnation == life {
			s.do(r, r.m.Acknowledged(req.Version, durable))
		}
		commit := r.m.Committed()
		s.unlock()
		for _, m := range members[1:] {
			_ = s.c.Server(m.Server).Commit(s.c.ctx, &quarry.CommitRequest{ChunkRef: s.peerRef(&req.ChunkRef, m, quarry.RightPrepare), Commit: commit})
		}
	}
}

func (s *Server) peerRef(ref *quarry.ChunkRef, m quarry.Member, r quarry.Rights) quarry.ChunkRef {
	return quarry.ChunkRef{Handle: ref.Handle, Version: ref.Version, Target: m.Incarnation, Capability: s.c.keys.Sign(s.c.id, ref.Handle, r)}
}

// await turns a call with a callback into one that waits.
func await[R any](ctx context.Context, call func(done func(R, error))) (R, error) {
	type result struct {
		reply R
		err   error
	}
	ch := make(chan result, 1)
	call(func(reply R, err error) { ch <- result{reply, err} })
	select {
	case r := <-ch:
		return r.reply, r.err
	case <-ctx.Done():
		var none R
		return none, quarry.Errorf("call", quarry.Unavailable, "", "%w", ctx.Err())
	}
}

// request is begin for a request that is waited for.
func request[R any](ctx context.Context, s *Server, h quarry.Handle, event func(*replica, protocol.Call) []protocol.Effect) (R, error) {
	return await(ctx, func(done func(R, error)) {
		s.begin(h, nil, event, func(reply any, err error) {
			typed, _ := reply.(R)
			done(typed, err)
		})
	})
}
