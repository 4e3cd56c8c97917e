package client

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client/health"
	"github.com/quarryfs/quarry/client/verify"
	"github.com/quarryfs/quarry/client/waiting"
	"github.com/quarryfs/quarry/clock"
)

const (
	// requestsMax is how many requests one ReadAt has under way.
	requestsMax = 16
	// readMax is how long the answer of one replica to a read may take to begin. Then it may take as long as the link
	// needs: package rpc gives up connections over which nothing comes.
	readMax = 5 * time.Second
	// freshTime is how long what the master told of a chunk is taken for the newest when a server refuses it.
	freshTime = time.Second
)

// read fills p with the bytes from offset, all of which are committed. Long reads go to several replicas at a time.
func (l *layout) read(ctx context.Context, p []byte, offset int64) error {
	if len(p) <= quarry.ReadBytesMax {
		return l.readPart(ctx, memory{known: p, n: len(p)}, offset)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slots := make(chan struct{}, requestsMax)
	var wg sync.WaitGroup
	for len(p) > 0 && ctx.Err() == nil {
		// Parts end at multiples of the request's size in the file, which for full chunks are
		// multiples in the chunk as well: no checksum block is read twice.
		n := min(int64(len(p)), quarry.ReadBytesMax-offset%quarry.ReadBytesMax)
		part, at := p[:n:n], offset
		slots <- struct{}{}
		wg.Go(func() {
			if err := l.readPart(ctx, memory{known: part, n: len(part)}, at); err != nil {
				cancel(err)
			}
			<-slots
		})
		p, offset = p[n:], offset+n
	}
	wg.Wait()
	return context.Cause(ctx)
}

// readPart fills p, of at most ReadBytesMax, piece after piece.
func (l *layout) readPart(ctx context.Context, p memory, offset int64) error {
	var refused *page
	wait := l.f.patience()
	for p.n > 0 {
		at, err := l.at(ctx, offset, refused)
		n := 0
		switch {
		case err != nil && !waiting.Transient(err):
			return err
		case err != nil: // the masters do not answer
		case at.piece == nil:
			return quarry.Errorf("read", quarry.Internal, "", "the layout ends at %d, before a byte that was there", offset)
		default:
			want := p
			if at.piece.Length != quarry.OpenEnded {
				want = p.first(at.piece.Offset + at.piece.Length - offset)
			}
			if n, err = l.f.readPiece(ctx, &wait, at, want, offset-at.piece.Offset); quarry.KindOf(err) == quarry.Corrupt {
				return err
			}
		}
		p, offset = p.behind(n), offset+int64(n)
		if n > 0 {
			wait.Progress()
			refused = nil
			continue
		}
		if err == nil {
			err = quarry.Errorf("read", quarry.Unavailable, "", "no replica has the byte at %d yet", offset)
		}
		if refused != nil || quarry.KindOf(err) != quarry.StaleVersion { // a refused page is fetched again at once
			if err := wait.Wait(ctx, err); err != nil {
				return err
			}
		}
		refused = at.page
	}
	return nil
}

// readPiece fills as much of p as it can, at least a byte or it errs, from within a piece.
func (f *FS) readPiece(ctx context.Context, wait *waiting.Tries, at place, p memory, within int64) (int, error) {
	switch at.piece.Kind {
	case quarry.PieceHole:
		clear(p.bytes())
		return p.n, nil
	case quarry.PieceInline:
		return copy(p.bytes(), at.piece.Inline[within:]), nil
	case quarry.PieceChunk:
		fresh := f.clock.Now().Sub(at.page.asked) < freshTime
		return f.readChunk(ctx, wait, at.chunk, p, at.piece.ChunkOffset+within, fresh)
	}
	return 0, quarry.Errorf("read", quarry.Unsupported, "", "a piece of kind %d", at.piece.Kind)
}

// readChunk reads from the replicas of a chunk, one after the other until one gives bytes.
// When one is slow the next is asked as well. It waits for its turn while enough is under way. An error is
// StaleVersion if a server refused what is known of the chunk.
func (f *FS) readChunk(ctx context.Context, wait *waiting.Tries, chunk *quarry.Chunk, p memory, offset int64, fresh bool) (int, error) {
	if chunk.Mutable {
		return 0, quarry.Errorf("read", quarry.Unsupported, chunk.Handle.String(), "files that may be overwritten cannot be read by this release")
	}
	if chunk.State == quarry.ChunkLost || len(chunk.Members) == 0 {
		return 0, quarry.Errorf("read", quarry.Unavailable, chunk.Handle.String(), "no server has a good replica of the chunk")
	}
	n, suspect := f.readLocal(ctx, chunk, p, offset, nil)
	if n > 0 {
		return n, nil
	}
	left := f.order(chunk.Members)
	if suspect != nil { // its answer is what the master is told
		left = slices.Insert(slices.DeleteFunc(left, func(m quarry.Member) bool { return m.Server == suspect.Server }), 0, *suspect)
	}
	r := chunkRead{f: f, chunk: chunk, p: p, offset: offset, fresh: fresh, left: left}
	came := f.clock.Now()
	if err := f.reads.Take(ctx, int64(p.n)); err != nil {
		return 0, waiting.Ended(err, nil)
	}
	r.start = f.clock.Now()
	wait.Excuse(r.start.Sub(came))
	n, err := r.run(ctx)
	if err != nil {
		f.reads.Lost(int64(p.n))
	} else {
		f.reads.Acknowledged(int64(p.n), f.clock.Now().Sub(r.start))
	}
	return n, err
}

// chunkRead is one read of a chunk and the requests that were sent for it: one after the other by the reader's
// own goroutine, which spares two changes of goroutines for each, and at most one hedge by another.
type chunkRead struct {
	f      *FS
	chunk  *quarry.Chunk
	p      memory
	offset int64
	fresh  bool                    // what is known of the chunk is
	start  clock.Instant           // when its turn came
	first  atomic.Pointer[arrival] // the answer to the reader's own request; nil: none is under way

	mu   sync.Mutex
	left []quarry.Member // not asked yet

	stale   int   // replicas that refused what is known of the chunk
	failure error // the most telling one so far
}

// hedge is a request to a second replica because the first one is slow.
type hedge struct {
	read  *chunkRead
	ctx   context.Context // of all requests
	won   func()          // ends the other request
	begun bool            // the alarm has gone off; the reader's
	ended chan struct{}   // closed when what follows is known

	member quarry.Member
	start  clock.Instant
	buf    []byte // the bytes; nil: nobody was asked
	n      int
	err    error
}

func (r *chunkRead) run(ctx context.Context) (int, error) {
	if len(r.left) == 1 { // nothing to choose from
		m, _ := r.take()
		n, err := r.readReplica(ctx, m, r.arrival(r.p))
		if err != nil {
			r.note(ctx, m, err)
		}
		return n, r.failure
	}
	requests, cancel := context.WithCancel(ctx)
	defer cancel()
	alarm, silence := r.f.clock.WithTimeout(requests, r.f.health.HedgeAfter())
	defer silence()
	h := &hedge{read: r, ctx: requests, won: cancel, ended: make(chan struct{})}
	for again := true; again; again = r.goesOn() && ctx.Err() == nil {
		m, ok := r.take()
		if !ok {
			break
		}
		calm := func() bool { return true } // there is one hedge at most
		if !h.begun {
			calm = context.AfterFunc(alarm, h.run)
		}
		in := r.arrival(r.p)
		r.first.Store(in)
		n, err := r.readReplica(requests, m, in)
		r.first.Store(nil)
		failed := err != nil && requests.Err() == nil // and was not ended by the hedge
		asked := !calm()
		if asked {
			if err == nil {
				cancel()
			}
			<-h.ended
			h.begun = true
		}
		if err == nil {
			return n, nil
		}
		won := asked && h.buf != nil && h.err == nil
		if failed || !won {
			r.note(ctx, m, err)
		}
		switch {
		case won:
			r.f.health.Failed(m.Server)
			r.start = h.start // that is what an answer takes
			return copy(r.p.bytes(), h.buf[:h.n]), nil
		case asked && h.buf != nil:
			r.note(ctx, h.member, h.err)
		}
	}
	return 0, r.failure
}

// run asks another replica when the first one has taken too long, but not while its answer is
// there and the reader is not, nor while it comes as fast as others do.
func (h *hedge) run() {
	defer close(h.ended)
	r := h.read
	for r.p.waits() || r.coming() {
		if r.f.clock.Sleep(h.ctx, health.HedgeMin) != nil {
			return
		}
	}
	if h.ctx.Err() != nil || !r.f.health.MayHedge() {
		return
	}
	m, ok := r.take()
	if !ok {
		return
	}
	r.f.log.Debug("a second replica is asked", "chunk", r.chunk.Handle, "server", m.Server, "after", r.f.clock.Now().Sub(r.start))
	// The first request may still be putting bytes into p.
	own := make([]byte, r.p.n)
	h.member, h.buf, h.start = m, own, r.f.clock.Now()
	h.n, h.err = r.readReplica(h.ctx, m, r.arrival(memory{known: own, n: len(own)}))
	if h.err == nil {
		h.won()
	}
}

// coming reports whether the reader's own request is being answered, and has not taken far longer than others did.
func (r *chunkRead) coming() bool {
	in, d := r.first.Load(), r.f.clock.Now().Sub(r.start)
	return in != nil && in.begun.Load() && (d < 2*r.f.reads.Delay() || !r.f.health.Slow(d))
}

// take returns the next replica to ask.
func (r *chunkRead) take() (m quarry.Member, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.left) == 0 {
		return m, false
	}
	m, r.left = r.left[0], r.left[1:]
	return m, true
}

// goesOn reports whether another replica is worth asking. If what is known of the chunk is
// not fresh, one refusal is enough to ask the master again; if it is, one server may be behind.
func (r *chunkRead) goesOn() bool {
	return r.stale == 0 || r.fresh && r.stale == 1
}

// note deals with a replica's failure.
func (r *chunkRead) note(ctx context.Context, m quarry.Member, err error) {
	if ctx.Err() != nil {
		r.failure = waiting.Ended(context.Cause(ctx), r.failure)
		return
	}
	kind := quarry.KindOf(err)
	switch kind {
	case quarry.Corrupt:
		r.f.report(r.chunk, m, true, err.Error())
	case quarry.Unavailable:
		r.f.health.Failed(m.Server)
	case quarry.StaleVersion, quarry.Permission: // perhaps the key has changed
		r.stale++
	}
	switch kind {
	case quarry.NotFound, quarry.NotPrimary, quarry.Permission: // the layout tells
		err = &quarry.Error{Op: "read", Kind: quarry.StaleVersion, Subject: r.chunk.Handle.String(), Err: err}
		kind = quarry.StaleVersion
	}
	r.f.log.Debug("a replica was passed over", "chunk", r.chunk.Handle, "server", m.Server, "err", err)
	// A refusal leads to a fresh layout, a silent replica may come back; only if all are corrupt is that the error.
	if r.failure == nil || kind == quarry.StaleVersion || quarry.KindOf(r.failure) == quarry.Corrupt {
		r.failure = err
	}
}

// arrival is where an answer is to go.
func (r *chunkRead) arrival(p memory) *arrival {
	return &arrival{p: p, clock: r.f.clock, check: verify.Check{Handle: r.chunk.Handle, Offset: r.offset}}
}

// readReplica reads and verifies bytes of one replica, at least one. A server that has no lease is asked again when the
// master has confirmed what is known of the chunk.
func (r *chunkRead) readReplica(ctx context.Context, m quarry.Member, in *arrival) (int, error) {
	ctx, cancel := waiting.Begin(ctx, r.f.clock, readMax, &in.begun)
	defer cancel()
	f, chunk, offset := r.f, r.chunk, r.offset
	req := &quarry.ReadRequest{ChunkRef: reference(chunk, m), Offset: offset, Length: int64(in.p.n), Into: in.p.known, Sink: in}
	start := f.clock.Now()
	reply, err := f.servers(m).Read(ctx, req)
	if quarry.KindOf(err) == quarry.Confirm {
		told, askErr := f.masters.Chunk(ctx, &quarry.ChunkRequest{Handle: chunk.Handle})
		if askErr != nil {
			return 0, askErr
		}
		i := slices.IndexFunc(told.Chunk.Members, func(x quarry.Member) bool { return x.Server == m.Server })
		if i < 0 {
			return 0, quarry.Errorf("read", quarry.StaleVersion, chunk.Handle.String(), "server %d has no replica any more", m.Server)
		}
		req.ChunkRef, req.Validated = reference(&told.Chunk, told.Chunk.Members[i]), true
		reply, err = f.servers(m).Read(ctx, req)
	}
	if err != nil {
		return 0, err
	}
	if reply.Release != nil {
		defer reply.Release()
	}
	if err := in.take(reply); err != nil {
		return 0, err
	}
	if len(reply.Data) == 0 {
		return 0, quarry.Errorf("read", quarry.Busy, chunk.Handle.String(), "server %d does not know byte %d to be committed", m.Server, offset)
	}
	f.health.Answered(m.Server, f.clock.Now().Sub(start)-in.waited)
	return len(reply.Data), nil
}
