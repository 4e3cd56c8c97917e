//go:build linux

package rpc

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// fakeLender lends one file.
type fakeLender struct {
	name    string
	reply   atomic.Pointer[LendReply]
	handed  chan struct{} // one for each descriptor that was let go of
	refused atomic.Pointer[[]quarry.Kind]
	asked   chan struct{} // one for each time that it was asked to vouch
}

func (l *fakeLender) Lend(ctx context.Context, chunk *quarry.ChunkRef) (*LendReply, error) {
	if peer, _ := PeerFrom(ctx); !peer.Local {
		return nil, quarry.Errorf("lend", quarry.Unsupported, "", "not on this machine")
	}
	if chunk.Handle == 0 {
		return nil, quarry.Errorf("lend", quarry.NotFound, "", "no such chunk")
	}
	f, err := os.Open(l.name)
	if err != nil {
		return nil, err
	}
	reply := *l.reply.Load()
	reply.FD, reply.Release = f.Fd(), func() {
		f.Close()
		l.handed <- struct{}{}
	}
	return &reply, nil
}

func (l *fakeLender) Vouch(context.Context, *VouchRequest) (*VouchReply, error) {
	l.asked <- struct{}{}
	return &VouchReply{Refused: *l.refused.Load()}, nil
}

// lending is a lender, a client beside it, and the file's bytes.
func lending(t *testing.T, client func(*ClientConfig)) (*env, *fakeLender, []byte) {
	t.Helper()
	data := bytes.Repeat([]byte("0123456789abcdef"), 10<<10)
	l := &fakeLender{name: filepath.Join(t.TempDir(), "chunk"), handed: make(chan struct{}, 1000), asked: make(chan struct{}, 10)}
	l.reply.Store(&LendReply{Length: int64(len(data)), CRCs: []uint32{1, 2, 3}})
	if err := os.WriteFile(l.name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	key := []byte("a secret of sixteen bytes or more")
	e := newEnvOn(t, Beside(TCP), fmt.Sprintf("127.0.0.1:lend-%d-%s", os.Getpid(), t.Name()), func(c *ServerConfig) { c.Key = key }, func(c *ClientConfig) {
		c.Key = key
		if client != nil {
			client(c)
		}
	})
	ServeLender(e.server, l)
	e.serve()
	return e, l, data
}

// descriptors returns how many files this process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func TestLend(t *testing.T) {
	e, l, data := lending(t, nil)
	ctx, lender := within(t, time.Minute), e.client.Lender(e.address)
	if _, err := lender.Lend(ctx, &quarry.ChunkRef{}); quarry.KindOf(err) != quarry.NotFound { // and connects
		t.Fatal(err)
	}
	before := descriptors(t)
	for range 100 { // each with a descriptor of its own
		reply, err := lender.Lend(ctx, &quarry.ChunkRef{Handle: 1})
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(data)+1)
		n, err := reply.Descriptor.ReadCached(got, 0)
		if err != nil || !bytes.Equal(got[:n], data) || reply.Length != int64(len(data)) || len(reply.CRCs) != 3 || reply.CRCs[2] != 3 {
			t.Fatalf("%d bytes, %v, %+v", n, err, reply)
		}
		if err := reply.Descriptor.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		<-l.handed
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d files were open, now %d are", before, after)
	}
}

// A reply that does not describe its file is no reply, and its descriptor is closed.
func TestLendIsChecked(t *testing.T) {
	e, l, _ := lending(t, nil)
	ctx, lender := within(t, time.Minute), e.client.Lender(e.address)
	wantKind(t, func() error { _, err := lender.Lend(ctx, &quarry.ChunkRef{}); return err }(), quarry.NotFound)
	before := descriptors(t)
	for _, wrong := range []LendReply{{Length: 0}, {Length: -5}, {Length: quarry.BlockBytes + 1, CRCs: []uint32{1}}, {Length: 1, CRCs: []uint32{1, 2}}, {Length: 1 << 40, CRCs: []uint32{1}}} {
		l.reply.Store(&wrong)
		_, err := lender.Lend(ctx, &quarry.ChunkRef{Handle: 1})
		wantKind(t, err, quarry.Corrupt)
		<-l.handed
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d files were open, now %d are", before, after)
	}
}

func TestVouch(t *testing.T) {
	e, l, _ := lending(t, nil)
	ctx, lender := within(t, time.Minute), e.client.Lender(e.address)
	l.refused.Store(&[]quarry.Kind{0, quarry.Confirm})
	reply, err := lender.Vouch(ctx, &VouchRequest{Chunks: make([]LentChunk, 2)})
	if err != nil || reply.Refused[0] != 0 || reply.Refused[1] != quarry.Confirm {
		t.Errorf("%+v, %v", reply, err)
	}
	_, err = lender.Vouch(ctx, &VouchRequest{Chunks: make([]LentChunk, 3)})
	wantKind(t, err, quarry.Internal) // an answer for each chunk, or none
	_, err = lender.Vouch(ctx, &VouchRequest{Chunks: make([]LentChunk, VouchMax+1)})
	wantKind(t, err, quarry.TooLarge)
}

// Who does not know the cluster's key gets no file, nor does who believes that it does.
func TestLendWantsTheKey(t *testing.T) {
	for _, key := range [][]byte{nil, []byte("another secret of enough bytes")} {
		t.Run(fmt.Sprint(len(key)), func(t *testing.T) {
			e, _, _ := lending(t, func(c *ClientConfig) { c.Key = key })
			_, err := e.client.Lender(e.address).Lend(within(t, time.Minute), &quarry.ChunkRef{Handle: 1})
			wantKind(t, err, quarry.Permission)
		})
	}
}

// Who has taken the name of a socket cannot pass for the server by asking it for its proofs,
// wherever that can be reached.
func TestProofsOfOtherPlaces(t *testing.T) {
	key := []byte("a secret of sixteen bytes or more")
	keyed := func(c *ServerConfig) { c.Key = key }
	for _, network := range []Network{TCP, Beside(TCP)} {
		e := newEnvOn(t, network, map[bool]string{true: "127.0.0.1:0"}[network == TCP], keyed, func(c *ClientConfig) { c.Network, c.Key = Beside(TCP), key })
		ServeChunkServer(e.server, &fakeServer{end: func(context.Context, *quarry.EndRequest) (*quarry.EndReply, error) { return &quarry.EndReply{}, nil }})
		e.serve()
		taken, err := Beside(TCP).Listen("")
		if err != nil {
			t.Fatal(err)
		}
		var relays sync.WaitGroup
		relays.Go(func() {
			for {
				c, err := taken.Accept()
				if err != nil {
					return
				}
				server, err := network.Dial(t.Context(), e.address)
				if err != nil {
					t.Error(err)
					c.Close()
					return
				}
				relays.Go(func() { io.Copy(server, c); server.Close() })
				relays.Go(func() { io.Copy(c, server); c.Close() })
			}
		})
		_, err = e.client.ChunkServer(taken.Address()).End(within(t, time.Minute), &quarry.EndRequest{})
		wantKind(t, err, quarry.Permission)
		if network != TCP {
			if _, err := e.client.ChunkServer(e.address).End(within(t, time.Minute), &quarry.EndRequest{}); err != nil {
				t.Error(err)
			}
		}
		taken.Close()
		e.close()
		relays.Wait()
	}
}

// A client asks a server over the network for the name of its socket, each time that it dials.
func TestBesideAsks(t *testing.T) {
	var socket atomic.Pointer[string]
	socket.Store(new(string))
	e := newEnvOn(t, TCP, "127.0.0.1:0", func(c *ServerConfig) {
		c.Identity = func() Identity {
			id := serverIdentity()
			id.Socket = *socket.Load()
			return id
		}
	}, nil)
	ServeChunkServer(e.server, &fakeServer{end: func(ctx context.Context, _ *quarry.EndRequest) (*quarry.EndReply, error) {
		if peer, _ := PeerFrom(ctx); !peer.Local {
			t.Error("the request came over the network")
		}
		return &quarry.EndReply{}, nil
	}})
	e.serve()
	if newEnv(t).client.Beside() != nil {
		t.Error("a client of another network finds servers on its machine")
	}
	network := e.client.Beside()
	_, err := network.Dial(within(t, time.Minute), e.address)
	wantKind(t, err, quarry.Unsupported)
	e.client.Close()
	e.client = NewClient(ClientConfig{Clock: clock.System(), Identity: clientIdentity, Network: TCP})
	l, err := Beside(TCP).Listen("")
	if err != nil {
		t.Fatal(err)
	}
	name := l.Address()
	socket.Store(&name)
	e.serving.Go(func() { e.server.Serve(l) })
	near := NewClient(ClientConfig{Clock: clock.System(), Identity: clientIdentity, Network: e.client.Beside()})
	defer near.Close()
	if _, err := near.ChunkServer(e.address).End(within(t, time.Minute), &quarry.EndRequest{}); err != nil {
		t.Error(err)
	}
}

// A connection over which a descriptor was passed that was not taken gets no other one.
func TestLendsAreTaken(t *testing.T) {
	e, l, _ := lending(t, nil)
	conn, err := e.network.Dial(within(t, time.Minute), e.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := newFrameReader(conn, firstBufferBytes, func() {})
	p := party{identity: clientIdentity(), key: []byte("a secret of sixteen bytes or more")}
	if _, err := p.greet(conn, r, LaneBulk); err != nil {
		t.Fatal(err)
	}
	ask := func(id uint64) {
		t.Helper()
		b, err := encodeRequest(nil, head{version: VersionMax, kind: kindRequest, id: id}, &lendMethod, &quarry.ChunkRef{Handle: 1}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	// answer takes a reply; refused tells that it was a refusal.
	answer := func() (refused error) {
		t.Helper()
		var h head
		if err := r.head(&h); err != nil {
			t.Fatal(err)
		}
		body, err := r.body(&h)
		if err != nil {
			t.Fatal(err)
		}
		if h.kind == kindError {
			return decodeError(body)
		}
		if err := r.payload(make([]byte, h.payload), 0); err != nil {
			t.Fatal(err)
		}
		return nil
	}
	l.refused.Store(&[]quarry.Kind{})
	ask(1)
	<-l.handed
	ask(2)
	ask(3)
	b, err := encodeRequest(nil, head{version: VersionMax, kind: kindRequest, id: 10}, &vouchMethod, &VouchRequest{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
	<-l.asked // the others were served before
	for id, kind := range []quarry.Kind{0, quarry.Busy, quarry.Busy} {
		if got := quarry.KindOf(answer()); got != kind {
			t.Errorf("request %d: %v, want %v", id+1, got, kind)
		}
	}
	if err := answer(); err != nil {
		t.Error(err)
	}
	ask(4)
	if err := answer(); err != nil {
		t.Errorf("the descriptor was taken, and the next one is refused: %v", err)
	}
}
