// Smallcall measures Quarry's small calls against those of grpc-go, in one process and in turn:
// callers that share one connection over loopback TCP, each with one call under way, of which
// request and answer have some forty bytes and the server does nothing. It is a module of its
// own, so that Quarry itself does not depend on gRPC.
//
//	cd bench/smallcall && go run . --callers 1,16,128
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc"
)

func main() {
	callers := flag.String("callers", "1,16,128", "how many callers there are, a list")
	calls := flag.Int("calls", 40_000, "calls of a run")
	runs := flag.Int("runs", 7, "runs, Quarry and gRPC in turn")
	flag.Parse()
	if err := run(*callers, *calls, *runs); err != nil {
		fmt.Fprintln(os.Stderr, "smallcall:", err)
		os.Exit(1)
	}
}

// side is one of the two that are compared: a call, and what ends it all.
type side struct {
	call  func(ctx context.Context) error
	close func()
}

// sample is one run: calls per second, and processor time per call in microseconds.
type sample struct{ rate, cpu float64 }

func run(callers string, calls, runs int) error {
	if calls < 1 || runs < 1 {
		return errors.New("there has to be a call and a run")
	}
	ours, err := startQuarry()
	if err != nil {
		return err
	}
	defer ours.close()
	theirs, err := startGRPC()
	if err != nil {
		return err
	}
	defer theirs.close()
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	defer w.Flush()
	fmt.Fprintln(w, "figure\tQuarry\tmin\tmax\tgrpc-go\tmin\tmax\tratio\t")
	for _, text := range strings.Split(callers, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 1<<16 {
			return fmt.Errorf("%q is no number of callers", text)
		}
		var samples [2][]sample
		for i := -1; i < runs; i++ { // the first does not count
			for k := range 2 {
				at := (k + i&1) % 2 // who is first changes from run to run
				s, err := measure([]*side{ours, theirs}[at], n, calls)
				if err != nil {
					return err
				}
				if i >= 0 {
					samples[at] = append(samples[at], s)
				}
			}
		}
		tell(w, fmt.Sprintf("%d callers, calls/s", n), samples, func(s sample) float64 { return s.rate })
		tell(w, fmt.Sprintf("%d callers, CPU us/call", n), samples, func(s sample) float64 { return s.cpu })
	}
	return nil
}

// tell prints medians and spreads of both sides, and the median of the ratios of the pairs.
func tell(w *tabwriter.Writer, name string, samples [2][]sample, of func(sample) float64) {
	var v [3][]float64
	for i := range samples[0] {
		a, b := of(samples[0][i]), of(samples[1][i])
		v[0], v[1], v[2] = append(v[0], a), append(v[1], b), append(v[2], a/b)
	}
	for i := range v {
		slices.SortFunc(v[i], cmp.Compare)
	}
	fmt.Fprintf(w, "%s\t%.4g\t%.4g\t%.4g\t%.4g\t%.4g\t%.4g\t%.2f\t\n", name,
		v[0][len(v[0])/2], v[0][0], v[0][len(v[0])-1], v[1][len(v[1])/2], v[1][0], v[1][len(v[1])-1], v[2][len(v[2])/2])
}

// measure has callers share so many calls.
func measure(s *side, callers, calls int) (sample, error) {
	ctx, cancel := context.WithCancel(context.Background()) // as a caller's is, it can end
	defer cancel()
	var next atomic.Int64
	var g errgroup.Group
	cpu, start := processCPU(), clock.System().Now()
	for range callers {
		g.Go(func() error {
			for next.Add(1) <= int64(calls) {
				if err := s.call(ctx); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	wall, used := clock.System().Now().Sub(start), processCPU()-cpu
	return sample{float64(calls) / wall.Seconds(), used.Seconds() * 1e6 / float64(calls)}, err
}

func processCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// quarryServer answers where a chunk ends, and nothing else.
type quarryServer struct{ quarry.ChunkServer }

func (quarryServer) End(_ context.Context, req *quarry.EndRequest) (*quarry.EndReply, error) {
	return &quarry.EndReply{Commit: int64(req.Handle)}, nil
}

func startQuarry() (*side, error) {
	cluster := quarry.ClusterID{1}
	server := rpc.NewServer(rpc.ServerConfig{Clock: clock.System(), Identity: func() rpc.Identity {
		return rpc.Identity{Cluster: cluster, Role: rpc.RoleChunkServer, Server: 1, Incarnation: 1}
	}})
	rpc.ServeChunkServer(server, quarryServer{})
	l, err := rpc.TCP.Listen("127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go server.Serve(l)
	client := rpc.NewClient(rpc.ClientConfig{Network: rpc.TCP, Clock: clock.System(), Identity: func() rpc.Identity {
		return rpc.Identity{Cluster: cluster, Role: rpc.RoleClient}
	}})
	chunks := client.ChunkServer(l.Address())
	req := &quarry.EndRequest{ChunkRef: quarry.ChunkRef{Handle: 1 << 50, Version: 3, Target: 77}}
	req.Capability.Rights, req.Capability.MAC[0] = quarry.RightRead, 1
	return &side{
		call: func(ctx context.Context) error {
			reply, err := chunks.End(ctx, req)
			if err == nil && reply.Commit != 1<<50 {
				err = errors.New("it is the answer to another question")
			}
			return err
		},
		close: func() { client.Close(); server.Close() },
	}, nil
}

// grpcServer answers whether it is well, and nothing else.
type grpcServer struct {
	grpc_health_v1.UnimplementedHealthServer
}

func (grpcServer) Check(context.Context, *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
}

func startGRPC() (*side, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, grpcServer{})
	go server.Serve(l)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	client := grpc_health_v1.NewHealthClient(conn)
	req := &grpc_health_v1.HealthCheckRequest{Service: strings.Repeat("a name ", 6)} // as many bytes as Quarry's
	return &side{
		call: func(ctx context.Context) error {
			reply, err := client.Check(ctx, req)
			if err == nil && reply.Status != grpc_health_v1.HealthCheckResponse_SERVING {
				err = errors.New("it is not the answer")
			}
			return err
		},
		close: func() { conn.Close(); server.Stop() },
	}, nil
}
