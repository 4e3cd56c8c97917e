package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/rpc/buffers"
)

// bulkConn is a connection of LaneBulk. Whoever has borrowed it sends its request and then
// reads the reply itself, straight into its own memory. With a reading goroutine, as
// clientConn has, a stream of reads of 64 KiB took a third more CPU time, because each reply
// woke two goroutines; at 1 MiB there was little difference.
//
// A context that ends in the middle ends the connection, because a read cannot be interrupted
// otherwise; that also spares the rest of a reply that nobody wants.
type bulkConn struct {
	*link
	client   *Client
	address  string
	ids      uint64      // the last id given to a request
	answered bool        // something of the reply to the last request has come
	draining atomic.Bool // the server goes away
	busy     atomic.Bool // a request is under way
	idle     int         // ticks without a request; guarded by remote.mu
}

// bulkPool is the connections of LaneBulk to one server; guarded by remote.mu.
type bulkPool struct {
	idle    []*bulkConn // the one used last is used next, so that the others may be closed
	open    int         // connections in use, idle or being made
	waiting []chan struct{}
}

// errStale is the failure of a connection that may have ended long before it was used.
var errStale = errors.New("the connection had ended")

func (c *bulkConn) usable() bool {
	select {
	case <-c.gone:
		return false
	default:
		return !c.draining.Load()
	}
}

// borrow returns a connection that nobody else uses, and connects or waits if there is none.
func (r *remote) borrow(ctx context.Context) (*bulkConn, error) {
	for {
		r.mu.Lock()
		r.dropBroken()
		if n := len(r.bulk.idle) - 1; n >= 0 {
			conn := r.bulk.idle[n]
			r.bulk.idle = r.bulk.idle[:n]
			r.mu.Unlock()
			return conn, nil
		}
		if r.bulk.open < r.client.config.BulkConns {
			r.bulk.open++
			r.mu.Unlock()
			conn, err := r.connectBulk(ctx)
			if err != nil {
				r.mu.Lock()
				r.bulk.open--
				r.wakeBulk()
				r.mu.Unlock()
			}
			return conn, err
		}
		ready := make(chan struct{})
		r.bulk.waiting = append(r.bulk.waiting, ready)
		r.mu.Unlock()
		select {
		case <-ready:
		case <-ctx.Done():
			r.mu.Lock()
			r.stopWaiting(ready)
			r.mu.Unlock()
			return nil, ended(ctx, r.address)
		}
	}
}

func (r *remote) connectBulk(ctx context.Context) (*bulkConn, error) {
	l, err := r.connect(ctx, LaneBulk)
	if err != nil {
		if ctx.Err() != nil {
			err = ended(ctx, r.address)
		}
		return nil, err
	}
	c := &bulkConn{link: l, client: r.client, address: r.address}
	r.client.mu.Lock()
	defer r.client.mu.Unlock()
	if r.client.closed {
		l.close(net.ErrClosed)
		return nil, unavailable(r.address, net.ErrClosed)
	}
	r.client.bulk[c] = struct{}{}
	return c, nil
}

// giveBack returns a connection of borrow to the pool. If the server was silent, the others
// are closed too, so that the next requests do not have to find that out one by one.
func (r *remote) giveBack(c *bulkConn, silent bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.idle = 0
	r.bulk.idle = append(r.bulk.idle, c)
	if silent {
		r.closeIdle(0)
	}
	r.dropBroken()
	r.wakeBulk()
}

// dropBroken forgets the idle connections that cannot be used; mu is held.
func (r *remote) dropBroken() {
	r.bulk.idle = slices.DeleteFunc(r.bulk.idle, func(c *bulkConn) bool {
		if c.usable() {
			return false
		}
		c.close(errDraining)
		r.bulk.open--
		r.client.mu.Lock()
		delete(r.client.bulk, c)
		r.client.mu.Unlock()
		return true
	})
}

// closeIdle closes the connections that had no request for that many ticks; mu is held.
func (r *remote) closeIdle(ticks int) {
	for _, c := range r.bulk.idle {
		if c.idle++; c.idle > ticks {
			c.close(errDraining)
		}
	}
	r.dropBroken()
}

// wakeBulk lets the first who waits try again; mu is held.
func (r *remote) wakeBulk() {
	if len(r.bulk.waiting) > 0 {
		close(r.bulk.waiting[0])
		r.bulk.waiting = r.bulk.waiting[1:]
	}
}

// stopWaiting takes ready out of the line, or passes on its turn if that has come; mu is held.
func (r *remote) stopWaiting(ready chan struct{}) {
	if i := slices.Index(r.bulk.waiting, ready); i >= 0 {
		r.bulk.waiting = slices.Delete(r.bulk.waiting, i, i+1)
	} else {
		r.wakeBulk()
	}
}

// bulkTrip sends a request over LaneBulk and waits for the reply. If a connection that was
// idle turns out to have ended, another one is tried; so a request may be served twice.
func bulkTrip[Q, R any](ctx context.Context, c *Client, address string, m *method[Q, R], q *Q) (*R, error) {
	r := c.remote(address)
	for attempt := 0; ; attempt++ {
		conn, err := r.borrow(ctx)
		if err != nil {
			return nil, err
		}
		reply, err := exchange(ctx, conn, m, q)
		r.giveBack(conn, errors.Is(err, errSilent))
		if errors.Is(err, errStale) && attempt < c.config.BulkConns {
			continue
		}
		return reply, err
	}
}

// exchange sends a request and receives the reply.
func exchange[Q, R any](ctx context.Context, c *bulkConn, m *method[Q, R], q *Q) (*R, error) {
	t := newCall(m, q, c.address)
	if m.sink != nil {
		t.sink = m.sink(q)
	}
	out := outgoing{}
	if m.requestPayload != nil {
		out.payload = *m.requestPayload(q)
	}
	c.ids++
	c.answered = false
	c.busy.Store(true)
	defer c.busy.Store(false)
	buf := buffers.Scratch()
	defer buffers.PutScratch(buf)
	h := head{version: c.peer.Version, kind: kindRequest, deadlineMS: deadline(ctx), id: c.ids}
	frame, err := encodeRequest((*buf)[:0], h, m, q, out.payload)
	if err != nil {
		return nil, err
	}
	*buf, out.frame = frame, frame
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() { c.close(ended(ctx, c.address)) })
		defer stop()
	}
	var result error
	err = c.writer.enqueue(&out, patient)
	if err == nil {
		result, err = c.receive(t)
	}
	c.reading.Store(readingNot)
	switch {
	case err == nil && result == nil:
		return &t.reply, nil
	case err == nil:
		return nil, result
	}
	c.close(err)
	c.writer.close() // the request's payload is the caller's again
	switch {
	case ctx.Err() != nil:
		return nil, ended(ctx, c.address)
	case errors.Is(c.cause, errSilent):
		err = c.cause
	case c.ids > 1 && !c.answered:
		err = fmt.Errorf("%w: %w", errStale, err)
	}
	return nil, unavailable(c.address, err)
}

// receive takes frames until the reply to the last request has come. The second error ends
// the connection.
func (c *bulkConn) receive(r reception) (result, err error) {
	var h head
	for {
		if err := c.next(&h); err != nil {
			return nil, err
		}
		switch {
		case (h.kind == kindReply || h.kind == kindError) && h.id == c.ids:
			c.answered = true
			return c.take(r, &h)
		case h.body > 0 || h.payload > 0:
		case h.kind == kindGoAway:
			c.draining.Store(true)
			continue
		case h.kind == kindKeepAlive:
			continue
		}
		return nil, quarry.Errorf("rpc", quarry.Invalid, c.address, "a server sent a frame of kind %d for request %d", h.kind, h.id)
	}
}
