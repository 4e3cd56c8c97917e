package test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTrashGivesWay has a cluster on a file system that holds what was removed for a while, but not for
// long: files are put and removed again and again, and each finds room at once. Then somebody else wants the
// space.
func TestTrashGivesWay(t *testing.T) {
	t.Parallel()
	if !isolated(t, 0) {
		return
	}
	small := smallDisk{filepath.Join(t.TempDir(), "small"), 1 << 30} // 256 MiB of it are each server's reserve
	if err := small.mount(); err != nil {
		t.Skipf("a small file system cannot be mounted: %v", err)
	}
	defer unix.Unmount(small.dir, unix.MNT_DETACH)
	s := newSystem(t, options{masters: 1, servers: 3, dir: small.dir})
	files := func(pattern string) []string {
		names, err := filepath.Glob(filepath.Join(s.dir, "s*", pattern))
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	const size, rounds = 96 << 20, 8
	for range rounds {
		sum := s.put("/file", size) // with 64 MiB promised to each of two chunks, at three servers
		s.check("/file", sum)
		if out, code := s.run("", "rm", "--now", "/file"); code != 0 {
			t.Fatalf("rm: %s", out)
		}
		s.eventually("the servers to hear of it", time.Minute, func() bool { return len(files("chunks/*/*")) == 0 })
	}
	kept := files("trash/*")
	if len(kept) == 0 {
		t.Fatal("nothing is kept, though there is room")
	}
	free, err := small.free()
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := os.Create(filepath.Join(small.dir, "foreign"))
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	if err := unix.Fallocate(int(foreign.Fd()), 0, 0, free-size); err != nil {
		t.Fatal(err)
	}
	s.eventually("room for others", time.Minute, func() bool {
		now, err := small.free()
		return err == nil && now > 256<<20 // the reserve, and a bit
	})
}
