package rpc

import (
	"context"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/rpc/passing"
)

// Beside returns the network of sockets within a machine, over which files can be passed, for
// processes that are reached over n as well. Its addresses are names; to listen at "" is to listen
// at one that nobody knows before, which a server tells as its Identity's Socket. nil if n is not
// the operating system's network, or the system cannot do it. What stays within the machine is not
// under TLS.
func Beside(n Network) Network {
	if secured, ok := n.(interface{ Under() Network }); ok {
		n = secured.Under()
	}
	if _, ok := n.(tcpNetwork); ok && passing.Supported {
		return localNetwork{}
	}
	return nil
}

// Beside returns the network by which servers are reached that are on this machine. Its addresses
// are those of the client's own network: over that, a server is asked for the name of its socket
// whenever one is dialled, so nobody else can be taken for it who has the name after it, or had one
// that can be guessed before it. nil if Beside of the client's network is.
func (c *Client) Beside() Network {
	if Beside(c.config.Network) == nil {
		return nil
	}
	return localNetwork{servers: c}
}

type localNetwork struct {
	servers *Client // nil: addresses are names
}

func (n localNetwork) Dial(ctx context.Context, address string) (Conn, error) {
	name := address
	if n.servers != nil {
		peer, err := n.servers.Peer(ctx, address)
		if err != nil {
			return nil, err
		}
		if name = peer.Socket; name == "" {
			return nil, quarry.Errorf("dial", quarry.Unsupported, address, "the server has no socket for processes on its machine")
		}
	}
	c, err := passing.Dial(ctx, name)
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

// asLocal returns a connection over which files can be passed; nil if they cannot.
func asLocal(c Conn) *localConn {
	l, _ := c.(*localConn)
	return l
}

// place is what a proof is good for: the name of the socket within a machine that the connection
// was made to, and "" for every other one. Who has taken the name of another process can ask that
// one for proofs over the network, or under its next name, but they are of no use to him.
func place(c Conn) string {
	if l := asLocal(c); l != nil {
		return l.Name()
	}
	return ""
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
