//go:build unix

package rpc

import (
	"errors"

	"golang.org/x/sys/unix"
)

// pread reads from an open file at an offset.
func pread(fd uintptr, b []byte, offset int64) (int, error) {
	for {
		n, err := unix.Pread(int(fd), b, offset)
		if !errors.Is(err, unix.EINTR) {
			return max(n, 0), err
		}
	}
}
