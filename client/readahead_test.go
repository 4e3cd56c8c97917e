package client_test

import (
	"bytes"
	"context"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
)

// remote has the replies of servers in this process come as if over a network, and counts.
type remote struct {
	mu       sync.Mutex
	requests int
	places   map[*byte]int // where replies were received
	spoil    func(server quarry.ServerID, data []byte)
	delay    func()                // before the reply begins
	stall    func(context.Context) // before the bytes come
}

type remoteServer struct {
	quarry.ChunkServer
	*remote
	id quarry.ServerID
}

func (s remoteServer) Read(ctx context.Context, req *quarry.ReadRequest) (*quarry.ReadReply, error) {
	reply, err := s.ChunkServer.Read(ctx, &quarry.ReadRequest{ChunkRef: req.ChunkRef, Offset: req.Offset, Length: req.Length, Validated: req.Validated})
	if err != nil || len(reply.Data) == 0 {
		return reply, err
	}
	data := bytes.Clone(reply.Data)
	if s.spoil != nil {
		s.spoil(s.id, data)
	}
	if s.delay != nil {
		s.delay()
	}
	p := req.Sink.Place(len(data))[:len(data)]
	s.mu.Lock()
	s.requests++
	s.places[&p[0]]++
	s.mu.Unlock()
	if s.stall != nil {
		s.stall(ctx)
	}
	if ctx.Err() != nil {
		return nil, quarry.Errorf("read", quarry.Unavailable, "", "%w", ctx.Err())
	}
	for done := 0; done < len(data); {
		done += copy(p[done:min(done+100_000, len(data))], data[done:])
		req.Sink.Arrived(reply.CRCs, p[:done])
	}
	reply.Data = p
	return reply, nil
}

// over opens a file through a remote.
func over(e *env, r *remote, path string) *client.File {
	e.Helper()
	r.places = map[*byte]int{}
	files := client.New(e.c.Masters(), func(m quarry.Member) quarry.ChunkServer {
		return remoteServer{e.c.Server(m.Server), r, m.Server}
	}, client.Options{Clock: e.c.Clock()})
	e.Cleanup(func() { files.Close() })
	f, err := files.Open(e.Context(), path)
	e.must(err)
	return f
}

// readBy reads all of a file by one buffer, and what pause does between two reads.
func readBy(e *env, f *client.File, buf []byte, pause func(i int)) []byte {
	e.Helper()
	var all []byte
	for i := 0; ; i++ {
		n, err := io.ReadFull(f, buf)
		all = append(all, buf[:n]...)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return all
		}
		e.must(err)
		pause(i)
	}
}

// A reader with enough memory has it filled without a copy, if it comes in time; one that
// comes late or with little memory gets the same bytes from buffers, without waiting.
func TestReadIntoTheReadersMemory(t *testing.T) {
	const size = 20<<20 + 12345
	for name, c := range map[string]struct {
		buffer      int
		pause       time.Duration
		least, most int           // requests of 21 or 22 received in the reader's memory
		within      time.Duration // for all pauses
	}{
		"large":         {1 << 20, 0, 20, 22, 100 * time.Millisecond},
		"larger":        {3 << 20, 0, 18, 22, 100 * time.Millisecond},
		"a little late": {1 << 20, 500 * time.Microsecond, 18, 22, 100 * time.Millisecond},
		"late":          {1 << 20, 50 * time.Millisecond, 1, 10, 0},
		"little memory": {100 << 10, 0, 0, 0, 100 * time.Millisecond},
		"unaligned":     {1<<20 - 1, 0, 0, 2, 200 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, small, client.Options{}, func(e *env) {
				data := clienttest.Bytes(1, size)
				e.put("/f", data)
				r := &remote{}
				f := over(e, r, "/f")
				buf := make([]byte, c.buffer)
				start := time.Now()
				got := readBy(e, f, buf, func(int) { e.sleep(c.pause) })
				if took := time.Since(start); c.within > 0 && took > c.within {
					e.Errorf("it took %v", took)
				}
				e.must(f.Close())
				if !bytes.Equal(got, data) {
					e.Fatalf("%d bytes were read, want %d; they differ at %d", len(got), len(data), differ(got, data))
				}
				mine := 0
				for i := range buf {
					mine += r.places[&buf[i]]
				}
				if mine < c.least || mine > c.most || r.requests > 23 {
					e.Errorf("%d of %d replies were received in the reader's memory, want %d to %d", mine, r.requests, c.least, c.most)
				}
			})
		})
	}
}

// That the reader is late makes no server look slow: none is asked twice.
func TestLateReaderAsksOnce(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		data := clienttest.Bytes(1, 30<<20)
		e.put("/f", data)
		r := &remote{delay: func() { e.sleep(35 * time.Millisecond) }} // with placeMax more than health.HedgeMin
		f := over(e, r, "/f")
		got := readBy(e, f, make([]byte, 1<<20), func(int) { e.sleep(70 * time.Millisecond) })
		e.must(f.Close())
		if !bytes.Equal(got, data) {
			e.Errorf("%d bytes were read, want %d", len(got), len(data))
		}
		if r.requests > 32 {
			e.Errorf("%d requests for 30 MiB", r.requests)
		}
	})
}

// Broken bytes in the reader's memory are replaced by those of the next replica, and a server
// that stalls in the middle of a reply is passed over: soon when it is known how long replies take.
func TestReadIntoTheReadersMemoryAgain(t *testing.T) {
	stalled := func(nth int32) func(*remote, quarry.ServerID) {
		return func(r *remote, _ quarry.ServerID) {
			var replies atomic.Int32
			r.stall = func(ctx context.Context) {
				if replies.Add(1) == nth {
					<-ctx.Done()
				}
			}
		}
	}
	for name, c := range map[string]struct {
		set    func(*remote, quarry.ServerID)
		within time.Duration
	}{
		"corrupt": {func(r *remote, bad quarry.ServerID) {
			r.spoil = func(s quarry.ServerID, data []byte) {
				if s == bad {
					data[len(data)-1]++
				}
			}
		}, time.Second},
		"stalled at first": {stalled(1), 4 * time.Second},
		"stalled":          {stalled(4), time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, small, client.Options{}, func(e *env) {
				data := clienttest.Bytes(1, 10<<20)
				e.put("/f", data)
				r := &remote{}
				c.set(r, holders(e, "/f")[0].ID())
				f := over(e, r, "/f")
				start := time.Now()
				got := readBy(e, f, make([]byte, 1<<20), func(int) {})
				if took := time.Since(start); took > c.within {
					e.Errorf("it took %v", took)
				}
				e.must(f.Close())
				if !bytes.Equal(got, data) {
					e.Errorf("%d bytes were read, want %d; they differ at %d", len(got), len(data), differ(got, data))
				}
			})
		})
	}
}

// A close ends replies that wait for the reader, and leaves nothing behind.
func TestCloseWhileRepliesWait(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.put("/f", clienttest.Bytes(1, 20<<20))
		before := goroutines()
		f := over(e, &remote{}, "/f")
		buf := make([]byte, 1<<20)
		for range 4 {
			_, err := io.ReadFull(f, buf)
			e.must(err)
		}
		e.sleep(2 * time.Millisecond)
		start := time.Now()
		e.must(f.Close())
		if took := time.Since(start); took > time.Millisecond {
			e.Errorf("it took %v", took)
		}
		if after := goroutines(); after > before+2 { // of the other client
			e.Errorf("%d goroutines, there were %d", after, before)
		}
	})
}

// Many readers at once do not read ahead as far as one alone, and get their bytes.
func TestManyReaders(t *testing.T) {
	const readers = 8
	run(t, small, client.Options{}, func(e *env) {
		data := clienttest.Bytes(1, 20<<20+12345)
		e.put("/f", data)
		count := &counting{delay: func(context.Context) error { return nil }}
		files := client.New(e.c.Masters(), func(m quarry.Member) quarry.ChunkServer {
			return counted{e.c.Server(m.Server), count}
		}, client.Options{Clock: e.c.Clock()})
		defer files.Close()
		var all sync.WaitGroup
		for i := range readers {
			all.Go(func() {
				var got bytes.Buffer
				f, err := files.Open(e.Context(), "/f")
				if err == nil {
					_, err = io.CopyBuffer(struct{ io.Writer }{&got}, struct{ io.Reader }{f}, make([]byte, 1<<20))
					f.Close()
				}
				if err != nil || !bytes.Equal(got.Bytes(), data) {
					e.Errorf("reader %d got %d bytes, want %d: %v", i, got.Len(), len(data), err)
				}
			})
		}
		all.Wait()
		if count.most > 2*readers {
			e.Errorf("%d requests were under way for %d readers", count.most, readers)
		}
	})
}
