package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

func sleep(t testing.TB, d time.Duration) { clock.Simulated().Sleep(t.Context(), d) }

func TestReadInto(t *testing.T) {
	for _, size := range []int{0, 1, 1000, smallReadBytes, smallReadBytes + 1, quarry.ReadBytesMax} {
		e := newEnv(t)
		data := make([]byte, quarry.ReadBytesMax+1)
		for i := range data {
			data[i] = byte(i * 7)
		}
		extra, released := 0, 0
		ServeChunkServer(e.server, &fakeServer{read: func(_ context.Context, q *quarry.ReadRequest) (*quarry.ReadReply, error) {
			return &quarry.ReadReply{Data: data[:int(q.Length)+extra], CRCs: []uint32{9}, Release: func() { released++ }}, nil
		}})
		e.serve()
		server := e.client.ChunkServer(e.address)
		into := make([]byte, size)
		r, err := server.Read(t.Context(), &quarry.ReadRequest{Length: int64(size), Into: into})
		if err != nil || !bytes.Equal(r.Data, data[:size]) || r.CRCs[0] != 9 {
			t.Fatalf("%d bytes: got %d, %v", size, len(r.Data), err)
		}
		if size > 0 && &r.Data[0] != &into[0] {
			t.Errorf("%d bytes are not where they were wanted", size)
		}
		r, err = server.Read(t.Context(), &quarry.ReadRequest{Length: int64(size), Into: into[:size/2]})
		if err != nil || !bytes.Equal(r.Data, data[:size]) {
			t.Errorf("%d bytes without room: got %d, %v", size, len(r.Data), err)
		}
		extra = 1 // a server that sends more than it was asked for
		if _, err = server.Read(t.Context(), &quarry.ReadRequest{Length: int64(size), Into: into}); err == nil {
			t.Errorf("%d bytes: the client took one more", size)
		}
		e.close()
		if released != 3 {
			t.Errorf("%d bytes: Release was called %d times for 3 replies", size, released)
		}
	}
}

// A reply may be a part of a file, on networks that know sendfile and on others.
func TestReadFile(t *testing.T) {
	data := make([]byte, 2<<20)
	for i := range data {
		data[i] = byte(i >> 8 * 3)
	}
	path := filepath.Join(t.TempDir(), "chunk")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for name, network := range map[string]Network{"127.0.0.1:0": TCP, "memory:0": NewMemory()} {
		e := newEnvOn(t, network, name, nil, nil)
		var released atomic.Int64
		ServeChunkServer(e.server, &fakeServer{read: func(_ context.Context, q *quarry.ReadRequest) (*quarry.ReadReply, error) {
			return &quarry.ReadReply{File: &quarry.FileRange{FD: file.Fd(), Offset: q.Offset, Length: q.Length}, Release: func() { released.Add(1) }}, nil
		}})
		e.serve()
		server := e.client.ChunkServer(e.address)
		var calls sync.WaitGroup
		lengths := []int64{0, 1, 100, smallReadBytes, 64 << 10, 1 << 20}
		for i := range 60 {
			calls.Go(func() {
				q := &quarry.ReadRequest{Offset: int64(i) * 3331, Length: lengths[i%len(lengths)]}
				r, err := server.Read(within(t, 10*time.Second), q)
				if err != nil || !bytes.Equal(r.Data, data[q.Offset:q.Offset+q.Length]) {
					t.Errorf("%s: %d bytes at %d differ, or %v", name, q.Length, q.Offset, err)
				}
			})
		}
		calls.Wait()
		start := time.Now()
		for range 20 { // nothing may wait for a file that has nothing to send
			if _, err := server.Read(within(t, 10*time.Second), &quarry.ReadRequest{}); err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("%s: 20 empty reads took %v", name, took)
		}
		// A file that is shorter than its range ends the connection: the head has been sent.
		_, err := server.Read(within(t, 10*time.Second), &quarry.ReadRequest{Offset: 2<<20 - 10, Length: 20})
		wantKind(t, err, quarry.Unavailable)
		e.close()
		if released.Load() != 81 {
			t.Errorf("%s: Release was called %d times for 81 replies", name, released.Load())
		}
	}
}

// Appends of one goroutine for one chunk are taken in their order, whatever their size; done
// is called once for each.
func TestAppendsKeepTheirOrder(t *testing.T) {
	e := newEnv(t)
	var mu sync.Mutex
	next := map[quarry.Handle]quarry.Sequence{}
	var waiting []func()
	ServeChunkServer(e.server, &fakeServer{append: func(_ context.Context, q *quarry.AppendRequest, done func(*quarry.AppendReply, error)) {
		mu.Lock()
		defer mu.Unlock()
		if next[q.Handle]++; next[q.Handle] != q.Sequence {
			t.Errorf("chunk %v: sequence %d came in the place of %d", q.Handle, q.Sequence, next[q.Handle])
		}
		if want := byte(q.Sequence); q.Data[0] != want || q.Data[len(q.Data)-1] != want {
			t.Errorf("chunk %v, sequence %d: other data", q.Handle, q.Sequence)
		}
		sequence := q.Sequence
		waiting = append(waiting, func() { done(&quarry.AppendReply{Offset: int64(sequence)}, nil) })
		if len(waiting) == 7 { // answers come in any order, later
			for i := range waiting {
				go waiting[len(waiting)-1-i]()
			}
			waiting = nil
		}
	}})
	e.serve()
	server := e.client.ChunkServer(e.address)
	const chunks, records = 7, 210
	var writers, answers sync.WaitGroup
	for h := range quarry.Handle(chunks) {
		answers.Add(records)
		writers.Go(func() {
			for i := range quarry.Sequence(records) {
				sequence, called := i+1, false
				size := []int{1, 100, 5000, 70_000}[(int(h)+int(i))%4]
				q := &quarry.AppendRequest{ChunkRef: quarry.ChunkRef{Handle: h << 40}, Sequence: sequence, Data: bytes.Repeat([]byte{byte(sequence)}, size)}
				server.Append(t.Context(), q, func(r *quarry.AppendReply, err error) {
					if err != nil || r.Offset != int64(sequence) || called {
						t.Errorf("sequence %d was answered with %+v, %v", sequence, r, err)
					}
					called = true
					answers.Done()
				})
			}
		})
	}
	writers.Wait()
	answers.Wait()
}

// flaky is a client and a server, the nodes "client" and "server", on a faulty network.
func flaky(t *testing.T, seed uint64, client func(*ClientConfig)) (*env, *Faulty) {
	f := NewFaulty(NewMemory(), clock.Simulated(), seed)
	e := newEnvOn(t, f.Node("client"), "server:0", nil, client)
	e.network = f.Node("server") // where serve listens
	return e, f
}

func (e *env) closeWith(f *Faulty) {
	f.Heal()
	e.client.Close()
	e.server.Close()
	f.Close()
	e.serving.Wait()
}

// parkingServer never answers appends, waits and reads until the returned channel is closed.
func parkingServer() (*fakeServer, chan struct{}) {
	release := make(chan struct{})
	return &fakeServer{
		append: func(_ context.Context, _ *quarry.AppendRequest, done func(*quarry.AppendReply, error)) {
			go func() {
				<-release
				done(&quarry.AppendReply{}, nil)
			}()
		},
		wait: func(context.Context, *quarry.WaitRequest) (*quarry.WaitReply, error) {
			<-release
			return &quarry.WaitReply{}, nil
		},
		read: func(_ context.Context, q *quarry.ReadRequest) (*quarry.ReadReply, error) {
			<-release
			return &quarry.ReadReply{Data: make([]byte, q.Length)}, nil
		},
		end: func(context.Context, *quarry.EndRequest) (*quarry.EndReply, error) {
			return &quarry.EndReply{Commit: 3}, nil
		},
	}, release
}

// startCalls starts one call of each form; the channel gets their outcomes.
func startCalls(ctx context.Context, server quarry.ChunkServer, large int) chan error {
	outcomes := make(chan error, 100)
	go func() {
		_, err := server.Wait(ctx, &quarry.WaitRequest{})
		outcomes <- fmt.Errorf("wait: %w", err)
	}()
	go func() {
		_, err := server.Read(ctx, &quarry.ReadRequest{Length: 1 << 20})
		outcomes <- fmt.Errorf("read: %w", err)
	}()
	go server.Append(ctx, &quarry.AppendRequest{Data: make([]byte, large)}, func(_ *quarry.AppendReply, err error) {
		outcomes <- fmt.Errorf("append: %w", err)
	})
	return outcomes
}

func TestServerThatHasGone(t *testing.T) {
	for _, how := range []string{"reset", "freeze", "freeze while sending", "server closed", "client closed"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, f := flaky(t, 1, nil)
				fake, release := parkingServer()
				ServeChunkServer(e.server, fake)
				e.serve()
				server := e.client.ChunkServer(e.address)
				large := 100
				if how == "freeze while sending" {
					large = quarry.RecordBytesMax // more than the network holds
				}
				outcomes := startCalls(t.Context(), server, large)
				limit := time.Duration(0)
				if how == "freeze while sending" {
					f.Block("client", "server") // connections come about later
				}
				synctest.Wait()
				start := time.Now()
				switch how {
				case "reset":
					f.Reset("client", "server")
				case "server closed":
					go e.server.Close()
				case "client closed":
					go e.client.Close()
				case "freeze":
					f.Freeze("server", "client")
					limit = (silentIntervals + 1) * defaultKeepAlive
				default:
					f.Heal()
					synctest.Wait()
					f.Freeze("server", "client")
					limit = (silentIntervals + 1) * defaultKeepAlive
				}
				for range 3 {
					err := <-outcomes
					wantKind(t, err, quarry.Unavailable)
				}
				if took := time.Since(start); took > limit {
					t.Errorf("the calls failed after %v, want %v", took, limit)
				}
				close(release)
				if how != "server closed" && how != "client closed" { // the next call connects again
					for range 3 {
						sleep(t, redialTime)
						if r, err := server.End(t.Context(), &quarry.EndRequest{}); err != nil || r.Commit != 3 {
							t.Errorf("afterwards: %+v, %v", r, err)
						}
						if r, err := server.Read(t.Context(), &quarry.ReadRequest{Length: 1 << 20}); err != nil || len(r.Data) != 1<<20 {
							t.Errorf("afterwards: %+v, %v", r, err)
						}
					}
				}
				synctest.Wait()
				if len(outcomes) > 0 {
					t.Errorf("a call was answered twice: %v", <-outcomes)
				}
				e.closeWith(f)
			})
		})
	}
}

// A caller whose context ends returns at once, however stuck the network is. Only an append
// whose data is being sent has to wait until that is given up, because the data is the
// caller's again afterwards.
func TestContextEndsWhileStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, f := flaky(t, 1, func(c *ClientConfig) { c.QueueMax = 4 << 20 })
		fake, release := parkingServer()
		ServeChunkServer(e.server, fake)
		e.serve()
		server := e.client.ChunkServer(e.address)
		ctx, cancel := context.WithCancel(t.Context())
		outcomes := startCalls(ctx, server, 100)
		synctest.Wait()
		f.Block("client", "server")
		f.Block("server", "client")
		for range 20 { // fill the way to the server
			go server.Append(ctx, &quarry.AppendRequest{Data: make([]byte, 1<<20)}, func(_ *quarry.AppendReply, err error) { outcomes <- fmt.Errorf("large: %w", err) })
		}
		go func() { // and one without a connection
			_, err := server.Read(ctx, &quarry.ReadRequest{Length: 1 << 20})
			outcomes <- err
		}()
		synctest.Wait()
		e.client.mu.Lock()
		for conn := range e.client.conns {
			if n := conn.writer.queued(); n > 6<<20 {
				t.Errorf("%d bytes wait to be sent", n)
			}
		}
		e.client.mu.Unlock()
		start := time.Now()
		cancel()
		late := 0
		for range 24 {
			err := <-outcomes
			wantKind(t, err, quarry.Unavailable)
			switch took := time.Since(start); {
			case took == 0:
			case strings.HasPrefix(err.Error(), "large") && took <= (silentIntervals+1)*defaultKeepAlive:
				late++
			default:
				t.Errorf("a call ended after %v: %v", took, err)
			}
		}
		if late == 0 || late == 20 {
			t.Errorf("%d of 20 appends were being sent", late)
		}
		close(release)
		synctest.Wait()
		if len(outcomes) > 0 {
			t.Errorf("a call was answered twice: %v", <-outcomes)
		}
		e.closeWith(f)
	})
}

// One silent connection is enough to learn that the server is not there any more.
func TestFrozenIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, f := flaky(t, 1, nil)
		fake, release := parkingServer()
		ServeChunkServer(e.server, fake)
		e.serve()
		server := e.client.ChunkServer(e.address)
		var calls sync.WaitGroup
		for range 4 {
			calls.Go(func() { server.Read(t.Context(), &quarry.ReadRequest{Length: 1 << 20}) })
		}
		synctest.Wait()
		close(release)
		calls.Wait()
		f.Freeze("client", "server")
		_, err := server.Read(t.Context(), &quarry.ReadRequest{Length: 1 << 20})
		wantKind(t, err, quarry.Unavailable)
		start := time.Now()
		if _, err = server.Read(t.Context(), &quarry.ReadRequest{Length: 1 << 20}); err != nil || time.Since(start) > 0 {
			t.Errorf("the next read took %v, %v", time.Since(start), err)
		}
		e.closeWith(f)
	})
}

// An idle connection to a server that was started anew fails no request.
func TestServerStartedAnew(t *testing.T) {
	e := newEnv(t)
	fake := &fakeServer{read: func(_ context.Context, q *quarry.ReadRequest) (*quarry.ReadReply, error) {
		return &quarry.ReadReply{Data: make([]byte, q.Length)}, nil
	}}
	ServeChunkServer(e.server, fake)
	e.serve()
	server := e.client.ChunkServer(e.address)
	for range 3 {
		var calls sync.WaitGroup
		for range 6 {
			calls.Go(func() {
				if _, err := server.Read(within(t, 10*time.Second), &quarry.ReadRequest{Length: 1 << 20}); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		e.server.Close()
		e.serving.Wait()
		e.server = NewServer(ServerConfig{Clock: clock.Simulated(), Identity: serverIdentity})
		ServeChunkServer(e.server, fake)
		e.serve()
	}
}

func TestRedialing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t)
		ServeChunkServer(e.server, &fakeServer{end: func(context.Context, *quarry.EndRequest) (*quarry.EndReply, error) { return &quarry.EndReply{}, nil }})
		e.address = "server:77"
		server := e.client.ChunkServer(e.address)
		_, err := server.End(t.Context(), &quarry.EndRequest{})
		wantKind(t, err, quarry.Unavailable)
		e.serve()
		if _, again := server.End(t.Context(), &quarry.EndRequest{}); again == nil || again.Error() != err.Error() {
			t.Errorf("a failed attempt is not remembered: %v", again)
		}
		sleep(t, redialTime)
		if _, err := server.End(t.Context(), &quarry.EndRequest{}); err != nil {
			t.Error(err)
		}
		e.close()
	})
}

func TestIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnvOn(t, NewMemory(), "server:0", nil, func(c *ClientConfig) { c.IdleTime = 10 * time.Minute })
		ServeChunkServer(e.server, &fakeServer{
			end: func(context.Context, *quarry.EndRequest) (*quarry.EndReply, error) { return &quarry.EndReply{}, nil },
			read: func(_ context.Context, q *quarry.ReadRequest) (*quarry.ReadReply, error) {
				return &quarry.ReadReply{Data: make([]byte, q.Length)}, nil
			},
			wait: func(ctx context.Context, _ *quarry.WaitRequest) (*quarry.WaitReply, error) {
				sleep(t, time.Hour)
				return &quarry.WaitReply{Commit: 1}, nil
			},
		})
		e.serve()
		server := e.client.ChunkServer(e.address)
		var calls sync.WaitGroup
		for range 3 {
			calls.Go(func() { server.Read(t.Context(), &quarry.ReadRequest{Length: 1 << 20}) })
		}
		calls.Wait()
		server.End(t.Context(), &quarry.EndRequest{})
		before := len(e.server.connected())
		sleep(t, 9*time.Minute) // idle, but not for too long
		if now := len(e.server.connected()); now != before || before < 2 {
			t.Errorf("%d connections were made, %d are left", before, now)
		}
		sleep(t, 2*time.Minute)
		if now := len(e.server.connected()); now != 0 {
			t.Errorf("%d connections are left", now)
		}
		e.client.mu.Lock()
		if len(e.client.remotes)+len(e.client.conns)+len(e.client.bulk) != 0 {
			t.Errorf("the client still knows %d servers", len(e.client.remotes))
		}
		e.client.mu.Unlock()
		// A call that takes long is no idle connection.
		if r, err := server.Wait(t.Context(), &quarry.WaitRequest{}); err != nil || r.Commit != 1 {
			t.Errorf("a long call: %v", err)
		}
		e.close()
	})
}

var rawTestOp = RawOp{Op: OpRaw, Name: "raw", BodyMax: 100, PayloadMax: 1 << 20}

func TestRawCalls(t *testing.T) {
	e := newEnv(t)
	e.server.HandleRaw(rawTestOp, func(ctx context.Context, req *Raw) (*Raw, error) {
		if len(req.Payload) == 13 {
			return nil, quarry.Errorf("raw", quarry.NotEmpty, "", "13 is not welcome")
		}
		if p, ok := PeerFrom(ctx); !ok || p.Role != RoleClient {
			t.Errorf("the peer is %+v", p)
		}
		return &Raw{Body: append([]byte("re:"), req.Body...), Payload: bytes.Clone(req.Payload)}, nil
	})
	e.serve()
	for _, lane := range []Lane{LaneControl, LaneBulk, LaneMessages} {
		for _, size := range []int{0, 1, 5000, 1 << 20} {
			r, err := e.client.CallRaw(t.Context(), e.address, Route{Lane: lane}, rawTestOp, &Raw{Body: []byte("hi"), Payload: make([]byte, size)})
			if err != nil || string(r.Body) != "re:hi" || len(r.Payload) != size {
				t.Errorf("lane %d, %d bytes: %+v, %v", lane, size, r, err)
			}
		}
		_, err := e.client.CallRaw(t.Context(), e.address, Route{Lane: lane}, rawTestOp, &Raw{Payload: make([]byte, 13)})
		wantKind(t, err, quarry.NotEmpty)
		for _, large := range []*Raw{{Body: make([]byte, 101)}, {Payload: make([]byte, 1<<20+1)}} {
			_, err = e.client.CallRaw(t.Context(), e.address, Route{Lane: lane}, rawTestOp, large)
			wantKind(t, err, quarry.TooLarge)
		}
	}
}

func TestMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnvOn(t, NewMemory(), "server:0", nil, func(c *ClientConfig) { c.QueueMax = 2 << 20 })
		hold := make(chan struct{})
		var got []int
		e.server.HandleMessages(rawTestOp, func(ctx context.Context, msg *Raw) {
			if len(got) == 0 {
				<-hold // nothing more is read meanwhile
			}
			if p, _ := PeerFrom(ctx); p.Role != RoleClient || len(msg.Payload) != int(msg.Body[0])*1000 {
				t.Errorf("message %v has %d bytes of payload, from %+v", msg.Body, len(msg.Payload), p)
			}
			got = append(got, int(msg.Body[1])<<8|int(msg.Body[2]))
		})
		e.serve()
		route := Route{Lane: LaneMessages}
		sent, busy := []int{}, 0
		for i := range 1000 {
			size := i % 10
			err := e.client.Send(t.Context(), e.address, route, rawTestOp, &Raw{Body: []byte{byte(size), byte(i >> 8), byte(i)}, Payload: make([]byte, size*1000)})
			switch {
			case err == nil:
				sent = append(sent, i)
			case errors.Is(err, quarry.Busy):
				busy++
			default:
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if busy == 0 || len(sent) < 400 {
			t.Errorf("%d messages were sent and %d refused", len(sent), busy)
		}
		close(hold)
		synctest.Wait()
		if fmt.Sprint(got) != fmt.Sprint(sent) {
			t.Errorf("messages arrived as %v", got)
		}
		if used := e.server.budgets[LaneMessages].Used(); used != 0 {
			t.Errorf("%d bytes of payload are never given back", used)
		}
		wantKind(t, e.client.Send(t.Context(), e.address, Route{Lane: LaneBulk}, rawTestOp, &Raw{}), quarry.Invalid)
		wantKind(t, e.client.Send(t.Context(), "nobody:1", route, rawTestOp, &Raw{}), quarry.Unavailable)
		e.close()
	})
}

func TestClosedClient(t *testing.T) {
	e := newEnv(t)
	e.serve()
	e.client.Close()
	_, err := e.client.Master(e.address).Topology(t.Context())
	wantKind(t, err, quarry.Unavailable)
	_, err = e.client.ChunkServer(e.address).Read(t.Context(), &quarry.ReadRequest{Length: 1 << 20})
	wantKind(t, err, quarry.Unavailable)
	e.client.ChunkServer(e.address).Append(t.Context(), &quarry.AppendRequest{}, func(_ *quarry.AppendReply, e error) { err = e })
	wantKind(t, err, quarry.Unavailable)
}
