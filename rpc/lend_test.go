//go:build linux

package rpc

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
)

// fakeLender lends one file.
type fakeLender struct {
	name    string
	reply   atomic.Pointer[LendReply]
	handed  chan struct{} // one for each descriptor that was let go of
	refused atomic.Pointer[[]quarry.Kind]
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
	return &VouchReply{Refused: *l.refused.Load()}, nil
}

// lending is a lender, a client beside it, and the file's bytes.
func lending(t *testing.T, client func(*ClientConfig)) (*env, *fakeLender, []byte) {
	t.Helper()
	data := bytes.Repeat([]byte("0123456789abcdef"), 10<<10)
	l := &fakeLender{name: filepath.Join(t.TempDir(), "chunk"), handed: make(chan struct{}, 1000)}
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
	reply, err := lender.Vouch(ctx, &VouchRequest{Chunks: make([]quarry.ChunkRef, 2)})
	if err != nil || reply.Refused[0] != 0 || reply.Refused[1] != quarry.Confirm {
		t.Errorf("%+v, %v", reply, err)
	}
	_, err = lender.Vouch(ctx, &VouchRequest{Chunks: make([]quarry.ChunkRef, 3)})
	wantKind(t, err, quarry.Internal) // an answer for each chunk, or none
	_, err = lender.Vouch(ctx, &VouchRequest{Chunks: make([]quarry.ChunkRef, VouchMax+1)})
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
