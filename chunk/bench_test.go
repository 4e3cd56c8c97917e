package chunk

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// benchStore opens a store on the real disk.
func benchStore(b *testing.B, opts Options) *Store {
	b.Helper()
	fsys, err := disk.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { fsys.Close() })
	opts.Identity, opts.ReserveBytes = testIdentity, 1
	return open(b, fsys, opts)
}

// BenchmarkAppend appends records of 4 KiB to each of some chunks, one at a time per chunk, each
// durable before the next one: the group commit over chunks. "file" is without the bytes in
// the journal: each chunk's file is synced.
func BenchmarkAppend(b *testing.B) {
	for _, inline := range []int64{inlineBytesMax, 1} {
		for _, chunks := range []int{1, 16, 128} {
			b.Run(fmt.Sprintf("%s/chunks=%d", map[bool]string{true: "journal", false: "file"}[inline > 1], chunks), func(b *testing.B) {
				s := benchStore(b, Options{inlineBytes: inline})
				s.opts.ReserveBytes -= 1 << 50
				data := pattern(1, 4096)
				crcs := parts(data)
				for h := range quarry.Handle(chunks) {
					create(b, s, h+1)
				}
				b.ResetTimer()
				var writers sync.WaitGroup
				for c := range chunks {
					h, n := quarry.Handle(c+1), (b.N+c)/chunks
					writers.Go(func() {
						done := make(chan error, 1)
						off := int64(0)
						for i := range n {
							rec := []quarry.RecordHeader{{Session: 9, Sequence: quarry.Sequence(i + 1), Length: 4096, CRCs: crcs}}
							if err := s.Write(h, off, rec, data); err != nil {
								b.Error(err)
								return
							}
							off += 4096
							s.Sync(h, func(err error) { done <- err })
							if err := <-done; err != nil {
								b.Error(err)
								return
							}
							if off > 60<<20 {
								b.Error("the chunk is full")
								return
							}
						}
					})
				}
				writers.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			})
		}
	}
}

// BenchmarkStream writes a chunk of 64 MiB in records of 256 KiB and makes it durable, and for
// comparison the same bytes to a bare file with the same policy: write-back every 8 MiB, one
// fdatasync every 8 MiB, or at the end.
func BenchmarkStream(b *testing.B) {
	const size, step = quarry.ChunkBytesMax, quarry.PacketBytes
	data := pattern(1, step)
	crcs := parts(data)
	b.Run("chunk", func(b *testing.B) {
		s := benchStore(b, Options{})
		h := quarry.Handle(0)
		b.SetBytes(size)
		for b.Loop() {
			h++
			create(b, s, h)
			for off := int64(0); off < size; off += step {
				rec := []quarry.RecordHeader{{Session: 9, Sequence: quarry.Sequence(off/step + 1), Length: step, CRCs: crcs}}
				if err := s.Write(h, off, rec, data); err != nil {
					b.Fatal(err)
				}
				s.SyncLater(h, nil)
			}
			seal(b, s, h, size)
			b.StopTimer()
			must(b, func(done func(error)) { s.Drop(h, 9, testNow, done) })
			if _, _, err := s.Purge(testNow.AddDate(1, 0, 0), 10); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	for _, every := range []int64{8 << 20, size} {
		b.Run(fmt.Sprintf("bare/sync=%dMiB", every>>20), func(b *testing.B) {
			dir := b.TempDir()
			b.SetBytes(size)
			for b.Loop() {
				f, err := os.Create(filepath.Join(dir, "f"))
				if err != nil {
					b.Fatal(err)
				}
				for off := int64(0); off < size; off += step {
					if _, err := f.WriteAt(data, off); err != nil {
						b.Fatal(err)
					}
					if end := off + step; end%every == 0 {
						err = unix.Fdatasync(int(f.Fd()))
					} else if end%(8<<20) == 0 {
						err = unix.SyncFileRange(int(f.Fd()), end-8<<20, 8<<20, unix.SYNC_FILE_RANGE_WRITE)
					}
					if err != nil {
						b.Fatal(err)
					}
				}
				b.StopTimer()
				f.Close()
				os.Remove(f.Name())
				b.StartTimer()
			}
		})
	}
}

// BenchmarkRead reads ranges of 1 MiB of a sealed chunk: what the store does for a read whose bytes
// the system sends.
func BenchmarkRead(b *testing.B) {
	s := benchStore(b, Options{})
	create(b, s, 1)
	data := pattern(1, 16<<20)
	for i := range int64(4) {
		write(b, s, 1, i<<24, quarry.Sequence(i+1), data)
	}
	seal(b, s, 1, 64<<20)
	for _, r := range []struct {
		name   string
		off, n int64
	}{{"aligned", 0, 1 << 20}, {"unaligned", 100, 1 << 20}, {"4KiB", 8192, 4096}} {
		b.Run(r.name, func(b *testing.B) {
			b.SetBytes(r.n)
			b.ReportAllocs()
			for i := int64(0); b.Loop(); i++ {
				reply, err := s.Read(1, i%60<<20+r.off, r.n, nil)
				if err != nil {
					b.Fatal(err)
				}
				if reply.Release != nil {
					reply.Release()
				}
			}
		})
	}
}
