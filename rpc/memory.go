package rpc

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
)

const (
	memoryBufferBytes = 256 << 10 // what one direction of a connection holds
	memoryBacklog     = 128       // connections that wait for Accept
)

// Memory is a network within the process. Addresses are any strings; those that end in ":0"
// get a number in place of the 0. It blocks only on channels and conditions, so it can be
// used in a testing/synctest bubble.
type Memory struct {
	mu        sync.Mutex
	listeners map[string]*memoryListener
	number    int // of the last listener or dialer that was given a name
}

// NewMemory returns an empty network.
func NewMemory() *Memory { return &Memory{listeners: map[string]*memoryListener{}} }

// Dial connects to a listener of this network.
func (m *Memory) Dial(ctx context.Context, address string) (Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	l := m.listeners[address]
	m.number++
	name := fmt.Sprintf("dialer:%d", m.number)
	m.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("dial %s: %w", address, syscall.ECONNREFUSED)
	}
	there, here := newMemoryPipe(), newMemoryPipe()
	select {
	case l.backlog <- &memoryConn{in: there, out: here, local: address, remote: name}:
		return &memoryConn{in: here, out: there, local: name, remote: address}, nil
	case <-l.closed:
		return nil, fmt.Errorf("dial %s: %w", address, syscall.ECONNREFUSED)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Listen takes connections at an address that nobody else listens at.
func (m *Memory) Listen(address string) (Listener, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if host, ok := strings.CutSuffix(address, ":0"); ok {
		m.number++
		address = fmt.Sprintf("%s:%d", host, m.number)
	}
	if m.listeners[address] != nil {
		return nil, fmt.Errorf("listen %s: address already in use", address)
	}
	l := &memoryListener{network: m, address: address, backlog: make(chan *memoryConn, memoryBacklog), closed: make(chan struct{})}
	m.listeners[address] = l
	return l, nil
}

type memoryListener struct {
	network *Memory
	address string
	backlog chan *memoryConn
	closed  chan struct{}
	once    sync.Once
}

func (l *memoryListener) Accept() (Conn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Address() string { return l.address }

func (l *memoryListener) Close() error {
	l.once.Do(func() {
		l.network.mu.Lock()
		delete(l.network.listeners, l.address)
		l.network.mu.Unlock()
		close(l.closed)
		for {
			select {
			case c := <-l.backlog:
				c.Close()
			default:
				return
			}
		}
	})
	return nil
}

// memoryConn is one end of a connection.
type memoryConn struct {
	in, out       *memoryPipe
	local, remote string
}

func (c *memoryConn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *memoryConn) Write(b []byte) (int, error) { return c.out.write(b) }
func (c *memoryConn) LocalAddress() string        { return c.local }
func (c *memoryConn) RemoteAddress() string       { return c.remote }

func (c *memoryConn) Close() error {
	c.out.closeWriting()
	c.in.closeReading()
	return nil
}

// memoryPipe is one direction of a connection: a ring of bytes.
type memoryPipe struct {
	mu       sync.Mutex
	changed  sync.Cond
	ring     []byte
	start, n int
	eof      bool // the writing end was closed
	broken   bool // the reading end was closed
}

func newMemoryPipe() *memoryPipe {
	p := &memoryPipe{}
	p.changed.L = &p.mu
	return p
}

func (p *memoryPipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.n == 0 && !p.eof && !p.broken && len(b) > 0 {
		p.changed.Wait()
	}
	switch {
	case p.broken:
		return 0, net.ErrClosed
	case len(b) == 0:
		return 0, nil
	case p.n == 0:
		return 0, io.EOF
	}
	end := min(p.start+p.n, len(p.ring))
	n := copy(b, p.ring[p.start:end])
	n += copy(b[n:], p.ring[:p.n-(end-p.start)]) // the part that begins the ring anew
	p.start = (p.start + n) % len(p.ring)
	p.n -= n
	p.changed.Broadcast()
	return n, nil
}

func (p *memoryPipe) write(b []byte) (written int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ring == nil {
		p.ring = make([]byte, memoryBufferBytes)
	}
	for {
		switch {
		case p.eof:
			return written, net.ErrClosed
		case p.broken:
			return written, io.ErrClosedPipe
		case len(b) == 0:
			return written, nil
		case p.n == len(p.ring):
			p.changed.Wait()
			continue
		}
		free := (p.start + p.n) % len(p.ring)
		end := len(p.ring)
		if free < p.start {
			end = p.start
		}
		n := copy(p.ring[free:end], b)
		p.n += n
		b, written = b[n:], written+n
		p.changed.Broadcast()
	}
}

func (p *memoryPipe) closeWriting() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.eof = true
	p.changed.Broadcast()
}

func (p *memoryPipe) closeReading() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broken = true
	p.changed.Broadcast()
}
