package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// dialled returns both ends of a connection from one network to an address of another one.
func dialled(t *testing.T, from, to Network, address string) (out, in Conn) {
	t.Helper()
	l, err := to.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err = from.Dial(t.Context(), l.Address())
	if err != nil {
		t.Fatal(err)
	}
	in, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return out, in
}

// faultyPair returns a connection from the node "a" to the node "b".
func faultyPair(t *testing.T, f *Faulty) (a, b Conn) {
	t.Helper()
	return dialled(t, f.Node("a"), f.Node("b"), "b:0")
}

// reading reads from a connection for ever and counts.
func reading(c Conn) (n *atomic.Int64, ended *atomic.Bool) {
	n, ended = new(atomic.Int64), new(atomic.Bool)
	go func() {
		buf := make([]byte, 1000)
		for {
			k, err := c.Read(buf)
			n.Add(int64(k))
			if err != nil {
				ended.Store(true)
				return
			}
		}
	}()
	return n, ended
}

func TestFaultyBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFaulty(NewMemory(), clock.Simulated(), 1)
		a, b := faultyPair(t, f)
		atA, _ := reading(a)
		atB, endedB := reading(b)
		f.Block("a", "b")
		a.Write(make([]byte, 10))
		b.Write(make([]byte, 20))
		sleep(t, time.Hour)
		if atA.Load() != 20 || atB.Load() != 0 {
			t.Errorf("a got %d bytes and b %d, want 20 and 0", atA.Load(), atB.Load())
		}
		a.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := f.Node("a").Dial(ctx, b.LocalAddress()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dialling through a block: %v", err)
		}
		if endedB.Load() {
			t.Error("b heard of the end through the block")
		}
		f.Heal()
		synctest.Wait()
		if atB.Load() != 10 || !endedB.Load() {
			t.Errorf("after the block b got %d bytes, ended %v", atB.Load(), endedB.Load())
		}
		f.Partition([]string{"a"}, []string{"b"})
		b.Write(make([]byte, 5))
		f.Close()
	})
}

func TestFaultyFreezeAndReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFaulty(NewMemory(), clock.Simulated(), 1)
		a, b := faultyPair(t, f)
		n, ended := reading(b)
		f.Freeze("a", "b")
		for range 10 {
			if _, err := a.Write(make([]byte, 1000)); err != nil {
				t.Error(err)
			}
		}
		f.Heal()
		sleep(t, time.Hour)
		if n.Load() != 0 || ended.Load() {
			t.Errorf("a frozen connection delivered %d bytes, ended %v", n.Load(), ended.Load())
		}
		a.Close()
		b.Close()
		a, b = faultyPair(t, f)
		_, ended = reading(b)
		f.Reset("b", "a")
		synctest.Wait()
		if _, err := a.Write([]byte{1}); err == nil || !ended.Load() {
			t.Errorf("after a reset: a writes with %v, b has ended: %v", err, ended.Load())
		}
		f.Close()
	})
}

func TestFaultyIsSeeded(t *testing.T) {
	run := func(seed uint64) (log string) {
		synctest.Test(t, func(t *testing.T) {
			f := NewFaulty(NewMemory(), clock.Simulated(), seed)
			f.Set(Faults{DelayMin: time.Millisecond, DelayMax: time.Second, Corrupt: 0.3, Reset: 0.02})
			a, b := faultyPair(t, f)
			start := time.Now()
			for i := range 100 {
				if _, err := a.Write([]byte{byte(i)}); err != nil {
					break
				}
				got := make([]byte, 1)
				_, err := io.ReadFull(b, got)
				log += fmt.Sprint(time.Since(start), got, err, "\n")
				if took := time.Since(start); took < time.Duration(i+1)*time.Millisecond && err == nil {
					t.Errorf("%d pieces took %v", i+1, took)
				}
			}
			f.Close()
		})
		return log
	}
	one := run(1)
	if one != run(1) {
		t.Error("one seed gives two runs")
	}
	if one == run(2) {
		t.Error("two seeds give one run")
	}
}

// echoServer answers so that a client can tell whether an answer is right.
func echoServer() *fakeServer {
	return &fakeServer{
		end: func(_ context.Context, q *quarry.EndRequest) (*quarry.EndReply, error) {
			return &quarry.EndReply{Commit: int64(q.Handle)}, nil
		},
		append: func(_ context.Context, q *quarry.AppendRequest, done func(*quarry.AppendReply, error)) {
			if crc32.ChecksumIEEE(q.Data) != q.CRCs[0] {
				done(nil, quarry.Errorf("append", quarry.Corrupt, "", "on the way"))
				return
			}
			go done(&quarry.AppendReply{Offset: int64(q.Sequence)}, nil)
		},
		read: func(_ context.Context, q *quarry.ReadRequest) (*quarry.ReadReply, error) {
			data := bytes.Repeat([]byte{byte(q.Offset)}, int(q.Length))
			return &quarry.ReadReply{Data: data, CRCs: []uint32{crc32.ChecksumIEEE(data)}}, nil
		},
	}
}

// Whatever the network does, every call ends, once, with the right answer or an error; and
// when the network works again, so do calls.
func TestFaultyNetwork(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testFaultyNetwork(t, seed) })
		})
	}
}

func testFaultyNetwork(t *testing.T, seed uint64) {
	e, f := flaky(t, seed, nil)
	ServeChunkServer(e.server, echoServer())
	e.serve()
	server := e.client.ChunkServer(e.address)
	f.Set(Faults{DelayMin: time.Microsecond, DelayMax: 20 * time.Millisecond, Reset: 0.01, Freeze: 0.003, Corrupt: 0.01})
	var calls sync.WaitGroup
	var good, bad atomic.Int64
	count := func(what string, err error, right bool) {
		switch {
		case err != nil:
			bad.Add(1)
		case right:
			good.Add(1)
		default:
			t.Errorf("%s was answered wrongly", what)
		}
	}
	for caller := range 8 {
		random := rand.New(rand.NewPCG(seed, uint64(caller)))
		calls.Go(func() {
			for i := range 60 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(2000)+1)*time.Millisecond)
				key := caller*1000 + i
				switch random.IntN(3) {
				case 0:
					r, err := server.End(ctx, &quarry.EndRequest{ChunkRef: quarry.ChunkRef{Handle: quarry.Handle(key)}})
					count("end", err, err == nil && r.Commit == int64(key))
				case 1:
					q := &quarry.ReadRequest{Offset: int64(key), Length: int64(random.IntN(100_000) + 1)}
					r, err := server.Read(ctx, q)
					// Data is not covered by the frame; its checksum is for the caller to check.
					if err == nil && crc32.ChecksumIEEE(r.Data) != r.CRCs[0] {
						err = quarry.Corrupt
					}
					count("read", err, err == nil && len(r.Data) == int(q.Length) && r.Data[0] == byte(key))
				default:
					data := make([]byte, random.IntN(50_000)+1)
					q := &quarry.AppendRequest{Data: data, Sequence: quarry.Sequence(key), CRCs: []uint32{crc32.ChecksumIEEE(data)}}
					done := make(chan error, 2)
					server.Append(ctx, q, func(r *quarry.AppendReply, err error) {
						if err == nil && r.Offset != int64(key) {
							t.Errorf("append %d was answered with %d", key, r.Offset)
						}
						done <- err
					})
					err := <-done
					data[0]++ // the data is the caller's again; the race detector looks on
					count("append", err, err == nil)
				}
				cancel()
			}
		})
	}
	calls.Wait()
	f.Set(Faults{})
	sleep(t, (silentIntervals+2)*defaultKeepAlive) // frozen connections are found out
	if r, err := server.End(t.Context(), &quarry.EndRequest{ChunkRef: quarry.ChunkRef{Handle: 5}}); err != nil || r.Commit != 5 {
		t.Errorf("the network works again, but %v", err)
	}
	if _, err := server.Read(t.Context(), &quarry.ReadRequest{Length: 1 << 20}); err != nil {
		t.Errorf("the network works again, but %v", err)
	}
	if good.Load() < 20 || bad.Load() < 20 {
		t.Errorf("%d calls succeeded and %d failed: the faults are not what they should be", good.Load(), bad.Load())
	}
	e.closeWith(f)
	for i := range e.server.budgets {
		if used := e.server.budgets[i].Used(); used != 0 {
			t.Errorf("lane %d: %d bytes of payload are never given back", i, used)
		}
	}
}
