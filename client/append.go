package client

import (
	"context"
	"slices"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client/waiting"
)

// streamsMax bounds the files that one session appends to: of each the next sequence must be
// remembered for as long as the session lives. Beyond it another session is opened.
const streamsMax = 1 << 14

// Appender appends records to one file. Calls of many goroutines share one session and one
// window, and are batched by the primary. Safe for use by many goroutines.
type Appender struct {
	f      *FS
	path   string
	file   quarry.Inode
	ctx    context.Context
	cancel context.CancelFunc

	inOrder bool // no record may follow one whose outcome is unknown

	opening waiting.Gate // guards use and closed; held while a session is opened
	use     *use         // nil: none yet, or the last one failed
	closed  bool
	flying  waiting.Work
}

// use is a stream that somebody appends to, with its session.
type use struct {
	session *session
	stream  *stream
}

// Append adds a record to the end of a file, once, and returns where it begins; see
// [FileSystem]. Who appends often uses an [Appender], which needs no look-up each time.
func (f *FS) Append(ctx context.Context, path string, record []byte) (int64, error) {
	a, err := f.Appender(ctx, path)
	if err != nil {
		return 0, err
	}
	defer a.Close()
	return a.Append(ctx, record)
}

// Appender returns an appender for a file, which exists. ctx bounds its life.
func (f *FS) Appender(ctx context.Context, path string) (*Appender, error) {
	attr, err := f.lookupFile(ctx, path)
	if err != nil {
		return nil, fail("append", path, err)
	}
	return f.appender(ctx, path, attr.Inode), nil
}

// appender returns an appender for an inode.
func (f *FS) appender(ctx context.Context, path string, file quarry.Inode) *Appender {
	a := &Appender{f: f, path: path, file: file, opening: waiting.NewGate()}
	a.ctx, a.cancel = f.bound(ctx)
	return a
}

// Append adds a record of 1 to quarry.RecordBytesMax bytes, and returns where in the file it
// begins. It returns when the record is on the disks of all replicas. If ctx ends before
// that, the error is Unknown: the record may still be appended.
func (a *Appender) Append(ctx context.Context, record []byte) (int64, error) {
	type result struct {
		offset int64
		err    error
	}
	done := make(chan result, 1)
	err := a.start(ctx, slices.Clone(record), func(offset int64, err error) { done <- result{offset, err} }, nil)
	if err != nil {
		return 0, err
	}
	select {
	case r := <-done:
		return r.offset, fail("append", a.path, r.err)
	case <-ctx.Done():
	case <-a.ctx.Done():
	}
	select {
	case r := <-done:
		return r.offset, fail("append", a.path, r.err)
	default:
	}
	cause := context.Cause(ctx)
	if cause == nil {
		cause = context.Cause(a.ctx)
	}
	return 0, fail("append", a.path, quarry.Errorf("wait", quarry.Unknown, "", "the record was on its way: %w", cause))
}

// AppendFunc begins to append a record and returns when it is in the window, which may be
// full; records of one goroutine stand in the order of its calls. done is called, by another
// goroutine and without delay of its own, with where the record begins or with why that is
// not known. The record is not changed before.
func (a *Appender) AppendFunc(ctx context.Context, record []byte, done func(offset int64, err error)) error {
	return a.start(ctx, record, func(offset int64, err error) { done(offset, fail("append", a.path, err)) }, nil)
}

// start adds a record to the present stream. One that a dead stream does not take may go to
// the next.
func (a *Appender) start(ctx context.Context, record []byte, done func(int64, error), free func()) error {
	if n := len(record); n < 1 || n > quarry.RecordBytesMax {
		return quarry.Errorf("append", quarry.TooLarge, a.path, "a record has 1 to %d bytes, this one has %d", quarry.RecordBytesMax, n)
	}
	if err := context.Cause(a.ctx); err != nil {
		return fail("append", a.path, waiting.Ended(err, nil))
	}
	if ctx != a.ctx {
		var cancel context.CancelFunc
		ctx, cancel = waiting.Join(ctx, a.ctx)
		defer cancel()
	}
	for tries := 0; ; tries++ {
		u, err := a.stream(ctx)
		if err != nil {
			return fail("append", a.path, err)
		}
		a.flying.Add()
		err = u.stream.add(ctx, record, func(offset int64, err error) {
			done(offset, err)
			a.flying.Done(err)
		}, free)
		if err == nil {
			return nil
		}
		a.flying.Done(nil) // nothing was added
		if ctx.Err() != nil || tries > 2 || !a.drop(u) {
			return fail("append", a.path, err)
		}
	}
}

// stream returns the stream of the file, in a session that lives.
func (a *Appender) stream(ctx context.Context) (*use, error) {
	if err := a.opening.Lock(ctx); err != nil {
		return nil, err
	}
	defer a.opening.Unlock()
	if a.closed {
		return nil, quarry.Errorf("append", quarry.Invalid, "", "the appender is closed")
	}
	if a.use == nil {
		u, err := a.f.streamOf(ctx, a.file, a.path)
		if err != nil {
			return nil, err
		}
		a.use = u
	}
	return a.use, nil
}

// drop gives a dead stream up; false if another one must not take its place.
func (a *Appender) drop(u *use) bool {
	a.opening.Take()
	was := a.use == u
	if was {
		a.use = nil
	}
	a.opening.Unlock()
	if was {
		u.session.unuse()
	}
	return !a.inOrder
}

// Flush waits until everything that was begun is settled. It returns the first error of any
// record since the appender was made.
func (a *Appender) Flush(ctx context.Context) error {
	return fail("append", a.path, a.flying.Wait(ctx))
}

// Close waits for what was begun, unless the appender's context has ended, and returns the
// first error of any record.
func (a *Appender) Close() error {
	err := a.flying.Wait(a.ctx)
	a.cancel() // and with that whoever opens a session
	a.opening.Take()
	u := a.use
	a.use, a.closed = nil, true
	a.opening.Unlock()
	if u != nil {
		u.session.unuse()
	}
	return fail("append", a.path, err)
}

// streamOf returns the stream of this client for a file, and a use of its session.
func (f *FS) streamOf(ctx context.Context, file quarry.Inode, path string) (*use, error) {
	for {
		n, err := f.sessions.of(ctx, file.Slot())
		if err != nil {
			return nil, err
		}
		if s := n.stream(file, path); s != nil {
			return &use{n, s}, nil
		}
		f.sessions.retire(n)
	}
}

// stream returns the session's stream for a file, and counts a use; nil if the session can
// have no further one.
func (n *session) stream(file quarry.Inode, path string) *stream {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gone {
		return nil
	}
	s := n.streams[file]
	if s != nil {
		over, sent := s.over()
		if over && sent {
			return nil
		}
		if over {
			s = nil
		}
	}
	if s == nil {
		if len(n.streams) >= streamsMax {
			return nil
		}
		s = newStream(n.f, n.id, &fileTails{n.f, n.id, file, path}, quarry.WindowBytes, nil)
		s.died = func(sent bool) { n.lose(file, s, sent) }
		n.streams[file] = s
	}
	n.users++
	return s
}

// lose forgets a stream that failed.
func (n *session) lose(file quarry.Inode, s *stream, sent bool) {
	n.mu.Lock()
	if n.streams[file] == s && !sent {
		delete(n.streams, file)
	}
	n.mu.Unlock()
	if sent {
		n.f.sessions.retire(n)
	}
}

// fileTails finds the chunks of a file to append to.
type fileTails struct {
	f       *FS
	session quarry.SessionID
	file    quarry.Inode
	path    string
}

func (t *fileTails) next(ctx context.Context, last quarry.Handle, version quarry.Version, suspects []quarry.Suspect) (quarry.Chunk, quarry.Piece, error) {
	reply, err := t.f.masters.Roll(ctx, &quarry.RollRequest{
		Session: t.session, File: t.file, Last: last, Version: version, Suspects: suspects, Hint: t.path,
	})
	if err != nil {
		return quarry.Chunk{}, quarry.Piece{}, err
	}
	return reply.Chunk, reply.Piece, nil
}
