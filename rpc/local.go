package rpc

import (
	"context"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/rpc/passing"
)

// Beside returns the network by which a process reaches others on the same machine that listen
// there as well as at an address of n, and over which files can be passed. An address is the
// host:port that others are told; so nobody need be told another one. nil if n is not the
// operating system's network, or the system cannot do it.
func Beside(n Network) Network {
	if _, ok := n.(tcpNetwork); !ok || !passing.Supported {
		return nil
	}
	return localNetwork{}
}

type localNetwork struct{}

func (localNetwork) Dial(ctx context.Context, address string) (Conn, error) {
	c, err := passing.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	return &localConn{c}, nil
}

func (localNetwork) Listen(address string) (Listener, error) {
	l, err := passing.Listen(address)
	if err != nil {
		return nil, err
	}
	return localListener{l}, nil
}

type localListener struct{ *passing.Listener }

func (l localListener) Accept() (Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &localConn{c}, nil
}

// localConn is a connection over which files can be passed.
type localConn struct{ *passing.Conn }

// passes reports whether files can be passed over a connection.
func passes(c Conn) bool {
	_, ok := c.(*localConn)
	return ok
}

// passFile is the offset of a range that is the file itself: its descriptor is passed, with as many
// bytes of zero as the range is long.
const passFile = -1

// SendFile sends before, and then a part of a file, or the file itself.
func (c *localConn) SendFile(before []byte, file quarry.FileRange) error {
	if file.Offset == passFile {
		return c.Pass(before, int(file.Length), file.FD)
	}
	if _, err := c.Write(before); err != nil {
		return err
	}
	return copyFile(c, file)
}
