package rpc

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// dialRaw makes a connection past its handshake on which a test can send any frame.
func dialRaw(t *testing.T, e *env, lane Lane) (Conn, *frameReader) {
	t.Helper()
	conn, err := e.network.Dial(t.Context(), e.address)
	if err != nil {
		t.Fatal(err)
	}
	r := testReader(conn)
	p := party{identity: clientIdentity()}
	if _, err := p.greet(conn, r, lane); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, r
}

// nextFrame takes the next frame.
func nextFrame(t *testing.T, r *frameReader) (head, []byte) {
	t.Helper()
	var h head
	if err := r.head(&h); err != nil {
		t.Fatal(err)
	}
	body, err := r.body(&h)
	if err != nil {
		t.Fatal(err)
	}
	return h, bytes.Clone(body)
}

// reply takes the next frame that is no sign of life.
func reply(t *testing.T, r *frameReader) (head, []byte) {
	t.Helper()
	for {
		if h, body := nextFrame(t, r); h.kind != kindKeepAlive {
			return h, body
		}
	}
}

func TestUnservedRequests(t *testing.T) {
	e := newEnv(t)
	ServeChunkServer(e.server, &fakeServer{end: func(context.Context, *quarry.EndRequest) (*quarry.EndReply, error) {
		return &quarry.EndReply{Commit: 7}, nil
	}})
	e.server.HandleMessages(RawOp{Op: OpRaw, Name: "note", BodyMax: 10}, func(context.Context, *Raw) {})
	e.serve()
	conn, r := dialRaw(t, e, LaneControl)
	tests := []struct {
		name          string
		op            Op
		kind          frameKind
		body, payload int
		want          quarry.Kind
	}{
		{"unknown operation", 255, kindRequest, 100, 5000, quarry.Unsupported},
		{"operation beyond all", 60000, kindRequest, 0, 0, quarry.Unsupported},
		{"message as a request", OpRaw, kindRequest, 0, 0, quarry.Unsupported},
		{"large body", opEnd, kindRequest, smallBody + 1, 0, quarry.TooLarge},
		{"payload where none belongs", opEnd, kindRequest, 0, 1, quarry.TooLarge},
		{"large payload", opAppend, kindRequest, 0, quarry.RecordBytesMax + 1, quarry.TooLarge},
		{"broken body", opEnd, kindRequest, 1, 0, quarry.Invalid},
	}
	for i, test := range tests {
		go conn.Write(append(appendRaw(nil, head{version: 1, kind: test.kind, op: test.op, id: uint64(i), payload: uint32(test.payload)},
			bytes.Repeat([]byte{0xff}, test.body)), make([]byte, test.payload)...))
		h, body := reply(t, r)
		if h.kind != kindError || h.id != uint64(i) {
			t.Errorf("%s: got a frame of kind %d for %d", test.name, h.kind, h.id)
			continue
		}
		wantKind(t, decodeError(body), test.want)
	}
	// Messages that are not served are dropped, and the connection still works.
	var b []byte
	for _, op := range []Op{OpRaw, 255, opEnd} {
		b = append(appendRaw(b, head{version: 1, kind: kindMessage, op: op, payload: 9}, []byte{0xff}), make([]byte, 9)...)
	}
	conn.Write(appendRaw(b, head{version: 1, kind: kindRequest, op: opEnd, id: 99}, nil))
	if h, _ := reply(t, r); h.kind != kindReply || h.id != 99 {
		t.Errorf("got a frame of kind %d for %d", h.kind, h.id)
	}
}

// After each of these nothing that follows can be trusted.
func TestBrokenStreamsEndTheConnection(t *testing.T) {
	block := make(chan struct{})
	tests := map[string][]byte{
		"garbage":         []byte("this is not a frame, and it is long enough to be one"),
		"version":         appendRaw(nil, head{version: 2, kind: kindRequest, op: opEnd}, nil),
		"reply":           appendRaw(nil, head{version: 1, kind: kindReply, op: opEnd}, nil),
		"cancel with":     appendRaw(nil, head{version: 1, kind: kindCancel}, []byte{1}),
		"huge, unknown":   appendRaw(nil, head{version: 1, kind: kindRequest, op: 99, payload: PayloadBytesMax + 1}, nil),
		"same id":         appendRaw(appendRaw(nil, head{version: 1, kind: kindRequest, op: opEnd, id: 4}, nil), head{version: 1, kind: kindRequest, op: opEnd, id: 4}, nil),
		"broken checksum": append(appendRaw(nil, head{version: 1, kind: kindRequest, op: opEnd, flags: flagPayloadCRC, payloadCRC: 1, payload: 1}, nil), 0),
	}
	tests["broken checksum"] = append(appendRaw(nil, head{version: 1, kind: kindRequest, op: OpRaw, flags: flagPayloadCRC, payloadCRC: 1, payload: 1}, nil), 0)
	for name, sent := range tests {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			ServeChunkServer(e.server, &fakeServer{end: func(ctx context.Context, _ *quarry.EndRequest) (*quarry.EndReply, error) {
				select {
				case <-block:
				case <-ctx.Done(): // the end of the connection ends the request
				}
				return nil, ctx.Err()
			}})
			e.server.HandleRaw(RawOp{Op: OpRaw, Name: "raw", PayloadMax: 10}, func(context.Context, *Raw) (*Raw, error) { return &Raw{}, nil })
			e.serve()
			conn, r := dialRaw(t, e, LaneControl)
			conn.Write(sent)
			for {
				var h head
				if err := r.head(&h); err != nil {
					break
				}
			}
		})
	}
}

func TestCancelAndDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t)
		served := make(chan error, 1)
		ServeChunkServer(e.server, &fakeServer{
			wait: func(ctx context.Context, _ *quarry.WaitRequest) (*quarry.WaitReply, error) {
				<-ctx.Done()
				served <- ctx.Err()
				return nil, ctx.Err()
			},
			end: func(ctx context.Context, q *quarry.EndRequest) (*quarry.EndReply, error) {
				deadline, ok := ctx.Deadline()
				if ok != (q.Handle == 1) {
					t.Errorf("request %d has a deadline: %v", q.Handle, ok)
				}
				return &quarry.EndReply{Commit: int64(time.Until(deadline))}, nil
			},
		})
		e.serve()
		server := e.client.ChunkServer(e.address)

		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := server.Wait(ctx, &quarry.WaitRequest{})
			done <- err
		}()
		synctest.Wait()
		start := time.Now()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) || !errors.Is(err, quarry.Unavailable) {
			t.Errorf("the caller got %v", err)
		}
		if err := <-served; !errors.Is(err, context.Canceled) {
			t.Errorf("the handler's context ended with %v", err)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("the handler's context ended %v after the caller's", took)
		}

		ctx, cancel = context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start = time.Now()
		// Both sides' deadlines end at this instant: the server's word may come first, and an
		// error that has travelled is known by its kind.
		if _, err := server.Wait(ctx, &quarry.WaitRequest{}); !errors.Is(err, quarry.Unavailable) {
			t.Errorf("the caller got %v", err)
		}
		if err := <-served; !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
			t.Errorf("the handler's context ended with %v", err)
		}
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("it took %v", took)
		}

		ctx, cancel = context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		r, err := server.End(ctx, &quarry.EndRequest{ChunkRef: quarry.ChunkRef{Handle: 1}})
		if err != nil || r.Commit <= int64(4*time.Second) || r.Commit > int64(5*time.Second) {
			t.Errorf("the handler has %v left, %v", time.Duration(r.Commit), err)
		}
		if _, err := server.End(t.Context(), &quarry.EndRequest{}); err != nil {
			t.Error(err)
		}
		e.close()
	})
}

// A deadline ends the handler's context even if the client says nothing more.
func TestDeadlineWithoutTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t)
		served := make(chan time.Duration, 1)
		ServeChunkServer(e.server, &fakeServer{wait: func(ctx context.Context, _ *quarry.WaitRequest) (*quarry.WaitReply, error) {
			start := time.Now()
			ctx, cancel := context.WithCancel(ctx) // derived contexts end too
			defer cancel()
			<-ctx.Done()
			served <- time.Since(start)
			return nil, ctx.Err()
		}})
		e.serve()
		conn, r := dialRaw(t, e, LaneControl)
		conn.Write(appendRaw(nil, head{version: 1, kind: kindRequest, op: opWait, id: 1, deadlineMS: 1500}, nil))
		_, body := reply(t, r)
		wantKind(t, decodeError(body), quarry.Unavailable)
		if took := <-served; took != 1500*time.Millisecond {
			t.Errorf("the context ended after %v", took)
		}
		e.close()
		conn.Close()
	})
}

// With as many requests in service as there may be, nothing more is read, and yet the
// connection is not taken for dead.
func TestRequestsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnvOn(t, NewMemory(), "server:0", func(c *ServerConfig) { c.RequestsMax = 10 }, nil)
		var inService, most atomic.Int64
		release := make(chan struct{})
		ServeChunkServer(e.server, &fakeServer{end: func(context.Context, *quarry.EndRequest) (*quarry.EndReply, error) {
			most.Store(max(most.Load(), inService.Add(1)))
			<-release
			inService.Add(-1)
			return &quarry.EndReply{}, nil
		}})
		e.serve()
		var calls sync.WaitGroup
		for range 50 {
			calls.Go(func() {
				if _, err := e.client.ChunkServer(e.address).End(t.Context(), &quarry.EndRequest{}); err != nil {
					t.Error(err)
				}
			})
		}
		clock.Simulated().Sleep(t.Context(), time.Minute)
		close(release)
		calls.Wait()
		if most.Load() != 10 {
			t.Errorf("%d requests were in service at a time, want 10", most.Load())
		}
		e.close()
	})
}

func TestParkedRequestsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnvOn(t, NewMemory(), "server:0", func(c *ServerConfig) { c.RequestsMax = 10 }, nil)
		release := make(chan struct{})
		ServeChunkServer(e.server, &fakeServer{
			wait: func(context.Context, *quarry.WaitRequest) (*quarry.WaitReply, error) {
				<-release
				return &quarry.WaitReply{}, nil
			},
			end: func(context.Context, *quarry.EndRequest) (*quarry.EndReply, error) { return &quarry.EndReply{}, nil },
		})
		e.serve()
		server := e.client.ChunkServer(e.address)
		var busy, served atomic.Int64
		var calls sync.WaitGroup
		for range 50 {
			calls.Go(func() {
				switch _, err := server.Wait(t.Context(), &quarry.WaitRequest{}); {
				case errors.Is(err, quarry.Busy):
					busy.Add(1)
				case err != nil:
					t.Error(err)
				default:
					served.Add(1)
				}
			})
		}
		synctest.Wait()
		// Those that wait are not in the way of others.
		if _, err := server.End(t.Context(), &quarry.EndRequest{}); err != nil {
			t.Error(err)
		}
		close(release)
		calls.Wait()
		if busy.Load() != 10 || served.Load() != 40 {
			t.Errorf("%d were refused and %d served, want 10 and 40", busy.Load(), served.Load())
		}
		e.close()
	})
}

// Payloads in service are bounded for all connections of a lane together; other lanes go on.
func TestPayloadsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t)
		var held, most, prepared atomic.Int64
		release := make(chan struct{})
		ServeChunkServer(e.server, &fakeServer{
			append: func(_ context.Context, q *quarry.AppendRequest, done func(*quarry.AppendReply, error)) {
				most.Store(max(most.Load(), held.Add(int64(len(q.Data)))))
				go func() {
					<-release
					held.Add(-int64(len(q.Data)))
					done(&quarry.AppendReply{}, nil)
				}()
			},
			prepare: func(_ context.Context, q *quarry.PrepareRequest, done func(*quarry.PrepareReply, error)) {
				prepared.Add(1)
				done(&quarry.PrepareReply{}, nil)
			},
		})
		e.server.config.PayloadMax = 100 << 20
		for i := range e.server.budgets {
			e.server.budgets[i].Total = 100 << 20
		}
		e.serve()
		server := e.client.ChunkServer(e.address)
		const size, count = 8 << 20, 40
		data := make([]byte, size)
		var calls sync.WaitGroup
		calls.Add(count)
		for i := range count {
			go server.Append(t.Context(), &quarry.AppendRequest{ChunkRef: quarry.ChunkRef{Handle: quarry.Handle(i)}, Data: data}, func(_ *quarry.AppendReply, err error) {
				if err != nil {
					t.Error(err)
				}
				calls.Done()
			})
		}
		sleep(t, time.Minute) // the server does not read meanwhile, and is not taken for dead
		if held.Load() == 0 || held.Load() > 100<<20 {
			t.Errorf("%d bytes are held", held.Load())
		}
		done := make(chan struct{}) // lanes do not wait for each other
		server.Prepare(t.Context(), &quarry.PrepareRequest{Data: data}, func(_ *quarry.PrepareReply, err error) {
			if err != nil {
				t.Error(err)
			}
			close(done)
		})
		<-done
		close(release)
		calls.Wait()
		if most.Load() > 100<<20 {
			t.Errorf("%d bytes were held at a time", most.Load())
		}
		e.close()
	})
}

// A frame that comes byte by byte holds a buffer, but not for ever.
func TestFrameTakesTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t)
		e.server.HandleRaw(rawTestOp, func(context.Context, *Raw) (*Raw, error) { return &Raw{}, nil })
		e.serve()
		conn, _ := dialRaw(t, e, LaneControl)
		conn.Write(appendRaw(nil, head{version: 1, kind: kindRequest, op: rawTestOp.Op, payload: 1 << 20}, nil))
		synctest.Wait() // until the server has the connection among its own
		start := time.Now()
		for len(e.server.connected()) > 0 && time.Since(start) < time.Hour {
			sleep(t, time.Second)
			conn.Write([]byte{1})
		}
		if took := time.Since(start); took < frameTime || took > frameTime+5*defaultKeepAlive {
			t.Errorf("the connection was closed after %v", took)
		}
		if used := e.server.budgets[LaneControl].Used(); used != 0 {
			t.Errorf("%d bytes of payload are never given back", used)
		}
		e.close()
	})
}

// A client that takes no replies and gives no sign of life is given up, although the server
// does not read from it either, because it has no room for more requests.
func TestClientThatTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnvOn(t, NewMemory(), "server:0", func(c *ServerConfig) { c.RequestsMax = 1 }, nil)
		e.server.HandleRaw(rawTestOp, func(context.Context, *Raw) (*Raw, error) { return &Raw{Payload: make([]byte, 1<<20)}, nil })
		e.serve()
		conn, _ := dialRaw(t, e, LaneControl)
		for i := range 5 {
			conn.Write(appendRaw(nil, head{version: 1, kind: kindRequest, op: rawTestOp.Op, id: uint64(i)}, nil))
		}
		synctest.Wait()
		if n := len(e.server.connected()); n != 1 {
			t.Fatalf("%d connections", n)
		}
		sleep(t, (silentIntervals+2)*defaultKeepAlive)
		if n := len(e.server.connected()); n != 0 {
			t.Error("the connection is still there")
		}
		e.close()
	})
}

func TestAnswersTwice(t *testing.T) {
	e := newEnv(t)
	panicked := make(chan any, 1)
	ServeChunkServer(e.server, &fakeServer{append: func(_ context.Context, _ *quarry.AppendRequest, done func(*quarry.AppendReply, error)) {
		done(&quarry.AppendReply{}, nil)
		defer func() { panicked <- recover() }()
		done(&quarry.AppendReply{}, nil)
	}})
	e.serve()
	e.client.ChunkServer(e.address).Append(t.Context(), &quarry.AppendRequest{Data: []byte{1}}, func(*quarry.AppendReply, error) {})
	if p := <-panicked; p == nil {
		t.Error("a second answer went unnoticed")
	}
}

func TestRequestContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer := &Peer{Address: "x"}
		c := newRequestContext(clock.Simulated(), peer, 1000)
		if p, ok := PeerFrom(c); !ok || p.Address != "x" {
			t.Errorf("the peer is %v", p)
		}
		if _, ok := PeerFrom(t.Context()); ok {
			t.Error("a peer where there is none")
		}
		fired := make(chan time.Duration, 2)
		start := time.Now()
		stop := c.AfterFunc(func() { fired <- 0 })
		c.AfterFunc(func() { fired <- time.Since(start) })
		if !stop() || stop() {
			t.Error("stop does not tell whether it stopped the function")
		}
		if took := <-fired; took != time.Second {
			t.Errorf("the function was called after %v", took)
		}
		if c.Err() != context.DeadlineExceeded {
			t.Errorf("the context ended with %v", c.Err())
		}
		c.AfterFunc(func() { fired <- 7 })
		if <-fired != 7 {
			t.Error("a function of an ended context is not called at once")
		}
		c = newRequestContext(clock.Simulated(), peer, 1000) // nobody asks for Done
		clock.Simulated().Sleep(t.Context(), time.Second)
		if c.Err() != context.DeadlineExceeded {
			t.Errorf("the context has %v after its deadline", c.Err())
		}
		c = newRequestContext(clock.Simulated(), peer, 0)
		c.end(context.Canceled)
		<-c.Done()
	})
}
