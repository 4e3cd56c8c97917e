package passing

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
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
	return &Conn{UnixConn: c.(*net.UnixConn), local: c.LocalAddr().String(), remote: name, descriptor: -1, dialled: true}, nil
}

// bind has the system give a socket a name of its own, by which the other side can tell it.
func bind(_, _ string, c syscall.RawConn) error {
	var failed error
	if err := c.Control(func(fd uintptr) { failed = unix.Bind(int(fd), &unix.SockaddrUnix{}) }); err != nil {
		return err
	}
	return failed
}

// Listener takes connections. Safe for use by many goroutines.
type Listener struct {
	*net.UnixListener
	name string
}

// Listen takes connections at a name, of at most some 80 bytes.
func Listen(name string) (*Listener, error) {
	l, err := net.ListenUnix("unix", socket(name))
	if err != nil {
		return nil, err
	}
	return &Listener{l, name}, nil
}

// Accept returns the next connection, or net.ErrClosed after Close.
func (l *Listener) Accept() (*Conn, error) {
	c, err := l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	return &Conn{UnixConn: c, local: l.name, remote: c.RemoteAddr().String(), descriptor: -1}, nil
}

// Address returns the name.
func (l *Listener) Address() string { return l.name }

// Conn is a connection. One goroutine may read while another one writes; Close may be called at
// any time.
type Conn struct {
	*net.UnixConn
	local, remote string
	dialled       bool     // descriptors are taken
	control       [64]byte // what comes beside the bytes; the reader's alone

	mu         sync.Mutex
	descriptor int // the last one that came, not taken yet; -1: none
	closed     bool
}

// LocalAddress returns the name of this end.
func (c *Conn) LocalAddress() string { return c.local }

// RemoteAddress returns the name of the other end.
func (c *Conn) RemoteAddress() string { return c.remote }

// WriteBuffers writes all buffers with writev(2).
func (c *Conn) WriteBuffers(buffers [][]byte) error {
	b := net.Buffers(buffers)
	_, err := b.WriteTo(c.UnixConn)
	return err
}

// Pass writes b, at least one byte, and n bytes of zero, and passes a descriptor with them.
func (c *Conn) Pass(b []byte, n int, fd uintptr) error {
	b = append(slices.Clip(b), make([]byte, n)...)
	k, _, err := c.WriteMsgUnix(b, unix.UnixRights(int(fd)), nil)
	if err == nil && k < len(b) {
		_, err = c.Write(b[k:])
	}
	return err
}

// Read reads, and keeps the descriptor that comes with the bytes.
func (c *Conn) Read(b []byte) (int, error) {
	n, controls, _, _, err := c.ReadMsgUnix(b, c.control[:])
	if controls > 0 {
		c.keep(c.control[:controls])
	}
	if errors.Is(err, io.EOF) {
		err = io.EOF // without the address around it
	}
	return n, err
}

// keep keeps the last descriptor that came, if anybody may want it, and closes all others.
func (c *Conn) keep(control []byte) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return // the system makes none such
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range messages {
		fds, _ := unix.ParseUnixRights(&messages[i]) // what is no descriptor is nothing to close
		for _, fd := range fds {
			if c.closed || !c.dialled {
				unix.Close(fd)
				continue
			}
			c.drop()
			c.descriptor = fd
		}
	}
}

// drop closes the descriptor that nobody has taken; mu is held.
func (c *Conn) drop() {
	if c.descriptor >= 0 {
		unix.Close(c.descriptor)
		c.descriptor = -1
	}
}

// Passed takes the descriptor that came last with bytes that were read; nil if none did.
func (c *Conn) Passed() *Descriptor {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.descriptor < 0 {
		return nil
	}
	d := &Descriptor{c.descriptor}
	c.descriptor = -1
	return d
}

// Close ends the connection.
func (c *Conn) Close() error {
	c.mu.Lock()
	c.closed = true
	c.drop()
	c.mu.Unlock()
	return c.UnixConn.Close()
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
