package sim

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc"
)

// windowBytes is what one direction of a connection takes before its writer waits.
const windowBytes = 256 << 10

// conn is one end of a connection.
type conn struct {
	n             *Network
	process       *process // whose end it is
	out, in       *pipe
	peer          *conn
	local, remote string
}

var _ rpc.Conn = (*conn)(nil)

// newConns joins a dialler and a listener.
func newConns(dl *dial, l *listener) (dialler, listener *conn) {
	n := dl.n
	back := direction{dl.d.to, dl.d.from}
	a, b := uint64(dl.d.from.number), uint64(dl.d.to.number)
	there := newPipe(n, dl.d, mix("conn", a, b, dl.number, 0))
	here := newPipe(n, back, mix("conn", a, b, dl.number, 1))
	name := dl.h.name + ":" + strconv.FormatUint(dl.number, 10)
	ours := &conn{n: n, process: dl.place.p, out: there, in: here, local: name, remote: dl.address}
	theirs := &conn{n: n, process: l.p, out: here, in: there, local: dl.address, remote: name}
	ours.peer, theirs.peer = theirs, ours
	there.reader, here.reader = theirs, ours
	n.mu.Lock()
	n.conns[ours], n.conns[theirs] = struct{}{}, struct{}{}
	n.mu.Unlock()
	return ours, theirs
}

func (c *conn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *conn) Write(b []byte) (int, error) { return c.out.write(b) }
func (c *conn) LocalAddress() string        { return c.local }
func (c *conn) RemoteAddress() string       { return c.remote }

// Close ends both directions. What was written before still goes to the other side.
func (c *conn) Close() error {
	c.out.finish()
	c.in.failReader(net.ErrClosed)
	c.forget()
	return nil
}

func (c *conn) forget() {
	c.n.mu.Lock()
	delete(c.n.conns, c)
	c.n.mu.Unlock()
}

// fail breaks this end at once.
func (c *conn) fail(err error) {
	c.out.failWriter(err)
	c.in.failReader(err)
	c.forget()
}

// vanish takes this end away with its process. If the host is there to say so, the other end
// hears of it; if not it has to find out.
func (c *conn) vanish(told bool) {
	c.fail(net.ErrClosed)
	if told {
		c.reset()
	}
}

// reset has the other end broken, as soon as the news can be there.
func (c *conn) reset() {
	p := c.out
	l := c.n.link(p.direction)
	if l.Blocked {
		return // lost; whoever writes again hears of it later
	}
	r := c.n.w.chance("reset", p.key, uint64(p.sent))
	at := c.n.w.Now().Add(l.Delay + jitter(r.Float64(), l.Jitter))
	c.n.w.schedule(at, p.key, p.direction.to, func() { c.peer.fail(syscall.ECONNRESET) })
}

// pipe is one direction of a connection.
type pipe struct {
	n         *Network
	direction direction
	key       uint64
	reader    *conn

	mu      sync.Mutex
	changed sync.Cond
	outbox  []byte // written since the last event
	touched bool   // the world knows
	sent    int64  // bytes and ends that have set out
	last    clock.Instant
	taken   int      // bytes that were written and not read
	flying  [][]byte // pieces that have set out and not arrived, nil for the end
	late    int      // so many of them would have arrived, had the direction been free
	ready   []byte   // arrived and not read
	stash   []byte   // frames that go with the next piece
	doubled uint64   // requests that were given to the server again
	old     int      // bytes of requests that are to be given again later
	broken  bool     // a piece was not made of whole frames
	fin     bool     // the writer has closed
	finSent bool
	eof     bool  // the end has arrived
	readErr error // of the reader's end
	sendErr error // of the writer's end
}

func newPipe(n *Network, d direction, key uint64) *pipe {
	p := &pipe{n: n, direction: d, key: key}
	p.changed.L = &p.mu
	return p
}

func (p *pipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.ready) == 0 && !p.eof && p.readErr == nil && len(b) > 0 {
		p.changed.Wait()
	}
	switch {
	case p.readErr != nil:
		return 0, p.readErr
	case len(b) == 0:
		return 0, nil
	case len(p.ready) == 0:
		return 0, io.EOF
	}
	n := copy(b, p.ready)
	p.ready = p.ready[n:]
	p.taken -= n
	p.changed.Broadcast()
	return n, nil
}

func (p *pipe) write(b []byte) (written int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.sendErr != nil:
			return written, p.sendErr
		case len(b) == 0:
			return written, nil
		}
		room := windowBytes - p.taken
		if room <= 0 {
			p.changed.Wait()
			continue
		}
		n := min(room, len(b))
		p.outbox = append(p.outbox, b[:n]...)
		p.taken += n
		b, written = b[n:], written+n
		p.touch()
	}
}

// touch tells the world that there is something to send; mu is held.
func (p *pipe) touch() {
	if !p.touched {
		p.touched = true
		p.n.w.touch(p)
	}
}

// finish ends the writing; what was written is still sent.
func (p *pipe) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sendErr != nil {
		return
	}
	p.fin, p.sendErr = true, net.ErrClosed
	p.changed.Broadcast()
	p.touch()
}

// failWriter ends the writer's end with an error. What has set out still arrives.
func (p *pipe) failWriter(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sendErr == nil {
		p.sendErr = err
	}
	p.fin, p.outbox = false, nil
	p.changed.Broadcast()
}

// failReader ends the reader's end with an error.
func (p *pipe) failReader(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.readErr == nil {
		p.readErr = err
	}
	p.ready = nil
	p.changed.Broadcast()
}

// send lets what was written set out, as one piece. Called by the world.
func (p *pipe) send() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.touched = false
	if piece := p.outbox; len(piece) > 0 {
		p.outbox = nil
		p.launch(piece)
	}
	if p.fin && !p.finSent {
		p.finSent = true
		p.launch(nil)
	}
}

// launch sends a piece off, nil for the end; mu is held.
func (p *pipe) launch(piece []byte) {
	l := p.n.link(p.direction)
	if piece != nil && l.Twice+l.Late+l.Drop+l.Old > 0 {
		before := len(piece)
		piece = p.meddle(l, piece)
		p.taken += len(piece) - before
	}
	p.setOut(l, piece)
}

// setOut sends a piece on its way, behind those before it; mu is held.
func (p *pipe) setOut(l Link, piece []byte) {
	p.flying = append(p.flying, piece)
	p.sent += int64(len(piece)) + 1
	if l.Blocked {
		p.late++
		return
	}
	p.fly(l, p.n.w.Now())
}

// fly schedules the arrival of one piece behind those before it; mu is held.
func (p *pipe) fly(l Link, from clock.Instant) {
	at, reset := p.n.arrival(p, l, from)
	p.last = max(at, p.last+1)
	e := p.n.w.schedule(p.last, p.key, p.direction.to, func() { p.arrive(reset) })
	if p.n.w.trace != nil {
		e.note = fmt.Sprintf("from %s, %s to %s, up to byte %d", p.direction.from.name, p.reader.peer.local, p.reader.local, p.sent)
	}
}

// unblock sends what was held up. It has been tried in vain for a while: the next attempt
// comes some time after the direction is free.
func (p *pipe) unblock() {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.n.link(p.direction)
	if l.Blocked || p.late == 0 {
		return
	}
	wait := time.Duration(p.n.w.chance("unblock", p.key, uint64(p.sent)).Int64N(int64(2 * retransmitTime)))
	for ; p.late > 0; p.late-- {
		p.fly(l, p.n.w.Now().Add(wait))
	}
}

// arrive is the arrival of the next piece at the other host. Called by the world.
func (p *pipe) arrive(reset bool) {
	if p.n.link(p.direction).Blocked {
		p.mu.Lock()
		p.late++
		p.mu.Unlock()
		return
	}
	p.mu.Lock()
	piece := p.flying[0]
	p.flying = p.flying[1:]
	closed := p.readErr != nil
	switch {
	case closed, p.reader.process.gone(), p.direction.to.down(), reset:
	case piece == nil:
		p.eof = true
	default:
		p.ready = append(p.ready, piece...)
	}
	p.changed.Broadcast()
	p.mu.Unlock()
	switch {
	case p.direction.to.down(): // nobody is there to say anything
	case p.reader.process.gone() || closed:
		if piece != nil {
			p.reader.reset() // the host does not know this connection any more
		}
	case reset:
		p.reader.fail(syscall.ECONNRESET)
		p.reader.peer.fail(syscall.ECONNRESET)
	}
}
