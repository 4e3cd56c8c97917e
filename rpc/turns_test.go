package rpc

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/rpc/turns"
)

// A call for which somebody waits is small while it is under way, however it ends; one that waits for something to
// happen is not, nor is a bulk read.
func TestSmallCalls(t *testing.T) {
	before := turns.Receiving.Small()
	e := newEnv(t)
	look := func() int { return turns.Receiving.Small() - before }
	var during atomic.Int64
	ServeChunkServer(e.server, &fakeServer{
		end: func(context.Context, *quarry.EndRequest) (*quarry.EndReply, error) {
			during.Store(int64(look()))
			return nil, quarry.Errorf("end", quarry.Busy, "", "not now")
		},
		wait: func(context.Context, *quarry.WaitRequest) (*quarry.WaitReply, error) {
			during.Store(int64(look()))
			return &quarry.WaitReply{}, nil
		},
		read: func(_ context.Context, q *quarry.ReadRequest) (*quarry.ReadReply, error) {
			during.Store(int64(look()))
			return &quarry.ReadReply{Data: make([]byte, q.Length)}, nil
		},
	})
	e.serve()
	server := e.client.ChunkServer(e.address)
	for _, c := range []struct {
		name string
		call func() error
		want int64
	}{
		{"end", func() error { _, err := server.End(t.Context(), &quarry.EndRequest{}); return err }, 1},
		{"wait", func() error { _, err := server.Wait(t.Context(), &quarry.WaitRequest{}); return err }, 0},
		{"small read", func() error {
			_, err := server.Read(t.Context(), &quarry.ReadRequest{Length: smallReadBytes})
			return err
		}, 1},
		{"bulk read", func() error { _, err := server.Read(t.Context(), &quarry.ReadRequest{Length: 1 << 20}); return err }, 0},
	} {
		if err := c.call(); quarry.KindOf(err) != quarry.Busy && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if n := during.Load(); n != c.want {
			t.Errorf("%s: %d small calls were under way, want %d", c.name, n, c.want)
		}
		if n := look(); n != 0 {
			t.Errorf("%s: %d small calls are under way afterwards", c.name, n)
		}
	}
	e.close()
}
