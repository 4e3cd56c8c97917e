package rpc

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/rpc/buffers"
)

const (
	smallPayloadBytes = 4 << 10  // payloads up to this are copied in among the small frames
	batchBytes        = 64 << 10 // small frames are gathered in buffers of this size
)

var errClosed = errors.New("the connection is closed")

// writer sends the frames of many callers over one connection, in the order in which they
// come, and as many as there are in one call to the system.
//
// A goroutine that lives until the queue is empty does the writing, so enqueue never waits
// for the network. If other calls are under way it first lets other goroutines run, which
// then add their frames: with 16 callers that halves the CPU time of a call. That the caller
// itself writes, as far as it can without waiting, was tried and gained 5 % at best.
type writer struct {
	conn     Conn
	progress atomic.Uint64
	replied  func(n int) // called when the frames of n requests have left, or never will

	mu      sync.Mutex
	idle    sync.Cond // busy became false
	busy    bool      // somebody writes
	err     error     // why nothing is written any more
	pieces  []piece   // what is to be written, in order
	spare   []piece
	bytes   int64 // in the queue or being written
	claimed int64 // that callers of claim have yet to put into the queue
	replies int   // requests whose frames are in pieces
	notify  []func()
	written chan struct{} // closed when there may be room again, if somebody waits for that
}

// piece is a part of the stream of bytes.
type piece struct {
	small   []byte // frames gathered here, in a buffer of the writer's
	payload []byte // a large payload, borrowed until after is called
	file    *quarry.FileRange
	after   func() // called when the piece is written or never will be
}

func newWriter(conn Conn, replied func(n int)) *writer {
	w := &writer{conn: conn, replied: replied}
	w.idle.L = &w.mu
	return w
}

// patience is how a frame is to be written if the writer is idle.
type patience int

const (
	prompt   patience = iota // at once
	yielding                 // after other goroutines could add their frames
	patient                  // by the caller, who writes until the queue is empty
)

// outgoing is a frame to be sent.
type outgoing struct {
	frame   []byte            // head and body; copied
	payload []byte            // borrowed until after is called
	file    *quarry.FileRange // instead of payload
	after   func()            // called once payload or file is no longer needed; may be nil
	reply   bool              // tell replied when it has left
}

// enqueue adds a frame to the stream. It does not wait for the network, nor bound the queue;
// see room. After an error, after and replied are not called.
func (w *writer) enqueue(out *outgoing, how patience) error {
	w.mu.Lock()
	if w.err != nil {
		w.mu.Unlock()
		return w.err
	}
	w.add(out)
	if w.busy {
		w.mu.Unlock()
		return nil
	}
	w.busy = true
	w.mu.Unlock()
	switch how {
	case patient:
		w.write()
	case yielding:
		go func() {
			runtime.Gosched()
			w.write()
		}()
	default:
		go w.write()
	}
	return nil
}

// add puts a frame at the end of the queue.
func (w *writer) add(out *outgoing) {
	rest := piece{payload: out.payload, file: out.file, after: out.after}
	copied := len(out.frame)
	if out.file == nil && len(out.payload) <= smallPayloadBytes {
		copied += len(out.payload)
		rest.payload = nil
	}
	if rest.file != nil && rest.file.Length == 0 {
		rest.file = nil
	}
	var last *piece
	if n := len(w.pieces); n > 0 && w.pieces[n-1].small != nil && len(w.pieces[n-1].small)+copied <= batchBytes {
		last = &w.pieces[n-1]
	} else {
		w.pieces = append(w.pieces, piece{small: buffers.Get(copied)[:0]})
		last = &w.pieces[n]
	}
	last.small = buffers.Append(last.small, out.frame)
	w.bytes += int64(copied)
	switch {
	case rest.payload != nil || rest.file != nil:
		w.pieces = append(w.pieces, rest)
		w.bytes += payload{bytes: rest.payload, file: rest.file}.size()
	default:
		last.small = buffers.Append(last.small, out.payload)
		if out.after != nil {
			w.notify = append(w.notify, out.after)
		}
	}
	if out.reply {
		w.replies++
	}
}

// queued returns how many bytes are to be written.
func (w *writer) queued() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes
}

// claim waits until at most limit bytes are to be written, those included that others have
// claimed, and claims n more: callers that come at once cannot all pass. The caller calls
// unclaim when they are in the queue or will not be. It returns the context's error if that
// ends first; that the connection fails ends the waiting without an error.
func (w *writer) claim(ctx context.Context, n, limit int64) error {
	for {
		w.mu.Lock()
		if w.bytes+w.claimed <= limit || w.err != nil {
			w.claimed += n
			w.mu.Unlock()
			return nil
		}
		if w.written == nil {
			w.written = make(chan struct{})
		}
		written := w.written
		w.mu.Unlock()
		select {
		case <-written:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// unclaim gives back what claim has claimed.
func (w *writer) unclaim(n int64) {
	if n == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.claimed -= n
	w.wake()
}

// wake has those look again who wait for room; mu is held.
func (w *writer) wake() {
	if w.written != nil {
		close(w.written)
		w.written = nil
	}
}

// write writes until the queue is empty.
func (w *writer) write() {
	for {
		w.mu.Lock()
		if len(w.pieces) == 0 {
			w.rest()
			w.mu.Unlock()
			return
		}
		failed := w.err
		batch := w.take()
		w.mu.Unlock()
		if failed == nil {
			failed = w.writeBatch(batch)
		}
		w.done(batch, failed)
	}
}

// rest makes the writer idle; mu is held.
func (w *writer) rest() {
	w.busy = false
	w.idle.Broadcast()
}

// batch is what one goroutine writes at a time.
type batch struct {
	pieces  []piece
	replies int
	bytes   int64
	notify  []func()
}

// take empties the queue; mu is held.
func (w *writer) take() batch {
	b := batch{pieces: w.pieces, replies: w.replies, bytes: w.bytes, notify: w.notify}
	w.pieces, w.spare, w.replies, w.notify = w.spare[:0], nil, 0, nil
	return b
}

// writeBatch writes all pieces of a batch.
func (w *writer) writeBatch(b batch) error {
	var buffers [][]byte
	for _, p := range b.pieces {
		switch {
		case p.small != nil:
			buffers = append(buffers, p.small)
			continue
		case p.file == nil:
			buffers = append(buffers, p.payload)
			continue
		}
		last := len(buffers) - 1 // the file's frame is in the buffer before it
		if err := writeBuffers(w.conn, buffers[:last]); err != nil {
			return err
		}
		if err := sendFile(w.conn, buffers[last], *p.file); err != nil {
			return err
		}
		w.progress.Add(1)
		buffers = buffers[:0]
	}
	err := writeBuffers(w.conn, buffers)
	w.progress.Add(1)
	return err
}

// done ends a batch: it gives back what was borrowed.
func (w *writer) done(b batch, err error) {
	for i := range b.pieces {
		p := &b.pieces[i]
		if p.small != nil {
			buffers.Put(p.small)
		}
		if p.after != nil {
			p.after()
		}
		*p = piece{}
	}
	for _, after := range b.notify {
		after()
	}
	if b.replies > 0 {
		w.replied(b.replies)
	}
	w.mu.Lock()
	w.bytes -= b.bytes
	w.spare = b.pieces[:0]
	w.wake()
	if err != nil && w.err == nil {
		w.err = err
	}
	w.mu.Unlock()
	if err != nil {
		w.conn.Close() // the reader notices
	}
}

// close refuses further frames and waits until nobody writes. The connection must have been
// closed, so that writing ends.
func (w *writer) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = errClosed
	}
	for w.busy {
		w.idle.Wait()
	}
}
