package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client/attr"
	"github.com/quarryfs/quarry/client/resume"
	"github.com/quarryfs/quarry/client/waiting"
)

const (
	// partWindow is the most bytes under way to each of several chunks of a Put. A chunk server syncs a
	// stream every 8 MiB: while it does, the other chunks have bytes under way. Where there are few,
	// each has more of putWindow, up to quarry.WindowBytes, so that one sync's bytes come while those
	// before are synced.
	partWindow = 8 << 20
	putWindow  = 24 << 20
	// allocateMax is the most chunks that a Put asks for at once.
	allocateMax = 16
)

// PutOptions are the settings of one Put; the zero value is right for most.
type PutOptions struct {
	// Size is how many bytes will come, as far as it is known; 0: not known. It is a hint:
	// what r gives counts.
	Size int64
	// Mode are the permission bits, as [AttrChange] has them. Default 0644.
	Mode *uint32
	// Modified is when the file was changed, as [AttrChange] has it. Default: when it gets its name.
	Modified time.Time
	// Keep refuses, with Exists, to replace a file that has the name.
	Keep bool
	// Ledger is where it is noted what is stored, of bytes that can be read in any order: if the Put fails they
	// are kept until their session expires, for another Put to go on with. Nil: they are not.
	Ledger resume.Ledger
}

// Put stores all of r under a name, in one step at the end; see [FileSystem]. Several chunks
// are written at the same time if r is also an io.ReaderAt and an io.Seeker, such as an
// *os.File; it is then read from its position to its present end, and its position is
// undefined afterwards; at most 8 MiB for each of [Options.Parallel] chunks are under way, 12 MiB for each of
// two, and 16 MiB for one, and less where that takes seconds (package flight). Otherwise a chunk is begun when the one before it has been read, and
// at most 16 MiB for each are under way. At most quarry.PiecesMax chunks can be put, 256 GiB.
func (f *FS) Put(ctx context.Context, path string, r io.Reader, opts PutOptions) (Info, error) {
	parent, name, err := f.parent(ctx, path)
	if err != nil {
		return Info{}, fail("put", path, err)
	}
	if opts.Mode == nil {
		opts.Mode = new(uint32(modeFile))
	}
	modified, err := attr.NS(opts.Modified)
	if err != nil {
		return Info{}, fail("put", path, err)
	}
	ctx, cancel := f.bound(ctx)
	defer cancel()
	n, err := f.sessions.of(ctx, parent.Slot())
	for err == nil && !n.use() { // it is not the shard's session any more
		n, err = f.sessions.of(ctx, parent.Slot())
	}
	if err != nil {
		return Info{}, fail("put", path, err)
	}
	defer n.unuse()
	p := &put{f: f, path: path, near: parent, session: n, owner: n, modified: modified, allocating: waiting.NewGate(), slots: make(chan struct{}, f.opts.Parallel)}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	defer p.cancel(nil)
	attr, useless, err := p.store(r, opts, name)
	p.leave(useless || err == nil)
	if p.owner == n && (len(p.spare) > 0 || p.leaked || err != nil && p.allocated) {
		f.sessions.retire(n) // chunks that are not linked are freed when their session ends
	}
	if err != nil {
		return Info{}, fail("put", path, err)
	}
	return Info{Path: path, Attr: attr}, nil
}

// put is one Put under way.
type put struct {
	f        *FS
	path     string
	near     quarry.Inode  // the directory: its shard owns the chunks and will own the file
	session  *session      // in which changes are asked for
	owner    *session      // of the chunks: the same, or that of the ledger
	ledger   resume.Ledger // nil: if it fails nobody goes on
	modified int64         // ns since 1970; 0: when it gets its name
	ctx      context.Context
	cancel   context.CancelCauseFunc
	slots    chan struct{} // a token for each part under way
	window   int64         // of each part
	work     sync.WaitGroup

	parts []*part

	allocating waiting.Gate // guards what follows; held while the master is asked
	spare      []quarry.Chunk
	allocated  bool
	leaked     bool  // an answer with chunks may have been lost, or they have moved before it
	expected   int64 // parts that are still to get a chunk, as far as is known
}

// store writes the bytes and links them. useless: what is kept for others is of no use any more.
func (p *put) store(r io.Reader, opts PutOptions, name string) (attr quarry.Attr, useless bool, err error) {
	pieces, err := p.write(r, opts)
	if errors.Is(err, quarry.Unknown) { // of records in chunks that nobody will see
		err = quarry.Errorf("put", quarry.Unavailable, "", "nothing was stored: %v", err)
	}
	if err != nil {
		return quarry.Attr{}, false, err
	}
	if len(pieces) > quarry.PiecesMax {
		return quarry.Attr{}, true, quarry.Errorf("put", quarry.TooLarge, "", "the file has %d pieces, at most %d are allowed", len(pieces), quarry.PiecesMax)
	}
	if err := context.Cause(p.ctx); err != nil {
		return quarry.Attr{}, false, waiting.Ended(err, nil) // nothing is visible
	}
	if p.ledger != nil {
		if err := p.ledger.Check(); err != nil {
			return quarry.Attr{}, true, err
		}
	}
	reply, err := change(p.ctx, p, func(op quarry.Op, owner quarry.SessionID) (*quarry.AttrReply, error) {
		return p.f.masters.Link(p.ctx, &quarry.LinkRequest{
			Op: op, Parent: p.near, Name: name, Mode: *opts.Mode, UID: *p.f.opts.UID, GID: *p.f.opts.GID, ModifiedNS: p.modified,
			Pieces: pieces, Replace: !opts.Keep, Owner: owner, Path: cleanPath(p.path),
		})
	})
	switch quarry.KindOf(err) {
	case 0:
		return reply.Attr, false, nil
	case quarry.SessionExpired, quarry.Unavailable:
		return quarry.Attr{}, false, &quarry.Error{Op: "masters", Kind: quarry.Unknown, Err: err}
	}
	return p.linked(pieces, err)
}

// change does something at the shard of the directory: in the put's session while that lives
// there, and in another one when slots have moved meanwhile; if it is not the owner's, in its name. An
// operation that is refused because of the shard was not done; only the chunks of an Allocate may
// be there.
func change[R any](ctx context.Context, p *put, do func(op quarry.Op, owner quarry.SessionID) (R, error)) (R, error) {
	var none R
	s := p.session
	op, err := s.begin(ctx)
	for wait := p.f.patience(); ; {
		if err != nil {
			return none, err
		}
		owner := p.owner.id
		if s == p.owner {
			owner = 0
		}
		reply, err := do(op, owner)
		s.settle(op)
		switch quarry.KindOf(err) {
		case 0:
			return reply, nil
		case quarry.SessionExpired:
			if s == p.owner || quarry.KindOf(s.renew(ctx)) == quarry.SessionExpired { // the owner may be the one that is over
				p.f.sessions.expire(s)
			}
			return none, err
		case quarry.WrongShard:
		default:
			return none, err
		}
		p.f.sessions.forgetOwners()
		if err := wait.Wait(ctx, err); err != nil {
			return none, err
		}
		if s, op, err = p.f.sessions.operation(ctx, p.near.Slot()); err != nil {
			return none, err
		}
	}
}

// write stores the bytes in chunks, or in a piece without a chunk if they are few.
func (p *put) write(r io.Reader, opts PutOptions) ([]quarry.LinkPiece, error) {
	at, from, length := section(r)
	if at == nil {
		head := make([]byte, quarry.InlineBytesMax+1)
		n, err := io.ReadFull(r, head)
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return inline(head[:n]), nil
		case err != nil:
			return nil, err
		}
		return p.writeStream(io.MultiReader(bytes.NewReader(head), r), opts.Size)
	}
	if length <= quarry.InlineBytesMax {
		data := make([]byte, length)
		if _, err := at.ReadAt(data, from); err != nil && err != io.EOF {
			return nil, err
		}
		return inline(data), nil
	}
	return p.writeSections(at, from, length, opts.Ledger)
}

// section returns what can be read in any order, from where, and how much.
func section(r io.Reader) (at io.ReaderAt, from, length int64) {
	at, ok := r.(io.ReaderAt)
	s, isSeeker := r.(io.Seeker)
	if !ok || !isSeeker {
		return nil, 0, 0
	}
	from, err := s.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, 0, 0
	}
	end, err := s.Seek(0, io.SeekEnd)
	if _, back := s.Seek(from, io.SeekStart); err != nil || back != nil || end <= from {
		return nil, 0, 0 // a pipe, or a file that does not tell its length
	}
	return at, from, end - from
}

func inline(data []byte) []quarry.LinkPiece {
	if len(data) == 0 {
		return nil
	}
	return []quarry.LinkPiece{{Length: int64(len(data)), Inline: data}}
}

// writeSections writes several parts of r at the same time. The ledger may be nil.
func (p *put) writeSections(r io.ReaderAt, from, length int64, l resume.Ledger) ([]quarry.LinkPiece, error) {
	count := (length + quarry.ChunkBytesMax - 1) / quarry.ChunkBytesMax
	if count > quarry.PiecesMax {
		return nil, quarry.Errorf("put", quarry.TooLarge, "", "it has %d bytes, at most %d can be put", length, int64(quarry.PiecesMax)*quarry.ChunkBytesMax)
	}
	if l != nil {
		if err := p.keep(l); err != nil {
			return nil, err
		}
	}
	p.expected = count
	p.window = max(partWindow, putWindow/max(1, min(count, int64(p.f.opts.Parallel))))
	for i := range count {
		part, err := p.begin()
		if err != nil {
			break
		}
		start := i * quarry.ChunkBytesMax
		src := io.NewSectionReader(r, from+start, min(quarry.ChunkBytesMax, length-start))
		p.work.Go(func() { part.section(src, start) })
	}
	return p.end()
}

// writeStream writes one part after the other; the last ones are still being acknowledged
// when the next is read.
func (p *put) writeStream(r io.Reader, size int64) ([]quarry.LinkPiece, error) {
	p.expected, p.window = (size+quarry.ChunkBytesMax-1)/quarry.ChunkBytesMax, quarry.WindowBytes
	for more := true; more; {
		part, err := p.begin()
		if err != nil {
			break
		}
		err = part.fill(r, quarry.ChunkBytesMax)
		more = err == nil && part.length == quarry.ChunkBytesMax
		p.work.Go(func() { part.finish(err) })
	}
	return p.end()
}

// begin waits for a slot and makes the next part.
func (p *put) begin() (*part, error) {
	select {
	case p.slots <- struct{}{}:
	case <-p.ctx.Done():
		return nil, context.Cause(p.ctx)
	}
	if len(p.parts) >= quarry.PiecesMax {
		err := quarry.Errorf("put", quarry.TooLarge, "", "at most %d bytes can be put", int64(quarry.PiecesMax)*quarry.ChunkBytesMax)
		p.cancel(err)
		return nil, err
	}
	part := &part{p: p, sealing: waiting.NewGate()}
	part.stream = newStream(p.f, p.owner.id, part, p.window, nil)
	p.parts = append(p.parts, part)
	return part, nil
}

// end waits for all parts and returns their pieces in order.
func (p *put) end() ([]quarry.LinkPiece, error) {
	p.work.Wait()
	if err := context.Cause(p.ctx); err != nil {
		return nil, err
	}
	var pieces []quarry.LinkPiece
	for _, part := range p.parts {
		pieces = append(pieces, part.pieces...)
	}
	return pieces, nil
}

// allocate returns a chunk of the session. Chunks for parts that are soon to begin are asked
// for together.
func (p *put) allocate(ctx context.Context) (quarry.Chunk, error) {
	if err := p.allocating.Lock(ctx); err != nil {
		return quarry.Chunk{}, err
	}
	defer p.allocating.Unlock()
	if len(p.spare) == 0 {
		count := int(min(max(p.expected, 1), int64(cap(p.slots)), allocateMax))
		reply, err := change(ctx, p, func(op quarry.Op, owner quarry.SessionID) (*quarry.AllocateReply, error) {
			reply, err := p.f.masters.Allocate(ctx, &quarry.AllocateRequest{Op: op, Near: p.near, Count: count, Hint: p.path, Owner: owner})
			p.leaked = p.leaked || quarry.KindOf(err) == quarry.WrongShard // or it was done, and then the slot moved
			return reply, err
		})
		if err != nil {
			kind := quarry.KindOf(err)
			p.leaked = p.leaked || kind == quarry.Unavailable || kind == quarry.SessionExpired
			return quarry.Chunk{}, err
		}
		if len(reply.Chunks) == 0 || len(reply.Chunks) > count {
			return quarry.Chunk{}, quarry.Errorf("allocate", quarry.Internal, "", "the master gave %d chunks, %d were asked for", len(reply.Chunks), count)
		}
		p.allocated = true
		p.spare = reply.Chunks
	}
	c := p.spare[0]
	p.spare = p.spare[1:]
	p.expected--
	return c, nil
}

// part is 64 MiB of the file, or what is left of it: one chunk, or more if one fails. Its
// stream is the only one that writes to them.
type part struct {
	p      *put
	stream *stream
	flying waiting.Work
	length int64 // bytes read

	sealing waiting.Gate   // guards what follows; held while a chunk is asked for or sealed
	over    bool           // no further chunk is needed
	used    []quarry.Chunk // chunks written to, in order
	pieces  []quarry.LinkPiece
	note    func() error // called when it is stored; may be nil
}

// fill reads at most n bytes and gives them to the stream.
func (q *part) fill(r io.Reader, n int64) error {
	for q.length < n {
		b := packets.Get().(*packet)
		m, err := io.ReadFull(r, b[:min(int64(len(b)), n-q.length)])
		if m == 0 {
			packets.Put(b)
		} else {
			q.flying.Add()
			addErr := q.stream.add(q.p.ctx, b[:m], func(_ int64, err error) {
				q.flying.Done(err)
				if err != nil {
					q.p.cancel(err)
				}
			}, func() { packets.Put(b) })
			if addErr != nil {
				q.flying.Done(addErr)
				return addErr
			}
			q.length += int64(m)
		}
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return nil
		case err != nil:
			return err
		}
	}
	return nil
}

// finish waits until all is committed, seals the chunks, and gives the slot back. err is what
// went wrong before.
func (q *part) finish(err error) {
	if err == nil {
		err = q.flying.Wait(q.p.ctx)
	}
	if err != nil {
		q.p.cancel(err) // before the records fail because of it
	}
	q.stream.abort(errClosed) // it is idle, or not wanted any more
	q.sealing.Take()          // it may still be asking for a chunk
	q.over = true
	if err == nil {
		if err = q.seal(); err != nil {
			q.p.cancel(err)
		}
	}
	q.sealing.Unlock()
	if err == nil && q.note != nil {
		if err := q.note(); err != nil {
			q.p.cancel(err)
		}
	}
	<-q.p.slots
}

// seal has the last chunk sealed; the others are. All bytes are in them, in order. The gate
// is held.
func (q *part) seal() error {
	var total int64
	for _, c := range q.used {
		if c.State == quarry.ChunkOpen {
			var sealed quarry.Chunk
			wait := q.p.f.patience()
			err := wait.Again(q.p.ctx, func() (err error) {
				sealed, err = q.sealChunk(q.p.ctx, c, nil)
				return err
			})
			if err != nil {
				return err
			}
			c = sealed
		}
		if c.Length > 0 {
			q.pieces = append(q.pieces, quarry.LinkPiece{Handle: c.Handle, Length: c.Length})
		}
		total += c.Length
	}
	if total != q.length {
		return quarry.Errorf("put", quarry.Internal, "", "%d bytes were acknowledged, the sealed chunks have %d", q.length, total)
	}
	return nil
}

func (q *part) sealChunk(ctx context.Context, c quarry.Chunk, suspects []quarry.Suspect) (quarry.Chunk, error) {
	reply, err := q.p.f.masters.Finish(ctx, &quarry.FinishRequest{Session: q.p.owner.id, Handle: c.Handle, Version: c.Version, Suspects: suspects})
	if errors.Is(err, quarry.NotFound) {
		// Only the end of its session takes a chunk away that is not linked yet. Who puts would
		// take NotFound for the path's.
		q.p.f.sessions.expire(q.p.owner)
		err = quarry.Errorf("finish", quarry.SessionExpired, c.Handle.String(), "the session of the put has ended, and nothing was stored; try again")
	}
	if err != nil {
		return quarry.Chunk{}, err
	}
	if s := &reply.Chunk; s.State != quarry.ChunkSealed || s.Handle != c.Handle || s.Length < 0 || s.Length > quarry.ChunkBytesMax {
		return quarry.Chunk{}, quarry.Errorf("finish", quarry.Unavailable, c.Handle.String(), "it is %v, %d bytes", s.State, s.Length)
	}
	return reply.Chunk, nil
}

// next implements tails: the chunk that failed is sealed, another one is taken.
func (q *part) next(ctx context.Context, last quarry.Handle, _ quarry.Version, suspects []quarry.Suspect) (quarry.Chunk, quarry.Piece, error) {
	if err := q.sealing.Lock(ctx); err != nil {
		return quarry.Chunk{}, quarry.Piece{}, err
	}
	defer q.sealing.Unlock()
	if q.over {
		return quarry.Chunk{}, quarry.Piece{}, errClosed
	}
	if n := len(q.used); n > 0 && q.used[n-1].Handle == last && q.used[n-1].State == quarry.ChunkOpen {
		sealed, err := q.sealChunk(ctx, q.used[n-1], suspects)
		if err != nil {
			return quarry.Chunk{}, quarry.Piece{}, err
		}
		q.used[n-1] = sealed
	}
	c, err := q.p.allocate(ctx)
	if err != nil {
		return quarry.Chunk{}, quarry.Piece{}, err
	}
	q.used = append(q.used, c)
	return c, quarry.Piece{}, nil
}
