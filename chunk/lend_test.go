//go:build linux

package chunk

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
	"golang.org/x/sys/unix"
)

// lend lends n bytes of chunk 3, and requires that they are want and match their checksums, and
// that the file is the one of the replica's edition.
func lend(t *testing.T, s *Store, n int64, want []byte) *os.File {
	t.Helper()
	lent, err := s.Lend(3, n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lent.File.Close() })
	if lent.Length != int64(len(want)) || lent.Edition == 0 || lent.Edition != s.Edition(3) {
		t.Fatalf("%d bytes of edition %d are lent, want %d of %d", lent.Length, lent.Edition, len(want), s.Edition(3))
	}
	stillLent(t, lent.File, lent.CRCs, want)
	return lent.File
}

// stillLent requires that a lent file has the bytes that it was lent with.
func stillLent(t *testing.T, f *os.File, crcs []uint32, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatal("the lent file has other bytes")
	}
	if err := checkParts(0, got, crcs); crcs != nil && err != nil {
		t.Fatal(err)
	}
}

// TestLend lends a replica's file at each stage of its life, and reads all that were lent to the
// end of it: whatever becomes of the replica, the bytes stay.
func TestLend(t *testing.T) {
	fsys, err := disk.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer fsys.Close()
	s := open(t, fsys, testOptions())
	data := pattern(1, 5*quarry.BlockBytes/2)
	record, committed := data[:quarry.BlockBytes], int64(2*quarry.BlockBytes+7)
	if _, err := s.Lend(3, 1); quarry.KindOf(err) != quarry.NotFound {
		t.Fatal(err)
	}
	create(t, s, 3)
	write(t, s, 3, 0, 1, record)
	syncChunk(t, s, 3)
	first := lend(t, s, int64(len(record)), record)
	write(t, s, 3, int64(len(record)), 2, data[len(record):])
	lend(t, s, 1<<20, record) // what is not durable is not lent
	syncChunk(t, s, 3)
	open := lend(t, s, committed, data[:committed]) // in the middle of a block
	if _, err := open.WriteAt([]byte("x"), 0); err == nil {
		t.Fatal("a lent file can be written to")
	}
	if err := open.Truncate(0); err == nil {
		t.Fatal("a lent file can be cut")
	}

	// A seal cuts what was never committed.
	behind := pattern(2, 100<<10)
	write(t, s, 3, int64(len(data)), 3, behind)
	syncChunk(t, s, 3)
	seal(t, s, 3, int64(len(data)))
	sealed := lend(t, s, 1<<20, data)
	// Opened again, other bytes come where those were.
	must(t, func(done func(error)) { s.Reopen(3, 3, int64(len(data)), done) })
	more := pattern(3, 50<<10)
	write(t, s, 3, int64(len(data)), 4, more)
	syncChunk(t, s, 3)
	data4 := append(bytes.Clone(data), more...)
	reopened := lend(t, s, 1<<20, data4)
	must(t, func(done func(error)) {
		s.Seal(&quarry.SealRequest{ChunkRef: quarry.ChunkRef{Handle: 3, Version: 4}, Length: int64(len(data4)), WritableVersion: 3}, done)
	})
	// A replica with broken bytes is not lent, and a copy takes its place under its name.
	must(t, func(done func(error)) { s.MarkCorrupt(3, done) })
	if _, err := s.Lend(3, 1<<20); quarry.KindOf(err) != quarry.Corrupt {
		t.Fatal(err)
	}
	req := copyRequest(3, data4)
	req.Version, req.WritableVersion = 4, 3
	if err := receive(t, s, req, data4); err != nil {
		t.Fatal(err)
	}
	copied := lend(t, s, 1<<20, data4)
	if a, b := inode(t, copied), inode(t, reopened); os.SameFile(a, b) {
		t.Error("a copy was written over the file that is lent")
	}
	// It is dropped, and removed from the trash.
	must(t, func(done func(error)) { s.Drop(3, 4, testNow, done) })
	if _, err := s.Lend(3, 1<<20); quarry.KindOf(err) != quarry.NotFound {
		t.Fatal(err)
	}
	if n, _, err := s.Purge(testNow.Add(1e12), 10); n == 0 || err != nil {
		t.Fatal(n, err)
	}
	stillLent(t, first, nil, record)
	stillLent(t, open, nil, data[:committed])
	stillLent(t, sealed, nil, data)
	stillLent(t, reopened, nil, data4)
	stillLent(t, copied, nil, data4)
}

func inode(t *testing.T, f *os.File) os.FileInfo {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// TestEditions follows the edition of a replica: growth leaves it, and each change by which bytes go
// or another file comes gives one that there has not been.
func TestEditions(t *testing.T) {
	disks(t, func(t *testing.T, fsys disk.FS) {
		s := open(t, fsys, testOptions())
		seen, last := map[uint64]string{}, uint64(0)
		another := func(after string) {
			t.Helper()
			e := s.Edition(3)
			if before, ok := seen[e]; ok || e == 0 && after != "the drop" {
				t.Fatalf("after %s the edition is the one that there was after %s", after, before)
			}
			if last = e; e != 0 {
				seen[e] = after
			}
		}
		same := func(after string) {
			t.Helper()
			if e := s.Edition(3); e != last {
				t.Fatalf("after %s the edition is another one", after)
			}
		}
		if e := s.Edition(3); e != 0 {
			t.Fatalf("a replica that is not there has edition %d", e)
		}
		data := pattern(1, 100_000)
		create(t, s, 3)
		another("create")
		write(t, s, 3, 0, 1, data)
		syncChunk(t, s, 3)
		same("growth")
		s.Close()
		s = open(t, fsys, testOptions())
		another("a restart")
		seal(t, s, 3, int64(len(data)))
		another("the seal")
		s.Close()
		s = open(t, fsys, testOptions())
		defer func() { s.Close() }()
		another("another restart")
		must(t, func(done func(error)) { s.Reopen(3, 3, int64(len(data)), done) })
		another("the re-open")
		write(t, s, 3, int64(len(data)), 2, data)
		syncChunk(t, s, 3)
		same("more growth")
		req := copyRequest(3, data)
		req.Version, req.WritableVersion = 4, 3
		if err := receive(t, s, req, data); err != nil {
			t.Fatal(err)
		}
		another("a copy in its place")
		for range 2 {
			must(t, func(done func(error)) { s.Drop(3, 4, testNow, done) })
			another("the drop")
			if err := receive(t, s, req, data); err != nil {
				t.Fatal(err)
			}
			another("a copy")
		}
	})
}

// TestLendMeetsACopy has a copy take the replica's place while its file is lent: what is lent is the
// file before, and must not pass for the one that is the replica's then.
func TestLendMeetsACopy(t *testing.T) {
	fsys, err := disk.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer fsys.Close()
	data := pattern(1, 100_000)
	req := copyRequest(3, data)
	req.Version = 3
	var s *Store
	var armed atomic.Bool
	s = open(t, disk.NewFaulty(fsys, func(op disk.Op) disk.Fault {
		if op.Kind == disk.OpRead && op.Name == chunkName(3) && armed.CompareAndSwap(true, false) {
			if err := receive(t, s, req, data); err != nil {
				t.Error(err)
			}
		}
		return disk.Fault{}
	}), testOptions())
	create(t, s, 3)
	write(t, s, 3, 0, 1, data)
	syncChunk(t, s, 3)
	seal(t, s, 3, int64(len(data)))
	armed.Store(true)
	lent, err := s.Lend(3, 99_999) // in the midst of a block, which is looked at
	if err != nil {
		t.Fatal(err)
	}
	defer lent.File.Close()
	if armed.Load() {
		t.Fatal("no copy has come")
	}
	if now := inode(t, lend(t, s, 99_999, data[:99_999])); os.SameFile(now, inode(t, lent.File)) {
		t.Fatal("the copy is in the same file")
	}
	if lent.Edition == s.Edition(3) {
		t.Fatal("the file that was the replica's has the edition of the one that is")
	}
}

// TestLendAfterACrash lends the file of a replica that has been recovered.
func TestLendAfterACrash(t *testing.T) {
	dir := t.TempDir()
	fsys, err := disk.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer fsys.Close()
	s := open(t, fsys, testOptions())
	data := pattern(1, 100<<10)
	create(t, s, 3)
	write(t, s, 3, 0, 1, data)
	syncChunk(t, s, 3)
	before := lend(t, s, 1<<20, data)
	s.Close()
	name, err := filepath.Glob(filepath.Join(dir, "chunks", "*", "*3"))
	if err != nil || len(name) != 1 {
		t.Fatal(name, err)
	}
	f, err := os.OpenFile(name[0], os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Write(pattern(2, 10<<10)) // of a write that the crash left behind
	f.Close()
	s = open(t, fsys, testOptions())
	lend(t, s, 1<<20, data)
	stillLent(t, before, nil, data)
}

// A system that gives no more descriptors is not one that cannot lend.
func TestLendWithoutDescriptors(t *testing.T) {
	fsys, err := disk.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer fsys.Close()
	s := open(t, fsys, testOptions())
	create(t, s, 3)
	write(t, s, 3, 0, 1, pattern(1, 1000))
	syncChunk(t, s, 3)
	lend(t, s, 1000, pattern(1, 1000)) // and the store has the file open
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := unix.Rlimit{Cur: 0, Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	_, err = s.Lend(3, 1000)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	wantKind(t, err, quarry.Unavailable)
	if !errors.Is(err, unix.EMFILE) {
		t.Errorf("%v does not tell why", err)
	}
}

// A disk in memory has nothing to lend.
func TestLendWithoutFiles(t *testing.T) {
	s := open(t, disk.NewMem(), testOptions())
	create(t, s, 3)
	write(t, s, 3, 0, 1, pattern(1, 1000))
	syncChunk(t, s, 3)
	_, err := s.Lend(3, 1000)
	wantKind(t, err, quarry.Unsupported)
}
