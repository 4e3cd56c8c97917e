package passing

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Supported: this system has such sockets.
const Supported = true

func socket(name string) *net.UnixAddr { return &net.UnixAddr{Net: "unix", Name: "@quarry " + name} }

// Dial connects to whoever listens at a name.
func Dial(ctx context.Context, name string) (*Conn, error) {
	d := net.Dialer{Control: bind}
	c, err := d.DialContext(ctx, "unix", socket(name).Name)
	if err != nil {
		return nil, err
	}
	return newConn(c.(*net.UnixConn), nil, c.LocalAddr().String(), name)
}

// bind has the system give a socket a name of its own, by which the other side can tell it.
func bind(_, _ string, c syscall.RawConn) error {
	var failed error
	if err := c.Control(func(fd uintptr) { failed = unix.Bind(int(fd), &unix.SockaddrUnix{}) }); err != nil {
		return err
	}
	return failed
}

// Conn is a connection. One goroutine may read while another one writes; Close may be called at
// any time.
type Conn struct {
	*net.UnixConn
	raw           syscall.RawConn
	listener      *Listener // nil: of the side that dials, which takes descriptors
	local, remote string
	control       [64]byte    // what comes beside the bytes; the reader's alone
	watched       atomic.Bool // way is waySent

	// Guarded by listener.mu; of the side that listens.
	way  way
	over bool // Close was called

	mu         sync.Mutex
	descriptor int // the last one that came, not taken yet; -1: none
	closed     bool
}

func newConn(c *net.UnixConn, l *Listener, local, remote string) (*Conn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		c.Close()
		return nil, err
	}
	return &Conn{UnixConn: c, raw: raw, listener: l, local: local, remote: remote, descriptor: -1}, nil
}

// LocalAddress returns the name of this end.
func (c *Conn) LocalAddress() string { return c.local }

// RemoteAddress returns the name of the other end.
func (c *Conn) RemoteAddress() string { return c.remote }

// Name returns the listener's name, as both ends know it.
func (c *Conn) Name() string {
	if c.listener != nil {
		return c.local
	}
	return c.remote
}

// Write writes.
func (c *Conn) Write(b []byte) (int, error) {
	c.look()
	return c.UnixConn.Write(b)
}

// WriteBuffers writes all buffers with writev(2).
func (c *Conn) WriteBuffers(buffers [][]byte) error {
	c.look()
	b := net.Buffers(buffers)
	_, err := b.WriteTo(c.UnixConn)
	return err
}

// Pass writes b, at least one byte, and n bytes of zero, and passes a descriptor with them.
func (c *Conn) Pass(b []byte, n int, fd uintptr) error {
	b = append(slices.Clip(b), make([]byte, n)...)
	k, _, err := c.WriteMsgUnix(b, unix.UnixRights(int(fd)), nil)
	if err == nil && k < len(b) {
		_, err = c.UnixConn.Write(b[k:])
	}
	return err
}

// Read reads. The side that dials keeps the descriptor that comes with the bytes; to the other
// one that is an error.
func (c *Conn) Read(b []byte) (int, error) {
	if c.listener != nil {
		return c.plain(b)
	}
	n, controls, _, _, err := c.ReadMsgUnix(b, c.control[:])
	if controls > 0 {
		c.keep(c.control[:controls])
	}
	if errors.Is(err, io.EOF) {
		err = io.EOF // without the address around it
	}
	return n, err
}

// plain reads bytes, and fails at the latest at the first that a descriptor comes with. It looks before it
// takes them, so a descriptor never becomes one of this process: closing it could take as long as
// whoever has passed it likes, as with a socket that lingers.
func (c *Conn) plain(b []byte) (n int, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	failed := c.raw.Read(func(fd uintptr) bool {
		n, err = takePlain(int(fd), b)
		return !errors.Is(err, unix.EAGAIN)
	})
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	switch {
	case closed:
		return 0, net.ErrClosed
	case failed != nil:
		return 0, failed
	case err == nil && n == 0:
		return 0, io.EOF
	}
	return n, err
}

var errPassed = errors.New("the other side passes descriptors, which are not taken here")

func takePlain(fd int, b []byte) (n int, err error) {
	for {
		var flags int
		n, _, flags, _, err = unix.Recvmsg(fd, b, nil, unix.MSG_PEEK)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil || n <= 0:
			return 0, err
		case flags&unix.MSG_CTRUNC != 0:
			return 0, errPassed
		}
		n, err = unix.Read(fd, b[:n])
		if !errors.Is(err, unix.EINTR) {
			return max(n, 0), err
		}
	}
}

// keep keeps the last descriptor that came, and closes all others.
func (c *Conn) keep(control []byte) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return // the system makes none such
	}
	for i := range messages {
		fds, _ := unix.ParseUnixRights(&messages[i]) // what is no descriptor is nothing to close
		for _, fd := range fds {
			c.mu.Lock()
			if !c.closed {
				fd, c.descriptor = c.descriptor, fd
			}
			c.mu.Unlock()
			closeAny(fd)
		}
	}
}

// closeAny closes a descriptor, if it is one.
func closeAny(fd int) {
	if fd >= 0 {
		unix.Close(fd)
	}
}

// take takes the descriptor that came last; -1 if none did.
func (c *Conn) take(closing bool) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	fd := c.descriptor
	c.descriptor = -1
	c.closed = c.closed || closing
	return fd
}

// Passed takes the descriptor that came last with bytes that were read; nil if none did.
func (c *Conn) Passed() *Descriptor {
	if fd := c.take(false); fd >= 0 {
		return &Descriptor{fd}
	}
	return nil
}

// Close ends the connection.
func (c *Conn) Close() error {
	closeAny(c.take(true))
	if c.listener == nil {
		return c.UnixConn.Close()
	}
	shut(c.raw)
	c.listener.end(c)
	return nil
}

// shut ends both directions of a socket; whoever waits for it is woken.
func shut(c syscall.RawConn) {
	_ = c.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) }) // if it is closed, that is as good
}

// received reports whether the other side has taken all that was written, or is gone.
func (c *Conn) received() bool {
	left := 0
	err := c.raw.Control(func(fd uintptr) {
		n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
		if err == nil {
			left = n
		}
	})
	return err != nil || left == 0
}

// Descriptor is a file of another process that was passed to this one, open for reading. Safe
// for use by many goroutines; Close only when no other method is at work.
type Descriptor struct{ fd int }

// Close closes the file here; the other process has its own.
func (d *Descriptor) Close() error { return unix.Close(d.fd) }

// ReadCached fills p with the bytes from offset, as far as they are in memory: it never waits
// for a disk. n is how many came; fewer than len(p) without an error if the next ones are not
// in memory, or the file ends there. errors.ErrUnsupported if the file's system cannot do that.
func (d *Descriptor) ReadCached(p []byte, offset int64) (n int, err error) {
	for n < len(p) {
		k, err := unix.Preadv2(d.fd, [][]byte{p[n:]}, offset+int64(n), unix.RWF_NOWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return n, nil
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return n, errors.ErrUnsupported
		case err != nil || k <= 0:
			return n, err
		default:
			n += k
		}
	}
	return n, nil
}
