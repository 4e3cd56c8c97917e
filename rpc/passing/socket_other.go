//go:build !linux

package passing

import (
	"context"
	"errors"
	"net"
)

// Supported: this system has no such sockets, and nothing here is ever made.
const Supported = false

// Dial fails.
func Dial(context.Context, string) (*Conn, error) { return nil, errors.ErrUnsupported }

// WayMax bounds the descriptors on their way over the connections of a listener.
const WayMax = 0

// Listener takes connections.
type Listener struct{ net.Listener }

// Listen fails.
func Listen(string) (*Listener, error) { return nil, errors.ErrUnsupported }

// Accept fails.
func (*Listener) Accept() (*Conn, error) { return nil, errors.ErrUnsupported }

// Address returns the name.
func (*Listener) Address() string { return "" }

// Conn is a connection.
type Conn struct{ net.Conn }

// LocalAddress returns the name of this end.
func (*Conn) LocalAddress() string { return "" }

// RemoteAddress returns the name of the other end.
func (*Conn) RemoteAddress() string { return "" }

// Name returns the listener's name.
func (*Conn) Name() string { return "" }

// Begin reports whether a descriptor may be passed.
func (*Conn) Begin() bool { return false }

// End is called when it has been.
func (*Conn) End() {}

// Pass fails.
func (*Conn) Pass([]byte, int, uintptr) error { return errors.ErrUnsupported }

// Passed returns nil.
func (*Conn) Passed() *Descriptor { return nil }

// Descriptor is a file of another process that was passed to this one.
type Descriptor struct{}

// Close closes the file here.
func (*Descriptor) Close() error { return nil }

// ReadCached fails.
func (*Descriptor) ReadCached([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }
