package passing

import (
	"crypto/rand"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// connsMax bounds the connections of a listener.
	connsMax = 1024
	// WayMax bounds the descriptors on their way over the connections of a listener.
	WayMax = 64
)

// Listener takes connections. Safe for use by many goroutines.
//
// Whoever can connect can put descriptors into a socket's queue, and the one that empties the
// queue waits for as long as closing them takes. Linux 6.16 can refuse them; elsewhere no bytes
// are read that a descriptor comes with, and sockets are closed by goroutines that nobody waits
// for. A connection counts among connsMax until its socket is closed, so these are bounded.
type Listener struct {
	*net.UnixListener
	raw     syscall.RawConn
	name    string
	refuses bool          // descriptors are refused by the system
	places  chan struct{} // a token for each connection whose socket is open, or about to be accepted
	closed  chan struct{}
	once    sync.Once

	mu  sync.Mutex
	way map[*Conn]struct{} // those with a descriptor on its way
}

// way is how far a connection has come with a descriptor.
type way uint8

const (
	wayNone  way = iota
	wayBegun     // it is about to be passed
	waySent      // it was passed, or never will be
)

// Listen takes connections at a name, of at most some 80 bytes; "" is any name, which nobody can
// know before Listen returns.
func Listen(name string) (*Listener, error) {
	if name == "" {
		name = rand.Text()
	}
	u, err := net.ListenUnix("unix", socket(name))
	if err != nil {
		return nil, err
	}
	raw, err := u.SyscallConn()
	if err != nil {
		u.Close()
		return nil, err
	}
	l := &Listener{UnixListener: u, raw: raw, name: name, places: make(chan struct{}, connsMax), closed: make(chan struct{}), way: map[*Conn]struct{}{}}
	_ = l.refuseDescriptors(true) // if the system cannot, connections end at the first one
	return l, nil
}

// soPassRights is SO_PASSRIGHTS, of Linux 6.16; connections have it from their listener.
const soPassRights = 83

// refuseDescriptors has the system refuse what is passed to connections, or not.
func (l *Listener) refuseDescriptors(refuse bool) error {
	passes := 1
	if refuse {
		passes = 0
	}
	var failed error
	if err := l.raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, soPassRights, passes) }); err != nil {
		return err
	}
	if failed == nil {
		l.refuses = refuse
	}
	return failed
}

// Accept returns the next connection, or net.ErrClosed after Close. It waits while there are
// connsMax.
func (l *Listener) Accept() (*Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.accept()
	if err != nil {
		<-l.places
	}
	return c, err
}

func (l *Listener) accept() (*Conn, error) {
	u, err := l.AcceptUnix()
	if err != nil {
		select {
		case <-l.closed:
			return nil, net.ErrClosed
		default:
			return nil, err
		}
	}
	return newConn(u, l, l.name, u.RemoteAddr().String())
}

// Address returns the name.
func (l *Listener) Address() string { return l.name }

// Close ends the listener. Its name is free then, or soon if the system does not refuse descriptors:
// connections in its queue may have some in theirs.
func (l *Listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		shut(l.raw)
		if l.refuses {
			_ = l.UnixListener.Close() // it was shut down
		} else {
			go l.UnixListener.Close()
		}
	})
	return nil
}

// Begin reports whether a descriptor may be passed over a connection: it has none on its way, and
// all of its listener fewer than WayMax. End is called when the descriptor has been passed, or
// will not be; it counts until the other side has taken it, even if the connection is closed.
func (c *Conn) Begin() bool {
	l := c.listener
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for o := range l.way {
		l.settle(o)
	}
	if c.way != wayNone || c.over || len(l.way) >= WayMax {
		return false
	}
	c.way = wayBegun
	l.way[c] = struct{}{}
	return true
}

// End: see Begin.
func (c *Conn) End() {
	l := c.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	c.way = waySent
	c.watched.Store(true)
	l.settle(c)
}

// look sees whether the descriptor on its way was taken, before more is written that the other
// side may leave unread for a while, such as signs of life.
func (c *Conn) look() {
	if !c.watched.Load() {
		return
	}
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	c.listener.settle(c)
}

// settle ends the way of a descriptor if the other side has taken all that was written. mu is
// held.
func (l *Listener) settle(c *Conn) {
	if c.way != waySent || !c.received() {
		return
	}
	c.way = wayNone
	c.watched.Store(false)
	delete(l.way, c)
	if c.over {
		l.finish(c)
	}
}

// end is told that a connection has ended. Its socket stays while a descriptor is on its way, to
// show when it is taken.
func (l *Listener) end(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.over {
		return
	}
	c.over = true
	if c.way == wayNone {
		l.finish(c)
		return
	}
	l.settle(c)
}

// finish closes the socket of a connection. Whoever still has it in use closes its descriptor, so that
// must not be the last one, with which what is queued is closed, too.
func (l *Listener) finish(c *Conn) {
	last := -1
	_ = c.raw.Control(func(fd uintptr) { last, _ = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	go func() {
		_ = c.UnixConn.Close() // it was shut down
		closeAny(last)
		<-l.places
	}()
}
