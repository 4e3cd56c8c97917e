package rpc

import (
	"context"
	"net"
	"net/netip"
	"syscall"
)

// TCP is the network of the operating system.
var TCP Network = tcpNetwork{}

// TCPFrom returns the network of the operating system for a process that is reached at host,
// an IP address of this machine. Its own connections come from that address, too, so on a
// machine with several ones they take the way that the operator has chosen, and others can
// tell by it who calls. A connection between a loopback address and one that is not cannot
// come from host, nor can one to an address of the other family: those come from whichever
// address the system picks, as all do if host is not an IP address or names any address.
func TCPFrom(host string) Network {
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.IsUnspecified() || ip.IsMulticast() || ip.Zone() != "" {
		return TCP
	}
	return tcpNetwork{from: ip.Unmap()}
}

type tcpNetwork struct {
	from netip.Addr // where connections come from; the zero Addr: the system picks it
}

func (n tcpNetwork) Dial(ctx context.Context, address string) (Conn, error) {
	var d net.Dialer
	if n.from.IsValid() {
		d.Control = n.bind
	}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return newTCPConn(c.(*net.TCPConn))
}

// bind gives a socket that is about to be connected its own address.
func (n tcpNetwork) bind(_, to string, c syscall.RawConn) error {
	peer, err := netip.ParseAddrPort(to)
	if err != nil {
		return nil // not an address of ours to judge
	}
	if ip := peer.Addr().Unmap(); ip.Is4() != n.from.Is4() || ip.IsLoopback() != n.from.IsLoopback() {
		return nil
	}
	var failed error
	if err := c.Control(func(fd uintptr) { failed = bindAddress(fd, n.from) }); err != nil {
		return err
	}
	return failed
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
	// lowWater is how many bytes wake the reader; 0: one. Its alone.
	lowWater int
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
