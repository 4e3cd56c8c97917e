package chunkserver

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/chunk"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/disk"
)

// registrar is masters that remember who has registered, and refuse the heartbeats of who
// was followed by another process.
type registrar struct {
	*world
	processes []quarry.ProcessID
	followed  bool
	absent    int // how many more requests to register no master takes
}

func (r *registrar) Node(string) (quarry.Master, error) { return r, nil }

func (r *registrar) Register(ctx context.Context, req *quarry.RegisterRequest) (*quarry.RegisterReply, error) {
	r.mu.Lock()
	r.processes = append(r.processes, req.Process)
	r.absent--
	absent := r.absent >= 0
	r.mu.Unlock()
	if absent {
		return nil, quarry.Errorf("register", quarry.Unavailable, "", "no master took the request within 30s")
	}
	return r.world.Register(ctx, req)
}

func (r *registrar) Heartbeat(ctx context.Context, req *quarry.HeartbeatRequest) (*quarry.HeartbeatReply, error) {
	r.mu.Lock()
	followed := r.followed
	r.mu.Unlock()
	if followed {
		return nil, quarry.Errorf("heartbeat", quarry.StaleVersion, "", "incarnation %d has begun", req.Incarnation+1)
	}
	return r.world.Heartbeat(ctx, req)
}

// Each start is another process, and one that was followed says that it is over instead of
// living on without ever getting a lease. One that finds no master waits, as the same process.
func TestProcesses(t *testing.T) {
	inWorld(t, func(w *world) {
		r := &registrar{world: w}
		fsys := disk.NewMem()
		start := func() *Server {
			d, err := chunk.Open(fsys, chunk.Options{
				Identity: chunk.Identity{Cluster: quarry.ClusterID{1}, Disk: diskID(1, 0)}, Now: time.Unix(1e9, 0), ReserveBytes: 1,
			})
			if err != nil {
				t.Fatal(err)
			}
			s, err := Open(w.t.Context(), Config{
				Cluster: quarry.ClusterID{1}, Address: "s1", Boot: "boot", Masters: r, Clock: clock.Simulated(),
				Logger: slog.New(slog.DiscardHandler), Disks: []*chunk.Store{d},
				Dial: func(quarry.Member) quarry.ChunkServer { return nil },
			})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		if err := start().Close(); err != nil {
			t.Fatal(err)
		}
		r.absent = 2
		s := start()
		defer s.Close()
		if p := r.processes; len(p) != 4 || p[0] == p[1] || p[1] != p[2] || p[2] != p[3] || p[0].IsZero() || p[1].IsZero() {
			t.Fatalf("the processes are %v", p)
		}
		_ = clock.Simulated().Sleep(w.t.Context(), time.Minute)
		if s.Err() != nil {
			t.Fatal(s.Err())
		}
		r.mu.Lock()
		r.followed = true
		r.mu.Unlock()
		<-s.Done()
		if !errors.Is(s.Err(), quarry.StaleVersion) {
			t.Errorf("it is over because of %v", s.Err())
		}
	})
}
