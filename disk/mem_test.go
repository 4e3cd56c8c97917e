package disk_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/quarryfs/quarry/disk"
)

// create makes a file without syncing anything.
func create(t *testing.T, d disk.FS, name, content string) disk.File {
	t.Helper()
	f, err := d.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	writeAt(t, f, 0, content)
	return f
}

func writeAt(t *testing.T, f disk.File, off int64, content string) {
	t.Helper()
	if _, err := f.WriteAt([]byte(content), off); err != nil {
		t.Fatal(err)
	}
}

func ok(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// content describes all files of a disk: "name=bytes", with long bytes shortened.
func content(t *testing.T, d disk.FS, dir string) string {
	t.Helper()
	names, err := d.List(dir)
	ok(t, err)
	var all []string
	for _, name := range names {
		if dir != "." {
			name = dir + "/" + name
		}
		f, err := d.Open(name)
		if errors.Is(err, syscall.EISDIR) {
			all = append(all, name+"/"+content(t, d, name))
			continue
		}
		ok(t, err)
		b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
		ok(t, err, f.Close())
		all = append(all, name+"="+shorten(string(b)))
	}
	return strings.Join(all, " ")
}

// shorten writes runs of equal bytes as a number and the byte: 512a.
func shorten(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		rest := strings.TrimLeft(s, s[:1])
		if n := len(s) - len(rest); n >= 100 {
			fmt.Fprintf(&b, "%d%s", n, strings.ReplaceAll(s[:1], "\x00", "0"))
		} else {
			b.WriteString(s[:n])
		}
		s = rest
	}
	return b.String()
}

// images returns the set of disks that a crash may leave, as content describes them.
func images(t *testing.T, m *disk.Mem) []string {
	t.Helper()
	set := map[string]bool{}
	if !m.Images(100_000, func(image *disk.Mem) { set[content(t, image, ".")] = true }) {
		t.Fatal("too many images")
	}
	return slices.Sorted(maps.Keys(set))
}

func wantImages(t *testing.T, m *disk.Mem, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := images(t, m); !slices.Equal(got, want) {
		t.Errorf("a crash leaves one of %q, want one of %q", got, want)
	}
}

func TestImagesOfWrites(t *testing.T) {
	m := disk.NewMem()
	f := create(t, m, "f", "aaaa")
	wantImages(t, m, "", "f=", "f=aaaa")
	ok(t, m.SyncDir("."))
	wantImages(t, m, "f=", "f=aaaa")
	ok(t, f.Sync())
	wantImages(t, m, "f=aaaa")

	writeAt(t, f, 1, "bb")
	writeAt(t, f, 2, "cc")
	wantImages(t, m, "f=aaaa", "f=aacc", "f=abba", "f=abcc")
	ok(t, f.Truncate(1))
	wantImages(t, m, "f=a", "f=aaaa", "f=aacc", "f=abba", "f=abcc")
	ok(t, f.Sync())
	wantImages(t, m, "f=a")
	ok(t, f.Allocate(0, 2))
	wantImages(t, m, "f=a", "f=a\x00")
}

func TestImagesOfATornWrite(t *testing.T) {
	m := disk.NewMem()
	f := create(t, m, "f", strings.Repeat("a", 1536))
	ok(t, f.Sync(), m.SyncDir("."))
	writeAt(t, f, 256, strings.Repeat("b", 1024))
	wantImages(t, m,
		"f=1536a",         // lost
		"f=256a1024b256a", // kept
		"f=256a256b1024a", // all but the first sector lost
		"f=256a768b512a",  // the last one lost
		"f=512a768b256a",  // the first one lost
	)
}

func TestImagesOfNames(t *testing.T) {
	m := disk.NewMem()
	ok(t, m.MkdirAll("d"))
	wantImages(t, m, "d/")
	f := create(t, m, "d/new", "x")
	ok(t, f.Sync(), m.Rename("d/new", "d/f"))
	wantImages(t, m, "d/", "d/d/f=x", "d/d/new=x")
	ok(t, m.SyncDir("d"))
	wantImages(t, m, "d/d/f=x")
	g := create(t, m, "d/new", "y")
	ok(t, g.Sync(), m.SyncDir("d"), m.Rename("d/new", "d/f"))
	wantImages(t, m, "d/d/f=x d/new=y", "d/d/f=y")
	ok(t, m.SyncDir("."))
	wantImages(t, m, "d/d/f=x d/new=y", "d/d/f=y")
	ok(t, m.SyncDir("d"), m.Remove("d/f"), m.Remove("d"))
	wantImages(t, m, "", "d/", "d/d/f=y")
	ok(t, m.SyncDir("."))
	wantImages(t, m, "")
}

func TestImagesBeyondTheLimitAreASample(t *testing.T) {
	m := disk.NewMem()
	f := create(t, m, "f", "")
	ok(t, m.SyncDir("."))
	for i := range 20 {
		writeAt(t, f, int64(i), "x")
	}
	run := func() []string {
		var all []string
		if m.Images(50, func(image *disk.Mem) { all = append(all, content(t, image, ".")) }) {
			t.Error("2^20 images are within a limit of 50")
		}
		return all
	}
	first := run()
	if len(first) != 50 {
		t.Errorf("%d images, want 50", len(first))
	}
	if distinct := slices.Compact(slices.Sorted(slices.Values(first))); len(distinct) < 30 {
		t.Errorf("only %d of 50 images differ", len(distinct))
	}
	if !slices.Equal(first, run()) {
		t.Error("the sample differs from one call to the next")
	}
}

// TestCrashIsAnImage checks that random crashes stay within what images allow, and reach
// all of it.
func TestCrashIsAnImage(t *testing.T) {
	m := disk.NewMem()
	f := create(t, m, "f", strings.Repeat("a", 1024))
	ok(t, f.Sync(), m.SyncDir("."))
	writeAt(t, f, 0, strings.Repeat("b", 1024))
	ok(t, m.Rename("f", "g"))
	r := rand.New(rand.NewPCG(1, 1))
	seen := map[string]bool{}
	for range 1000 {
		seen[content(t, m.Crash(r), ".")] = true
	}
	if got, want := slices.Sorted(maps.Keys(seen)), images(t, m); !slices.Equal(got, want) {
		t.Errorf("crashes leave one of %q, images are %q", got, want)
	}
}

func TestCloneKeepsWhatIsUnsynced(t *testing.T) {
	m := disk.NewMem()
	if _, err := m.Lock("LOCK"); err != nil {
		t.Fatal(err)
	}
	ok(t, m.SyncDir("."))
	f := create(t, m, "f", "a")
	c := m.Clone()
	writeAt(t, f, 0, "b")
	ok(t, f.Sync(), m.SyncDir("."))
	if got := content(t, c, "."); got != "LOCK= f=a" {
		t.Errorf("the clone has %q", got)
	}
	wantImages(t, c, "LOCK=", "LOCK= f=", "LOCK= f=a")
	if _, err := c.Lock("LOCK"); err != nil {
		t.Errorf("the lock of a killed process is still held: %v", err)
	}
	g, err := c.Open("f")
	ok(t, err, g.Sync(), c.SyncDir("."))
	wantImages(t, c, "LOCK= f=a")
}

func TestFailedSyncLeavesBytesSuspect(t *testing.T) {
	m := disk.NewMem()
	fail := false
	d := disk.NewFaulty(withQuota(t, m, 1<<20), func(op disk.Op) disk.Fault {
		if fail && op.Kind == disk.OpSync {
			return disk.Fault{Err: syscall.EIO}
		}
		return disk.Fault{}
	})
	f := create(t, d, "f", "aa")
	ok(t, f.Sync(), d.SyncDir("."))
	writeAt(t, f, 0, "b")
	fail = true
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("Sync: %v", err)
	}
	fail = false
	writeAt(t, f, 1, "c")
	ok(t, f.Sync())
	wantImages(t, m, "f=ac", "f=bc")
	wantImages(t, m.Clone(), "f=ac", "f=bc")
	writeAt(t, f, 0, "b")
	ok(t, f.Sync())
	wantImages(t, m, "f=bc")
}

func TestFaults(t *testing.T) {
	var fault disk.Fault
	var trace []string
	m := disk.NewMem()
	d := disk.NewFaulty(m, func(op disk.Op) disk.Fault {
		trace = append(trace, op.String())
		return fault
	})
	f := create(t, d, "f", "abcd")
	fault = disk.Fault{Err: syscall.ENOSPC, Part: 2}
	if n, err := f.WriteAt([]byte("ABCD"), 0); n != 2 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the short write: %d, %v", n, err)
	}
	fault = disk.Fault{Damage: func(p []byte) { p[0] ^= 1 }}
	b := make([]byte, 4)
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != "@Bcd" {
		t.Errorf("the damaged read: %q, %v", b, err)
	}
	kept := []byte("xyz")
	if _, err := f.WriteAt(kept, 1); err != nil || string(kept) != "xyz" {
		t.Errorf("the damaged write: %q, %v", kept, err)
	}
	fault = disk.Fault{Skip: true}
	_, err := f.WriteAt([]byte("lost"), 0)
	ok(t, err, f.Truncate(0), f.Allocate(0, 9), d.Remove("f"), d.Rename("f", "g"), d.MkdirAll("d"), d.SyncDir("."), f.Sync())
	if got := content(t, m, "."); got != "f=Ayyz" {
		t.Errorf("the file is %q", got)
	}
	wantImages(t, m, "", "f=", "f=AB", "f=ABcd", "f=Ayyz", "f=\x00yyz", "f=abcd", "f=ayyz")
	fault = disk.Fault{Err: syscall.EIO}
	for name, call := range map[string]func() error{
		"create":   func() error { _, err := d.Create("x"); return err },
		"open":     func() error { _, err := d.Open("f"); return err },
		"remove":   func() error { return d.Remove("f") },
		"rename":   func() error { return d.Rename("f", "g") },
		"mkdir":    func() error { return d.MkdirAll("d") },
		"list":     func() error { _, err := d.List("."); return err },
		"size":     func() error { _, err := d.Size("f"); return err },
		"syncdir":  func() error { return d.SyncDir(".") },
		"usage":    func() error { _, _, err := d.Usage(); return err },
		"lock":     func() error { _, err := d.Lock("L"); return err },
		"read":     func() error { _, err := f.ReadAt(b, 0); return err },
		"write":    func() error { _, err := f.WriteAt(b, 0); return err },
		"fsize":    func() error { _, err := f.Size(); return err },
		"truncate": func() error { return f.Truncate(0) },
		"sync":     func() error { return f.Sync() },
		"allocate": func() error { return f.Allocate(0, 9) },
	} {
		if err := call(); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := content(t, m, "."); got != "f=Ayyz" {
		t.Errorf("after failed operations the disk has %q", got)
	}
	if got := strings.Join(trace[:6], "; "); got != "create f; write f 0+4; write f 0+4; read f 0+4; write f 1+3; write f 0+4" {
		t.Errorf("the trace is %q", got)
	}
}

func TestQuota(t *testing.T) {
	m := disk.NewMem()
	create(t, m, "before", "123")
	ok(t, m.MkdirAll("d"))
	d := withQuota(t, m, 10)
	f := create(t, d, "d/f", "1234")
	full := func(what string, err error) {
		t.Helper()
		if !disk.IsNoSpace(err) {
			t.Errorf("%s: error %v, want ENOSPC", what, err)
		}
	}
	free := func(want int64) {
		t.Helper()
		if total, free, err := d.Usage(); err != nil || total != 10 || free != want {
			t.Errorf("Usage: %d, %d, %v; want 10, %d", total, free, err, want)
		}
	}
	free(3)
	_, err := f.WriteAt([]byte("56789"), 3)
	full("WriteAt", err)
	full("Truncate", f.Truncate(8))
	full("Allocate", f.Allocate(0, 8))
	if size, err := f.Size(); err != nil || size != 4 {
		t.Errorf("refused operations left a size of %d, %v", size, err)
	}
	writeAt(t, f, 0, "abcdefg")
	free(0)
	g, err := d.Open("d/f")
	ok(t, err, g.Truncate(2))
	free(5)
	ok(t, d.Rename("d/f", "before"))
	free(8)
	writeAt(t, g, 2, "12345678")
	free(0)
	ok(t, d.Remove("before"))
	free(10)
	if _, err := d.Open("before"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of a removed file: %v", err)
	}
}
