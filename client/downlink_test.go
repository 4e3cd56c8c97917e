package client_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
	"github.com/quarryfs/quarry/client/waiting"
)

// downlink is a slow way from all servers to a client. The replies that are under way share it: each
// sends a part when its turn comes.
type downlink struct {
	turn   waiting.Gate
	rate   float64 // bytes per second
	sleep  func(context.Context, time.Duration) error
	faulty int // each so manieth request fails; 0: none

	mu       sync.Mutex
	requests int
	bytes    int64 // carried
}

type downlinked struct {
	quarry.ChunkServer
	*downlink
}

func (s downlinked) Read(ctx context.Context, req *quarry.ReadRequest) (*quarry.ReadReply, error) {
	s.mu.Lock()
	s.requests++
	fails := s.faulty > 0 && s.requests%s.faulty == 0
	s.mu.Unlock()
	if fails {
		return nil, quarry.Errorf("read", quarry.Unavailable, "", "the connection was lost")
	}
	reply, err := s.ChunkServer.Read(ctx, &quarry.ReadRequest{ChunkRef: req.ChunkRef, Offset: req.Offset, Length: req.Length, Validated: req.Validated})
	if err != nil {
		return nil, err
	}
	p := []byte(nil)
	for done := 0; done < len(reply.Data); {
		part := reply.Data[done:min(done+64<<10, len(reply.Data))]
		if err := s.carry(ctx, len(part)); err != nil {
			return nil, err
		}
		if p == nil {
			p = req.Sink.Place(len(reply.Data))
		}
		done += copy(p[done:], part)
		req.Sink.Arrived(reply.CRCs, p[:done])
	}
	reply.Data = p[:len(reply.Data)]
	return reply, nil
}

// carry waits for a turn on the link, and for n bytes to be carried.
func (l *downlink) carry(ctx context.Context, n int) error {
	if err := l.turn.Lock(ctx); err != nil {
		return err
	}
	defer l.turn.Unlock()
	l.mu.Lock()
	l.bytes += int64(n)
	l.mu.Unlock()
	return l.sleep(ctx, time.Duration(float64(n)/l.rate*1e9))
}

// Many files that are read at the same time over a slow link take the time that their bytes take: no
// request is given up or sent twice because its answer takes long, and a request that fails is sent again,
// however long it has waited for its turn.
func TestGetOverSlowLink(t *testing.T) {
	const (
		files = 48
		size  = 2 << 20
	)
	for _, rate := range []float64{300e3, 2e6} {
		for _, faulty := range []int{0, 10} {
			t.Run(fmt.Sprintf("%v kB/s, faults %d", rate/1e3, faulty), func(t *testing.T) {
				config := clienttest.Config{}
				if faulty > 0 {
					config.Copies = 1 // there is no other to ask
				}
				run(t, config, client.Options{}, func(e *env) {
					down := &downlink{turn: waiting.NewGate(), rate: rate, sleep: e.c.Clock().Sleep, faulty: faulty}
					f := client.New(e.c.Masters(), func(m quarry.Member) quarry.ChunkServer {
						return downlinked{e.c.Server(m.Server), down}
					}, client.Options{Clock: e.c.Clock()})
					defer f.Close()
					data := clienttest.Bytes(1, size)
					e.put("/f", data)
					start := time.Now()
					var gets sync.WaitGroup
					for range files {
						gets.Go(func() {
							file, err := f.Open(e.Context(), "/f")
							if err != nil {
								e.Error(err)
								return
							}
							defer file.Close()
							if got, err := io.ReadAll(file); err != nil || !bytes.Equal(got, data) {
								e.Errorf("%d bytes were read: %v", len(got), err)
							}
						})
					}
					gets.Wait()
					took, least := time.Since(start), time.Duration(files*size/rate*1e9)
					t.Logf("%v for %v; %d bytes were sent", took, least, down.bytes)
					if down.bytes > files*size*21/20 || took > least*11/10 {
						t.Errorf("it took %v, and %d bytes were sent; want %v, and %d", took, down.bytes, least, files*size)
					}
				})
			})
		}
	}
}
