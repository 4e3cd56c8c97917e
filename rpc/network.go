package rpc

import (
	"context"
	"io"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/rpc/buffers"
	"github.com/quarryfs/quarry/rpc/files"
)

// Network is the seam through which Quarry's processes reach each other. TCP is the real
// one, NewMemory one within a process, NewFaulty wraps another one and breaks it; the suite
// in rpctest holds for all of them. Safe for use by many goroutines.
type Network interface {
	// Dial connects to the process that listens at an address, host:port. It returns when
	// the connection stands or cannot be made, or with the context's error when it ends.
	Dial(ctx context.Context, address string) (Conn, error)
	// Listen takes connections at an address; port 0 is any free port.
	Listen(address string) (Listener, error)
}

// Listener takes connections. Safe for use by many goroutines.
type Listener interface {
	// Accept returns the next connection, or net.ErrClosed after Close.
	Accept() (Conn, error)
	// Address is where others can dial the listener, with the port it was given.
	Address() string
	Close() error
}

// Conn is a stream of bytes in both directions. One goroutine may read while another one
// writes; Close may be called at any time and ends both. What was written before Close still
// reaches the other side, unless the network fails. A Conn may have more methods than these,
// see buffersWriter and fileSender.
type Conn interface {
	io.ReadWriteCloser
	LocalAddress() string
	RemoteAddress() string
}

// buffersWriter is a Conn that writes many buffers in one call to the system.
type buffersWriter interface {
	// WriteBuffers writes all buffers, or fails. It may change the elements of the slice.
	WriteBuffers(buffers [][]byte) error
}

// fileSender is a Conn that sends a part of a file without copying it through the process.
type fileSender interface {
	// SendFile sends before and all of the range, or fails.
	SendFile(before []byte, file quarry.FileRange) error
}

// fullReceiver is a Conn that receives much with few wake-ups.
type fullReceiver interface {
	// Fill receives len(b) bytes, or fails; io.EOF if the stream ends before. more is how many
	// bytes at least follow them. received is called whenever some have come.
	Fill(b []byte, more int, received func()) error
	// Wake has a Fill that waits for much take what has come. It may be called at any time.
	Wake()
}

// writeBuffers writes buffers in as few calls to the system as the connection can.
func writeBuffers(c Conn, buffers [][]byte) error {
	if w, ok := c.(buffersWriter); ok && len(buffers) > 1 {
		return w.WriteBuffers(buffers)
	}
	for _, b := range buffers {
		if _, err := c.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// sendFile sends bytes and a part of a file in the best way that the connection knows.
func sendFile(c Conn, before []byte, file quarry.FileRange) error {
	if s, ok := c.(fileSender); ok {
		return s.SendFile(before, file)
	}
	if _, err := c.Write(before); err != nil {
		return err
	}
	return copyFile(c, file)
}

// copyFile sends a part of a file through a buffer.
func copyFile(c Conn, file quarry.FileRange) error {
	buf := buffers.Get(int(min(file.Length, 256<<10)))
	defer buffers.Put(buf)
	for file.Length > 0 {
		b := buf[:min(int64(len(buf)), file.Length)]
		n, err := files.ReadAt(file.FD, b, file.Offset)
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		if _, err := c.Write(b[:n]); err != nil {
			return err
		}
		file.Offset += int64(n)
		file.Length -= int64(n)
	}
	return nil
}
