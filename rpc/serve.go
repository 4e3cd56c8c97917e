package rpc

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/rpc/buffers"
	"github.com/quarryfs/quarry/wire"
)

// serverConn is the server's end of a connection.
type serverConn struct {
	*link
	server *Server

	mu        sync.Mutex
	free      sync.Cond // inService has fallen, or the connection has ended
	inService int       // requests taken whose replies have not left yet
	parked    int       // of those that wait for something to happen
	requests  map[uint64]*inbound
	going     bool // the client was told to send no more requests
	ended     bool
}

// inbound is a request in service.
type inbound struct {
	conn     *serverConn
	service  *service
	ctx      *requestContext
	op       Op
	id       uint64
	payload  []byte // in a buffer of the pool, until finish
	budgeted int64
	patience patience
	finished bool // guarded by conn.mu
}

// read takes frames until the connection ends or breaks the protocol.
func (c *serverConn) read() error {
	var h head
	for {
		if err := c.next(&h); err != nil {
			return err
		}
		switch h.kind {
		case kindRequest, kindMessage:
			if err := c.request(&h); err != nil {
				return err
			}
			continue
		case kindCancel:
			c.cancel(h.id)
		case kindKeepAlive:
		default:
			return fmt.Errorf("a client sent a frame of kind %d", h.kind)
		}
		if h.body > 0 || h.payload > 0 {
			return fmt.Errorf("a frame of kind %d has contents", h.kind)
		}
	}
}

// request takes a request or a message and starts to serve it.
func (c *serverConn) request(h *head) error {
	var v *service
	if int(h.op) < len(c.server.services) {
		v = c.server.services[h.op]
	}
	if v == nil || v.message != (h.kind == kindMessage) {
		return c.refuse(h, quarry.Errorf("rpc", quarry.Unsupported, "", "this server does not offer operation %d", h.op))
	}
	if int64(h.body) > v.bodyMax || int64(h.payload) > v.payloadMax {
		return c.refuse(h, quarry.Errorf(v.name, quarry.TooLarge, "", "the request has %d bytes and %d of payload, at most %d and %d are allowed",
			h.body, h.payload, v.bodyMax, v.payloadMax))
	}
	body, err := c.reader.body(h)
	if err != nil {
		return err
	}
	in := &inbound{conn: c, service: v, op: h.op, id: h.id, ctx: newRequestContext(c.server.config.Clock, c.peer, h.deadlineMS)}
	if h.payload > 0 {
		if err := c.receivePayload(in, h); err != nil {
			return err
		}
	}
	c.reading.Store(readingNot)
	if v.message {
		v.serve(in, body)
		return nil
	}
	if err := c.admit(in); err != nil {
		in.release()
		return err
	}
	v.serve(in, body)
	return nil
}

// receivePayload receives a request's payload into a buffer of the pool, when there is room.
func (c *serverConn) receivePayload(in *inbound, h *head) error {
	c.reading.Store(readingNot)
	n, ok := c.server.budgets[c.lane].Acquire(int64(h.payload), c.gone)
	if !ok {
		return c.cause
	}
	in.budgeted = n
	c.reading.Store(readingFrame)
	in.payload = buffers.Get(int(h.payload))
	err := c.reader.payload(in.payload, 0)
	if err == nil {
		err = h.checkPayload(in.payload)
	}
	if err != nil {
		in.release()
	}
	return err
}

// release gives back the request's payload.
func (in *inbound) release() {
	if in.budgeted > 0 {
		buffers.Put(in.payload)
		in.conn.server.budgets[in.conn.lane].Release(in.budgeted)
		in.payload, in.budgeted = nil, 0
	}
}

// refuse skips the contents of a request that is not served and answers it.
func (c *serverConn) refuse(h *head, err error) error {
	if h.body > bodyBytesMax || h.payload > PayloadBytesMax {
		return fmt.Errorf("a frame has a body of %d bytes and a payload of %d", h.body, h.payload)
	}
	if err := c.reader.discard(int(h.body) + int(h.payload)); err != nil {
		return err
	}
	if h.kind == kindMessage {
		return nil
	}
	c.reading.Store(readingNot)
	in := &inbound{conn: c, service: &service{name: "rpc"}, op: h.op, id: h.id, ctx: newRequestContext(c.server.config.Clock, c.peer, 0)}
	if err := c.admit(in); err != nil {
		return err
	}
	in.fail(err)
	return nil
}

// admit counts a request as in service, and waits first while there are too many.
func (c *serverConn) admit(in *inbound) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if in.service.parked {
		c.parked++
	} else {
		for c.inService >= c.server.config.RequestsMax && !c.ended {
			c.free.Wait()
		}
		c.inService++
	}
	if c.ended {
		return errClosed
	}
	if c.requests[in.id] != nil {
		return fmt.Errorf("two requests have the id %d", in.id)
	}
	c.requests[in.id] = in
	return nil
}

// tooManyParked reports whether a request that waits for something to happen is one too many.
func (in *inbound) tooManyParked() bool {
	in.conn.mu.Lock()
	defer in.conn.mu.Unlock()
	return in.conn.parked > 4*in.conn.server.config.RequestsMax
}

// cancel ends the context of a request. Its handler still answers.
func (c *serverConn) cancel(id uint64) {
	c.mu.Lock()
	in := c.requests[id]
	c.mu.Unlock()
	if in != nil {
		in.ctx.end(context.Canceled)
	}
}

// waits reports whether a request is under way.
func (c *serverConn) waits() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.requests) > 0 || c.inService > 0 || c.reading.Load() != readingHead
}

// replied is told that the replies to n requests have left.
func (c *serverConn) replied(n int) {
	c.mu.Lock()
	c.inService -= n
	c.free.Signal()
	c.mu.Unlock()
	c.closeGone()
}

// goAway tells the client to send no more requests here. The client closes the connection
// when it has all replies. On LaneBulk nobody may be there to read that, so the server closes
// the connection; a client whose request crosses that sends it again elsewhere.
func (c *serverConn) goAway() {
	c.writer.enqueue(&outgoing{frame: appendRaw(nil, head{version: c.peer.Version, kind: kindGoAway}, nil)}, prompt)
	c.mu.Lock()
	c.going = true
	c.mu.Unlock()
	c.closeGone()
}

// closeGone closes a bulk connection that was told to go away, when nothing is in service.
func (c *serverConn) closeGone() {
	c.mu.Lock()
	gone := c.going && c.lane == LaneBulk && c.inService == 0
	c.mu.Unlock()
	if gone {
		c.close(errDraining)
	}
}

// close ends the connection, whoever waits for room in it, and the contexts of the requests in
// service, without which the reading goroutine might never come back from a handler of LaneBulk.
// What the handlers return is dropped.
func (c *serverConn) close(cause error) {
	c.link.close(cause)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.free.Broadcast()
	for _, id := range slices.Sorted(maps.Keys(c.requests)) {
		c.requests[id].ctx.end(context.Canceled)
	}
}

// finish ends the request's service and sends the frame of its reply or error. It is called
// exactly once for each request.
func (in *inbound) finish(frame []byte, p payload) {
	c := in.conn
	in.release()
	c.mu.Lock()
	if in.finished {
		c.mu.Unlock()
		panic(fmt.Sprintf("rpc: %s was answered twice", in.service.name))
	}
	in.finished = true
	delete(c.requests, in.id)
	if c.inService > 1 && in.patience == prompt {
		in.patience = yielding
	}
	if in.service.parked {
		c.parked--
	}
	c.mu.Unlock()
	in.ctx.end(context.Canceled)
	out := outgoing{frame: frame, payload: p.bytes, file: p.file, after: p.release, reply: !in.service.parked}
	if err := c.writer.enqueue(&out, in.patience); err != nil {
		if p.release != nil {
			p.release()
		}
		if out.reply {
			c.replied(1)
		}
	}
}

// fail answers the request with an error.
func (in *inbound) fail(err error) {
	buf := buffers.Scratch()
	frame, encodeErr := appendFrame((*buf)[:0], head{version: in.conn.peer.Version, kind: kindError, op: in.op, id: in.id}, encodeError(err), errorFields)
	if encodeErr != nil {
		panic(fmt.Sprintf("rpc: an error cannot be encoded: %v", encodeErr)) // cut has made it fit
	}
	*buf = frame
	in.finish(frame, payload{})
	buffers.PutScratch(buf)
}

// answer sends the result of a handler.
func answer[Q, R any](in *inbound, m *method[Q, R], reply *R, err error) {
	if err == nil && reply == nil {
		err = quarry.Errorf(m.name, quarry.Internal, "", "the handler gave neither a reply nor an error")
	}
	if err != nil {
		in.fail(err)
		return
	}
	var p payload
	if m.replyPayload != nil {
		p = m.replyPayload(reply)
	}
	buf := buffers.Scratch()
	defer buffers.PutScratch(buf)
	h := head{version: in.conn.peer.Version, kind: kindReply, op: m.op, id: in.id, payload: uint32(p.size())}
	if m.checksum && len(p.bytes) > 0 {
		h.flags, h.payloadCRC = flagPayloadCRC, crc(p.bytes)
	}
	frame, err := appendFrame((*buf)[:0], h, reply, m.reply)
	if err == nil && (int64(len(frame)-headBytes) > orSmall(m.replyMax) || p.size() > PayloadBytesMax) {
		err = quarry.Errorf(m.name, quarry.TooLarge, "", "the reply has %d bytes and %d of payload", len(frame)-headBytes, p.size())
	}
	if err != nil {
		if p.release != nil {
			p.release()
		}
		in.fail(err)
		return
	}
	*buf = frame
	in.finish(frame, p)
}

// decode makes the request out of body and payload; nil if it has answered with an error.
func decode[Q, R any](in *inbound, m *method[Q, R], body []byte) *Q {
	q := new(Q)
	if err := wire.Unmarshal(body, q, m.request); err != nil {
		in.fail(quarry.Wrap(m.name, "", err))
		return nil
	}
	if m.requestPayload != nil {
		*m.requestPayload(q) = in.payload
	}
	return q
}

// handle registers a handler that is called in a goroutine of its own for each request, but
// for LaneBulk: there is only one request at a time, so the reading goroutine serves it and
// sends the reply, which spares two switches of goroutines.
func handle[Q, R any](s *Server, m *method[Q, R], fn func(context.Context, *Q) (*R, error)) {
	v := newService(m)
	v.serve = func(in *inbound, body []byte) {
		q := decode(in, m, body)
		switch {
		case q == nil:
		case m.parked && in.tooManyParked():
			in.fail(quarry.Errorf(m.name, quarry.Busy, "", "too many requests of this kind wait already"))
		case in.conn.lane == LaneBulk:
			in.patience = patient
			run(in, m, q, fn)
		default:
			go run(in, m, q, fn)
		}
	}
	s.register(m.op, v)
}

// run serves one request.
func run[Q, R any](in *inbound, m *method[Q, R], q *Q, fn func(context.Context, *Q) (*R, error)) {
	if err := in.ctx.Err(); err != nil { // the caller has gone meanwhile
		in.fail(quarry.Wrap(m.name, "", err))
		return
	}
	reply, err := fn(in.ctx, q)
	answer(in, m, reply, err)
}

// handleOrdered registers a handler that is called by the reading goroutine, in the order in
// which the requests come, and that answers later.
func handleOrdered[Q, R any](s *Server, m *method[Q, R], fn func(context.Context, *Q, func(*R, error))) {
	v := newService(m)
	v.serve = func(in *inbound, body []byte) {
		if q := decode(in, m, body); q != nil {
			fn(in.ctx, q, func(reply *R, err error) { answer(in, m, reply, err) })
		}
	}
	s.register(m.op, v)
}

func newService[Q, R any](m *method[Q, R]) *service {
	return &service{name: m.name, bodyMax: orSmall(m.requestMax), payloadMax: int64(m.requestPayloadMax), parked: m.parked}
}
