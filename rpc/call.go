package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/rpc/buffers"
	"github.com/quarryfs/quarry/rpc/turns"
	"github.com/quarryfs/quarry/wire"
)

// clientConn is the client's end of a connection.
type clientConn struct {
	*link
	client  *Client
	address string

	mu       sync.Mutex
	pending  map[uint64]*call
	owed     int   // answers that have not come, those to calls that were abandoned included
	draining bool  // no more calls: the server goes away, or the connection was idle
	failed   error // no more calls: the connection has ended

	ids atomic.Uint64 // the last id given to a call

	// For closeIdle only.
	lastID uint64
	idle   int
}

// call is a request whose reply has not come. It is finished exactly once: by the reading
// goroutine when the reply has come or the connection has ended, or by whoever cancels it.
type call struct {
	conn *clientConn
	id   uint64
	stop func() bool // ends the watch over the context of an asynchronous call

	// Guarded by conn.mu.
	unsent    bool // the writer may still read the request's payload
	abandoned error

	reception reception
	finish    func(error) // is told the outcome, once
}

// reception knows what to do with the reply of a call; its types are hidden.
type reception interface {
	// limits returns the most bytes that the body and the payload of the reply may have.
	limits() (body, payload int64)
	// accept takes the reply's body, before the payload. It does not keep it.
	accept(body []byte) error
	// place returns where a payload of n bytes, at least one, is to be received.
	place(n int) []byte
	// arrived is told how much of the payload has come.
	arrived(payload []byte)
	// deliver takes the whole payload.
	deliver(payload []byte)
}

var errDraining = errors.New("the server is stopping")

// waits reports whether an answer has not come, or is coming.
func (c *clientConn) waits() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.owed > 0 || c.reading.Load() != readingHead
}

// usable reports whether calls may be sent.
func (c *clientConn) usable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed == nil && !c.draining
}

// begin makes a call known, so that its reply can come, before it is sent. If ctx is not
// nil, the call is cancelled when it ends.
func (c *clientConn) begin(ctx context.Context, cl *call, id uint64, unsent bool) (others bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.failed != nil:
		return false, c.failed
	case c.draining:
		return false, errDraining
	}
	cl.conn, cl.id, cl.unsent = c, id, unsent
	others = len(c.pending) > 0
	c.pending[id] = cl
	c.owed++
	if ctx != nil && ctx.Done() != nil {
		cl.stop = context.AfterFunc(ctx, func() {
			reason := ended(ctx, c.address)
			if c.abandon(cl, id, reason) {
				cl.finish(reason)
			}
		})
	}
	return others, nil
}

// withdraw forgets a call that could not be sent. It reports false if the call has been
// finished by somebody else.
func (c *clientConn) withdraw(cl *call) bool {
	c.mu.Lock()
	_, mine := c.pending[cl.id]
	delete(c.pending, cl.id)
	c.owed--
	late := !mine && cl.abandoned != nil && cl.unsent
	cl.unsent = false
	c.mu.Unlock()
	if late { // cancelled, and left to who would have sent it
		cl.finish(cl.abandoned)
	}
	if mine && cl.stop != nil {
		cl.stop()
	}
	return mine
}

// abandon ends a call before its reply has come and tells the server. It reports true if the
// caller is to finish the call; false if somebody else does.
func (c *clientConn) abandon(cl *call, id uint64, reason error) bool {
	c.mu.Lock()
	if c.pending[id] != cl {
		c.mu.Unlock()
		return false // the reply is here, or is being received
	}
	delete(c.pending, id)
	cl.abandoned = reason
	unsent := cl.unsent
	c.mu.Unlock()
	c.writer.enqueue(&outgoing{frame: appendRaw(nil, head{version: c.peer.Version, kind: kindCancel, id: id}, nil)}, prompt)
	c.closeDrained()
	return !unsent
}

// sent is called when the writer no longer reads the request's payload.
func (cl *call) sent() {
	cl.conn.mu.Lock()
	cl.unsent = false
	abandoned := cl.abandoned
	cl.conn.mu.Unlock()
	if abandoned != nil {
		cl.finish(abandoned)
	}
}

// read takes frames until the connection ends or the server breaks the protocol.
func (c *clientConn) read() error {
	var h head
	for {
		if err := c.next(&h); err != nil {
			return err
		}
		switch h.kind {
		case kindReply, kindError:
			if err := c.receive(&h); err != nil {
				return err
			}
			continue
		case kindGoAway:
			c.mu.Lock()
			c.draining = true
			c.mu.Unlock()
			c.closeDrained()
		case kindKeepAlive:
		default:
			return fmt.Errorf("a server sent a frame of kind %d", h.kind)
		}
		if h.body > 0 || h.payload > 0 {
			return fmt.Errorf("a frame of kind %d has contents", h.kind)
		}
	}
}

// receive takes a reply and finishes its call.
func (c *clientConn) receive(h *head) error {
	c.mu.Lock()
	cl := c.pending[h.id]
	delete(c.pending, h.id)
	c.owed--
	c.mu.Unlock()
	if cl == nil { // its caller has gone
		if h.body > bodyBytesMax || h.payload > PayloadBytesMax {
			return fmt.Errorf("a reply has a body of %d bytes and a payload of %d", h.body, h.payload)
		}
		return c.reader.discard(int(h.body) + int(h.payload))
	}
	result, err := c.take(cl.reception, h)
	if err != nil {
		result = unavailable(c.address, err)
	}
	if cl.stop != nil {
		cl.stop()
	}
	cl.finish(result)
	c.closeDrained()
	return err
}

// take receives a reply's contents. The second error ends the connection.
func (l *link) take(r reception, h *head) (result, err error) {
	bodyMax, payloadMax := r.limits()
	if h.kind == kindError {
		bodyMax, payloadMax = errorBodyMax, 0
	}
	if int64(h.body) > bodyMax || int64(h.payload) > payloadMax {
		return nil, fmt.Errorf("a reply has %d bytes and %d of payload, at most %d and %d are allowed", h.body, h.payload, bodyMax, payloadMax)
	}
	body, err := l.reader.body(h)
	if err != nil {
		return nil, err
	}
	if h.kind == kindError {
		return decodeError(body), nil
	}
	if err := r.accept(body); err != nil || h.payload == 0 {
		return err, l.reader.discard(int(h.payload))
	}
	l.reading.Store(readingNot) // it may take a moment to find a place, and that is nobody's fault
	payload := r.place(int(h.payload))
	l.reading.Store(readingFrame)
	for done := 0; done < len(payload); {
		n := min(arrivalBytes, len(payload)-done)
		if err := l.reader.payload(payload[done:done+n], len(payload)-done-n); err != nil {
			return nil, err
		}
		done += n
		r.arrived(payload[:done])
	}
	if err := h.checkPayload(payload); err != nil {
		return err, nil
	}
	r.deliver(payload)
	return nil, nil
}

// arrivalBytes is how much of a payload is received before its receiver is told. It is less
// than what the processor's own caches hold, so that checksums find the bytes there.
const arrivalBytes = 256 << 10

// closeDrained closes a connection that is draining when its last call has ended.
func (c *clientConn) closeDrained() {
	c.mu.Lock()
	drained := c.draining && len(c.pending) == 0
	c.mu.Unlock()
	if drained {
		c.close(errDraining)
	}
}

// closeIdle closes the connection if it has had no call for that many ticks.
func (c *clientConn) closeIdle(ticks int) {
	c.mu.Lock()
	last := c.ids.Load()
	c.idle = counted(c.idle, 1, len(c.pending) == 0 && last == c.lastID)
	c.lastID = last
	if c.idle > ticks {
		c.draining = true
	}
	c.mu.Unlock()
	c.closeDrained()
}

// end fails what is pending, when nothing more is read and the connection is closed.
func (c *clientConn) end() {
	cause := c.cause
	if cause == io.EOF {
		cause = errors.New("the server closed the connection")
	}
	err := unavailable(c.address, cause)
	c.mu.Lock()
	c.failed = err
	pending := c.pending
	c.pending = map[uint64]*call{}
	c.mu.Unlock()
	c.writer.close()                                       // before anybody is told that payloads may be used again
	for _, id := range slices.Sorted(maps.Keys(pending)) { // in the order of the calls
		cl := pending[id]
		if cl.stop != nil {
			cl.stop()
		}
		cl.finish(err)
	}
}

// typedCall is a call with the types of its method, and the place of its reply.
type typedCall[Q, R any] struct {
	call
	method  *method[Q, R]
	address string
	reply   R
	into    []byte
	max     int
	sink    quarry.ReadSink // if the reading goroutine may wait for it
}

func newCall[Q, R any](m *method[Q, R], q *Q, address string) *typedCall[Q, R] {
	t := &typedCall[Q, R]{method: m, address: address}
	if m.room != nil {
		t.into, t.max = m.room(q)
	}
	t.reception = t
	return t
}

func (t *typedCall[Q, R]) limits() (body, payload int64) {
	return orSmall(t.method.replyMax), int64(t.max)
}

func (t *typedCall[Q, R]) place(n int) []byte {
	switch {
	case t.sink != nil:
		if b := t.sink.Place(n); len(b) >= n {
			return b[:n]
		}
		t.sink = nil
	case n <= len(t.into):
		return t.into[:n]
	}
	return make([]byte, n)
}

func (t *typedCall[Q, R]) accept(body []byte) error {
	return quarry.Wrap(t.method.name, t.address, wire.Unmarshal(body, &t.reply, t.method.reply))
}

func (t *typedCall[Q, R]) arrived(payload []byte) {
	if t.sink != nil {
		t.sink.Arrived(t.method.sums(&t.reply), payload)
	}
}

func (t *typedCall[Q, R]) deliver(payload []byte) { t.method.setPayload(&t.reply, payload) }

// send sends a call's request. errNotSent: the connection cannot be used, nothing was sent,
// and the call may be sent over another one.
func send[Q, R any](ctx context.Context, c *clientConn, t *typedCall[Q, R], q *Q, watch bool) error {
	m := t.method
	out := outgoing{}
	if m.requestPayload != nil {
		out.payload = *m.requestPayload(q)
	}
	if err := c.writer.claim(ctx, int64(len(out.payload)), c.client.config.QueueMax); err != nil {
		return ended(ctx, c.address)
	}
	defer c.writer.unclaim(int64(len(out.payload)))
	if len(out.payload) > 0 {
		out.after = t.sent
	}
	watched := ctx
	if !watch {
		watched = nil
	}
	buf := buffers.Scratch()
	defer buffers.PutScratch(buf)
	h := head{version: c.peer.Version, kind: kindRequest, deadlineMS: deadline(ctx), id: c.ids.Add(1)}
	frame, err := encodeRequest((*buf)[:0], h, m, q, out.payload)
	if err != nil {
		return err
	}
	*buf, out.frame = frame, frame
	others, err := c.begin(watched, &t.call, h.id, len(out.payload) > 0)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotSent, err)
	}
	how := prompt
	if others {
		how = yielding
	}
	if err := c.writer.enqueue(&out, how); err != nil && c.withdraw(&t.call) {
		return fmt.Errorf("%w: %w", errNotSent, err)
	}
	return nil
}

var errNotSent = errors.New("the request was not sent")

// encodeRequest appends the frame of a request or message, without its payload, to dst.
func encodeRequest[Q, R any](dst []byte, h head, m *method[Q, R], q *Q, payload []byte) ([]byte, error) {
	if len(payload) > m.requestPayloadMax {
		return nil, quarry.Errorf(m.name, quarry.TooLarge, "", "%d bytes, at most %d are allowed", len(payload), m.requestPayloadMax)
	}
	h.op, h.payload = m.op, uint32(len(payload))
	if m.checksum && len(payload) > 0 {
		h.flags, h.payloadCRC = flagPayloadCRC, crc(payload)
	}
	frame, err := appendFrame(dst, h, q, m.request)
	if err != nil {
		return nil, quarry.Wrap(m.name, "", err)
	}
	if n := len(frame) - headBytes; int64(n) > orSmall(m.requestMax) {
		return nil, quarry.Errorf(m.name, quarry.TooLarge, "", "the request has %d bytes, at most %d are allowed", n, orSmall(m.requestMax))
	}
	return frame, nil
}

// deadline returns how many milliseconds ctx leaves, at least 1; 0: as many as one likes.
func deadline(ctx context.Context) uint32 {
	at, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return uint32(min(max(time.Until(at)/time.Millisecond, 1), 1<<32-1))
}

// sendAttempts is how often a request is tried on another connection because the one chosen
// was closing.
const sendAttempts = 3

// roundTrip sends a request and waits for the reply.
func roundTrip[Q, R any](ctx context.Context, c *Client, address string, route Route, m *method[Q, R], q *Q) (*R, error) {
	if route.Lane == LaneBulk {
		return bulkTrip(ctx, c, address, m, q)
	}
	if !m.parked {
		defer turns.Receiving.Begin()()
	}
	t := newCall(m, q, address)
	ready := c.signals.Get().(chan error)
	t.finish = func(err error) { ready <- err }
	for attempt := 1; ; attempt++ {
		conn, err := c.remote(address).shared(ctx, route)
		if err != nil {
			return nil, err
		}
		err = send(ctx, conn, t, q, false)
		if err == nil {
			err = conn.wait(ctx, &t.call, ready)
			c.signals.Put(ready)
			if err != nil {
				return nil, err
			}
			return &t.reply, nil
		}
		if !errors.Is(err, errNotSent) || attempt == sendAttempts {
			return nil, unavailable(address, err)
		}
	}
}

// receiveTime is how long a caller whose context has ended waits for a reply that is being
// received into its memory. After that the connection is given up.
const receiveTime = 250 * time.Millisecond

// wait waits for a call's outcome, or cancels it when ctx ends.
func (c *clientConn) wait(ctx context.Context, cl *call, ready chan error) error {
	select {
	case err := <-ready:
		return err
	case <-ctx.Done():
	}
	if c.abandon(cl, cl.id, ended(ctx, c.address)) {
		return ended(ctx, c.address)
	}
	timer := c.client.config.Clock.NewTimer(receiveTime)
	defer timer.Stop()
	select {
	case err := <-ready:
		return err
	case <-timer.C():
		c.close(ended(ctx, c.address))
		return <-ready
	}
}

// start sends a request whose outcome is told to done, exactly once. It returns when the
// request has its place in the stream of the route. done is called by the goroutine that
// reads from the connection, and so must not wait for anything of this client.
func start[Q, R any](ctx context.Context, c *Client, address string, route Route, m *method[Q, R], q *Q, done func(*R, error)) {
	t := newCall(m, q, address)
	t.finish = func(err error) {
		if err != nil {
			done(nil, err)
			return
		}
		done(&t.reply, nil)
	}
	for attempt := 1; ; attempt++ {
		conn, err := c.remote(address).shared(ctx, route)
		if err == nil {
			err = send(ctx, conn, t, q, true)
		}
		switch {
		case err == nil:
			return
		case !errors.Is(err, errNotSent) || attempt == sendAttempts:
			done(nil, unavailable(address, err))
			return
		}
	}
}
