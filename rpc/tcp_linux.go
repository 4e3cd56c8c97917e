package rpc

import (
	"errors"
	"io"

	"github.com/quarryfs/quarry"
	"golang.org/x/sys/unix"
)

// SendFile sends a part of a file with sendfile(2): the bytes go from the page cache to the
// socket, and the file's own position is neither used nor moved, so that many connections
// can share one descriptor.
func (c *tcpConn) SendFile(file quarry.FileRange) error {
	var failed error
	err := c.raw.Write(func(fd uintptr) bool {
		for file.Length > 0 {
			n, err := unix.Sendfile(int(fd), int(file.FD), &file.Offset, int(min(file.Length, 1<<30)))
			switch {
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.EAGAIN):
				return false // wait until the socket has room
			case err != nil:
				failed = err
				return true
			case n == 0:
				failed = io.ErrUnexpectedEOF
				return true
			default:
				file.Length -= int64(n)
			}
		}
		return true
	})
	if err != nil {
		return err
	}
	return failed
}
