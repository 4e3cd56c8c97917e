package rpc

import (
	"context"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/rpc/buffers"
	"github.com/quarryfs/quarry/wire"
)

// RawOp is an operation whose contents package rpc does not know, such as Raft's messages.
type RawOp struct {
	Op         Op // OpRaw to 255
	Name       string
	BodyMax    int // bytes, of a request and of a reply
	PayloadMax int // bytes, of a request and of a reply; at most PayloadBytesMax
}

// Raw is a request, a reply or a message of a RawOp. The body is for what is small and is
// copied; the payload, which is checksummed on the way, is for the rest.
type Raw struct {
	Body    []byte
	Payload []byte
}

// method returns the operation in the form of the others.
func (op RawOp) method() *method[Raw, Raw] {
	fields := func(w *wire.Walk, m *Raw) { wire.Bytes(w, 1, &m.Body, op.BodyMax) }
	return &method[Raw, Raw]{
		op: op.Op, name: op.Name, checksum: true,
		request: fields, requestMax: op.BodyMax + 16,
		reply: fields, replyMax: op.BodyMax + 16,
		requestPayload:    func(m *Raw) *[]byte { return &m.Payload },
		requestPayloadMax: min(op.PayloadMax, PayloadBytesMax),
		replyPayload:      func(m *Raw) payload { return payload{bytes: m.Payload} },
		setPayload:        func(m *Raw, b []byte) { m.Payload = b },
		room:              func(*Raw) ([]byte, int) { return nil, op.PayloadMax },
	}
}

// HandleRaw has requests of an operation served by fn, each in a goroutine of its own. The
// request's payload is valid until fn returns; [PeerFrom] tells whose it is.
func (s *Server) HandleRaw(op RawOp, fn func(ctx context.Context, req *Raw) (*Raw, error)) {
	handle(s, op.method(), fn)
}

// HandleMessages has messages of an operation taken by fn. Those of one connection come in
// the order in which they were sent, and while fn is at work nothing else is read from that
// connection. The payload is valid until fn returns; [PeerFrom] tells whose it is.
func (s *Server) HandleMessages(op RawOp, fn func(ctx context.Context, msg *Raw)) {
	m := op.method()
	v := newService(m)
	v.message = true
	v.serve = func(in *inbound, body []byte) {
		defer in.release()
		var msg Raw
		if err := wire.Unmarshal(body, &msg, m.request); err != nil {
			s.config.Logger.Warn("a message cannot be decoded", "operation", op.Name, "peer", in.conn.peer.Address, "error", err)
			return
		}
		msg.Payload = in.payload
		fn(in.ctx, &msg)
	}
	s.register(op.Op, v)
}

// CallRaw sends a request to the server at an address and waits for the reply. On LaneBulk
// it may happen that a request is served twice.
func (c *Client) CallRaw(ctx context.Context, address string, route Route, op RawOp, req *Raw) (*Raw, error) {
	return roundTrip(ctx, c, address, route, op.method(), req)
}

// Send sends a message, to which there is no reply: it may get lost without a word. Messages
// of one route arrive in order. Send waits until there is a connection, but not until the
// message has left: if too much is waiting to be sent, it is refused with Busy. The payload
// must never be changed after that. LaneBulk carries no messages.
func (c *Client) Send(ctx context.Context, address string, route Route, op RawOp, msg *Raw) error {
	if route.Lane == LaneBulk {
		return quarry.Errorf(op.Name, quarry.Invalid, address, "messages cannot be sent on the bulk lane")
	}
	conn, err := c.remote(address).shared(ctx, route)
	if err != nil {
		return err
	}
	if conn.writer.queued() > c.config.QueueMax {
		return quarry.Errorf(op.Name, quarry.Busy, address, "more than %d bytes wait to be sent", c.config.QueueMax)
	}
	buf := buffers.Scratch()
	defer buffers.PutScratch(buf)
	h := head{version: conn.peer.Version, kind: kindMessage, id: conn.ids.Add(1)}
	frame, err := encodeRequest((*buf)[:0], h, op.method(), msg, msg.Payload)
	if err != nil {
		return err
	}
	*buf = frame
	if err := conn.writer.enqueue(&outgoing{frame: frame, payload: msg.Payload}, yielding); err != nil {
		return unavailable(address, err)
	}
	return nil
}
