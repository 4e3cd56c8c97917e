package master

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/raft"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/wire"
)

func partOf(req *rpc.Raw) (p part) {
	if err := wire.Unmarshal(req.Body, &p, partFields); err != nil {
		panic(err)
	}
	return p
}

func makePart(p part, data []byte) *rpc.Raw {
	return &rpc.Raw{Body: wire.Marshal(nil, &p, partFields), Payload: data}
}

// A snapshot of any length travels in parts without a gap, of which the last one, and only
// that, says so.
func TestSnapshotSender(t *testing.T) {
	synctestCluster(t, 0, func(t *testing.T, c *testCluster) {
		identity := func() rpc.Identity { return rpc.Identity{Role: rpc.RoleMaster} }
		server := rpc.NewServer(rpc.ServerConfig{Clock: clock.Simulated(), Identity: identity})
		var parts []part
		var got []byte
		refuse := -1
		server.HandleRaw(opSnapshot, func(_ context.Context, req *rpc.Raw) (*rpc.Raw, error) {
			if len(parts) == refuse {
				return nil, quarry.Errorf("snapshot", quarry.Busy, "", "enough")
			}
			parts, got = append(parts, partOf(req)), append(got, req.Payload...)
			return &rpc.Raw{}, nil
		})
		l, err := c.net.Listen("m1:1")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { defer close(done); _ = server.Serve(l) }()
		defer func() { _ = server.Close(); <-done }()
		client := rpc.NewClient(rpc.ClientConfig{Network: c.net, Clock: clock.Simulated(), Identity: identity})
		defer client.Close()
		p := &peers{client: client, clock: clock.Simulated()}
		to := raft.Member{Node: 1, Address: "m1:1"}
		whole := make([]byte, 3*snapshotPartBytes+5)
		for i := range whole {
			whole[i] = byte(rand.Uint32())
		}
		streams := map[uint64]bool{}
		for _, n := range []int{1, snapshotPartBytes - 1, snapshotPartBytes, snapshotPartBytes + 1, 3 * snapshotPartBytes, len(whole)} {
			parts, got = nil, nil
			body := iotest.HalfReader(bytes.NewReader(whole[:n])) // it gives less than is asked for
			if err := p.SendSnapshot(t.Context(), to, body); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, whole[:n]) {
				t.Errorf("%d bytes arrived as %d", n, len(got))
			}
			for i, h := range parts {
				if h.Number != uint64(i) || h.Stream != parts[0].Stream || h.Last != (i == len(parts)-1) || len(parts) != (n+snapshotPartBytes-1)/snapshotPartBytes {
					t.Errorf("of %d parts, part %d is %+v", len(parts), i, h)
				}
			}
			if streams[parts[0].Stream] {
				t.Error("two snapshots have one number")
			}
			streams[parts[0].Stream] = true
		}
		parts, got, refuse = nil, nil, 2
		is(t, p.SendSnapshot(t.Context(), to, bytes.NewReader(whole)), quarry.Busy)
		if len(parts) != 2 {
			t.Errorf("%d parts were sent", len(parts))
		}
		parts, refuse = nil, -1
		broken := errors.New("the state cannot be read")
		err = p.SendSnapshot(t.Context(), to, io.MultiReader(bytes.NewReader(whole[:snapshotPartBytes+9]), iotest.ErrReader(broken)))
		if !errors.Is(err, broken) || len(parts) != 1 || parts[0].Last {
			t.Errorf("%v after the parts %+v", err, parts)
		}
	})
}

// Parts that come out of order, twice, or of streams that nobody knows are refused; streams
// are bounded, and given up when their sender is silent.
func TestSnapshotStreams(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *testCluster) {
		m := c.nodes[0]
		send := func(stream, number uint64, last bool, data string) error {
			_, err := m.streams.take(t.Context(), makePart(part{Stream: stream, Number: number, Last: last}, []byte(data)))
			return err
		}
		open := func() int {
			m.streams.mu.Lock()
			defer m.streams.mu.Unlock()
			return len(m.streams.open)
		}
		if _, err := m.streams.take(t.Context(), &rpc.Raw{Body: []byte{0xff}}); err == nil {
			t.Fatal("a head that cannot be read was taken")
		}
		is(t, send(1, 1, false, "R"), quarry.NotFound)
		if err := send(1, 0, false, "Q"); err != nil {
			t.Fatal(err)
		}
		is(t, send(1, 0, false, "Q"), quarry.Invalid)
		is(t, send(1, 2, false, "S"), quarry.Invalid)
		if err := send(1, 1, false, "R"); err != nil { // it goes on where it was
			t.Fatal(err)
		}
		if err := send(2, 0, false, "Q"); err != nil {
			t.Fatal(err)
		}
		is(t, send(3, 0, false, "Q"), quarry.Busy) // the host takes two
		c.sleep(snapshotPartTime * 3 / 4)
		if err := send(2, 1, false, "R"); err != nil {
			t.Fatal(err)
		}
		c.sleep(snapshotPartTime * 3 / 4)
		if open() != 1 {
			t.Fatalf("%d streams are open, of one the sender is silent", open())
		}
		is(t, send(1, 2, false, "S"), quarry.NotFound)
		if err := send(2, 2, false, "S"); err != nil {
			t.Fatal(err)
		}
		if err := send(4, 0, false, "Q"); err != nil {
			t.Fatal(err)
		}
		is(t, send(4, 1, true, "this is no snapshot"), quarry.Invalid)
		c.until("a refused stream stays open", func() bool { return open() == 1 })
		for i := range uint64(streamsMax) {
			m.streams.mu.Lock()
			m.streams.open[streamKey{id: 100 + i}] = nil
			m.streams.mu.Unlock()
		}
		is(t, send(5, 0, false, "Q"), quarry.Busy)
		if open() != streamsMax+1 {
			t.Fatalf("%d streams are open", open())
		}
		m.streams.mu.Lock()
		for i := range uint64(streamsMax) {
			delete(m.streams.open, streamKey{id: 100 + i})
		}
		m.streams.mu.Unlock()

		client := rpc.NewClient(rpc.ClientConfig{Network: c.net, Clock: clock.Simulated(), Identity: func() rpc.Identity {
			return rpc.Identity{Role: rpc.RoleClient, Cluster: quarry.ClusterID{1}}
		}})
		defer client.Close()
		_, err := client.CallRaw(t.Context(), m.address, rpc.Route{Lane: rpc.LaneBulk}, opSnapshot, makePart(part{Stream: 9}, []byte("Q")))
		is(t, err, quarry.Permission)
	})
}

// grow gives shard 1 a state of some MiB, which the logs do not hold any more.
func (c *testCluster) grow(files int) (want []string) {
	c.t.Helper()
	m, op := c.leader(1), quarry.Op{Session: c.session(1)}
	inline := make([]byte, quarry.InlineBytesMax)
	for i := range inline {
		inline[i] = byte(rand.Uint32()) // it is not made smaller on the way
	}
	for i := range files {
		op.Sequence++
		op.Oldest = op.Sequence
		name := fmt.Sprintf("file-%05d", i)
		want = append(want, name)
		pieces := []quarry.LinkPiece{{Length: int64(len(inline)), Inline: inline}}
		if _, err := m.Link(c.t.Context(), &quarry.LinkRequest{Op: op, Parent: quarry.RootInode, Name: name, Pieces: pieces}); err != nil {
			c.t.Fatal(err)
		}
	}
	c.sleep(5 * time.Second)
	return want
}

// A master that missed more than the logs hold gets the state as a snapshot of many parts.
// The first attempts fail: a part comes twice, a part gets lost, and the sender dies halfway.
func TestSnapshotOfManyParts(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		away := c.follower(1)
		away.stop()
		want := c.grow(700)
		sender := c.leader(1)
		var mu sync.Mutex
		parts, installed, attempt := map[uint64]int{}, 0, 0
		killed := make(chan struct{})
		away.snapshot = func(ctx context.Context, req *rpc.Raw) (*rpc.Raw, error) {
			p := partOf(req)
			mu.Lock()
			if p.Number == 1 {
				attempt++
			}
			parts[p.Stream]++
			now := attempt
			mu.Unlock()
			switch {
			case now == 1 && p.Number == 1:
				if _, err := away.streams.take(ctx, req); err != nil {
					return nil, err
				}
			case now == 2 && p.Number == 1:
				return &rpc.Raw{}, nil
			case now == 3 && p.Number == 1:
				close(killed)
				<-ctx.Done()
				return nil, ctx.Err()
			}
			reply, err := away.streams.take(ctx, req)
			mu.Lock()
			defer mu.Unlock()
			if err == nil && p.Last {
				installed = max(installed, parts[p.Stream])
			}
			return reply, err
		}
		away.start()
		c.until("there is no third attempt", func() bool {
			select {
			case <-killed:
				return true
			default:
				return false
			}
		})
		sender.stop()
		c.sleep(time.Second)
		c.until("no snapshot is installed", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return installed > 1
		})
		if installed < 3 {
			t.Fatalf("the snapshot had %d parts", installed)
		}
		c.lead(1, away)
		if got := names(t, away, quarry.RootInode); !slices.Equal(got, want) {
			t.Fatalf("the master has %d files, not %d", len(got), len(want))
		}
		c.until("a stream whose sender is gone stays open", func() bool {
			away.streams.mu.Lock()
			defer away.streams.mu.Unlock()
			return len(away.streams.open) == 0
		})
	})
}

// A master that stops while a snapshot comes in does not wait for it.
func TestStopDuringSnapshot(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *testCluster) {
		m := c.nodes[0]
		streams := &m.streams
		if _, err := streams.take(t.Context(), makePart(part{Stream: 1}, []byte("Q"))); err != nil {
			t.Fatal(err)
		}
		begun := clock.Simulated().Now()
		m.stop()
		if took := clock.Simulated().Now().Sub(begun); took >= snapshotPartTime {
			t.Fatalf("it took %v to stop", took)
		}
		_, err := streams.take(t.Context(), makePart(part{Stream: 2}, []byte("Q")))
		is(t, err, quarry.Unavailable)
	})
}
