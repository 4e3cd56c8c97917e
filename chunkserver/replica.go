package chunkserver

import (
	"sync"
	"sync/atomic"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/chunk"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/protocol"
)

// replica is one replica of a chunk: its protocol machine and what its requests wait for.
type replica struct {
	server *Server
	disk   *chunk.Store
	handle quarry.Handle
	users  atomic.Int32 // callers that have found the actor and not released it

	mu      sync.Mutex
	member  *protocol.Member
	calls   map[protocol.Call]*call
	last    protocol.Call
	queue   []any         // effects and actions not carried out yet, in order
	busy    bool          // a goroutine is carrying effects out
	changed chan struct{} // closed, and made anew, whenever there may be more to see
	chain   chain         // the members behind this one
	before  *replica      // lost, on another disk: it counts again if this one comes to nothing
	stream  stream
	touched clock.Instant // by an append or an activation

	writes    int      // changes that the disk has not made durable yet
	reloading bool     // the machine is being made anew from the disk
	hands     []func() // changes to be handed to the disk, in order
	handing   bool     // a goroutine is handing them over

	joined batch // the bytes of the last batch; only for whoever carries effects out
}

// call is a request that the machine has not answered.
type call struct {
	done func(reply any, err error)
	// body is what came with the request: bytes that the disk and the next member need.
	body *body
}

// body is the bytes of an append or of a batch. They may be used until the last user has
// let go, and only then is the request answered: its buffer goes with the answer.
type body struct {
	data    []byte
	headers []quarry.RecordHeader // of the records in data

	mu     sync.Mutex
	users  int
	answer func()
}

// hold takes the bytes for one more user.
func (b *body) hold() {
	b.mu.Lock()
	b.users++
	b.mu.Unlock()
}

// release lets go of the bytes; the last user sends the answer, if there is one already.
func (b *body) release() {
	b.mu.Lock()
	b.users--
	answer := b.takeAnswer()
	b.mu.Unlock()
	if answer != nil {
		answer()
	}
}

// finish has answer called once nobody uses the bytes.
func (b *body) finish(answer func()) {
	b.mu.Lock()
	b.answer = answer
	answer = b.takeAnswer()
	b.mu.Unlock()
	if answer != nil {
		answer()
	}
}

func (b *body) takeAnswer() func() {
	if b.users > 0 {
		return nil
	}
	answer := b.answer
	b.answer = nil
	return answer
}

func newReplica(s *Server, disk *chunk.Store, m *protocol.Member) *replica {
	if s.cfg.SingleRecords {
		m.Singly()
	}
	return &replica{
		server: s, disk: disk, handle: m.Handle(), member: m,
		calls: map[protocol.Call]*call{}, changed: make(chan struct{}),
	}
}

// step is one event: f steps the machine under the lock, and its effects are carried out,
// here or by whoever is at it already.
func (r *replica) step(f func(*protocol.Member) []protocol.Effect) {
	if r.enqueue(f) {
		r.drain()
	}
}

// later is step for callers that must not be kept: the effects are carried out by others.
func (r *replica) later(f func(*protocol.Member) []protocol.Effect) {
	if r.enqueue(f) {
		go r.drain()
	}
}

// enqueue steps the machine, and reports whether the caller is to carry out the effects.
func (r *replica) enqueue(f func(*protocol.Member) []protocol.Effect) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range f(r.member) {
		if _, over := e.(protocol.Deposed); over {
			r.chain.end()
		}
		r.queue = append(r.queue, e)
	}
	if promised := r.member.Replica().Promised; promised != r.chain.promised {
		r.chain.end()
		r.chain.promised = promised
	}
	if r.busy || len(r.queue) == 0 {
		r.reloadIfDue()
		return false
	}
	r.busy = true
	return true
}

// drain carries effects out until there are none.
func (r *replica) drain() {
	r.mu.Lock()
	for len(r.queue) > 0 {
		effects := r.queue
		r.queue = nil
		r.mu.Unlock()
		for _, e := range effects {
			r.carryOut(e)
		}
		r.mu.Lock()
	}
	r.busy, r.joined = false, batch{}
	idle := r.idle()
	r.reloadIfDue()
	r.mu.Unlock()
	if idle {
		r.server.forget(r)
	}
}

// idle reports whether nothing would be lost with the actor. r.mu is held.
func (r *replica) idle() bool {
	return r.member.Idle() && !r.member.Suspended() && len(r.calls) == 0 && r.writes == 0 && !r.busy
}

// settled reports whether the disk knows all that the actor does, so that it can be made
// anew from there: a sealed replica at which nothing is under way. r.mu is held.
func (r *replica) settled() bool {
	i := r.member.Info()
	return !r.member.Suspended() && i.Status == quarry.ReplicaGood && i.SealVersion > i.LogVersion && i.Serving &&
		len(r.calls) == 0 && r.writes == 0 && !r.busy
}

// request is a step that will be answered: done is called once.
func (r *replica) request(b *body, done func(any, error), f func(*protocol.Member, protocol.Call) []protocol.Effect) {
	r.step(func(m *protocol.Member) []protocol.Effect {
		r.last++
		r.calls[r.last] = &call{done: done, body: b}
		return f(m, r.last)
	})
}

// own queues the effects of a step, in which the change of one kind is made by do: the
// change needs what came with the request. It reports whether there is such a change. It is
// called in a step, which then returns no effects.
func (r *replica) own(effects []protocol.Effect, kind protocol.ChangeKind, do func(*protocol.Change, func(error))) bool {
	mine := false
	for _, e := range effects {
		if p, ok := e.(protocol.Persist); ok && p.Change.Kind == kind {
			mine = true
			r.queue = append(r.queue, action(func() {
				durable := r.begun(p)
				r.toDisk(p.Change.Kind == protocol.ChangeCopy, func() { do(&p.Change, durable) })
			}))
			continue
		}
		r.queue = append(r.queue, e)
	}
	return mine
}

// action is something of the server's own that is done among the effects, in its turn.
type action func()

// carryOut does what the machine wants done. It does not hold the lock.
func (r *replica) carryOut(e any) {
	switch e := e.(type) {
	case action:
		e()
	case protocol.Persist:
		r.persist(e)
	case protocol.Ship:
		r.ship(e)
	case protocol.Answer:
		r.answer(e)
	case protocol.Advanced:
		r.wake()
		r.spread(e)
	case protocol.Deposed:
		r.deposed(e)
	case protocol.AskSeal:
		// The client that is told Full rolls the file; nothing more is taken meanwhile.
	}
}

func (r *replica) answer(a protocol.Answer) {
	r.mu.Lock()
	c := r.calls[a.Call]
	delete(r.calls, a.Call)
	r.mu.Unlock()
	if c == nil {
		return
	}
	if c.body == nil {
		c.done(a.Reply, a.Err)
		return
	}
	c.body.finish(func() { c.done(a.Reply, a.Err) })
}

// bodies returns the bytes of requests that are not answered.
func (r *replica) bodies(calls []protocol.Call) []*body {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*body, 0, len(calls))
	for _, c := range calls {
		if c := r.calls[c]; c != nil && c.body != nil {
			out = append(out, c.body)
		}
	}
	return out
}

// wake wakes everybody who waits for the replica to have more to show.
func (r *replica) wake() {
	r.mu.Lock()
	close(r.changed)
	r.changed = make(chan struct{})
	r.mu.Unlock()
}
