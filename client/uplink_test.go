package client_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
)

// uplink is a slow way from a client to all servers: records take their turns, in the order in which
// they come.
type uplink struct {
	queue chan func()
	bytes int64 // carried; the queue's
}

type uplinked struct {
	quarry.ChunkServer
	*uplink
	sleep func(context.Context, time.Duration) error
	rate  float64
}

func (s uplinked) Append(ctx context.Context, req *quarry.AppendRequest, done func(*quarry.AppendReply, error)) {
	s.queue <- func() {
		s.bytes += int64(len(req.Data))
		if err := s.sleep(context.Background(), time.Duration(float64(len(req.Data))/s.rate*1e9)); err != nil {
			done(nil, err)
			return
		}
		s.ChunkServer.Append(ctx, req, done)
	}
}

// Many files that are put at the same time over a slow link take the time that their bytes take: not so much is under
// way that acknowledgements take too long, chunks are given up, and bytes are sent again.
func TestPutOverSlowLink(t *testing.T) {
	const (
		files = 64
		size  = 1 << 20
		rate  = 500e3
	)
	run(t, clienttest.Config{}, client.Options{}, func(e *env) {
		up := &uplink{queue: make(chan func(), 10_000)}
		go func() {
			for carry := range up.queue {
				carry()
			}
		}()
		defer close(up.queue)
		f := client.New(e.c.Masters(), func(m quarry.Member) quarry.ChunkServer {
			return uplinked{e.c.Server(m.Server), up, e.c.Clock().Sleep, rate}
		}, client.Options{Clock: e.c.Clock()})
		defer f.Close()
		data := clienttest.Bytes(1, size)
		start := time.Now()
		var puts sync.WaitGroup
		for i := range files {
			puts.Go(func() {
				_, err := f.Put(e.Context(), fmt.Sprintf("/f%d", i), bytes.NewReader(data), client.PutOptions{})
				e.must(err)
			})
		}
		puts.Wait()
		took, least := time.Since(start), time.Duration(files*size/rate*1e9)
		t.Logf("%v for %v; %d bytes were sent", took, least, up.bytes)
		if up.bytes != files*size || took > least*11/10 {
			t.Errorf("it took %v, and %d bytes were sent; want %v, and %d", took, up.bytes, least, files*size)
		}
		e.expect("/f17", data)
	})
}
