package client

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client/waiting"
)

const (
	// waitTime is how long one wait at a server lasts. A server that then says nothing at all
	// is passed over.
	waitTime = time.Second
	// waitsMax is how many waits may end without anything before the master is asked whether
	// the chunk is still the tail.
	waitsMax = 30
	// idlePoll is how often a file that nobody writes to is looked at.
	idlePoll = time.Second
	// tailBytes is the least size of a tail's buffer.
	tailBytes = 64 << 10
)

// Tail reads a file as it grows. Read waits at the end for more; it returns bytes as soon as
// they are committed, in order, and never io.EOF; Records gives the records that they were
// appended in. It is used by one goroutine at a time.
type Tail struct {
	f      *FS
	path   string
	layout *layout
	ctx    context.Context
	cancel context.CancelFunc

	reading  waiting.Gate // guards what follows; held while Read waits
	position atomic.Int64
	known    int64 // bytes that are known to be there
	buf      []byte
	unread   []byte // of buf
}

var _ io.ReadCloser = (*Tail)(nil)

// Tail returns a reader that begins at an offset, at most the file's length, or at the
// present end if from is negative. ctx bounds its life.
func (f *FS) Tail(ctx context.Context, path string, from int64) (*Tail, error) {
	attr, err := f.lookupFile(ctx, path)
	if err != nil {
		return nil, fail("tail", path, err)
	}
	t := &Tail{f: f, path: path, reading: waiting.NewGate(), layout: f.layout(attr.Inode)}
	t.position.Store(from)
	if t.known, err = t.layout.end(ctx); err != nil {
		return nil, fail("tail", path, err)
	}
	switch {
	case from < 0:
		t.position.Store(t.known)
	case from > t.known:
		return nil, quarry.Errorf("tail", quarry.Invalid, path, "the file has %d bytes, less than %d", t.known, from)
	}
	t.ctx, t.cancel = f.bound(ctx)
	return t, nil
}

// Offset returns where in the file the next byte read stands.
func (t *Tail) Offset() int64 { return t.position.Load() }

// Read implements io.Reader. It returns an error when the context ends or the tail is closed.
func (t *Tail) Read(p []byte) (int, error) {
	t.reading.Take()
	defer t.reading.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	if len(t.unread) == 0 {
		if err := t.fetch(p); err != nil {
			return 0, fail("tail", t.path, err)
		}
	}
	n := copy(p, t.unread)
	t.unread = t.unread[n:]
	t.position.Add(int64(n))
	return n, nil
}

// fetch waits until there are bytes behind the position, and reads some of them.
func (t *Tail) fetch(p []byte) error {
	position := t.position.Load()
	if position >= t.known {
		known, err := t.layout.grown(t.ctx, t.known)
		if err != nil {
			return err
		}
		t.known = known
	}
	n := int(min(t.known-position, segmentBytes))
	if len(p) < n && len(t.buf) < n {
		t.buf = make([]byte, min(max(n, tailBytes), segmentBytes))
	}
	into := p
	if len(p) < n {
		into = t.buf
	}
	t.unread = into[:n]
	if err := t.layout.read(t.ctx, t.unread, position); err != nil {
		t.unread = nil
		return err
	}
	return nil
}

// Close ends the tail, and a Read that waits.
func (t *Tail) Close() error {
	t.cancel()
	t.reading.Take()
	defer t.reading.Unlock()
	t.unread, t.buf = nil, nil
	return nil
}

// grown waits until the file is longer than length, and returns how long it is known to be.
func (l *layout) grown(ctx context.Context, length int64) (int64, error) {
	p, idle := l.f.patience(), idlePoll/32
	var last error
	for {
		reply, err := l.f.masters.Stat(ctx, &quarry.StatRequest{Inode: l.file})
		switch {
		case err != nil && !waiting.Transient(err):
			return 0, err
		case err == nil && reply.Attr.Length > length:
			return reply.Attr.Length, l.note(reply)
		case err == nil && !reply.Attr.Open: // nobody writes
			if l.f.clock.Sleep(ctx, idle) != nil {
				return 0, waiting.Ended(context.Cause(ctx), nil)
			}
			idle = min(2*idle, idlePoll)
			p.Progress()
			continue
		case err == nil:
			tail, openErr := openOf(reply)
			if openErr != nil {
				return 0, openErr
			}
			l.setOpen(tail)
			n, over, waitErr := l.f.waitAt(ctx, tail, length)
			if n > length {
				return n, nil
			}
			if over {
				p.Progress()
			}
			last = waitErr
		default:
			last = err
		}
		if last == nil {
			last = quarry.Errorf("wait", quarry.Busy, "", "the chunk is being sealed")
		}
		if err := p.Wait(ctx, last); err != nil {
			return 0, err
		}
	}
}

// note keeps what a master's answer says of the tail.
func (l *layout) note(reply *quarry.StatReply) error {
	if !reply.Attr.Open {
		l.setOpen(nil)
		return nil
	}
	tail, err := openOf(reply)
	if err == nil {
		l.setOpen(tail)
	}
	return err
}

// waitAt waits at a member of an open chunk, any that answers, until the file is longer than
// length, or there is reason to ask the master again: over.
func (f *FS) waitAt(ctx context.Context, tail *open, length int64) (grown int64, over bool, err error) {
	err = quarry.Errorf("wait", quarry.Unavailable, tail.chunk.Handle.String(), "no member answers")
	offset := tail.piece.ChunkOffset + max(0, length-tail.piece.Offset)
	members := f.order(tail.chunk.Members)
	for i, waits := 0, 0; i < len(members) && waits < waitsMax; waits++ {
		try, cancel := f.clock.WithTimeout(ctx, waitTime)
		reply, waitErr := f.servers(members[i]).Wait(try, &quarry.WaitRequest{ChunkRef: reference(tail.chunk, members[i]), Offset: offset})
		cancel()
		switch {
		case ctx.Err() != nil:
			return 0, false, waiting.Ended(context.Cause(ctx), nil)
		case waitErr != nil:
			err = waitErr
			if quarry.KindOf(err) == quarry.Unavailable {
				f.health.Failed(members[i].Server)
			}
			i++
		case reply.Commit > offset && reply.Commit <= quarry.ChunkBytesMax:
			return tail.piece.Offset + reply.Commit - tail.piece.ChunkOffset, false, nil
		case reply.Sealed:
			return 0, true, nil
		default:
			err = nil
		}
	}
	return 0, err == nil, err
}
