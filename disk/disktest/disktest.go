// Package disktest is the suite that every disk.FS passes. What a crash may take cannot be
// tested on a real disk; disk's own tests do it for the one in memory.
package disktest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/quarryfs/quarry/disk"
)

// Run tests the empty file systems that newFS returns.
func Run(t *testing.T, newFS func(t *testing.T) disk.FS) {
	for name, test := range map[string]func(*testing.T, disk.FS){
		"names": testNames, "invalid": testInvalid, "create": testCreate, "rename": testRename,
		"remove": testRemove, "dirs": testDirs, "file": testFile, "sizes": testSizes,
		"random": testRandom, "parallel": testParallel, "lock": testLock, "usage": testUsage,
	} {
		t.Run(name, func(t *testing.T) { test(t, newFS(t)) })
	}
}

// must fails the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// want fails the test unless err is of the kind.
func want(t *testing.T, what string, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: error %v, want %v", what, err, kind)
	}
}

// write makes a file with the content.
func write(t *testing.T, d disk.FS, name, content string) {
	t.Helper()
	f, err := d.Create(name)
	must(t, err)
	_, err = f.WriteAt([]byte(content), 0)
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
}

// read returns the content of a file.
func read(t *testing.T, d disk.FS, name string) string {
	t.Helper()
	f, err := d.Open(name)
	must(t, err)
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
	must(t, err)
	return string(b)
}

// list checks the names in a directory.
func list(t *testing.T, d disk.FS, dir string, names ...string) {
	t.Helper()
	got, err := d.List(dir)
	must(t, err)
	if !slices.Equal(got, names) {
		t.Errorf("List(%q) = %q, want %q", dir, got, names)
	}
}

func testNames(t *testing.T, d disk.FS) {
	list(t, d, ".")
	for _, name := range []string{"z", "-a", "a b", "ä", "..x", ".hidden", strings.Repeat("n", 255)} {
		write(t, d, name, name)
	}
	list(t, d, ".", "-a", "..x", ".hidden", "a b", strings.Repeat("n", 255), "z", "ä")
	if got := read(t, d, "a b"); got != "a b" {
		t.Errorf("read %q", got)
	}
	must(t, d.SyncDir("."))
}

func testInvalid(t *testing.T, d disk.FS) {
	for _, name := range []string{"", "/", "/etc/passwd", "../x", "a/../b", "a/", "a//b", "./a", "a/..", "..", "a\x00b"} {
		_, err := d.Create(name)
		want(t, "Create "+name, err, fs.ErrInvalid)
		_, err = d.Open(name)
		want(t, "Open "+name, err, fs.ErrInvalid)
		want(t, "Remove "+name, d.Remove(name), fs.ErrInvalid)
		want(t, "Rename from "+name, d.Rename(name, "x"), fs.ErrInvalid)
		want(t, "Rename to "+name, d.Rename("x", name), fs.ErrInvalid)
		want(t, "MkdirAll "+name, d.MkdirAll(name), fs.ErrInvalid)
		want(t, "SyncDir "+name, d.SyncDir(name), fs.ErrInvalid)
		_, err = d.List(name)
		want(t, "List "+name, err, fs.ErrInvalid)
		_, err = d.Size(name)
		want(t, "Size "+name, err, fs.ErrInvalid)
		_, err = d.Lock(name)
		want(t, "Lock "+name, err, fs.ErrInvalid)
	}
	list(t, d, ".")
}

func testCreate(t *testing.T, d disk.FS) {
	write(t, d, "a", "content")
	_, err := d.Create("a")
	want(t, "Create of a name that is taken", err, fs.ErrExist)
	if got := read(t, d, "a"); got != "content" {
		t.Errorf("a refused Create left %q", got)
	}
	_, err = d.Open("b")
	want(t, "Open of nothing", err, fs.ErrNotExist)
	_, err = d.Create("dir/b")
	want(t, "Create in no directory", err, fs.ErrNotExist)
	if _, err = d.Create("a/b"); err == nil {
		t.Error("Create below a file succeeded")
	}
	if _, err = d.Open("."); err == nil {
		t.Error("Open of a directory succeeded")
	}
}

func testRename(t *testing.T, d disk.FS) {
	must(t, d.MkdirAll("dir"))
	write(t, d, "a", "one")
	f, err := d.Open("a")
	must(t, err)
	defer f.Close()
	must(t, d.Rename("a", "dir/b"))
	must(t, d.Rename("dir/b", "dir/b"))
	list(t, d, ".", "dir")
	list(t, d, "dir", "b")
	_, err = f.WriteAt([]byte("ONE"), 0)
	must(t, err)
	if got := read(t, d, "dir/b"); got != "ONE" {
		t.Errorf("the renamed file reads %q", got)
	}
	write(t, d, "c", "two")
	must(t, d.Rename("c", "dir/b"))
	if got := read(t, d, "dir/b"); got != "two" {
		t.Errorf("the replaced file reads %q", got)
	}
	b := make([]byte, 3)
	_, err = f.ReadAt(b, 0)
	must(t, err)
	if string(b) != "ONE" {
		t.Errorf("the open file that was replaced reads %q", b)
	}
	want(t, "Rename of nothing", d.Rename("c", "e"), fs.ErrNotExist)
	want(t, "Rename into nothing", d.Rename("dir/b", "none/b"), fs.ErrNotExist)
	if d.Rename("dir/b", "dir") == nil {
		t.Error("Rename over a directory succeeded")
	}
}

func testRemove(t *testing.T, d disk.FS) {
	must(t, d.MkdirAll("dir"))
	write(t, d, "dir/a", "content")
	f, err := d.Open("dir/a")
	must(t, err)
	defer f.Close()
	if d.Remove("dir") == nil {
		t.Error("Remove of a directory that is not empty succeeded")
	}
	must(t, d.Remove("dir/a"))
	want(t, "Remove of nothing", d.Remove("dir/a"), fs.ErrNotExist)
	b := make([]byte, 7)
	_, err = f.ReadAt(b, 0)
	must(t, err)
	if string(b) != "content" {
		t.Errorf("the removed file that is open reads %q", b)
	}
	must(t, d.SyncDir("dir"))
	must(t, d.Remove("dir"))
	list(t, d, ".")
}

func testDirs(t *testing.T, d disk.FS) {
	must(t, d.MkdirAll("."))
	must(t, d.MkdirAll("a/b/c"))
	must(t, d.MkdirAll("a/b/c"))
	must(t, d.MkdirAll("a/b/d"))
	write(t, d, "a/b/f", "")
	list(t, d, ".", "a")
	list(t, d, "a/b", "c", "d", "f")
	if d.MkdirAll("a/b/f") == nil || d.MkdirAll("a/b/f/g") == nil {
		t.Error("MkdirAll over or below a file succeeded")
	}
	_, err := d.List("none")
	want(t, "List of nothing", err, fs.ErrNotExist)
	want(t, "SyncDir of nothing", d.SyncDir("none"), fs.ErrNotExist)
	if _, err := d.List("a/b/f"); err == nil {
		t.Error("List of a file succeeded")
	}
	if d.SyncDir("a/b/f") == nil {
		t.Error("SyncDir of a file succeeded")
	}
	if _, err := d.Size("a"); err == nil {
		t.Error("Size of a directory succeeded")
	}
}

func testFile(t *testing.T, d disk.FS) {
	f, err := d.Create("f")
	must(t, err)
	b := make([]byte, 8)
	if n, err := f.ReadAt(b, 0); n != 0 || err != io.EOF {
		t.Errorf("ReadAt of an empty file: %d, %v", n, err)
	}
	n, err := f.WriteAt([]byte("world"), 6)
	if n != 5 || err != nil {
		t.Errorf("WriteAt: %d, %v", n, err)
	}
	_, err = f.WriteAt([]byte("hello"), 0)
	must(t, err)
	if got := read(t, d, "f"); got != "hello\x00world" {
		t.Errorf("read %q", got)
	}
	if n, err := f.ReadAt(b, 6); n != 5 || err != io.EOF || string(b[:n]) != "world" {
		t.Errorf("ReadAt over the end: %d, %v", n, err)
	}
	if n, err := f.ReadAt(b[:5], 6); n != 5 || err != nil && err != io.EOF {
		t.Errorf("ReadAt up to the end: %d, %v", n, err)
	}
	if _, err := f.ReadAt(b, -1); err == nil || err == io.EOF {
		t.Errorf("ReadAt(-1): %v", err)
	}
	if _, err := f.WriteAt(b, -1); err == nil {
		t.Error("WriteAt(-1) succeeded")
	}
	if f.Truncate(-1) == nil {
		t.Error("Truncate(-1) succeeded")
	}
	f.StartWriteback(0, 11)
	must(t, f.Sync())
	if fd, ok := f.Fd(); ok && fd == 0 {
		t.Error("Fd is standard input")
	}
	must(t, f.Close())
	want(t, "Close after Close", f.Close(), fs.ErrClosed)
	_, err = f.ReadAt(b, 0)
	want(t, "ReadAt after Close", err, fs.ErrClosed)
	_, err = f.WriteAt(b, 0)
	want(t, "WriteAt after Close", err, fs.ErrClosed)
	if f.Sync() == nil {
		t.Error("Sync after Close succeeded")
	}
}

func testSizes(t *testing.T, d disk.FS) {
	f, err := d.Create("f")
	must(t, err)
	defer f.Close()
	check := func(what string, size int64) {
		t.Helper()
		a, err := f.Size()
		must(t, err)
		b, err := d.Size("f")
		must(t, err)
		if a != size || b != size {
			t.Errorf("after %s the size is %d and %d, want %d", what, a, b, size)
		}
	}
	check("Create", 0)
	_, err = f.WriteAt([]byte("0123456789"), 0)
	must(t, err)
	check("WriteAt", 10)
	must(t, f.Truncate(4))
	check("Truncate", 4)
	must(t, f.Truncate(6))
	check("a longer Truncate", 6)
	must(t, f.Allocate(2, 2))
	check("Allocate inside", 6)
	must(t, f.Allocate(4096, 4096))
	check("Allocate", 8192)
	if got := read(t, d, "f"); got != "0123"+strings.Repeat("\x00", 8188) {
		t.Errorf("what was not written does not read as zero: %q", got[:10])
	}
	_, err = d.Size("none")
	want(t, "Size of nothing", err, fs.ErrNotExist)
}

// testRandom compares a file with a slice of bytes under random operations.
func testRandom(t *testing.T, d disk.FS) {
	f, err := d.Create("f")
	must(t, err)
	defer f.Close()
	r := rand.New(rand.NewPCG(1, 2))
	var model []byte
	grow := func(size int) {
		if size > len(model) {
			model = append(model, make([]byte, size-len(model))...)
		}
	}
	for step := range 500 {
		off, n := r.IntN(20_000), 1+r.IntN(3_000)
		switch r.IntN(8) {
		case 0:
			must(t, f.Truncate(int64(off)))
			grow(off)
			model = model[:off:off]
		case 1:
			must(t, f.Allocate(int64(off), int64(n)))
			grow(off + n)
		case 2:
			must(t, f.Sync())
		default:
			b := bytes.Repeat([]byte{byte(1 + step%255)}, n)
			_, err := f.WriteAt(b, int64(off))
			must(t, err)
			grow(off + n)
			copy(model[off:], b)
		}
		if got := read(t, d, "f"); got != string(model) {
			t.Fatalf("step %d: the file differs from what was written", step)
		}
	}
}

func testParallel(t *testing.T, d disk.FS) {
	f, err := d.Create("f")
	must(t, err)
	defer f.Close()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			own := fmt.Sprintf("%02d", i)
			for k := range 50 {
				off := int64(16*k + 2*i)
				if _, err := f.WriteAt([]byte(own), off); err != nil {
					t.Error(err)
				}
				b := make([]byte, 2)
				if _, err := f.ReadAt(b, off); err != nil || string(b) != own {
					t.Errorf("read %q, %v", b, err)
				}
			}
			g, err := d.Create("f" + own)
			if err == nil {
				err = errors.Join(g.Sync(), g.Close(), d.Rename("f"+own, "g"+own), d.SyncDir("."))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	list(t, d, ".", "f", "g00", "g01", "g02", "g03", "g04", "g05", "g06", "g07")
}

func testLock(t *testing.T, d disk.FS) {
	lock, err := d.Lock("LOCK")
	must(t, err)
	if _, err := d.Lock("LOCK"); err == nil {
		t.Fatal("a lock was given twice")
	} else if !strings.Contains(err.Error(), "in use") {
		t.Errorf("the error does not say that the folder is in use: %v", err)
	}
	must(t, lock.Close())
	lock, err = d.Lock("LOCK")
	must(t, err)
	must(t, lock.Close())
	_, err = d.Lock("none/LOCK")
	want(t, "Lock in no directory", err, fs.ErrNotExist)
}

func testUsage(t *testing.T, d disk.FS) {
	total, free, err := d.Usage()
	must(t, err)
	if total <= 0 || free < 0 || free > total {
		t.Errorf("Usage: %d bytes in all, %d free", total, free)
	}
}
