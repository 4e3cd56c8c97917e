package journal

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/quarryfs/quarry/disk"
)

// BenchmarkWrite is durable records per second on the disk of the temporary folder, by
// clients that each wait for their record, beside the same journal with a batch of one.
func BenchmarkWrite(b *testing.B) {
	for _, size := range []int{200, 4096} {
		for _, clients := range []int{1, 16, 128} {
			b.Run(fmt.Sprintf("bytes=%d/clients=%d", size, clients), func(b *testing.B) {
				benchmarkWrite(b, Options{}, size, clients)
			})
		}
		b.Run(fmt.Sprintf("bytes=%d/clients=128/batch=1", size), func(b *testing.B) {
			benchmarkWrite(b, Options{QueueBytes: 1}, size, 128)
		})
	}
}

func benchmarkWrite(b *testing.B, opts Options, size, clients int) {
	d, err := disk.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	var syncs atomic.Int64
	fs := disk.NewFaulty(d, func(op disk.Op) disk.Fault {
		if op.Kind == disk.OpSync {
			syncs.Add(1)
		}
		return disk.Fault{}
	})
	j, err := Open(fs, "j", opts, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	record := make([]byte, size)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	syncs.Store(0)
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	done := make(chan error, clients)
	for range clients {
		go func() {
			for left.Add(-1) >= 0 {
				if _, err := j.Write(record); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range clients {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(b.N)/float64(max(1, syncs.Load())), "records/sync")
}

// BenchmarkOpen replays a journal of 64 MiB.
func BenchmarkOpen(b *testing.B) {
	m := disk.NewMem()
	j, err := Open(m, "j", Options{}, nil)
	if err != nil {
		b.Fatal(err)
	}
	const records = 16 << 10
	for range records {
		j.Append(nil, make([]byte, 4<<10))
	}
	if err := j.Close(); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(records * 4 << 10)
	for b.Loop() {
		n := 0
		j, err := Open(m, "j", Options{}, func(Position, []byte) error { n++; return nil })
		if err != nil || n != records {
			b.Fatal(n, err)
		}
		if err := j.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
