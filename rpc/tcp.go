package rpc

import (
	"context"
	"net"
	"syscall"
)

// TCP is the network of the operating system.
var TCP Network = tcpNetwork{}

type tcpNetwork struct{}

func (tcpNetwork) Dial(ctx context.Context, address string) (Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return newTCPConn(c.(*net.TCPConn))
}

func (tcpNetwork) Listen(address string) (Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	return tcpListener{l.(*net.TCPListener)}, nil
}

type tcpListener struct{ *net.TCPListener }

func (l tcpListener) Accept() (Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	return newTCPConn(c)
}

func (l tcpListener) Address() string { return l.Addr().String() }

// tcpConn adds to a TCP connection the ways of writing that spare calls to the system.
type tcpConn struct {
	*net.TCPConn
	raw syscall.RawConn
}

func newTCPConn(c *net.TCPConn) (Conn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		c.Close()
		return nil, err
	}
	return &tcpConn{TCPConn: c, raw: raw}, nil
}

func (c *tcpConn) LocalAddress() string  { return c.LocalAddr().String() }
func (c *tcpConn) RemoteAddress() string { return c.RemoteAddr().String() }

// WriteBuffers writes all buffers with writev(2).
func (c *tcpConn) WriteBuffers(buffers [][]byte) error {
	b := net.Buffers(buffers)
	_, err := b.WriteTo(c.TCPConn)
	return err
}
