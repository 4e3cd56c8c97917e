package rpc

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// env is a server and a client on a network.
type env struct {
	t       testing.TB
	network Network
	server  *Server
	client  *Client
	address string
	serving sync.WaitGroup
}

var testCluster = quarry.ClusterID{1, 2, 3}

func serverIdentity() Identity {
	return Identity{Cluster: testCluster, Role: RoleChunkServer, Server: 5, Incarnation: 9, Release: "test"}
}

func clientIdentity() Identity {
	return Identity{Cluster: testCluster, Role: RoleClient, Release: "test"}
}

// newEnv makes a server and a client on a network in memory; serve starts the server.
func newEnv(t testing.TB) *env { return newEnvOn(t, NewMemory(), "server:0", nil, nil) }

func newEnvOn(t testing.TB, network Network, listen string, server func(*ServerConfig), client func(*ClientConfig)) *env {
	sc := ServerConfig{Clock: clock.Simulated(), Identity: serverIdentity}
	cc := ClientConfig{Clock: clock.Simulated(), Identity: clientIdentity, Network: network}
	if server != nil {
		server(&sc)
	}
	if client != nil {
		client(&cc)
	}
	e := &env{t: t, network: network, server: NewServer(sc), client: NewClient(cc), address: listen}
	t.Cleanup(e.close)
	return e
}

func (e *env) serve() {
	l, err := e.network.Listen(e.address)
	if err != nil {
		e.t.Fatal(err)
	}
	e.address = l.Address()
	e.serving.Go(func() {
		if err := e.server.Serve(l); err != nil {
			e.t.Error(err)
		}
	})
}

func (e *env) close() {
	e.client.Close()
	e.server.Close()
	e.serving.Wait()
}

// fakeServer is a chunk server whose methods are fields.
type fakeServer struct {
	quarry.ChunkServer
	append  func(context.Context, *quarry.AppendRequest, func(*quarry.AppendReply, error))
	prepare func(context.Context, *quarry.PrepareRequest, func(*quarry.PrepareReply, error))
	read    func(context.Context, *quarry.ReadRequest) (*quarry.ReadReply, error)
	end     func(context.Context, *quarry.EndRequest) (*quarry.EndReply, error)
	wait    func(context.Context, *quarry.WaitRequest) (*quarry.WaitReply, error)
}

func (f *fakeServer) Append(ctx context.Context, q *quarry.AppendRequest, done func(*quarry.AppendReply, error)) {
	f.append(ctx, q, done)
}

func (f *fakeServer) Prepare(ctx context.Context, q *quarry.PrepareRequest, done func(*quarry.PrepareReply, error)) {
	f.prepare(ctx, q, done)
}

func (f *fakeServer) Read(ctx context.Context, q *quarry.ReadRequest) (*quarry.ReadReply, error) {
	return f.read(ctx, q)
}

func (f *fakeServer) End(ctx context.Context, q *quarry.EndRequest) (*quarry.EndReply, error) {
	return f.end(ctx, q)
}

func (f *fakeServer) Wait(ctx context.Context, q *quarry.WaitRequest) (*quarry.WaitReply, error) {
	return f.wait(ctx, q)
}

// refuse fails the test unless err is of the kind.
func wantKind(t testing.TB, err error, kind quarry.Kind) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("got %v, want an error of kind %v", err, kind)
	}
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
