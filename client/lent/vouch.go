package lent

import (
	"context"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc"
)

// vouching asks one server to vouch for chunks, once for all reads that have begun since it was
// asked last. Files.mu guards it; it is there while a request is under way.
type vouching struct {
	next *vouch        // nil: nobody waits for another one
	sent clock.Instant // when the request under way was sent
}

// vouch is one request, and the server's word when it has come.
type vouch struct {
	chunks  []rpc.LentChunk
	done    chan struct{} // closed when refused and err are valid
	refused []quarry.Kind
	err     error
}

// vouch returns a request for the server's word on a chunk that has not been sent yet; nil if
// too many chunks are in it already, the server is late with its last word, or everything ends.
func (l *Files) vouch(address string, chunk rpc.LentChunk) *vouch {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, now := l.vouches[address], l.cfg.Clock.Now()
	idle := v == nil
	if idle {
		v = &vouching{sent: now}
	}
	if now.Sub(v.sent) >= l.lenderMax {
		return nil
	}
	if v.next == nil {
		v.next = &vouch{done: make(chan struct{})}
	}
	word := v.next
	if word.place(&chunk) < 0 {
		if len(word.chunks) == rpc.VouchMax {
			return nil
		}
		word.chunks = append(word.chunks, chunk)
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
		v.sent = l.cfg.Clock.Now()
		l.mu.Unlock()
		l.send(ctx, address, word)
	}
}

func (l *Files) send(ctx context.Context, address string, word *vouch) {
	ctx, cancel := l.cfg.Clock.WithTimeout(ctx, l.replyMax)
	defer cancel()
	reply, err := l.cfg.Connections.Lender(address).Vouch(ctx, &rpc.VouchRequest{Chunks: word.chunks})
	if word.err = err; err == nil {
		word.refused = reply.Refused
	} else {
		l.avoid(address, 0)
	}
	close(word.done)
}

// place returns where a chunk with its edition is in the request; -1: nowhere.
func (w *vouch) place(chunk *rpc.LentChunk) int {
	return slices.IndexFunc(w.chunks, func(c rpc.LentChunk) bool { return sameFile(&c, chunk) })
}

// sameFile reports whether a server's word on one of two is its word on the other one: they name
// the same chunk of it in the same edition, whatever capability comes with them.
func sameFile(a, b *rpc.LentChunk) bool { return a.Handle == b.Handle && a.Edition == b.Edition }

// hear waits for the server's word on a chunk: why it cannot be read; 0: it can.
func (l *Files) hear(ctx context.Context, w *vouch, chunk *rpc.LentChunk) (refused quarry.Kind, err error) {
	if !l.waitFor(ctx, w.done, l.cfg.Clock.Now()) {
		if ctx.Err() != nil {
			return 0, quarry.Wrap("vouch", chunk.Handle.String(), context.Cause(ctx))
		}
		return 0, quarry.Errorf("vouch", quarry.Unavailable, chunk.Handle.String(), "the server did not answer within %v", l.lenderMax)
	}
	if w.err != nil {
		return 0, w.err
	}
	return w.refused[w.place(chunk)], nil
}

// vouchedTime is how long a server's word counts for what a sequential reader reads next.
const vouchedTime = time.Second

// Row is the server's word for a sequential reader, on the bytes that a reader over the network
// would fetch ahead with one answer after another: the reads that follow soon and read no further
// use it, as they would use those. The zero Row is ready for use; not safe for concurrent use.
type Row struct {
	word     *vouch // nil: none
	chunk    rpc.LentChunk
	from, to int64 // in the chunk
	asked    clock.Instant
}

// covers returns the word for a read of [from, to) that begins now; nil if it needs one of its own.
func (v *Row) covers(chunk *rpc.LentChunk, from, to int64, now clock.Instant) *vouch {
	if v == nil || v.word == nil || !sameFile(&v.chunk, chunk) || from < v.from || to > v.to || now.Sub(v.asked) >= vouchedTime {
		return nil
	}
	return v.word
}

// keep keeps a word that is asked for now, for a part of a chunk.
func (v *Row) keep(word *vouch, chunk *rpc.LentChunk, from, to int64, now clock.Instant) {
	if v != nil {
		*v = Row{word: word, chunk: *chunk, from: from, to: to, asked: now}
	}
}

// end forgets the word.
func (v *Row) end() {
	if v != nil {
		v.word = nil
	}
}
