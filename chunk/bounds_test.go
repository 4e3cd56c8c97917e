package chunk

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// TestCheckpoint makes many changes and wants the journal to stay short, and everything to be
// there afterwards.
func TestCheckpoint(t *testing.T) {
	opts := testOptions()
	opts.JournalBytes = 64 << 10
	s := open(t, disk.NewMem(), opts)
	const chunks = 3*checkpointStep + 5 // more than a commit takes
	var created sync.WaitGroup
	created.Add(chunks)
	s.opts.ReserveBytes -= chunks * quarry.ChunkBytesMax // more than the disk promises
	for h := range quarry.Handle(chunks) {
		s.Create(createRequest(h+1), func(err error) {
			if err != nil {
				t.Error(err)
			}
			created.Done()
		})
	}
	created.Wait()
	small, large := pattern(1, 3000), pattern(2, 100_000)
	write(t, s, 1, 0, 1, small)
	syncChunk(t, s, 1)
	write(t, s, 2, 0, 1, large)
	syncChunk(t, s, 2)
	write(t, s, 3, 0, 1, small)
	seal(t, s, 3, 3000)
	largest := int64(0)
	for i := range 30_000 {
		if i%100 != 0 {
			s.Promise(4, quarry.Version(i), nil)
			continue
		}
		must(t, func(done func(error)) { s.Promise(4, quarry.Version(i), done) })
		largest = max(largest, s.journal.Bytes())
	}
	if largest > 1<<20 {
		t.Fatalf("the journal grew to %d bytes", largest)
	}
	s.Close()
	s = open(t, s.fs, opts)
	if got := len(s.Inventory(0, 1<<63, 1<<20)); got != chunks {
		t.Fatalf("%d chunks are left of %d", got, chunks)
	}
	if got := state(t, s, 4).Promised; got != 29_999 {
		t.Fatalf("promised %d", got)
	}
	wantBytes(t, s, 1, small)
	wantBytes(t, s, 2, large)
	wantBytes(t, s, 3, small)
}

// TestFilesBound uses more chunks than files may be open.
func TestFilesBound(t *testing.T) {
	opts := testOptions()
	opts.FilesMax = 8
	s := open(t, disk.NewMem(), opts)
	data := pattern(1, 5000)
	const chunks = 50
	for round := range int64(3) {
		for h := range quarry.Handle(chunks) {
			if round == 0 {
				create(t, s, h+1)
			}
			write(t, s, h+1, round*5000, quarry.Sequence(round+1), data)
			s.Sync(h+1, nil)
			s.files.mu.Lock()
			n := len(s.files.files)
			s.files.mu.Unlock()
			if n > 2*opts.FilesMax+opts.withDefaults(0).Workers+2 { // pinned, cached, and those that a worker or the writer is about to close
				t.Fatalf("%d files are open", n)
			}
		}
	}
	for h := range quarry.Handle(chunks) {
		seal(t, s, h+1, 15_000)
		wantBytes(t, s, h+1, append(append(bytes.Clone(data), data...), data...))
	}
	if n := len(s.files.files); n > opts.FilesMax || s.pinned != 0 {
		t.Fatalf("%d files are open, %d pinned", n, s.pinned)
	}
}

// TestManyGrowingChunksShareTheJournal: small records of a thousand chunks need no sync of any chunk's
// file; of more than half as many as files may be open, they do.
func TestManyGrowingChunksShareTheJournal(t *testing.T) {
	for _, x := range []struct {
		files, chunks int
		shared        bool
	}{{2048, 1000, true}, {64, 40, false}} {
		var synced atomic.Int64
		opts := testOptions()
		opts.FilesMax = x.files
		s := open(t, disk.NewFaulty(disk.NewMem(), func(op disk.Op) disk.Fault {
			if op.Kind == disk.OpSync && !strings.HasPrefix(op.Name, journalName) {
				synced.Add(1)
			}
			return disk.Fault{}
		}), opts)
		for h := range quarry.Handle(x.chunks) {
			create(t, s, h+1)
		}
		synced.Store(0)
		data := pattern(1, 100)
		for round := range int64(2) {
			for h := range quarry.Handle(x.chunks) {
				write(t, s, h+1, round*100, quarry.Sequence(round+1), data)
				s.Sync(h+1, nil)
			}
			syncChunk(t, s, 1)
		}
		if n := synced.Load(); n == 0 != x.shared {
			t.Errorf("%d chunks, %d files: %d syncs of files", x.chunks, x.files, n)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestIndexBound(t *testing.T) {
	c := newIndexCache(10_000)
	for h := range quarry.Handle(100) {
		c.put(&Index{Handle: h, CRCs: make([]uint32, 100)}, uint32(h))
		c.put(&Index{Handle: h, CRCs: make([]uint32, 100)}, uint32(h))
		if c.get(h, uint32(h)) == nil || c.get(h, 1000) != nil {
			t.Fatal("an index is not found, or a wrong one is")
		}
	}
	if c.bytes > 10_000 || c.order.Len() < 5 || c.order.Len() != len(c.entries) {
		t.Fatalf("%d bytes, %d and %d indexes", c.bytes, c.order.Len(), len(c.entries))
	}
	c.put(&Index{Handle: 500, CRCs: make([]uint32, 10_000)}, 1)
	if c.get(500, 1) == nil || c.order.Len() != 1 {
		t.Fatal("an index larger than the cache is not kept alone")
	}
}

// TestReadDuring reads chunks while they grow, are cut, dropped and copied anew, and wants
// every byte that comes back to be right.
func TestReadDuring(t *testing.T) {
	disks(t, func(t *testing.T, fsys disk.FS) {
		s := open(t, fsys, testOptions())
		const chunks = 2
		data := [chunks]([]byte){pattern(0, 1<<20), pattern(1, 1<<20)}
		stop := make(chan struct{})
		var readers sync.WaitGroup
		for k := range 3 {
			readers.Go(func() {
				r := rand.New(rand.NewPCG(uint64(k), 5))
				for {
					select {
					case <-stop:
						return
					default:
					}
					h, off := quarry.Handle(1+r.IntN(chunks)), r.Int64N(400_000)
					got, err := tryRead(s, h, off, 1+r.Int64N(200_000))
					gone := errors.Is(err, quarry.NotFound) || errors.Is(err, quarry.Unavailable) || errors.Is(err, quarry.Busy)
					if _, onDisk := fsys.(*disk.OS); onDisk && err != nil {
						continue // tryRead opens the file by its name, which may stand for another by then
					}
					if err != nil && !gone {
						t.Errorf("chunk %v at %d: %v", h, off, err)
					}
					if !bytes.Equal(got, data[h-1][off:off+int64(len(got))]) {
						t.Errorf("chunk %v at %d: wrong bytes", h, off)
					}
					if _, _, err := s.Verify(h, off, 1000); errors.Is(err, quarry.Corrupt) {
						t.Errorf("verify chunk %v at %d: %v", h, off, err)
					}
				}
			})
		}
		var writers sync.WaitGroup
		for c := range quarry.Handle(chunks) {
			writers.Go(func() { liveAndDie(t, s, c+1, data[c]) })
		}
		writers.Wait()
		close(stop)
		readers.Wait()
	})
}

// liveAndDie makes, cuts, drops and copies a chunk again and again.
func liveAndDie(t *testing.T, s *Store, h quarry.Handle, data []byte) {
	for range 8 {
		create(t, s, h)
		off := int64(0)
		for i := range 10 {
			n := int64(10_000 + i*7000)
			write(t, s, h, off, quarry.Sequence(i+1), data[off:off+n])
			off += n
			s.Sync(h, nil)
		}
		seal(t, s, h, 10_000+17_000+24_000)
		must(t, func(done func(error)) { s.MarkCorrupt(h, done) })
		if err := receive(t, s, copyRequest(h, data[:300_000]), data[:300_000]); err != nil {
			t.Error(err)
		}
		must(t, func(done func(error)) { s.Drop(h, 9, testNow, done) })
	}
}
