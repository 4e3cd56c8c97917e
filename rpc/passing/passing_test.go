//go:build linux

package passing_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/quarryfs/quarry/rpc/passing"
	"golang.org/x/sys/unix"
)

// pair returns both ends of a connection.
func pair(t *testing.T) (dialled, accepted *passing.Conn) {
	t.Helper()
	name := fmt.Sprintf("test-%d-%s", os.Getpid(), t.Name())
	l, err := passing.Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if dialled, err = passing.Dial(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if accepted, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		dialled.Close()
		accepted.Close()
	})
	return dialled, accepted
}

// receive reads n bytes.
func receive(t *testing.T, c *passing.Conn, n int) {
	t.Helper()
	b := make([]byte, 3)
	for n > 0 {
		k, err := c.Read(b[:min(n, len(b))])
		if err != nil {
			t.Fatal(err)
		}
		n -= k
	}
}

func open(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func TestPass(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte("bytes of a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dialled, accepted := pair(t)
	before := open(t)
	for range 20 { // of a row of them the last one can be taken, and none stays open
		if err := accepted.Pass([]byte("hello"), 2, f.Fd()); err != nil {
			t.Fatal(err)
		}
		receive(t, dialled, 7)
	}
	d := dialled.Passed()
	if d == nil || dialled.Passed() != nil {
		t.Fatal("exactly one descriptor was to be taken")
	}
	b := make([]byte, 100)
	if n, err := d.ReadCached(b, 9); err != nil || string(b[:n]) != "a file" {
		t.Errorf("%q, %v", b[:n], err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	// The side that was dialled wants none.
	for range 20 {
		if err := dialled.Pass([]byte("x"), 0, f.Fd()); err != nil {
			t.Fatal(err)
		}
		receive(t, accepted, 1)
	}
	if accepted.Passed() != nil {
		t.Error("a descriptor was taken by the side that lends")
	}
	if after := open(t); after != before {
		t.Errorf("%d files were open, now %d are", before, after)
	}
	// What nobody has taken is closed with the connection.
	if err := accepted.Pass([]byte("x"), 0, f.Fd()); err != nil {
		t.Fatal(err)
	}
	receive(t, dialled, 1)
	dialled.Close()
	if after := open(t); after != before-1 {
		t.Errorf("%d files were open with the connection, %d are without", before, after)
	}
}

// What is not in memory is not waited for.
func TestReadCachedDoesNotWait(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dialled, accepted := pair(t)
	if err := accepted.Pass([]byte("x"), 0, f.Fd()); err != nil {
		t.Fatal(err)
	}
	receive(t, dialled, 1)
	d := dialled.Passed()
	defer d.Close()
	b := make([]byte, 1<<20)
	if n, err := d.ReadCached(b, 0); n < len(b) || err != nil {
		t.Skipf("files here cannot be read like this: %d bytes, %v", n, err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	if n, err := d.ReadCached(b, 4<<20); n == len(b) || err != nil {
		t.Errorf("%d bytes that were not in memory, %v", n, err)
	}
}
