package chaos

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc"
)

const (
	// pieceBytes is the most that is carried in one go.
	pieceBytes = 64 << 10
	// queuePieces bounds what is on its way in one direction of one connection; beyond it the
	// sender waits, as for a full socket.
	queuePieces = 16
	// dialTime bounds the connection to a process on this machine.
	dialTime = 2 * time.Second
	// acceptPause is how long a proxy waits when the system has no more descriptors.
	acceptPause = 50 * time.Millisecond
)

// pieces are the buffers of all connections.
var pieces = sync.Pool{New: func() any { return new([pieceBytes]byte) }}

// piece is some bytes on their way, or the end of the stream.
type piece struct {
	buf *[pieceBytes]byte // nil: the end
	n   int
	due clock.Instant
	end error // why the stream ended: io.EOF if its sender closed it
}

// proxied is a connection through a proxy.
type proxied struct {
	p         *Proxies
	from, to  string
	near, far rpc.Conn // to who called, and to the process; far is nil before it is dialled

	mu     sync.Mutex
	broken bool
}

// run carries the connection until it ends.
func (c *proxied) run(address string) {
	ctx, cancel := context.WithCancel(c.p.ctx)
	defer cancel()
	defer c.reset()
	// The first packets of a connection must get there and back.
	if c.open(ctx, c.from, c.to) != nil || c.open(ctx, c.to, c.from) != nil {
		return
	}
	dial, stop := c.p.clk.WithTimeout(ctx, dialTime)
	far, err := rpc.TCP.Dial(dial, address)
	stop()
	if err != nil || !c.join(far) {
		return // nobody is there: who called sees a reset
	}
	var both sync.WaitGroup
	both.Go(func() { c.carry(ctx, c.near, far, c.from, c.to); cancel() })
	both.Go(func() { c.carry(ctx, far, c.near, c.to, c.from); cancel() })
	both.Wait()
}

// join takes the connection to the process; false if this one was reset meanwhile.
func (c *proxied) join(far rpc.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken {
		abort(far) // it has been accepted, and must not look as if it were closed
		return false
	}
	c.far = far
	return true
}

// reset breaks the connection for both sides. It does nothing to a side that is closed.
func (c *proxied) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = true
	abort(c.near)
	if c.far != nil {
		abort(c.far)
	}
}

// abort closes a connection so that its other end reads a reset.
func abort(c rpc.Conn) {
	if t, ok := c.(interface{ SetLinger(int) error }); ok {
		_ = t.SetLinger(0) // a connection that is closed already needs nothing
	}
	c.Close()
}

// open waits until a link lets something through.
func (c *proxied) open(ctx context.Context, from, to string) error {
	for {
		link, changed := c.p.link(from, to)
		if !link.Block {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// carry takes what one side sends to the other one, and returns when that has ended, or
// cannot go on.
func (c *proxied) carry(ctx context.Context, src, dst rpc.Conn, from, to string) {
	queue := make(chan piece, queuePieces)
	var reading sync.WaitGroup
	reading.Go(func() { c.take(ctx, src, from, to, queue) })
	c.give(ctx, dst, from, to, queue)
	// Whatever src still says has no way to go.
	abort(src)
	for range queue {
	}
	reading.Wait()
}

// take reads what a side sends, and closes the queue behind its end.
func (c *proxied) take(ctx context.Context, src rpc.Conn, from, to string, queue chan<- piece) {
	defer close(queue)
	var last clock.Instant
	for {
		buf := pieces.Get().(*[pieceBytes]byte)
		n, err := src.Read(buf[:])
		link, _ := c.p.link(from, to)
		if n > 0 {
			due := c.p.clk.Now().Add(link.Delay)
			if link.Jitter > 0 {
				due = due.Add(rand.N(link.Jitter))
			}
			last = max(last, due)
			if !send(ctx, queue, piece{buf: buf, n: n, due: last}) {
				return
			}
		} else {
			pieces.Put(buf)
		}
		if err != nil {
			send(ctx, queue, piece{due: max(last, c.p.clk.Now().Add(link.Delay)), end: err})
			return
		}
	}
}

func send(ctx context.Context, queue chan<- piece, p piece) bool {
	select {
	case queue <- p:
		return true
	case <-ctx.Done():
		return false
	}
}

// give writes what is in the queue when it is due and the link lets it through.
func (c *proxied) give(ctx context.Context, dst rpc.Conn, from, to string, queue <-chan piece) {
	for p := range queue {
		err := c.p.clk.Sleep(ctx, p.due.Sub(c.p.clk.Now()))
		if err == nil {
			err = c.open(ctx, from, to)
		}
		switch {
		case err != nil:
		case p.buf == nil && errors.Is(p.end, io.EOF):
			dst.Close()
			return
		case p.buf == nil: // reset, or broken by a fault
			abort(dst)
			return
		default:
			_, err = dst.Write(p.buf[:p.n])
		}
		if p.buf != nil {
			pieces.Put(p.buf)
		}
		if err == nil {
			err = c.throttle(ctx, from, to, p.n)
		}
		if err != nil {
			abort(dst)
			return
		}
	}
}

// throttle waits for as long as so many bytes take on the link.
func (c *proxied) throttle(ctx context.Context, from, to string, n int) error {
	link, _ := c.p.link(from, to)
	if link.BytesPerSecond <= 0 {
		return nil
	}
	return c.p.clk.Sleep(ctx, time.Duration(float64(n)/float64(link.BytesPerSecond)*float64(time.Second)))
}
