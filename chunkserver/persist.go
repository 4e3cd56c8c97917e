package chunkserver

import (
	"context"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/chunk"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/protocol"
)

// How a change of the protocol becomes one of the disk. Each method of chunk.Store returns
// at once and calls back when the change is durable; changes of one replica become durable
// in the order in which they are asked for. Only Write works with the disk itself, which may
// hang; so it has a goroutine of its own, and the other effects do not wait for it. The store applies a change to a
// state of its own by the same rules as protocol.Replica, and refuses what cannot follow it:
// a refusal here means that memory and disk differ, and the machine is made anew from the
// disk. Only the failure of the disk itself makes its replicas lost.

// begun notes that a change is handed to the disk; what it returns is told the outcome.
func (r *replica) begun(p protocol.Persist) func(error) {
	r.mu.Lock()
	r.writes++
	r.mu.Unlock()
	return func(err error) {
		r.later(func(m *protocol.Member) []protocol.Effect { return r.persisted(m, p.Ticket, err) })
	}
}

// persist hands a change to the disk. Create and Copy hand over theirs themselves.
func (r *replica) persist(p protocol.Persist) {
	durable := r.begun(p)
	c := &p.Change
	switch c.Kind {
	case protocol.ChangeBatch:
		b := *r.gather(p.Calls)
		for _, part := range b.bodies {
			part.hold()
		}
		r.toDisk(true, func() {
			r.write(&b, c.Records[0].Offset, durable)
			for _, part := range b.bodies {
				part.release()
			}
		})
	case protocol.ChangePromise:
		r.toDisk(false, func() { r.disk.Promise(r.handle, c.Version, durable) })
	case protocol.ChangeAdopt:
		r.toDisk(false, func() { r.disk.Adopt(r.handle, c.Version, durable) })
	case protocol.ChangeSeal:
		r.toDisk(false, func() {
			r.disk.Seal(&quarry.SealRequest{
				ChunkRef: quarry.ChunkRef{Handle: r.handle, Version: c.Version}, Length: c.Length, WritableVersion: c.WritableVersion,
				Position: c.Position,
			}, durable)
		})
	case protocol.ChangeAdd:
		r.toDisk(false, func() { r.disk.Add(r.handle, c.Version, c.Mutable, durable) })
	case protocol.ChangeDrop:
		r.toDisk(false, func() { r.disk.Drop(r.handle, c.Version, r.server.cfg.Clock.Wall(), durable) })
	case protocol.ChangeReopen:
		r.toDisk(false, func() { r.disk.Reopen(r.handle, c.Version, c.Length, durable) })
	case protocol.ChangeForget:
		r.toDisk(false, func() { r.disk.Forget(r.handle, c.Session, durable) })
	}
}

// toDisk hands a change to the disk behind those before it; waits tells that this may take
// its time.
func (r *replica) toDisk(waits bool, hand func()) {
	r.mu.Lock()
	if !waits && !r.handing {
		r.mu.Unlock()
		hand()
		return
	}
	r.hands = append(r.hands, hand)
	begin := !r.handing
	r.handing = true
	r.mu.Unlock()
	if begin {
		go r.handOver()
	}
}

// handOver hands changes to the disk until there are none.
func (r *replica) handOver() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.hands) > 0 {
		hands := r.hands
		r.hands = nil
		r.mu.Unlock()
		for _, hand := range hands {
			hand()
		}
		r.mu.Lock()
	}
	r.handing = false
}

// persisted is the event that a change is durable, or that the disk refused it. r.mu is held.
func (r *replica) persisted(m *protocol.Member, t protocol.Ticket, err error) []protocol.Effect {
	r.writes--
	switch {
	case err == nil:
		return m.Durable(t)
	case r.disk.Err() != nil:
		return m.Fail()
	case m.Suspended():
		return nil
	}
	if r.server.ctx.Err() == nil {
		r.server.cfg.Logger.Error("the disk refused a change of a replica", "chunk", r.handle, "error", err)
	}
	return m.Suspend(err)
}

// reloadIfDue has the machine made anew if a change was refused and all others have come
// back. r.mu is held.
func (r *replica) reloadIfDue() {
	if r.member.Suspended() && r.writes == 0 && len(r.queue) == 0 && !r.busy && !r.reloading {
		r.reloading = r.server.begin(r.reload)
	}
}

// reload makes the machine anew from the disk: only the disk knows which of the changes
// behind the refused one were made.
func (r *replica) reload(ctx context.Context) {
	for {
		m, err := r.recovered()
		if err == nil && r.replace(m) {
			break
		}
		if err != nil {
			r.server.cfg.Logger.Warn("a replica cannot be read anew", "chunk", r.handle, "error", err)
		}
		if r.server.cfg.Clock.Sleep(ctx, reloadPause) != nil {
			return
		}
	}
	if r.disk.Err() != nil { // the server's watch may have passed before
		r.step(func(m *protocol.Member) []protocol.Effect { return m.Fail() })
	}
	r.wake()
	r.users.Add(1)
	r.release() // if there is no replica, the actor goes
}

// recovered makes a machine from what the disk says at present.
func (r *replica) recovered() (*recovered, error) {
	state, ok := r.disk.State(r.handle)
	if !ok {
		return &recovered{m: protocol.NewMember(r.handle, r.server.id, r.server.incarnation)}, nil
	}
	m, err := r.server.restore(r.disk, state, r.disk.Err() != nil)
	return &recovered{m, state, true}, err
}

// recovered is a machine and the state that it was made from.
type recovered struct {
	m      *protocol.Member
	state  chunk.State
	exists bool
}

// replace puts a machine in the place of the suspended one, unless the disk says something
// else by now.
func (r *replica) replace(with *recovered) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now, ok := r.disk.State(r.handle); ok != with.exists || ok && !same(&now, &with.state) {
		return false
	}
	if r.server.cfg.SingleRecords {
		with.m.Singly()
	}
	r.member, r.reloading = with.m, false
	return true
}

// reloadPause is the time between two tries to read a replica anew.
const reloadPause = 100 * time.Millisecond

// batch is the bytes of one batch in one piece, for the disk and for the next member.
type batch struct {
	first   protocol.Call
	bodies  []*body
	headers []quarry.RecordHeader
	data    []byte
}

// gather returns the bytes that came with a batch's requests. A batch that is needed again
// at once, as after writing it for sending it, is not joined twice.
func (r *replica) gather(calls []protocol.Call) *batch {
	if len(calls) > 0 && calls[0] == r.joined.first {
		return &r.joined
	}
	b := batch{bodies: r.bodies(calls)}
	if len(calls) > 0 {
		b.first = calls[0]
	}
	for _, part := range b.bodies {
		b.headers = append(b.headers, part.headers...)
	}
	if len(b.bodies) == 1 {
		b.data = b.bodies[0].data
	} else {
		b.data = make([]byte, 0, batchBytes(b.bodies))
		for _, part := range b.bodies {
			b.data = append(b.data, part.data...)
		}
	}
	r.joined = b
	return &r.joined
}

// write writes a batch and asks for it to be synced: at once if somebody waits for it, and
// in large steps if it is part of a stream. A full batch of small records is no stream: each
// of them has an appender that waits, and with 128 of them, synced as a stream, all would
// wait for its pause.
func (r *replica) write(b *batch, off int64, durable func(error)) {
	err := r.disk.Write(r.handle, off, b.headers, b.data)
	switch {
	case err != nil:
		durable(err)
	case len(b.headers) > 1 || len(b.data) < streamBytes:
		r.disk.Sync(r.handle, durable)
	default:
		r.disk.SyncLater(r.handle, durable)
		r.server.streams.wrote(r)
	}
}

const (
	// streamBytes is the size from which a batch of one record counts as a part of a stream:
	// streams are cut into such records.
	streamBytes = quarry.PacketBytes
	// streamPause is how long a stream's writer must be silent before what it wrote is synced
	// though there is little of it; streamAge is how long it waits at most.
	streamPause = 10 * time.Millisecond
	streamAge   = 200 * time.Millisecond
)

// stream is a replica's part in streams; streams.mu guards it.
type stream struct {
	waits       bool
	since, last clock.Instant
}

// streams are the replicas that have bytes which nobody has asked to be synced soon.
type streams struct {
	server *Server
	mu     sync.Mutex
	wait   map[*replica]struct{}
	wake   chan struct{}
}

func (s *streams) init(server *Server) {
	s.server, s.wait, s.wake = server, map[*replica]struct{}{}, make(chan struct{}, 1)
}

// wrote notes that a stream wrote to a replica.
func (s *streams) wrote(r *replica) {
	now := s.server.cfg.Clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	r.stream.last = now
	if r.stream.waits {
		return
	}
	r.stream.waits, r.stream.since = true, now
	s.wait[r] = struct{}{}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// due takes out the replicas whose writers pause, or have waited long enough, and reports
// whether others are left.
func (s *streams) due(now clock.Instant) (due []*replica, left bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := range s.wait {
		if now.Sub(r.stream.last) >= streamPause || now.Sub(r.stream.since) >= streamAge {
			r.stream.waits = false
			delete(s.wait, r)
			due = append(due, r)
		}
	}
	sortReplicas(due)
	return due, len(s.wait) > 0
}

// run syncs streams that pause.
func (s *streams) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		for left := true; left; {
			if s.server.cfg.Clock.Sleep(ctx, streamPause) != nil {
				return
			}
			var due []*replica
			due, left = s.due(s.server.cfg.Clock.Now())
			for _, r := range due {
				r.disk.Sync(r.handle, nil)
			}
		}
	}
}
