package client_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
)

// pausing gives a reader's bytes in parts and does something in between.
type pausing struct {
	data  []byte
	parts int
	at    int
	pause func(part int)
}

func (p *pausing) Read(b []byte) (int, error) {
	if p.at >= len(p.data) {
		return 0, io.EOF
	}
	size := len(p.data)/p.parts + 1
	if p.at%size == 0 {
		p.pause(p.at / size)
	}
	n := copy(b[:min(len(b), size-p.at%size)], p.data[p.at:])
	p.at += n
	return n, nil
}

func TestPutSurvives(t *testing.T) {
	for name, meanwhile := range map[string]func(*env, int){
		"a server dies":     func(e *env, part int) { e.c.Servers()[0].Kill() },
		"a server hangs":    func(e *env, part int) { e.c.Servers()[0].Hang() },
		"a server restarts": func(e *env, part int) { e.c.Servers()[0].Kill(); e.c.Servers()[0].Restart() },
		"appends' answers":  func(e *env, part int) { e.c.Servers()[0].SetFaults(clienttest.Faults{LoseAcks: 5}) },
		"masters' answers": func(e *env, part int) {
			e.c.LoseAnswers("link", 2)
			e.c.LoseAnswers("finish", 2)
			e.c.LoseAnswers("chunk", 2)
		},
		"allocation answers": func(e *env, part int) { e.c.LoseAnswers("allocate", 2) },
		"the master is away": func(e *env, part int) {
			e.c.SetDown(true)
			go func() { e.sleep(3 * time.Second); e.c.SetDown(false) }()
		},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, small, client.Options{}, func(e *env) {
				data := clienttest.Bytes(1, 3<<20+17)
				r := &pausing{data: data, parts: 4, pause: func(part int) {
					e.sleep(10 * time.Millisecond)
					if part == 2 {
						meanwhile(e, part)
						e.sleep(10 * time.Millisecond)
					}
					if _, err := e.files.Stat(e.Context(), "/f"); err == nil {
						e.Error("the file is visible before it is whole")
					}
				}}
				if name == "the master is away" { // it cannot be asked meanwhile
					r.pause = func(part int) {
						if part == 2 {
							meanwhile(e, part)
						}
					}
				}
				info, err := e.files.Put(e.Context(), "/f", r, client.PutOptions{Size: int64(len(data))})
				e.must(err)
				if info.Size() != int64(len(data)) {
					e.Errorf("size %d", info.Size())
				}
				e.c.Servers()[0].Resume()
				e.expect("/f", data)
			})
		})
	}
}

// All of a large file's chunks are written at the same time when the source allows it.
func TestPutWritesChunksInParallel(t *testing.T) {
	run(t, clienttest.Config{Copies: 1, Delay: time.Millisecond}, client.Options{}, func(e *env) {
		data := clienttest.Bytes(1, quarry.ChunkBytesMax+quarry.ChunkBytesMax/4)
		start := time.Now()
		_, err := e.files.Put(e.Context(), "/f", bytes.NewReader(data[quarry.ChunkBytesMax/2:]), client.PutOptions{})
		e.must(err)
		one := time.Since(start)
		start = time.Now()
		_, err = e.files.Put(e.Context(), "/f", bytes.NewReader(data), client.PutOptions{})
		e.must(err)
		if two := time.Since(start); two > one*3/2 {
			e.Errorf("one chunk took %v, two took %v", one, two)
		}
		e.expect("/f", data)
		if n := e.c.Count("allocate"); n != 2 {
			e.Errorf("%d allocations, want 2", n)
		}
		if n := e.c.Sessions(); n != 1 {
			e.Errorf("%d sessions", n)
		}
	})
}

func TestPutMemory(t *testing.T) {
	run(t, clienttest.Config{Copies: 1}, client.Options{}, func(e *env) {
		for _, s := range e.c.Servers() {
			defer s.Resume()
		}
		e.put("/before", make([]byte, 40<<20)) // then it is known that the servers take much
		read := 0
		ctx, cancel := context.WithCancel(e.Context())
		r := &pausing{data: make([]byte, 40<<20), parts: 160, pause: func(part int) {
			read = part * (40 << 20) / 160
			if part == 1 {
				e.sleep(10 * time.Millisecond)
				for _, s := range e.c.Servers() {
					s.Hang()
				}
			}
		}}
		go func() { e.sleep(500 * time.Millisecond); cancel() }()
		_, err := e.files.Put(ctx, "/f", r, client.PutOptions{})
		e.want(err, context.Canceled)
		if read > 17<<20 || read < 2<<20 {
			e.Errorf("%d bytes were read ahead of a server that hangs", read)
		}
	})
}

// A put that is cancelled or fails leaves nothing: no name, no goroutine, no chunk that its
// session would keep.
func TestPutLeavesNothing(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.put("/f", []byte("old"))
		e.sleep(time.Second)
		before := goroutines()
		broken := errors.New("the source broke")
		r := &pausing{data: make([]byte, 1<<20), parts: 2, pause: func(int) { e.sleep(time.Second) }}
		_, err := e.files.Put(e.Context(), "/f", io.MultiReader(r, failing{broken}), client.PutOptions{})
		e.want(err, broken)

		ctx, cancel := context.WithCancel(e.Context())
		_, err = e.files.Put(ctx, "/f", &pausing{data: make([]byte, 1<<20), parts: 2, pause: func(part int) {
			if part == 1 {
				cancel()
			}
		}}, client.PutOptions{})
		e.want(err, context.Canceled)
		if errors.Is(err, quarry.Unknown) {
			e.Errorf("nothing can have been stored: %v", err)
		}
		e.expect("/f", []byte("old"))
		e.sleep(time.Second)
		if n := e.c.Unlinked(); n != 0 {
			e.Errorf("%d chunks are kept that nobody wants", n)
		}
		if after := goroutines(); after > before {
			e.Errorf("%d goroutines, there were %d", after, before)
		}
		_, err = e.files.Put(e.Context(), "/nowhere/f", bytes.NewReader(nil), client.PutOptions{})
		e.want(err, fs.ErrNotExist)
	})
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestPutWithoutSpace(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.c.Fail("allocate", quarry.Errorf("allocate", quarry.NoSpace, "", "all disks are full"))
		start := time.Now()
		_, err := e.files.Put(e.Context(), "/f", bytes.NewReader(make([]byte, 1<<20)), client.PutOptions{})
		e.want(err, quarry.NoSpace)
		if d := time.Since(start); d > time.Second {
			e.Errorf("it took %v", d)
		}
	})
}

// The outcome of a put is unknown only if the last step has no answer.
func TestPutUnknown(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.put("/other", []byte("x"))
		e.c.LoseAnswers("link", 1000)
		ctx, cancel := context.WithTimeout(e.Context(), 3*time.Second)
		defer cancel()
		_, err := e.files.Put(ctx, "/f", bytes.NewReader(make([]byte, 1<<20)), client.PutOptions{})
		e.want(err, quarry.Unknown)
		e.want(err, context.DeadlineExceeded)
		if info, err := e.files.Stat(e.Context(), "/f"); err != nil || info.Size() != 1<<20 {
			e.Errorf("here it was stored: %v", err)
		}
	})
}

// When the session of a put ends under it, the put says so; the next one has another session.
func TestPutSessionExpires(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.put("/f", []byte("x"))
		r := &pausing{data: clienttest.Bytes(1, 1<<20), parts: 4, pause: func(part int) {
			if part == 3 {
				e.sleep(50 * time.Millisecond) // it has its chunk
				e.c.ExpireSessions()
			}
		}}
		_, err := e.files.Put(e.Context(), "/f", r, client.PutOptions{})
		e.want(err, quarry.SessionExpired)
		if errors.Is(err, quarry.NotFound) || errors.Is(err, quarry.Unknown) {
			e.Errorf("nothing was stored, and the path is there: %v", err)
		}
		e.expect("/f", []byte("x"))
		e.put("/f", clienttest.Bytes(2, 1<<20))
	})
}
