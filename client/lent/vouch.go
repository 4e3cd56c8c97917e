package lent

import (
	"context"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc"
)

// vouching asks one server to vouch for chunks, once for all reads that have begun since it was
// asked last. Files.mu guards it; it is there while a request is under way.
type vouching struct {
	next *vouch // nil: nobody waits for another one
}

// vouch is one request, and the server's word when it has come.
type vouch struct {
	chunks  []quarry.ChunkRef
	done    chan struct{} // closed when refused and err are valid
	refused []quarry.Kind
	err     error
}

// vouch returns a request for the server's word on a chunk that has not been sent yet; nil if
// too many chunks are in it already, or everything ends.
func (l *Files) vouch(address string, ref quarry.ChunkRef) *vouch {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.vouches[address]
	idle := v == nil
	if idle {
		v = &vouching{}
	}
	if v.next == nil {
		v.next = &vouch{done: make(chan struct{})}
	}
	word := v.next
	if word.place(ref.Handle) < 0 {
		if len(word.chunks) == rpc.VouchMax {
			return nil
		}
		word.chunks = append(word.chunks, ref)
	}
	if idle {
		if !l.cfg.Background(func(ctx context.Context) { l.ask(ctx, address, v) }) {
			return nil
		}
		l.vouches[address] = v
	}
	return word
}

// ask sends one request after the other, as long as somebody waits.
func (l *Files) ask(ctx context.Context, address string, v *vouching) {
	for {
		l.mu.Lock()
		word := v.next
		v.next = nil
		if word == nil {
			delete(l.vouches, address)
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		l.send(ctx, address, word)
	}
}

func (l *Files) send(ctx context.Context, address string, word *vouch) {
	ctx, cancel := l.cfg.Clock.WithTimeout(ctx, replyMax)
	defer cancel()
	reply, err := l.cfg.Connections.Lender(address).Vouch(ctx, &rpc.VouchRequest{Chunks: word.chunks})
	if word.err = err; err == nil {
		word.refused = reply.Refused
	} else {
		l.avoid(address)
	}
	close(word.done)
}

// place returns where a chunk is in the request; -1: nowhere.
func (w *vouch) place(h quarry.Handle) int {
	for i := range w.chunks {
		if w.chunks[i].Handle == h {
			return i
		}
	}
	return -1
}

// hear waits for the server's word on a chunk: why it cannot be read; 0: it can.
func (l *Files) hear(ctx context.Context, w *vouch, h quarry.Handle) (refused quarry.Kind, err error) {
	if !l.waitFor(ctx, w.done) {
		return 0, quarry.Errorf("vouch", quarry.Unavailable, h.String(), "the server did not answer within %v: %w", lenderMax, context.Cause(ctx))
	}
	if w.err != nil {
		return 0, w.err
	}
	return w.refused[w.place(h)], nil
}

// vouchedTime is how long a server's word counts for what a sequential reader reads next.
const vouchedTime = time.Second

// Row is the server's word for a sequential reader, on the bytes that a reader over the network
// would fetch ahead with one answer after another: the reads that follow soon and read no further
// use it, as they would use those. The zero Row is ready for use; not safe for concurrent use.
type Row struct {
	word     *vouch // nil: none
	handle   quarry.Handle
	from, to int64 // in the chunk
	asked    clock.Instant
}

// covers returns the word for a read that begins at an offset now; nil if it needs one of its own.
func (v *Row) covers(h quarry.Handle, offset int64, now clock.Instant) *vouch {
	if v == nil || v.word == nil || v.handle != h || offset < v.from || offset >= v.to || now.Sub(v.asked) >= vouchedTime {
		return nil
	}
	return v.word
}

// keep keeps a word that is asked for now, for a part of a chunk.
func (v *Row) keep(word *vouch, h quarry.Handle, from, to int64, now clock.Instant) {
	if v != nil {
		*v = Row{word: word, handle: h, from: from, to: to, asked: now}
	}
}

// end forgets the word.
func (v *Row) end() {
	if v != nil {
		v.word = nil
	}
}
