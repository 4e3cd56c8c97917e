package cluster

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestFilesShare: all disks together leave half of the descriptors, unless there are very few.
func TestFilesShare(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	}()
	for _, x := range []struct {
		limit uint64
		disks int
		want  int
	}{{4096, 1, 2048}, {4096, 4, 512}, {1024, 1, 512}, {1024, 12, filesLeast}} {
		less := limit
		if less.Cur = x.limit; x.limit > limit.Max {
			t.Skipf("this process may have %d files open", limit.Max)
		}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &less); err != nil {
			t.Fatal(err)
		}
		if got := filesShare(x.disks); got != x.want {
			t.Errorf("%d descriptors, %d disks: %d files each, want %d", x.limit, x.disks, got, x.want)
		}
	}
}
