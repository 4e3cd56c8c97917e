package client_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
	"github.com/quarryfs/quarry/client/resume"
	"github.com/quarryfs/quarry/crc32c"
)

// ledger is one in memory, of the bytes that it has.
type ledger struct {
	data    []byte
	changed bool  // the source is another one
	check   error // what Check says

	mu      sync.Mutex
	session quarry.SessionID
	parts   map[int64]noted
	begun   int
	alive   int
	ended   bool
}

type noted struct {
	n      int64
	crc    uint32
	pieces []quarry.LinkPiece
}

var _ resume.Ledger = (*ledger)(nil)

func (l *ledger) Earlier() (quarry.SessionID, bool) { return l.session, !l.changed }

func (l *ledger) Begin(session quarry.SessionID) error {
	l.session, l.parts = session, map[int64]noted{}
	l.begun++
	l.changed = false
	return nil
}

func (l *ledger) Alive(time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.alive++
}

func (l *ledger) Part(offset, n int64) []quarry.LinkPiece {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.parts[offset]
	if !ok || p.n != n || crc32c.Checksum(l.data[offset:offset+n]) != p.crc {
		return nil
	}
	return p.pieces
}

func (l *ledger) Add(offset, n int64, crc uint32, pieces []quarry.LinkPiece) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.parts[offset] = noted{n, crc, pieces}
	return nil
}

func (l *ledger) Check() error { return l.check }
func (l *ledger) End()         { l.ended, l.session = true, 0 }

// tallied is a source that counts what is read of it, and calls at before each read.
type tallied struct {
	*bytes.Reader
	read atomic.Int64
	at   func(offset int64) error
}

func (c *tallied) ReadAt(b []byte, offset int64) (int, error) {
	if c.at != nil {
		if err := c.at(offset); err != nil {
			return 0, err
		}
	}
	n, err := c.Reader.ReadAt(b, offset)
	c.read.Add(int64(n))
	return n, err
}

var _ interface {
	io.ReaderAt
	io.Seeker
} = (*tallied)(nil)

var errCut = errors.New("cut off")

// cut stores the first of two chunks of a file, fails in the second, and closes the client, as
// the end of a process does, but for the sessions' sake.
func (e *env) cut(l *ledger) {
	e.Helper()
	first := e.c.Client(client.Options{Parallel: 1})
	_, err := first.Put(e.Context(), "/f", &tallied{Reader: bytes.NewReader(l.data), at: func(offset int64) error {
		if offset > quarry.ChunkBytesMax+1<<20 {
			return errCut
		}
		return nil
	}}, client.PutOptions{Ledger: l})
	e.want(err, errCut)
	e.must(first.Close())
	if _, err := e.files.Stat(e.Context(), "/f"); quarry.KindOf(err) != quarry.NotFound {
		e.Errorf("something is to be seen: %v", err)
	}
	if len(l.parts) != 1 || l.ended {
		e.Fatalf("%d parts are noted", len(l.parts))
	}
}

// goOn puts the file again, and returns how much was read of it.
func (e *env) goOn(l *ledger, opts client.PutOptions) (read int64, err error) {
	opts.Ledger = l
	src := &tallied{Reader: bytes.NewReader(l.data)}
	_, err = e.files.Put(e.Context(), "/f", src, opts)
	return src.read.Load(), err
}

// TestPutGoesOn has another client go on with a put that failed, after this and that.
func TestPutGoesOn(t *testing.T) {
	data := clienttest.Bytes(1, quarry.ChunkBytesMax+2<<20)
	left, all := int64(2<<20), int64(len(data))
	for name, x := range map[string]struct {
		between func(*env, *ledger)
		read    int64
		begun   int
	}{
		"nothing": {func(e *env, l *ledger) {}, left, 1},
		"answers are lost": {func(e *env, l *ledger) {
			for _, op := range []string{"session", "allocate", "finish", "chunk", "link"} {
				e.c.LoseAnswers(op, 2)
			}
		}, left, 1},
		"a server dies": {func(e *env, l *ledger) { e.c.Servers()[0].Kill() }, left, 1},
		"the slots move": {func(e *env, l *ledger) {
			e.c.MoveSlots(quarry.SlotRange{First: 0, Last: quarry.Slots/2 - 1}, 2)
			e.c.MoveSlots(quarry.SlotRange{First: quarry.Slots / 2, Last: quarry.Slots - 1}, 1)
		}, left, 1},
		"the session ends": {func(e *env, l *ledger) {
			e.c.ExpireSessions()
			err := e.files.Mkdir(e.Context(), "/d") // this client's own has ended, too
			e.want(err, quarry.SessionExpired)
		}, all, 2},
		"the replicas are lost":  {func(e *env, l *ledger) { e.c.LoseUnlinked() }, all, 1},
		"a byte is another one":  {func(e *env, l *ledger) { l.data = bytes.Clone(data); l.data[17]++ }, all, 1},
		"the file is another":    {func(e *env, l *ledger) { l.changed = true }, all, 2},
		"it was put by somebody": {func(e *env, l *ledger) { e.put("/f", []byte("theirs")) }, left, 1},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, clienttest.Config{Copies: 2, Delay: time.Millisecond}, client.Options{}, func(e *env) {
				e.put("/other", []byte("x"))
				l := &ledger{data: data}
				e.cut(l)
				e.sleep(time.Second)
				x.between(e, l)
				read, err := e.goOn(l, client.PutOptions{})
				e.must(err)
				if read != x.read || l.begun != x.begun || !l.ended {
					e.Errorf("%d bytes were read, want %d; begun %d times; ended: %v", read, x.read, l.begun, l.ended)
				}
				e.expect("/f", l.data)
				e.sleep(time.Second)
				if n := e.c.Unlinked(); n != 0 {
					e.Errorf("%d chunks are kept that nobody wants", n)
				}
			})
		})
	}
}

// TestPutIsKept sees that what is kept for others lives as long as somebody wants it, and that it is given up when
// it is of no use.
func TestPutIsKept(t *testing.T) {
	data := clienttest.Bytes(1, quarry.ChunkBytesMax+2<<20)
	run(t, clienttest.Config{Copies: 1, Expiry: time.Minute}, client.Options{}, func(e *env) {
		l := &ledger{data: data}
		e.cut(l)
		e.sleep(50 * time.Second)
		slept := false
		_, err := e.files.Put(e.Context(), "/f", &tallied{Reader: bytes.NewReader(data), at: func(int64) error {
			if !slept {
				slept = true
				e.sleep(10 * time.Minute)
			}
			return nil
		}}, client.PutOptions{Ledger: l})
		e.must(err)
		if l.begun != 1 || l.alive < 30 {
			e.Errorf("begun %d times, and told %d times that it is wanted", l.begun, l.alive)
		}
		e.expect("/f", data)

		l = &ledger{data: data, check: errCut}
		_, err = e.goOn(l, client.PutOptions{})
		e.want(err, errCut)
		e.sleep(time.Second)
		if n := e.c.Unlinked(); n != 0 || !l.ended {
			e.Errorf("%d chunks are kept of a source that is another one now; ended: %v", n, l.ended)
		}
		l = &ledger{data: data}
		_, err = e.goOn(l, client.PutOptions{Keep: true})
		e.want(err, quarry.Exists)
		if l.ended {
			e.Error("what was stored is given up, though it may be put in the place of what is there")
		}
		read, err := e.goOn(l, client.PutOptions{})
		e.must(err)
		if read != 0 {
			e.Errorf("%d bytes were read once more", read)
		}
	})
}

// TestPutWasLinked goes on with a put that ended when it had linked the file, without knowing it.
func TestPutWasLinked(t *testing.T) {
	data := clienttest.Bytes(1, 2<<20)
	for name, between := range map[string]func(*env){
		"it is there":  func(e *env) {},
		"it was moved": func(e *env) { e.must(e.files.Rename(e.Context(), "/f", "/g")) },
		"replaced":     func(e *env) { e.put("/f", []byte("theirs")) },
	} {
		for _, keep := range []bool{false, true} {
			run(t, small, client.Options{}, func(e *env) {
				l := &ledger{data: data}
				e.c.LoseAnswers("link", 1<<20)
				ctx, cancel := context.WithTimeout(e.Context(), 3*time.Second)
				defer cancel()
				_, err := e.files.Put(ctx, "/f", bytes.NewReader(data), client.PutOptions{Ledger: l, Keep: keep})
				e.want(err, quarry.Unknown)
				e.c.LoseAnswers("link", 0)
				was, err := e.files.Stat(e.Context(), "/f")
				e.must(err)
				between(e)
				read, err := e.goOn(l, client.PutOptions{Keep: keep})
				if read != 0 {
					e.Errorf("%s: %d bytes were read", name, read)
				}
				if name == "it is there" {
					e.must(err)
					is, err := e.files.Stat(e.Context(), "/f")
					e.must(err)
					if is.Attr.Inode != was.Attr.Inode || !l.ended {
						e.Errorf("it was stored twice; ended: %v", l.ended)
					}
					return
				}
				e.want(err, quarry.Exists)
				if name == "replaced" {
					e.expect("/f", []byte("theirs"))
				}
				if read, err = e.goOn(l, client.PutOptions{}); keep && name == "replaced" { // which was refused because of the name
					e.want(err, quarry.Exists)
					read, err = e.goOn(l, client.PutOptions{})
				}
				e.must(err)
				if read != int64(len(data)) {
					e.Errorf("%s: %d bytes were read when all was given up", name, read)
				}
				e.expect("/f", data)
			})
		}
	}
}
