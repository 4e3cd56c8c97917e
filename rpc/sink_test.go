package rpc

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// sink keeps what a quarry.ReadSink is told.
type sink struct {
	memory []byte
	wait   func()
	placed int
	seen   []int
	crcs   []uint32
}

func (s *sink) Place(n int) []byte {
	s.placed++
	if s.wait != nil {
		s.wait()
	}
	return s.memory[:min(n, len(s.memory))]
}

func (s *sink) Arrived(crcs []uint32, data []byte) {
	s.seen, s.crcs = append(s.seen, len(data)), crcs
}

// patterned serves reads of bytes that tell their offset.
func patterned(e *env, data []byte) quarry.ChunkServer {
	for i := range data {
		data[i] = byte(i>>8 + i*7)
	}
	ServeChunkServer(e.server, &fakeServer{read: func(_ context.Context, q *quarry.ReadRequest) (*quarry.ReadReply, error) {
		return &quarry.ReadReply{Data: data[q.Offset : q.Offset+q.Length], CRCs: []uint32{9}}, nil
	}})
	e.serve()
	return e.client.ChunkServer(e.address)
}

// A sink gets large replies as they come, with their checksums; small ones, and those that it
// has no room for, are just returned.
func TestReadSink(t *testing.T) {
	for name, network := range map[string]Network{"127.0.0.1:0": TCP, "memory:0": NewMemory()} {
		e := newEnvOn(t, network, name, nil, nil)
		data := make([]byte, 2<<20)
		server := patterned(e, data)
		for _, c := range []struct{ length, room, placed int }{
			{0, 1 << 20, 0}, {1, 1 << 20, 0}, {smallReadBytes, 1 << 20, 0}, {smallReadBytes + 1, 1 << 20, 1},
			{300_000, 300_000, 1}, {1 << 20, 1 << 20, 1}, {1 << 20, 1<<20 - 1, 1},
		} {
			s := &sink{memory: make([]byte, c.room)}
			r, err := server.Read(within(t, 10*time.Second), &quarry.ReadRequest{Offset: 77, Length: int64(c.length), Sink: s})
			if err != nil || !bytes.Equal(r.Data, data[77:77+c.length]) {
				t.Fatalf("%s: %d bytes: got %d, %v", name, c.length, len(r.Data), err)
			}
			taken := c.placed > 0 && c.room >= c.length
			switch n := len(s.seen); {
			case s.placed != c.placed:
				t.Errorf("%s: %d bytes: Place was called %d times", name, c.length, s.placed)
			case !taken && n > 0:
				t.Errorf("%s: %d bytes: a sink without the bytes was told of them", name, c.length)
			case taken && (&r.Data[0] != &s.memory[0] || s.seen[n-1] != c.length || s.crcs[0] != 9):
				t.Errorf("%s: %d bytes: the sink was told of %v, checksums %v", name, c.length, s.seen, s.crcs)
			case taken && n != (c.length+arrivalBytes-1)/arrivalBytes:
				t.Errorf("%s: %d bytes came in %d parts", name, c.length, n)
			}
		}
		e.close()
	}
}

// A sink may take a moment, and a slow link as long: neither side gives up the connection.
func TestPlaceMayWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t)
		data := make([]byte, 2<<20)
		server := patterned(e, data)
		for n, wait := range map[int64]time.Duration{
			smallReadBytes + 1: 2 * frameTime, // all of it has left the server
			1 << 20:            frameTime * 2 / 3,
		} {
			s := &sink{memory: make([]byte, n), wait: func() { sleep(t, wait) }}
			r, err := server.Read(t.Context(), &quarry.ReadRequest{Length: n, Sink: s})
			if err != nil || !bytes.Equal(r.Data, data[:n]) {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
		e.close()
	})
}

// Who waits for much can be had to take what has come.
func TestReceiveWoken(t *testing.T) {
	out, in := dialled(t, TCP, TCP, "127.0.0.1:0")
	f, ok := in.(fullReceiver)
	if !ok {
		t.Skip("this system's connections wait for single bytes")
	}
	came, ended := make(chan struct{}, 1<<20), make(chan struct{})
	go func() {
		defer close(ended)
		_ = f.Fill(make([]byte, 1<<20), 0, func() { came <- struct{}{} })
	}()
	defer func() { in.Close(); <-ended }()
	defer out.Close()
	for range 3 {
		if _, err := out.Write(make([]byte, 10<<10)); err != nil {
			t.Fatal(err)
		}
		ctx := within(t, 20*time.Second)
		for woken := false; !woken && ctx.Err() == nil; { // the receiver may not wait yet
			f.Wake()
			_ = clock.System().Sleep(ctx, time.Millisecond)
			select {
			case <-came:
				woken = true
			default:
			}
		}
		if ctx.Err() != nil {
			t.Fatal("nothing was taken")
		}
	}
}

// The short rest of a payload is noticed, though what came before was waited for in large parts.
func TestReceiveShortRest(t *testing.T) {
	out, in := dialled(t, TCP, TCP, "127.0.0.1:0")
	defer out.Close()
	defer time.AfterFunc(20*time.Second, func() { in.Close() }).Stop() // a rest that is not noticed
	const large, rest = 256 << 10, 10 << 10
	go func() { // each part when the receiver waits for it
		for _, n := range []int{large, rest} {
			_ = clock.System().Sleep(t.Context(), 20*time.Millisecond)
			_, _ = out.Write(make([]byte, n))
		}
	}()
	r := newFrameReader(in, 4<<10, func() {})
	for _, part := range []struct{ n, more int }{{large, rest}, {rest, 0}} {
		if err := r.payload(make([]byte, part.n), part.more); err != nil {
			t.Fatalf("of a part of %d bytes: %v", part.n, err)
		}
	}
}

// A connection that receives with few wake-ups gets every byte however they come, is woken by
// a single one afterwards, and notices an end.
func TestReceiveFull(t *testing.T) {
	out, in := dialled(t, TCP, TCP, "127.0.0.1:0")
	f, ok := in.(fullReceiver)
	if !ok {
		t.Skip("only on Linux")
	}
	defer time.AfterFunc(20*time.Second, func() { in.Close() }).Stop() // a byte that is not noticed
	sizes := []int{1, 70_000, 300_000, 1 << 20, 3 << 20, 5, 260_000}
	go func() {
		random := rand.New(rand.NewPCG(1, 2))
		for _, n := range sizes {
			for b := make([]byte, n); len(b) > 0; {
				k := min(len(b), 1+random.IntN(100_000))
				clear(b[:k])
				b[k-1] = 7
				if _, err := out.Write(b[:k]); err != nil {
					t.Error(err)
					return
				}
				b = b[k:]
				_ = clock.System().Sleep(t.Context(), time.Duration(random.IntN(300))*time.Microsecond)
			}
			_ = clock.System().Sleep(t.Context(), 2*time.Millisecond) // the receiver waits for the byte below
			_, _ = out.Write([]byte{9})
			if _, err := out.Read(make([]byte, 1)); err != nil { // it has noticed
				return
			}
		}
		_, _ = out.Write(make([]byte, 100))
		out.Close()
	}()
	for _, n := range sizes {
		b := make([]byte, n)
		for part := range 2 { // as the parts of one frame
			half := b[part*(n/2) : n/2+part*(n-n/2)]
			if len(half) == 0 {
				continue
			}
			if err := f.Fill(half, (1-part)*(n-n/2), func() {}); err != nil {
				t.Fatalf("%d bytes: %v", n, err)
			}
		}
		if b[n-1] != 7 {
			t.Errorf("%d bytes end with %d", n, b[n-1])
		}
		if _, err := io.ReadFull(in, b[:1]); err != nil || b[0] != 9 {
			t.Fatalf("the byte after %d: %d, %v", n, b[0], err)
		}
		_, _ = in.Write([]byte{8})
	}
	if err := f.Fill(make([]byte, 1<<20), 0, func() {}); err != io.EOF {
		t.Errorf("an end in the middle: %v", err)
	}
}
