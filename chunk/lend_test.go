//go:build linux

package chunk

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// lend lends n bytes of chunk 3, and requires that they are want and match their checksums.
func lend(t *testing.T, s *Store, n int64, want []byte) *os.File {
	t.Helper()
	f, length, crcs, err := s.Lend(3, n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if length != int64(len(want)) {
		t.Fatalf("%d bytes are lent, want %d", length, len(want))
	}
	stillLent(t, f, crcs, want)
	return f
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
	if _, _, _, err := s.Lend(3, 1); quarry.KindOf(err) != quarry.NotFound {
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
	if _, _, _, err := s.Lend(3, 1<<20); quarry.KindOf(err) != quarry.Corrupt {
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
	if _, _, _, err := s.Lend(3, 1<<20); quarry.KindOf(err) != quarry.NotFound {
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

// A disk in memory has nothing to lend.
func TestLendWithoutFiles(t *testing.T) {
	s := open(t, disk.NewMem(), testOptions())
	create(t, s, 3)
	write(t, s, 3, 0, 1, pattern(1, 1000))
	syncChunk(t, s, 3)
	_, _, _, err := s.Lend(3, 1000)
	wantKind(t, err, quarry.Unsupported)
}
