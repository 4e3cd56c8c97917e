package client

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client/waiting"
)

// flushAfter is how long bytes may stay in a writer before they are sent though they do not
// fill a packet.
const flushAfter = 200 * time.Millisecond

type packet [quarry.PacketBytes]byte

var packets = sync.Pool{New: func() any { return new(packet) }}

// Writer writes a stream of bytes to the end of a file. What is written can be read by
// others as soon as it is committed, which takes a fraction of a second; after Sync or Close
// it surely is. At most quarry.WindowBytes are under way. Safe for use by many goroutines,
// each Write being in one piece as long as nobody else appends to the file.
type Writer struct {
	appender *Appender

	written atomic.Int64
	timer   sync.WaitGroup // what waits to send a packet that is not full

	writing waiting.Gate // guards what follows; held while the window is waited for
	packet  *packet      // being filled; nil: none
	filled  int
	timed   bool // the packet will be sent when its time is over
	closed  bool
}

var _ interface {
	io.WriteCloser
	io.ReaderFrom
} = (*Writer)(nil)

// Create makes an empty file and returns a writer; see [FileSystem]. ctx bounds the life of
// the writer. To replace a file in one step use Put, to write on at its end Append.
func (f *FS) Create(ctx context.Context, path string) (*Writer, error) {
	parent, name, err := f.parent(ctx, path)
	if err != nil {
		return nil, fail("create", path, err)
	}
	attr, err := f.make(ctx, quarry.MakeRequest{Parent: parent, Name: name, Kind: quarry.KindFile, Mode: modeFile})
	if quarry.KindOf(err) == quarry.Exists {
		return nil, quarry.Errorf("create", quarry.Exists, path, "put replaces a file, append writes on at its end")
	}
	if err != nil {
		return nil, fail("create", path, err)
	}
	w := &Writer{appender: f.appender(ctx, path, attr.Inode), writing: waiting.NewGate()}
	w.appender.inOrder = true
	return w, nil
}

// Write implements io.Writer. It waits while the window is full. An error is of an earlier
// write as well as of this one; how much was committed before is told by the file's length.
func (w *Writer) Write(p []byte) (int, error) {
	w.writing.Take()
	defer w.writing.Unlock()
	if err := w.check(); err != nil {
		return 0, err
	}
	total := len(p)
	for len(p) > 0 {
		if w.packet == nil {
			w.packet, w.filled = packets.Get().(*packet), 0
		}
		n := copy(w.packet[w.filled:], p)
		w.filled += n
		p = p[n:]
		if w.filled == len(w.packet) {
			if err := w.send(); err != nil {
				return total - len(p), err
			}
		}
	}
	w.written.Add(int64(total))
	w.sendLater()
	return total, nil
}

// ReadFrom implements io.ReaderFrom.
func (w *Writer) ReadFrom(r io.Reader) (int64, error) {
	var total int64
	for {
		b := packets.Get().(*packet)
		n, err := r.Read(b[:])
		if n > 0 {
			took, werr := w.take(b, n)
			total += int64(took)
			if werr != nil {
				return total, werr
			}
		} else {
			packets.Put(b)
		}
		switch {
		case err == io.EOF:
			return total, nil
		case err != nil:
			return total, err
		}
	}
}

// take writes the first n bytes of a packet, without a copy if it is full.
func (w *Writer) take(b *packet, n int) (int, error) {
	w.writing.Take()
	direct := n == len(b) && w.packet == nil && w.check() == nil
	if direct {
		w.packet, w.filled = b, n
		w.written.Add(int64(n))
		err := w.send()
		w.writing.Unlock()
		return n, err
	}
	w.writing.Unlock()
	n, err := w.Write(b[:n])
	packets.Put(b)
	return n, err
}

func (w *Writer) check() error {
	if w.closed {
		return quarry.Errorf("write", quarry.Invalid, w.appender.path, "the writer is closed")
	}
	return fail("write", w.appender.path, w.appender.flying.Err())
}

// send gives the packet to the stream. The lock is held.
func (w *Writer) send() error {
	b, n := w.packet, w.filled
	if b == nil {
		return nil
	}
	w.packet = nil
	err := w.appender.start(w.appender.ctx, b[:n], func(int64, error) {}, func() { packets.Put(b) })
	if err != nil {
		w.appender.flying.Lose(err)
		packets.Put(b)
	}
	return err
}

// sendLater sees to it that a packet that is not full is sent in time.
func (w *Writer) sendLater() {
	if w.packet == nil || w.timed {
		return
	}
	w.timed = true
	w.timer.Go(func() {
		f := w.appender.f
		_ = f.clock.Sleep(w.appender.ctx, flushAfter) // if the context ends, send says so
		w.writing.Take()
		defer w.writing.Unlock()
		w.timed = false
		_ = w.send() // kept for the next Write, Sync or Close
	})
}

// Written returns how many bytes were written; not all of them need be committed.
func (w *Writer) Written() int64 { return w.written.Load() }

// Sync returns when everything written is on the disks of all replicas, and can be read by
// everybody. Also called Flush.
func (w *Writer) Sync() error {
	w.writing.Take()
	err := w.check()
	if err == nil {
		err = w.send()
	}
	w.writing.Unlock()
	if err != nil {
		return err
	}
	return fail("sync", w.appender.path, w.appender.flying.Wait(w.appender.ctx))
}

// Close does what Sync does and ends the writer. It does not seal the file's last chunk, because others may
// be writing to it.
func (w *Writer) Close() error {
	w.writing.Take()
	if w.closed {
		w.writing.Unlock()
		return quarry.Errorf("close", quarry.Invalid, w.appender.path, "the writer is closed")
	}
	w.closed = true
	err := w.send()
	w.writing.Unlock()
	if closeErr := w.appender.Close(); err == nil {
		err = closeErr
	}
	w.timer.Wait()
	return err
}
