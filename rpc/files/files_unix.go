//go:build unix

package files

import (
	"errors"

	"golang.org/x/sys/unix"
)

// ReadAt reads from an open file at an offset.
func ReadAt(fd uintptr, b []byte, offset int64) (int, error) {
	for {
		n, err := unix.Pread(int(fd), b, offset)
		if !errors.Is(err, unix.EINTR) {
			return max(n, 0), err
		}
	}
}
