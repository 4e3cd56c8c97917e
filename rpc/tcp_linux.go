package rpc

import (
	"errors"
	"io"
	"net/netip"
	"os"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/rpc/turns"
	"golang.org/x/sys/unix"
)

// SendFile sends before, and then a part of a file with sendfile(2): its bytes go from the
// page cache to the socket, and the file's own position is neither used nor moved, so that
// many connections can share one descriptor. MSG_MORE has the bytes of before leave in one
// segment with the first of the file, which saves the receiver a wake-up: 10 % of the CPU
// time of a read of 64 KiB.
func (c *tcpConn) SendFile(before []byte, file quarry.FileRange) error {
	err := c.whenWritable(func(fd int) (done bool, err error) {
		n, err := unix.SendmsgN(fd, before, nil, nil, unix.MSG_MORE|unix.MSG_NOSIGNAL)
		before = before[max(n, 0):]
		return len(before) == 0, err
	})
	if err != nil {
		return err
	}
	return c.whenWritable(func(fd int) (done bool, err error) {
		if file.Length <= 0 {
			return true, nil
		}
		n, err := unix.Sendfile(fd, int(file.FD), &file.Offset, int(min(file.Length, 1<<30)))
		if n == 0 && err == nil {
			return true, io.ErrUnexpectedEOF
		}
		file.Length -= int64(max(n, 0))
		return file.Length == 0, err
	})
}

// whenWritable calls fn until it is done or fails, and waits while the socket has no room.
func (c *tcpConn) whenWritable(fn func(fd int) (done bool, err error)) error {
	var failed error
	err := c.raw.Write(func(fd uintptr) bool {
		for {
			done, err := fn(int(fd))
			switch {
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.EAGAIN):
				return false
			case err != nil || done:
				failed = err
				return true
			}
		}
	})
	if err != nil {
		return err
	}
	return failed
}

// lowWaterBytes is how much of a payload has to come before its reader is woken.
const lowWaterBytes = 256 << 10

// Fill receives len(b) bytes. Before it sleeps it has the system wake it only when much or
// the rest has come (SO_RCVLOWAT), because a wake-up costs as much as the copy of 64 KiB.
func (c *tcpConn) Fill(b []byte, more int, received func()) error {
	var failed error
	err := c.raw.Read(func(fd uintptr) bool {
		for len(b) > 0 {
			var n int
			var err error
			turns.Receiving.Take(func() { n, err = unix.Read(int(fd), b) })
			switch {
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.EAGAIN):
				c.wakeAt(int(fd), min(len(b)+more, lowWaterBytes))
				return false
			case err != nil:
				failed = os.NewSyscallError("read", err)
				return true
			case n == 0:
				failed = io.EOF
				return true
			default:
				received()
				b = b[n:]
			}
		}
		if more == 0 {
			c.wakeAt(int(fd), 1)
		}
		return true
	})
	if err != nil {
		return err
	}
	return failed
}

// Read is woken by a single byte, whatever Fill has left: the rest of a payload may be small,
// and be received by Read.
func (c *tcpConn) Read(b []byte) (int, error) {
	if c.lowWater > 1 {
		if err := c.raw.Control(func(fd uintptr) { c.wakeAt(int(fd), 1) }); err != nil {
			return 0, err
		}
	}
	return c.TCPConn.Read(b)
}

// Wake has the system wake the reader for single bytes, until that sets it otherwise. lowWater, which is the
// reader's, may then be more than it is: too many wake-ups, never too few.
func (c *tcpConn) Wake() {
	_ = c.raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, 1) })
}

// wakeAt sets how many bytes wake the reader. A system that cannot do it wakes it for one.
func (c *tcpConn) wakeAt(fd, n int) {
	if n != max(c.lowWater, 1) {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, n)
		c.lowWater = n
	}
}

// bindAddress gives a socket its own address. The port is picked when it is connected, so that
// connections to different servers can share one.
func bindAddress(fd uintptr, from netip.Addr) error {
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1) // without it, ports run out earlier
	var own unix.Sockaddr = &unix.SockaddrInet6{Addr: from.As16()}
	if from.Is4() {
		own = &unix.SockaddrInet4{Addr: from.As4()}
	}
	return os.NewSyscallError("bind", unix.Bind(int(fd), own))
}
