package client_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
)

const gib = 1 << 30

// Reading 1 GiB in 64 KiB requests asks the masters at most 20 times.
func TestReadAsksTheMastersRarely(t *testing.T) {
	for name, read := range map[string]func(*client.File, []byte, int64) (int, error){
		"Read":   func(f *client.File, p []byte, _ int64) (int, error) { return io.ReadFull(f, p) },
		"ReadAt": func(f *client.File, p []byte, at int64) (int, error) { return f.ReadAt(p, at) },
	} {
		t.Run(name, func(t *testing.T) {
			run(t, clienttest.Config{}, client.Options{}, func(e *env) {
				e.c.PutZeros("f", gib)
				before := e.c.Count("")
				f, err := e.files.Open(e.Context(), "/f")
				e.must(err)
				p := make([]byte, 64<<10)
				total := int64(0)
				for total < gib {
					n, err := read(f, p, total)
					if n == 0 || err != nil && total+int64(n) < gib {
						e.Fatalf("%d bytes at %d: %v", n, total, err)
					}
					total += int64(n)
				}
				if n, err := read(f, p, gib); n != 0 || err != io.EOF {
					e.Errorf("at the end: %d, %v", n, err)
				}
				e.must(f.Close())
				if n := e.c.Count("") - before; n > 20 {
					e.Errorf("the masters were asked %d times", n)
				}
			})
		})
	}
}

// counting counts how many reads are under way, at all servers.
type counting struct {
	mu        sync.Mutex
	now, most int
	nowBytes  int64
	mostBytes int64
	delay     func(context.Context) error
}

type counted struct {
	quarry.ChunkServer
	*counting
}

func (c counted) Read(ctx context.Context, req *quarry.ReadRequest) (*quarry.ReadReply, error) {
	c.mu.Lock()
	c.now++
	c.nowBytes += req.Length
	c.most, c.mostBytes = max(c.most, c.now), max(c.mostBytes, c.nowBytes)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.now--
		c.nowBytes -= req.Length
		c.mu.Unlock()
	}()
	if err := c.delay(ctx); err != nil {
		return nil, err
	}
	return c.ChunkServer.Read(ctx, req)
}

// A sequential reader has several requests under way, and not more than it may.
func TestReadAheadIsBounded(t *testing.T) {
	run(t, clienttest.Config{Copies: 1}, client.Options{}, func(e *env) {
		e.c.PutZeros("f", gib)
		count := &counting{delay: func(ctx context.Context) error {
			e.sleep(10 * time.Millisecond)
			return ctx.Err()
		}}
		files := client.New(e.c.Masters(), func(m quarry.Member) quarry.ChunkServer {
			return counted{e.c.Server(m.Server), count}
		}, client.Options{Clock: e.c.Clock(), ReadAhead: 6 << 20})
		defer files.Close()
		f, err := files.Open(e.Context(), "/f")
		e.must(err)
		p := make([]byte, 256<<10)
		for range 400 {
			if _, err := io.ReadFull(f, p); err != nil {
				e.Fatal(err)
			}
		}
		e.must(f.Close())
		if count.mostBytes > 6<<20 || count.most < 5 {
			e.Errorf("up to %d requests, %d bytes were under way", count.most, count.mostBytes)
		}
	})
}

// A first small read fetches little.
func TestFirstReadIsSmall(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.c.PutZeros("f", gib)
		f, err := e.files.Open(e.Context(), "/f")
		e.must(err)
		_, err = f.Read(make([]byte, 10))
		e.must(err)
		e.must(f.Close())
		reads := 0
		for _, s := range e.c.Servers() {
			reads += s.Count("read")
		}
		if reads != 1 {
			e.Errorf("%d requests for 10 bytes", reads)
		}
	})
}

// holders returns the servers of a file's first chunk, in the order that they are asked in.
func holders(e *env, path string) []*clienttest.Server {
	var out []*clienttest.Server
	for _, m := range e.c.Chunks(path)[0].Members {
		out = append(out, e.c.Server(m.Server))
	}
	return out
}

func TestReadPassesOverBadReplicas(t *testing.T) {
	for name, c := range map[string]struct {
		fault   func(*env, *clienttest.Server)
		max     time.Duration // of the first read
		then    time.Duration // of the next one
		reports int
	}{
		"dead":     {func(_ *env, s *clienttest.Server) { s.Kill() }, 20 * time.Millisecond, 10 * time.Millisecond, 0},
		"hung":     {func(_ *env, s *clienttest.Server) { s.Hang() }, 200 * time.Millisecond, 20 * time.Millisecond, 0},
		"slow":     {func(_ *env, s *clienttest.Server) { s.SetFaults(clienttest.Faults{Slow: time.Second}) }, 200 * time.Millisecond, 20 * time.Millisecond, 0},
		"corrupt":  {func(_ *env, s *clienttest.Server) { s.SetFaults(clienttest.Faults{Corrupt: true}) }, 20 * time.Millisecond, 20 * time.Millisecond, 1},
		"no lease": {func(_ *env, s *clienttest.Server) { s.SetFaults(clienttest.Faults{NoLease: true}) }, 20 * time.Millisecond, 20 * time.Millisecond, 0},
		"restarted": {func(_ *env, s *clienttest.Server) {
			s.Kill()
			s.Restart()
		}, 20 * time.Millisecond, 20 * time.Millisecond, 0},
		"without the replica": {func(e *env, s *clienttest.Server) { s.Lose(e.c.Chunks("/f")[0].Handle) }, 20 * time.Millisecond, 20 * time.Millisecond, 0},
		"flaky":               {func(_ *env, s *clienttest.Server) { s.SetFaults(clienttest.Faults{DropReads: 1}) }, 20 * time.Millisecond, 20 * time.Millisecond, 0},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, small, client.Options{}, func(e *env) {
				data := clienttest.Bytes(1, 1<<20)
				e.put("/f", data)
				f, err := e.files.Open(e.Context(), "/f")
				e.must(err)
				p := make([]byte, 1000)
				_, err = f.ReadAt(p, 10)
				e.must(err)
				s := holders(e, "/f")[0]
				c.fault(e, s)
				for i, most := range []time.Duration{c.max, c.then} {
					start := time.Now()
					n, err := f.ReadAt(p, 5000)
					e.must(err)
					if !bytes.Equal(p, data[5000:6000]) {
						e.Errorf("%d bytes were read, not those that were written", n)
					}
					if d := time.Since(start); d > most {
						e.Errorf("read %d took %v, want at most %v", i, d, most)
					}
				}
				e.must(f.Close())
				e.sleep(time.Second)
				if n := len(e.c.Reports()); (n > 0) != (c.reports > 0) {
					e.Errorf("%d reports", n)
				}
				for _, r := range e.c.Reports() {
					if !r.Corrupt || len(r.Suspects) != 1 || r.Suspects[0].Server != s.ID() {
						e.Errorf("report %+v", r)
					}
				}
				s.Resume()
			})
		})
	}
}

func TestReadFailsWithoutGoodReplicas(t *testing.T) {
	run(t, small, client.Options{Patience: 3 * time.Second}, func(e *env) {
		e.put("/f", clienttest.Bytes(1, 1<<20))
		f, err := e.files.Open(e.Context(), "/f")
		e.must(err)
		for _, s := range e.c.Servers() {
			s.SetFaults(clienttest.Faults{Corrupt: true})
		}
		_, err = f.ReadAt(make([]byte, 100), 0)
		e.want(err, quarry.Corrupt)
		if !strings.HasPrefix(err.Error(), "read /f: ") {
			e.Errorf("the error does not name the file: %v", err)
		}
		for _, s := range e.c.Servers() {
			s.Kill()
		}
		start := time.Now()
		_, err = f.ReadAt(make([]byte, 100), 0)
		e.want(err, quarry.Unavailable)
		if d := time.Since(start); d > 5*time.Second {
			e.Errorf("it took %v", d)
		}
		e.must(f.Close())
	})
}

func TestReadContextEnds(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.put("/f", clienttest.Bytes(1, 3<<20))
		for _, s := range e.c.Servers() {
			s.Hang()
			defer s.Resume()
		}
		before := goroutines()
		ctx, cancel := context.WithCancel(e.Context())
		f, err := e.files.Open(ctx, "/f")
		e.must(err)
		go func() {
			e.sleep(time.Second)
			cancel()
		}()
		_, err = f.Read(make([]byte, 100))
		e.want(err, context.Canceled)
		_, err = f.ReadAt(make([]byte, 2<<20), 0)
		e.want(err, context.Canceled)
		e.must(f.Close())
		if after := goroutines(); after > before {
			e.Errorf("%d goroutines, there were %d", after, before)
		}
	})
}

// A close ends a read that waits, whether it was fetched ahead or goes into the reader's memory.
func TestCloseEndsRead(t *testing.T) {
	for _, size := range []int{100, 1 << 20} {
		run(t, small, client.Options{}, func(e *env) {
			e.put("/f", clienttest.Bytes(1, 3<<20))
			f, err := e.files.Open(e.Context(), "/f")
			e.must(err)
			for _, s := range e.c.Servers() {
				s.Hang()
				defer s.Resume()
			}
			go func() {
				e.sleep(time.Second)
				e.must(f.Close())
			}()
			start := time.Now()
			if _, err = f.Read(make([]byte, size)); err == nil {
				e.Error("it read")
			}
			if d := time.Since(start); d != time.Second {
				e.Errorf("it took %v", d)
			}
			_, err = f.Read(make([]byte, size))
			e.want(err, quarry.Invalid)
		})
	}
}

// A file that is open shows what was acknowledged before a read began, through seals, new
// primaries and servers without a lease.
func TestReadFollowsTheEnd(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.create("/f")
		f, err := e.files.Open(e.Context(), "/f")
		e.must(err)
		var want []byte
		for i, step := range []func(){
			func() {},
			func() {},
			func() { e.c.Seal("/f") },
			func() { primary(e, "/f").SetFaults(clienttest.Faults{NoLease: true}) },
			func() { primary(e, "/f").Kill() },
			func() {},
		} {
			step()
			record := clienttest.Bytes(uint64(i), 1000)
			_, err := e.files.Append(e.Context(), "/f", record)
			e.must(err)
			want = append(want, record...)
			got, err := io.ReadAll(f)
			e.must(err)
			if !bytes.Equal(got, record) {
				e.Errorf("step %d: %d bytes were read, want %d", i, len(got), len(record))
			}
			if n, err := f.Size(e.Context()); n != int64(len(want)) || err != nil {
				e.Errorf("step %d: size %d, %v", i, n, err)
			}
			all := make([]byte, len(want)+10)
			n, err := f.ReadAt(all, 0)
			if !bytes.Equal(all[:n], want) || err != io.EOF {
				e.Errorf("step %d: %d bytes of all, %v", i, n, err)
			}
		}
		e.must(f.Close())
	})
}

// A file whose last primary has gone can be read to its end though nobody writes to it.
func TestEndAfterThePrimary(t *testing.T) {
	for name, fault := range map[string]func(*clienttest.Server){
		"dead": (*clienttest.Server).Kill, "hung": (*clienttest.Server).Hang,
		"restarted": func(s *clienttest.Server) { s.Kill(); s.Restart() },
	} {
		t.Run(name, func(t *testing.T) {
			run(t, small, client.Options{}, func(e *env) {
				e.create("/f")
				_, err := e.files.Append(e.Context(), "/f", []byte("one"))
				e.must(err)
				s := primary(e, "/f")
				fault(s)
				start := time.Now()
				e.expect("/f", []byte("one"))
				if d := time.Since(start); d > 6*time.Second {
					e.Errorf("it took %v", d)
				}
				s.Resume()
			})
		})
	}
}

// A primary without a lease that has been replaced cannot make a file look shorter.
func TestEndNeedsConfirmation(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.create("/f")
		_, err := e.files.Append(e.Context(), "/f", []byte("one"))
		e.must(err)
		f, err := e.files.Open(e.Context(), "/f")
		e.must(err)
		old := primary(e, "/f")
		old.SetFaults(clienttest.Faults{NoLease: true})
		before := e.c.Count("chunk")
		if n, err := f.Size(e.Context()); n != 3 || err != nil {
			e.Errorf("size %d, %v", n, err)
		}
		if e.c.Count("chunk") == before {
			e.Error("the master was not asked to confirm")
		}
		e.c.LoseAnswers("chunk", 0)
		e.c.Fail("chunk", quarry.Errorf("chunk", quarry.Internal, "", "broken"))
		ctx, cancel := context.WithTimeout(e.Context(), 2*time.Second)
		defer cancel()
		if n, err := f.Size(ctx); err == nil {
			e.Errorf("size %d without a confirmation", n)
		}
		e.must(f.Close())
	})
}

// What is committed can be read where a secondary does not know it yet.
func TestReadOfTheTail(t *testing.T) {
	run(t, clienttest.Config{}, client.Options{Hosts: []string{"10.0.0.2"}}, func(e *env) {
		e.create("/f")
		for i := range 20 {
			record := []byte(strings.Repeat(string(rune('a'+i)), 100))
			offset, err := e.files.Append(e.Context(), "/f", record)
			e.must(err)
			f, err := e.files.Open(e.Context(), "/f")
			e.must(err)
			p := make([]byte, 100)
			if _, err := f.ReadAt(p, offset); err != nil && err != io.EOF || !bytes.Equal(p, record) {
				e.Fatalf("record %d: %q, %v", i, p[:5], err)
			}
			e.must(f.Close())
		}
	})
}

// The replica on this machine is read, wherever it stands in the master's order.
func TestNearestReplica(t *testing.T) {
	run(t, small, client.Options{Hosts: []string{"10.0.0.3"}}, func(e *env) {
		e.put("/f", clienttest.Bytes(1, 1<<20))
		f, err := e.files.Open(e.Context(), "/f")
		e.must(err)
		for at := range 10 {
			_, err = f.ReadAt(make([]byte, 100), int64(at))
			e.must(err)
		}
		e.must(f.Close())
		if n := e.c.Server(3).Count("read"); n != 10 {
			e.Errorf("%d of 10 reads came to the nearest server", n)
		}
	})
}

// Hostile answers are errors, not panics.
func TestReadOfBrokenAnswers(t *testing.T) {
	for name, change := range map[string]func(*quarry.ReadReply){
		"no checksum":    func(r *quarry.ReadReply) { r.CRCs = nil },
		"too many bytes": func(r *quarry.ReadReply) { r.Data = append(r.Data, r.Data...) },
		"other bytes":    func(r *quarry.ReadReply) { r.Data = bytes.Clone(r.Data); r.Data[0]++ },
	} {
		t.Run(name, func(t *testing.T) {
			run(t, small, client.Options{}, func(e *env) {
				e.put("/f", clienttest.Bytes(1, 1<<20))
				files := client.New(e.c.Masters(), func(m quarry.Member) quarry.ChunkServer {
					return &changing{e.c.Server(m.Server), change}
				}, client.Options{Clock: e.c.Clock(), Patience: time.Second})
				defer files.Close()
				f, err := files.Open(e.Context(), "/f")
				e.must(err)
				_, err = f.ReadAt(make([]byte, 1000), 70_000)
				e.want(err, quarry.Corrupt)
				e.must(f.Close())
			})
		})
	}
}

type changing struct {
	quarry.ChunkServer
	change func(*quarry.ReadReply)
}

func (c *changing) Read(ctx context.Context, req *quarry.ReadRequest) (*quarry.ReadReply, error) {
	r, err := c.ChunkServer.Read(ctx, req)
	if err == nil {
		c.change(r)
	}
	return r, err
}
