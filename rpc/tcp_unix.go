//go:build unix

package rpc

import (
	"errors"

	"golang.org/x/sys/unix"
)

// TryWrite writes what fits into the socket's buffer. One goroutine at a time.
func (c *tcpConn) TryWrite(b []byte) (int, error) {
	c.try, c.tried, c.tryErr = b, 0, nil
	err := c.raw.Write(c.tryFn)
	c.try = nil
	if err == nil {
		err = c.tryErr
	}
	return c.tried, err
}

// tryOnce makes one attempt; it always reports true, because TryWrite does not wait.
func (c *tcpConn) tryOnce(fd uintptr) bool {
	for {
		n, err := unix.Write(int(fd), c.try)
		switch {
		case err == nil:
			c.tried = n
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EAGAIN):
			c.tryErr = err
		}
		return true
	}
}

// pread reads from an open file at an offset.
func pread(fd uintptr, b []byte, offset int64) (int, error) {
	for {
		n, err := unix.Pread(int(fd), b, offset)
		if !errors.Is(err, unix.EINTR) {
			return max(n, 0), err
		}
	}
}
