package client_test

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
)

// scripted answers each read of a server after a time, with the bytes or with an error.
type scripted struct {
	mu      sync.Mutex
	answers map[quarry.ServerID]scriptedAnswer
	asked   []quarry.ServerID
}

type scriptedAnswer struct {
	after time.Duration
	err   error
}

type scriptedServer struct {
	quarry.ChunkServer
	*scripted
	id    quarry.ServerID
	sleep func(context.Context, time.Duration) error
}

func (s scriptedServer) Read(ctx context.Context, req *quarry.ReadRequest) (*quarry.ReadReply, error) {
	s.mu.Lock()
	s.asked = append(s.asked, s.id)
	a := s.answers[s.id]
	s.mu.Unlock()
	if err := s.sleep(ctx, a.after); err != nil {
		return nil, quarry.Errorf("read", quarry.Unavailable, "", "%w", err)
	}
	if a.err != nil {
		return nil, a.err
	}
	return s.ChunkServer.Read(ctx, req)
}

// A slow replica has the next one asked as well, once; the first answer counts, a failure is
// noted whoever answers in the end, and nothing is under way when a read has returned.
func TestHedge(t *testing.T) {
	const slow = time.Hour // until it is ended
	unavailable := quarry.Errorf("read", quarry.Unavailable, "", "broken")
	corrupt := quarry.Errorf("read", quarry.Corrupt, "", "broken")
	for name, c := range map[string]struct {
		answers []scriptedAnswer // of the replicas in their order
		cancel  time.Duration
		asked   int
		took    time.Duration // 50 ms until the second is asked
		want    error
		reports int
	}{
		"at once":                    {[]scriptedAnswer{{0, nil}}, 0, 1, 0, nil, 0},
		"in time":                    {[]scriptedAnswer{{49 * time.Millisecond, nil}}, 0, 1, 49 * time.Millisecond, nil, 0},
		"first wins":                 {[]scriptedAnswer{{70 * time.Millisecond, nil}, {slow, nil}}, 0, 2, 70 * time.Millisecond, nil, 0},
		"second wins":                {[]scriptedAnswer{{slow, nil}, {20 * time.Millisecond, nil}}, 0, 2, 70 * time.Millisecond, nil, 0},
		"first fails early":          {[]scriptedAnswer{{10 * time.Millisecond, unavailable}, {0, nil}}, 0, 2, 10 * time.Millisecond, nil, 0},
		"second slow after failure":  {[]scriptedAnswer{{10 * time.Millisecond, unavailable}, {slow, nil}, {5 * time.Millisecond, nil}}, 0, 3, 55 * time.Millisecond, nil, 0},
		"first fails, second wins":   {[]scriptedAnswer{{60 * time.Millisecond, corrupt}, {30 * time.Millisecond, nil}}, 0, 2, 80 * time.Millisecond, nil, 1},
		"second fails, first wins":   {[]scriptedAnswer{{90 * time.Millisecond, nil}, {20 * time.Millisecond, unavailable}, {0, nil}}, 0, 2, 90 * time.Millisecond, nil, 0},
		"both fail":                  {[]scriptedAnswer{{60 * time.Millisecond, unavailable}, {30 * time.Millisecond, corrupt}, {0, nil}}, 0, 3, 80 * time.Millisecond, nil, 1},
		"cancelled with both asked":  {[]scriptedAnswer{{slow, nil}, {slow, nil}}, 80 * time.Millisecond, 2, 80 * time.Millisecond, context.Canceled, 0},
		"cancelled before the hedge": {[]scriptedAnswer{{slow, nil}, {slow, nil}}, 20 * time.Millisecond, 1, 20 * time.Millisecond, context.Canceled, 0},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, clienttest.Config{Copies: 3}, client.Options{}, func(e *env) {
				data := clienttest.Bytes(1, 1<<20)
				e.put("/f", data)
				s, count := &scripted{answers: map[quarry.ServerID]scriptedAnswer{}}, &counting{delay: func(context.Context) error { return nil }}
				files := client.New(e.c.Masters(), func(m quarry.Member) quarry.ChunkServer {
					return counted{scriptedServer{e.c.Server(m.Server), s, m.Server, e.c.Clock().Sleep}, count}
				}, client.Options{Clock: e.c.Clock()})
				defer files.Close()
				f, err := files.Open(e.Context(), "/f")
				e.must(err)
				for i, h := range holders(e, "/f")[:len(c.answers)] {
					s.answers[h.ID()] = c.answers[i]
				}
				ctx, cancel := context.WithCancel(e.Context())
				defer cancel()
				if c.cancel > 0 {
					defer time.AfterFunc(c.cancel, cancel).Stop()
				}
				p, start := make([]byte, len(data)), time.Now()
				_, err = f.ReadAtContext(ctx, p, 0)
				if took := time.Since(start); took != c.took {
					e.Errorf("it took %v, want %v", took, c.took)
				}
				if e.want(err, c.want); c.want == nil && !bytes.Equal(p, data) {
					e.Error("the bytes differ")
				}
				if count.now != 0 || len(s.asked) != c.asked || len(slices.Compact(slices.Sorted(slices.Values(s.asked)))) != c.asked {
					e.Errorf("servers %v were asked, want %d; %d requests are under way", s.asked, c.asked, count.now)
				}
				e.must(f.Close())
				e.sleep(time.Second)
				if n := len(e.c.Reports()); n != c.reports {
					e.Errorf("%d reports, want %d", n, c.reports)
				}
			})
		})
	}
}

// trickling begins its answers at once; their bytes take a time.
type trickling struct {
	quarry.ChunkServer
	takes time.Duration
	sleep func(context.Context, time.Duration) error
}

func (s trickling) Read(ctx context.Context, req *quarry.ReadRequest) (*quarry.ReadReply, error) {
	reply, err := s.ChunkServer.Read(ctx, &quarry.ReadRequest{ChunkRef: req.ChunkRef, Offset: req.Offset, Length: req.Length, Validated: req.Validated})
	if err != nil {
		return nil, err
	}
	p := req.Sink.Place(len(reply.Data))[:len(reply.Data)]
	if err := s.sleep(ctx, s.takes); err != nil {
		return nil, quarry.Errorf("read", quarry.Unavailable, "", "%w", err)
	}
	copy(p, reply.Data)
	req.Sink.Arrived(reply.CRCs, p)
	reply.Data = p
	return reply, nil
}

// A server whose answers begin to come and then take a thousand times as long as those of others is passed over soon, each
// time that it is tried again.
func TestTricklingReplica(t *testing.T) {
	run(t, clienttest.Config{Copies: 3}, client.Options{}, func(e *env) {
		data := clienttest.Bytes(1, 1<<20)
		e.put("/f", data)
		takes := map[quarry.ServerID]time.Duration{}
		files := client.New(e.c.Masters(), func(m quarry.Member) quarry.ChunkServer {
			return trickling{e.c.Server(m.Server), max(takes[m.Server], time.Millisecond), e.c.Clock().Sleep}
		}, client.Options{Clock: e.c.Clock()})
		defer files.Close()
		f, err := files.Open(e.Context(), "/f")
		e.must(err)
		p := make([]byte, len(data))
		for i := range 15 { // more would be asked twice than is allowed
			start := time.Now()
			_, err := f.ReadAtContext(e.Context(), p, 0)
			e.must(err)
			if took := time.Since(start); took > 100*time.Millisecond || !bytes.Equal(p, data) {
				e.Errorf("read %d took %v", i, took)
			}
			if i == 5 { // it is known how long answers take
				takes[holders(e, "/f")[0].ID()] = time.Second
			}
			e.sleep(6 * time.Second) // for so long no server that failed is avoided
		}
		e.must(f.Close())
	})
}
