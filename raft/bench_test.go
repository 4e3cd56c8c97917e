package raft

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/disk"
)

// nothing is a state machine that costs nothing.
type nothing struct{}

func (nothing) Apply(KV, uint64, []byte) []byte { return nil }

// oneKey writes one key for each command.
type oneKey struct{}

func (oneKey) Apply(kv KV, _ uint64, command []byte) []byte {
	kv.Set(command[:16], command)
	return nil
}

// direct hands batches to the other hosts of the process, as fast as the sender can.
type direct struct {
	mu    sync.Mutex
	hosts map[quarry.NodeID]*Host
}

func (d *direct) host(id quarry.NodeID) *Host {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hosts[id]
}

func (d *direct) Send(_ context.Context, to Member, batch []byte) error {
	if h := d.host(to.Node); h != nil {
		return h.Deliver(batch)
	}
	return nil
}

func (d *direct) SendSnapshot(ctx context.Context, to Member, body io.Reader) error {
	if h := d.host(to.Node); h != nil {
		return h.ReceiveSnapshot(ctx, body)
	}
	return quarry.Errorf("bench", quarry.Unavailable, "", "no such node")
}

// benchCluster starts three hosts on real disks in one process.
func benchCluster(b *testing.B, groups int, sm func() StateMachine) []*Host {
	net := &direct{hosts: map[quarry.NodeID]*Host{}}
	var hosts []*Host
	var voters []Member
	for i := quarry.NodeID(1); i <= 3; i++ {
		fs, err := disk.Open(b.TempDir())
		if err != nil {
			b.Fatal(err)
		}
		h, err := Open(Config{
			Node: i, Cluster: testClusterID, Address: fmt.Sprint("node", i), Log: fs, State: vfs.Default, StateDir: b.TempDir(),
			Transport: net, Clock: clock.System(), Logger: slog.New(slog.DiscardHandler), ElectionTicks: 40,
		})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = h.Close() })
		net.mu.Lock()
		net.hosts[i] = h
		net.mu.Unlock()
		hosts = append(hosts, h)
		voters = append(voters, h.Self())
	}
	for _, h := range hosts {
		for g := range groups {
			if err := h.Bootstrap(quarry.ShardID(g), voters, sm()); err != nil {
				b.Fatal(err)
			}
		}
	}
	return hosts
}

// benchLeaders returns the host that leads each group.
func benchLeaders(b *testing.B, hosts []*Host, groups int) []*Host {
	leaders := make([]*Host, groups)
	for g := range groups {
		for range 1000 {
			for _, h := range hosts {
				if st, err := h.Status(quarry.ShardID(g)); err == nil && st.Leading {
					leaders[g] = h
				}
			}
			if leaders[g] != nil {
				break
			}
			_ = clock.System().Sleep(b.Context(), 10*time.Millisecond)
		}
		if leaders[g] == nil {
			b.Fatalf("group %d has no leader", g)
		}
	}
	return leaders
}

func cpuTime() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkPropose measures commands of 128 bytes; "replica-us/op" is the CPU time of the
// whole process, proposers included, for one command on one of the three replicas.
func BenchmarkPropose(b *testing.B) {
	for _, kind := range []struct {
		name string
		sm   func() StateMachine
	}{{"nothing", func() StateMachine { return nothing{} }}, {"onekey", func() StateMachine { return oneKey{} }}} {
		for _, groups := range []int{1, 8} {
			hosts := []*Host(nil)
			for _, proposers := range []int{16, 128, 1024} {
				b.Run(fmt.Sprintf("%s/groups=%d/proposers=%d", kind.name, groups, proposers), func(b *testing.B) {
					hosts = benchCluster(b, groups, kind.sm)
					benchPropose(b, benchLeaders(b, hosts, groups), proposers)
				})
			}
		}
	}
}

func benchPropose(b *testing.B, leaders []*Host, proposers int) {
	var next atomic.Int64
	var failed atomic.Int64
	var wg sync.WaitGroup
	cpu := cpuTime()
	b.ResetTimer()
	for p := range proposers {
		g := p % len(leaders)
		r := rand.New(rand.NewPCG(uint64(p), 0))
		wg.Go(func() {
			for next.Add(1) <= int64(b.N) {
				command := make([]byte, 128)
				binary.BigEndian.PutUint64(command, r.Uint64())
				if _, err := leaders[g].Propose(b.Context(), quarry.ShardID(g), command); err != nil {
					failed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	used := cpuTime() - cpu
	b.ReportMetric(float64(used.Microseconds())/float64(b.N)/3, "replica-us/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
	if n := failed.Load(); n > 0 {
		b.Logf("%d proposals failed", n)
	}
}

func BenchmarkReadIndex(b *testing.B) {
	for _, readers := range []int{1, 128, 1024} {
		b.Run(fmt.Sprintf("readers=%d", readers), func(b *testing.B) {
			leader := benchLeaders(b, benchCluster(b, 1, func() StateMachine { return nothing{} }), 1)[0]
			var next atomic.Int64
			var wg sync.WaitGroup
			cpu := cpuTime()
			b.ResetTimer()
			for range readers {
				wg.Go(func() {
					for next.Add(1) <= int64(b.N) {
						if err := leader.ReadIndex(b.Context(), 0); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "us/op")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
		})
	}
}
