package rpc

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
)

// Who waits on a connection without any other traffic is not given up for as long as both sides
// live, whichever of them gives signs of life more rarely.
func TestIntervalsThatDiffer(t *testing.T) {
	for name, intervals := range map[string][2]time.Duration{
		"patient client": {300 * time.Millisecond, 2 * time.Second},
		"patient server": {2 * time.Second, 300 * time.Millisecond},
		"no multiples":   {700 * time.Millisecond, time.Second},
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
				sleep(t, 30*time.Second)
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

// A peer that says that it gives no sign of life for hours is given up all the same.
func TestIntervalBeyondAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t)
		e.serve()
		conn, err := e.network.Dial(t.Context(), e.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		p := party{identity: clientIdentity(), keepAlive: 1000 * time.Hour}
		if _, err := p.greet(conn, testReader(conn), LaneControl); err != nil {
			t.Fatal(err)
		}
		sleep(t, (silentTicks+2)*keepAliveMax)
		if n := len(e.server.connected()); n != 0 {
			t.Error("the connection is still there")
		}
		e.close()
	})
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
