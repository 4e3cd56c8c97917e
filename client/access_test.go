package client_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
)

// link is the way to servers: a reply takes latency, then its turn on a wire that all share.
type link struct {
	latency time.Duration
	perByte float64 // seconds
	sleep   func(context.Context, time.Duration) error

	mu    sync.Mutex
	free  time.Time // when the wire is
	bytes int64     // that were asked for
}

type linked struct {
	quarry.ChunkServer
	*link
}

func (s linked) Read(ctx context.Context, req *quarry.ReadRequest) (*quarry.ReadReply, error) {
	s.mu.Lock()
	s.bytes += req.Length
	s.mu.Unlock()
	if err := s.sleep(ctx, s.latency); err != nil {
		return nil, err
	}
	s.mu.Lock()
	now := time.Now()
	if s.free.Before(now) {
		s.free = now
	}
	s.free = s.free.Add(time.Duration(float64(req.Length) * s.perByte * 1e9))
	wait := s.free.Sub(now)
	s.mu.Unlock()
	if err := s.sleep(ctx, wait); err != nil {
		return nil, err
	}
	return s.ChunkServer.Read(ctx, req)
}

// access is a way to go through a file.
type access struct {
	name  string
	size  int                             // of a read
	at    func(i int, r *rand.Rand) int64 // where read i is; -1: the last was the last
	waste float64                         // the most bytes that are fetched for one that is wanted
	least float64                         // MiB/s, at least
	read  func(f *client.File, p []byte, at int64) error
}

func seekAndRead(f *client.File, p []byte, at int64) error {
	if _, err := f.Seek(at, io.SeekStart); err != nil {
		return err
	}
	_, err := io.ReadFull(f, p)
	return err
}

func readAt(f *client.File, p []byte, at int64) error {
	_, err := f.ReadAt(p, at)
	return err
}

// On a link with a latency, what is read in a row, in strides or backwards comes faster than one
// answer after the other; and of what nobody wants, as at random places, nothing is fetched but a little.
func TestAccess(t *testing.T) {
	const (
		file = 64 << 20
		mib  = 1 << 20
	)
	row := func(size int64) func(int, *rand.Rand) int64 {
		return func(i int, _ *rand.Rand) int64 { return int64(i) * size }
	}
	stride := func(start, step int64) func(int, *rand.Rand) int64 {
		return func(i int, _ *rand.Rand) int64 { return start + int64(i)*step }
	}
	random := func(size int64) func(int, *rand.Rand) int64 {
		return func(i int, r *rand.Rand) int64 {
			if int64(i) == min(1000, file/size) {
				return -1
			}
			return r.Int64N(file - size)
		}
	}
	for _, c := range []access{
		{"in a row, 1 MiB", mib, row(mib), 1, 750, seekAndRead},
		{"in a row, 64 KiB", 64 << 10, row(64 << 10), 1, 750, seekAndRead},
		{"1 of 4 MiB", mib, stride(0, 4*mib), 1.3, 500, seekAndRead},
		{"1 of 4 MiB, not aligned", mib, stride(12345, 4*mib), 1.3, 300, seekAndRead},
		{"64 KiB of 1 MiB", 64 << 10, stride(0, mib), 1.4, 80, seekAndRead},
		{"4 KiB of 100,000", 4 << 10, stride(77, 100_000), 1.1, 11, seekAndRead},
		{"backwards, 1 MiB", mib, stride(file-mib, -mib), 1.05, 700, seekAndRead},
		{"backwards, 64 KiB", 64 << 10, stride(file-64<<10, -64<<10), 1.05, 180, seekAndRead},
		{"random, 4 KiB", 4 << 10, random(4 << 10), 1.2, 1.7, seekAndRead},
		{"random, 64 KiB", 64 << 10, random(64 << 10), 1.05, 25, seekAndRead},
		{"random, 512 KiB", 512 << 10, random(512 << 10), 1.05, 120, seekAndRead},
		{"random, 1 MiB", mib, random(mib), 1.05, 180, seekAndRead},
		{"ReadAt, 1 of 4 MiB", mib, stride(0, 4*mib), 1, 300, readAt},
		{"ReadAt, random, 64 KiB", 64 << 10, random(64 << 10), 1, 25, readAt},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, clienttest.Config{}, client.Options{}, func(e *env) {
				data := clienttest.Bytes(1, file)
				e.put("/f", data)
				l := &link{latency: 2 * time.Millisecond, perByte: 1.0 / (1 << 30), sleep: e.c.Clock().Sleep}
				files := client.New(e.c.Masters(), func(m quarry.Member) quarry.ChunkServer {
					return linked{e.c.Server(m.Server), l}
				}, client.Options{Clock: e.c.Clock()})
				defer files.Close()
				f, err := files.Open(e.Context(), "/f")
				e.must(err)
				buf := make([]byte, c.size)
				r := rand.New(rand.NewPCG(1, 2))
				start, wanted := time.Now(), 0
				for i := 0; ; i++ {
					at := c.at(i, r)
					if at < 0 || at+int64(c.size) > file {
						break
					}
					e.must(c.read(f, buf, at))
					if !bytes.Equal(buf, data[at:][:c.size]) {
						e.Fatalf("read %d, at %d, gave other bytes", i, at)
					}
					wanted += c.size
				}
				took := time.Since(start)
				e.must(f.Close())
				waste, rate := float64(l.bytes)/float64(wanted), float64(wanted)/(1<<20)/took.Seconds()
				t.Logf("%.3f bytes fetched for each that is wanted, %.1f MiB/s", waste, rate)
				if waste > c.waste || rate < c.least {
					t.Errorf("want at most %.2f, and at least %.1f MiB/s", c.waste, c.least)
				}
			})
		})
	}
}
