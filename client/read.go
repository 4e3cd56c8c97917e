package client

import (
	"context"
	"errors"
	"hash/crc32"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
)

const (
	// requestsMax is how many requests one ReadAt has under way.
	requestsMax = 16
	// readMax is how long one replica may take to answer a read.
	readMax = 5 * time.Second
	// freshTime is how long what the master told of a chunk is taken for the newest when a
	// server refuses it.
	freshTime = time.Second
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// read fills p with the bytes from offset, all of which are committed. Long reads go to
// several chunks and replicas at the same time.
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
		case err != nil && !transient(err):
			return err
		case err != nil: // the masters do not answer
		case at.piece == nil:
			return quarry.Errorf("read", quarry.Internal, "", "the layout ends at %d, before a byte that was there", offset)
		default:
			want := p
			if at.piece.Length != quarry.OpenEnded {
				want = p.first(at.piece.Offset + at.piece.Length - offset)
			}
			if n, err = l.f.readPiece(ctx, at, want, offset-at.piece.Offset); quarry.KindOf(err) == quarry.Corrupt {
				return err
			}
		}
		p, offset = p.behind(n), offset+int64(n)
		if n > 0 {
			wait.progress()
			refused = nil
			continue
		}
		if err == nil {
			err = quarry.Errorf("read", quarry.Unavailable, "", "no replica has the byte at %d yet", offset)
		}
		if refused != nil || quarry.KindOf(err) != quarry.StaleVersion { // a refused page is fetched again at once
			if err := wait.wait(ctx, err); err != nil {
				return err
			}
		}
		refused = at.page
	}
	return nil
}

// readPiece fills as much of p as it can, at least a byte or it errs, from within a piece.
func (f *FS) readPiece(ctx context.Context, at place, p memory, within int64) (int, error) {
	switch at.piece.Kind {
	case quarry.PieceHole:
		clear(p.bytes())
		return p.n, nil
	case quarry.PieceInline:
		return copy(p.bytes(), at.piece.Inline[within:]), nil
	case quarry.PieceChunk:
		fresh := f.clock.Now().Sub(at.page.asked) < freshTime
		return f.readChunk(ctx, at.chunk, p, at.piece.ChunkOffset+within, fresh)
	}
	return 0, quarry.Errorf("read", quarry.Unsupported, "", "a piece of kind %d", at.piece.Kind)
}

// readChunk reads from the replicas of a chunk, one after the other until one gives bytes.
// When one is slow the next is asked as well. An error is StaleVersion if a server refused
// what is known of the chunk.
func (f *FS) readChunk(ctx context.Context, chunk *quarry.Chunk, p memory, offset int64, fresh bool) (int, error) {
	if chunk.Mutable {
		return 0, quarry.Errorf("read", quarry.Unsupported, chunk.Handle.String(), "files that may be overwritten cannot be read by this release")
	}
	if chunk.State == quarry.ChunkLost || len(chunk.Members) == 0 {
		return 0, quarry.Errorf("read", quarry.Unavailable, chunk.Handle.String(), "no server has a good replica of the chunk")
	}
	if n := f.readLocal(ctx, chunk, p, offset, nil); n > 0 {
		return n, nil
	}
	r := chunkRead{f: f, chunk: chunk, p: p, offset: offset, fresh: fresh, left: f.order(chunk.Members), done: make(chan chunkAnswer, len(chunk.Members))}
	return r.run(ctx)
}

// chunkRead is one read of a chunk and the requests that were sent for it.
type chunkRead struct {
	f      *FS
	chunk  *quarry.Chunk
	p      memory
	offset int64
	fresh  bool // what is known of the chunk is

	left    []quarry.Member // not asked yet
	done    chan chunkAnswer
	sent    int
	stale   int   // replicas that refused what is known of the chunk
	failure error // the most telling one so far
}

type chunkAnswer struct {
	n      int
	buf    []byte // what the bytes are in; nil: where they are wanted
	err    error
	member quarry.Member
}

func (r *chunkRead) run(ctx context.Context) (int, error) {
	if len(r.left) == 1 { // nothing to choose from
		n, err := r.f.readReplica(ctx, r.left[0], r.chunk, r.p, r.offset)
		if err != nil {
			r.note(ctx, chunkAnswer{err: err, member: r.left[0]})
		}
		return n, r.failure
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	first := r.left[0]
	r.send(ctx, r.p, nil)
	timer := r.f.clock.NewTimer(r.f.health.hedgeAfter())
	defer timer.Stop()
	for r.sent > 0 {
		select {
		case a := <-r.done:
			r.sent--
			if a.err == nil {
				cancel()
				r.drain()
				if a.buf != nil { // the hedge has won
					r.f.health.failed(first.Server)
					copy(r.p.bytes(), a.buf[:a.n])
				}
				return a.n, nil
			}
			r.note(ctx, a)
			if r.sent == 0 && r.goesOn() && ctx.Err() == nil {
				r.send(ctx, r.p, nil)
			}
		case <-timer.C():
			switch {
			case len(r.left) > 0 && r.p.waits(): // the answer is there, and the reader is not
				timer.Reset(hedgeMin)
			case len(r.left) > 0 && r.f.health.mayHedge():
				// The first request may still be putting bytes into p.
				own := make([]byte, r.p.n)
				r.send(ctx, memory{known: own, n: len(own)}, own)
			}
		}
	}
	return 0, r.failure
}

// goesOn reports whether another replica is worth asking. If what is known of the chunk is
// not fresh, one refusal is enough to ask the master again; if it is, one server may be behind.
func (r *chunkRead) goesOn() bool {
	return len(r.left) > 0 && (r.stale == 0 || r.fresh && r.stale == 1)
}

// send asks the next replica. own is set if into is not where the bytes are wanted.
func (r *chunkRead) send(ctx context.Context, into memory, own []byte) {
	m := r.left[0]
	r.left = r.left[1:]
	r.sent++
	go func() {
		n, err := r.f.readReplica(ctx, m, r.chunk, into, r.offset)
		r.done <- chunkAnswer{n, own, err, m}
	}()
}

// drain waits until no request writes into p any more. They were cancelled.
func (r *chunkRead) drain() {
	for ; r.sent > 0; r.sent-- {
		<-r.done
	}
}

// note deals with a replica's failure.
func (r *chunkRead) note(ctx context.Context, a chunkAnswer) {
	if ctx.Err() != nil {
		r.failure = ended(context.Cause(ctx), r.failure)
		return
	}
	kind := quarry.KindOf(a.err)
	switch kind {
	case quarry.Corrupt:
		r.f.report(r.chunk, a.member, true, a.err.Error())
	case quarry.Unavailable:
		r.f.health.failed(a.member.Server)
	case quarry.StaleVersion, quarry.Permission: // perhaps the key has changed
		r.stale++
	}
	switch kind {
	case quarry.NotFound, quarry.NotPrimary, quarry.Permission: // the layout tells
		a.err = &quarry.Error{Op: "read", Kind: quarry.StaleVersion, Subject: r.chunk.Handle.String(), Err: a.err}
		kind = quarry.StaleVersion
	}
	r.f.log.Debug("a replica was passed over", "chunk", r.chunk.Handle, "server", a.member.Server, "err", a.err)
	// A refusal leads to a fresh layout, a silent replica may come back; only if all are
	// corrupt is that the error.
	if r.failure == nil || kind == quarry.StaleVersion || quarry.KindOf(r.failure) == quarry.Corrupt {
		r.failure = a.err
	}
}

// readReplica reads and verifies bytes of one replica, at least one. A server that has no
// lease is asked again when the master has confirmed what is known of the chunk.
func (f *FS) readReplica(ctx context.Context, m quarry.Member, chunk *quarry.Chunk, p memory, offset int64) (int, error) {
	ctx, cancel := f.clock.WithTimeout(ctx, readMax)
	defer cancel()
	in := &arrival{p: p, clock: f.clock, check: check{handle: chunk.Handle, offset: offset}}
	req := &quarry.ReadRequest{ChunkRef: reference(chunk, m), Offset: offset, Length: int64(p.n), Into: p.known, Sink: in}
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
	f.health.answered(m.Server, f.clock.Now().Sub(start)-in.waited)
	return len(reply.Data), nil
}

// cancelled reports whether an error is the end of a context.
func cancelled(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
