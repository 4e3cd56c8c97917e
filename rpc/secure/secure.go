// Package secure puts a network of package rpc under TLS: see [Network].
package secure

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/rpc"
)

// Files are the files, in PEM, from which a process takes what it shows to others and whom it
// trusts. They are looked at again for each connection, so that new ones take effect without a
// restart; while they do not fit together, as in the midst of being replaced, those of before are
// used on.
type Files struct {
	// Certificate is this process's, with those between it and the authority's behind it; Key is
	// its private key, which only its owner may read.
	Certificate, Key string
	// Authority has the certificates of the cluster's authority: whom it vouches for is trusted.
	Authority string
}

// IsZero reports whether no file is named: TLS is off.
func (f Files) IsZero() bool { return f == Files{} }

// fileMax bounds what is read of a file.
const fileMax = 1 << 20

// Network returns a network whose connections are those of another one under TLS 1.3, mutual: both
// sides show a certificate of the cluster's authority, and the dialled one's is for the host that
// was dialled. An error, Invalid or Permission, says which file will not do.
func Network(under rpc.Network, files Files) (rpc.Network, error) {
	n := &network{under: under, files: files}
	if files.Certificate == "" || files.Key == "" || files.Authority == "" {
		return nil, quarry.Errorf("tls", quarry.Invalid, "", "a certificate, its key and the authority's certificate are needed, all three")
	}
	_, err := n.load()
	return n, err
}

type network struct {
	under rpc.Network
	files Files

	mu     sync.Mutex
	seen   [3]fileStamp // of the files that loaded is made from
	loaded *credentials // nil: nothing yet
}

// fileStamp tells whether a file is another one than before.
type fileStamp struct {
	changed time.Time
	bytes   int64
}

// credentials are what the files say.
type credentials struct {
	own   tls.Certificate
	roots *x509.CertPool
}

// load returns what the files say at present, or said last when they made sense.
func (n *network) load() (*credentials, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var seen [3]fileStamp
	for i, name := range []string{n.files.Certificate, n.files.Key, n.files.Authority} {
		info, err := os.Stat(name)
		if err == nil {
			seen[i] = fileStamp{info.ModTime(), info.Size()}
			err = checkFile(info, name, i == 1)
		} else {
			err = quarry.Errorf("tls", quarry.Invalid, name, "it cannot be read: %w", err)
		}
		if err != nil {
			return n.orBefore(err)
		}
	}
	if n.loaded != nil && seen == n.seen {
		return n.loaded, nil
	}
	own, err := tls.LoadX509KeyPair(n.files.Certificate, n.files.Key)
	if err != nil {
		return n.orBefore(quarry.Errorf("tls", quarry.Invalid, n.files.Certificate, "it and the key %s do not make a pair: %w", n.files.Key, err))
	}
	authority, err := os.ReadFile(n.files.Authority)
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(authority) {
		return n.orBefore(quarry.Errorf("tls", quarry.Invalid, n.files.Authority, "it has no certificate: %v", err))
	}
	n.loaded, n.seen = &credentials{own, roots}, seen
	return n.loaded, nil
}

func (n *network) orBefore(err error) (*credentials, error) {
	if n.loaded != nil {
		return n.loaded, nil
	}
	return nil, err
}

// checkFile refuses what is not to be read as a certificate or a key.
func checkFile(info os.FileInfo, name string, secret bool) error {
	switch {
	case !info.Mode().IsRegular() || info.Size() > fileMax:
		return quarry.Errorf("tls", quarry.Invalid, name, "it is no file of PEM")
	case secret && info.Mode().Perm()&0o077 != 0:
		return quarry.Errorf("tls", quarry.Permission, name, "others can read it: chmod 600 %s", name)
	}
	return nil
}

// config is what both sides of a connection have in common. Without session tickets a server sends
// nothing that the client does not ask for: a client that closed with that unread would have its
// last bytes thrown away.
func (c *credentials) config() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{c.own}, MinVersion: tls.VersionTLS13,
		RootCAs: c.roots, ClientCAs: c.roots, ClientAuth: tls.RequireAndVerifyClientCert,
		SessionTicketsDisabled: true, DynamicRecordSizingDisabled: true,
	}
}

// Under is the network without TLS, see [rpc.Beside].
func (n *network) Under() rpc.Network { return n.under }

// Dial implements rpc.Network. The handshake of TLS is over when it returns, but for the server's
// judgement of this side's certificate, which the first Read tells.
func (n *network) Dial(ctx context.Context, address string) (rpc.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, quarry.Errorf("tls", quarry.Invalid, address, "%w", err)
	}
	own, err := n.load()
	if err != nil {
		return nil, err
	}
	under, err := n.under.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	config := own.config()
	config.ServerName = host
	w := &wire{Conn: under}
	c := &conn{Conn: tls.Client(w, config), wire: w}
	if err := c.HandshakeContext(ctx); err != nil {
		under.Close()
		if plain := (tls.RecordHeaderError{}); errors.As(err, &plain) {
			err = quarry.Errorf("tls", quarry.Permission, address, "the server does not use TLS: leave the certificate out here, or give the server one")
		}
		return nil, err
	}
	return c, nil
}

// Listen implements rpc.Network.
func (n *network) Listen(address string) (rpc.Listener, error) {
	l, err := n.under.Listen(address)
	if err != nil {
		return nil, err
	}
	return &listener{l, n}, nil
}

type listener struct {
	rpc.Listener
	network *network
}

// Accept returns a connection whose handshake has begun. It goes on by itself, and ends at the
// latest when the connection is closed: one slow client keeps no other one waiting.
func (l *listener) Accept() (rpc.Conn, error) {
	under, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	own, err := l.network.load()
	if err != nil {
		under.Close()
		return nil, err
	}
	w := &wire{Conn: under}
	c := &conn{Conn: tls.Server(w, own.config()), wire: w, server: true}
	go c.Handshake() // its failure is that of the first Read
	return c, nil
}

// conn is a connection under TLS. Close says no farewell: frames tell by themselves whether they
// are whole, and a farewell could wait for the other side.
type conn struct {
	*tls.Conn
	wire   *wire
	server bool
	plain  bool // the client speaks without TLS: what is written is the refusal, and not under TLS either
}

func (c *conn) LocalAddress() string  { return c.wire.LocalAddress() }
func (c *conn) RemoteAddress() string { return c.wire.RemoteAddress() }

// Close ends the connection at once.
func (c *conn) Close() error { return c.wire.Close() }

// Read implements rpc.Conn. A client that does not speak TLS is told that it should.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == io.ErrUnexpectedEOF { // no farewell
		err = io.EOF
	}
	if plain := (tls.RecordHeaderError{}); c.server && errors.As(err, &plain) && string(plain.RecordHeader[:4]) == "QRPC" {
		c.plain = true
		err = quarry.Errorf("hello", quarry.Permission, "", "this process takes connections under TLS only, and the client has no certificate")
	}
	return n, err
}

// Write implements rpc.Conn.
func (c *conn) Write(b []byte) (int, error) {
	if c.plain {
		return c.wire.Conn.Write(b)
	}
	if err := c.begin(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(b)
	return n, errors.Join(err, c.wire.flush())
}

// begin has what is written from here on gathered, once the handshake is over: that must not wait.
func (c *conn) begin() error {
	err := c.Handshake()
	if err == nil {
		c.wire.gather()
	}
	return err
}

// WriteBuffers writes all buffers, as few times as the bytes allow.
func (c *conn) WriteBuffers(buffers [][]byte) error {
	err := c.begin()
	if err != nil {
		return err
	}
	for _, b := range buffers {
		if _, err = c.Conn.Write(b); err != nil {
			break
		}
	}
	return errors.Join(err, c.wire.flush())
}

// wireBytes is how much is gathered before it is written to the connection below.
const wireBytes = 128 << 10

// wire is what TLS takes for its network. TLS writes each record of 16 KiB by itself; those of
// one Write leave together.
type wire struct {
	rpc.Conn

	mu        sync.Mutex
	gathering bool
	out       *[]byte
	err       error // why nothing is written any more
}

// gather has what is written wait for flush.
func (w *wire) gather() {
	w.mu.Lock()
	w.gathering = true
	w.mu.Unlock()
}

// outs are buffers in which records are gathered.
var outs = sync.Pool{New: func() any { b := make([]byte, 0, wireBytes+32<<10); return &b }}

// flush writes what has been gathered.
func (w *wire) flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gathering = false
	if w.out == nil {
		return w.err
	}
	err := w.send()
	outs.Put(w.out)
	w.out = nil
	return err
}

// send writes what is in out; mu is held.
func (w *wire) send() error {
	if len(*w.out) > 0 && w.err == nil {
		_, w.err = w.Conn.Write(*w.out)
	}
	*w.out = (*w.out)[:0]
	return w.err
}

// Write implements net.Conn.
func (w *wire) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.err != nil:
		return 0, w.err
	case !w.gathering:
		return w.Conn.Write(b)
	case w.out == nil:
		w.out = outs.Get().(*[]byte)
	}
	*w.out = append(*w.out, b...)
	if len(*w.out) >= wireBytes {
		return len(b), w.send()
	}
	return len(b), nil
}

// LocalAddr implements net.Conn.
func (w *wire) LocalAddr() net.Addr { return wireAddress(w.LocalAddress()) }

// RemoteAddr implements net.Conn.
func (w *wire) RemoteAddr() net.Addr { return wireAddress(w.RemoteAddress()) }

// SetDeadline implements net.Conn: who is late has the connection closed.
func (w *wire) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn, as SetDeadline.
func (w *wire) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn, as SetDeadline.
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// wireAddress is the address of an end of a connection.
type wireAddress string

func (wireAddress) Network() string  { return "quarry" }
func (a wireAddress) String() string { return string(a) }
