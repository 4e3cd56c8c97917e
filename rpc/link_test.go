package rpc

import (
	"bytes"
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// Who waits on a connection without any other traffic is not given up for as long as both sides
// live, whichever of them gives signs of life more rarely.
func TestIntervalsThatDiffer(t *testing.T) {
	for name, intervals := range map[string][2]time.Duration{
		"patient client": {300 * time.Millisecond, 2 * time.Second},
		"patient server": {2 * time.Second, 300 * time.Millisecond},
		"no multiples":   {700 * time.Millisecond, time.Second},
		"beyond all":     {300 * time.Millisecond, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnvOn(t, NewMemory(), "server:0", func(c *ServerConfig) { c.KeepAlive = intervals[0] },
					func(c *ClientConfig) { c.KeepAlive = intervals[1] })
				release := make(chan struct{})
				ServeChunkServer(e.server, &fakeServer{wait: func(ctx context.Context, _ *quarry.WaitRequest) (*quarry.WaitReply, error) {
					select {
					case <-release:
						return &quarry.WaitReply{}, nil
					case <-ctx.Done():
						return nil, ctx.Err()
					}
				}})
				e.serve()
				done := make(chan error, 1)
				go func() {
					_, err := e.client.ChunkServer(e.address).Wait(t.Context(), &quarry.WaitRequest{})
					done <- err
				}()
				sleep(t, 2*time.Minute)
				synctest.Wait()
				select {
				case err := <-done:
					t.Errorf("the call ended before it was answered: %v", err)
				default:
					close(release)
					if err := <-done; err != nil {
						t.Error(err)
					}
				}
				if n := e.server.made; n != 1 {
					t.Errorf("%d connections were made", n)
				}
				e.close()
			})
		})
	}
}

// dialTold connects as a peer that tells an interval, and whether it rests, and says nothing more by itself.
func dialTold(t *testing.T, e *env, told time.Duration, rests bool) (Conn, *frameReader) {
	t.Helper()
	conn, err := e.network.Dial(t.Context(), e.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	r := testReader(conn)
	p := party{identity: clientIdentity(), keepAlive: told, rests: rests}
	if _, err := p.greet(conn, r, LaneControl); err != nil {
		t.Fatal(err)
	}
	return conn, r
}

// The interval of a connection is the longer one of those of its sides, and at most 10 s. A side
// sends something at least that often, whatever else it sends, and no more signs of life than
// that takes; it gives up a side that is silent for three intervals, not one that is twice as slow
// as it should be.
func TestSignsOfLife(t *testing.T) {
	for name, test := range map[string]struct{ own, told, interval time.Duration }{
		"peer told nothing":     {time.Second, 0, time.Second},
		"equal":                 {time.Second, time.Second, time.Second},
		"patient peer":          {300 * time.Millisecond, time.Second, time.Second},
		"very patient peer":     {time.Second, 1000 * time.Hour, keepAliveMax},
		"half as patient":       {time.Second, 2 * time.Second, 2 * time.Second},
		"no multiples":          {700 * time.Millisecond, time.Second, time.Second},
		"impatient peer":        {2 * time.Second, 300 * time.Millisecond, 2 * time.Second},
		"patient by itself":     {time.Hour, time.Second, keepAliveMax},
		"a little more patient": {time.Second, 11 * time.Second / 10, 11 * time.Second / 10},
	} {
		tick := min(test.own, keepAliveMax)
		start := func(t *testing.T) *env {
			e := newEnvOn(t, NewMemory(), "server:0", func(c *ServerConfig) { c.KeepAlive = test.own }, nil)
			e.serve()
			return e
		}
		t.Run(name, func(t *testing.T) {
			for _, requests := range []time.Duration{0, test.interval * 17 / 10, test.interval * 3 / 10} {
				synctest.Test(t, func(t *testing.T) {
					e := start(t)
					conn, r := dialTold(t, e, test.told, false)
					ask := func(every time.Duration, frame []byte) {
						go func() {
							for clock.Simulated().Sleep(t.Context(), every) == nil {
								conn.Write(frame)
							}
						}()
					}
					ask(test.interval*2, appendRaw(nil, head{version: 1, kind: kindKeepAlive}, nil))
					if requests > 0 {
						ask(requests, appendRaw(nil, head{version: 1, kind: kindRequest, op: opMax - 1, id: 1}, nil))
					}
					began := clock.Simulated().Now()
					for last := began; last.Sub(began) < 20*test.interval; {
						h, _ := nextFrame(t, r)
						now := clock.Simulated().Now()
						gap := now.Sub(last)
						if gap > test.interval {
							t.Errorf("%v after it began nothing was sent for %v", now.Sub(began), gap)
						}
						if requests == 0 && last != began && (h.kind != kindKeepAlive || tick < test.interval && gap <= test.interval-tick) {
							t.Errorf("a frame of kind %d was sent after %v", h.kind, gap)
						}
						last = now
					}
					e.close()
				})
			}
			synctest.Test(t, func(t *testing.T) {
				e := start(t)
				conn, _ := dialTold(t, e, test.told, false)
				began := clock.Simulated().Now()
				io.Copy(io.Discard, conn)
				if took := clock.Simulated().Now().Sub(began); took < silentIntervals*test.interval || took > silentIntervals*test.interval+2*tick {
					t.Errorf("a silent peer was given up after %v", took)
				}
				e.close()
			})
		})
	}
}

// The buffer of a connection grows with what comes at once, up to a bound; one small frame after
// the other leaves it as it is.
func TestBufferGrows(t *testing.T) {
	var frames []byte
	want := 0
	for i := range 400 {
		body := bytes.Repeat([]byte{byte(i)}, i*37%9000)
		frames = appendRaw(frames, head{version: 1, kind: kindRequest, id: uint64(i)}, body)
		want++
	}
	for _, most := range []int{4 << 10, 6 << 10, 32 << 10} {
		r := newFrameReader(bytes.NewReader(frames), firstBufferBytes, func() {})
		r.most = most
		for i := range want {
			var h head
			if err := r.head(&h); err != nil || h.id != uint64(i) {
				t.Fatalf("frame %d: %v, %v", i, h.id, err)
			}
			body, err := r.body(&h)
			if err != nil || len(body) != i*37%9000 || bytes.Count(body, []byte{byte(i)}) != len(body) {
				t.Fatalf("frame %d of %d bytes: %v", i, len(body), err)
			}
		}
		if len(r.buf) != most {
			t.Errorf("the buffer has %d bytes, want %d", len(r.buf), most)
		}
	}
	client, server := pipeEnds(t)
	r := newFrameReader(server, firstBufferBytes, func() {})
	r.most = 32 << 10
	for i := range 1000 {
		if _, err := client.Write(appendRaw(nil, head{version: 1, kind: kindKeepAlive, id: uint64(i)}, make([]byte, 200))); err != nil {
			t.Fatal(err)
		}
		var h head
		if err := r.head(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := r.body(&h); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.buf) != firstBufferBytes {
		t.Errorf("small frames have made the buffer %d bytes large", len(r.buf))
	}
}

// pipeEnds returns both ends of a connection.
func pipeEnds(t *testing.T) (client, server Conn) {
	n := NewMemory()
	l, err := n.Listen("server:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	accepted := make(chan Conn, 1)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	if client, err = n.Dial(t.Context(), l.Address()); err != nil {
		t.Fatal(err)
	}
	return client, <-accepted
}
