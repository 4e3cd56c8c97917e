package rpc

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// silentIntervals is how many intervals may pass without a byte from the other side, or
	// without being able to send one, before it is given up.
	silentIntervals = 3
	// restIntervals is how many intervals may pass between signs of life while nobody waits for anything.
	restIntervals = 5
	// frameTime is how long one frame may take to arrive, and to be taken where signs of life are not
	// received meanwhile.
	frameTime = time.Minute
)

var errSilent = errors.New("nothing was heard from the other side")

// What the reading goroutine of a link is doing.
const (
	readingNot   = 0 // it waits for room in this process; the other side is not to blame
	readingHead  = 1 // it waits for the next frame
	readingFrame = 2 // it receives a frame
)

// link is one end of a connection after the handshake, without what differs between client
// and server.
type link struct {
	conn    Conn
	number  uint64 // of the connection, in the order of their making
	peer    *Peer
	lane    Lane
	reader  *frameReader
	writer  *writer
	gone    chan struct{} // closed when the link is closed
	closing sync.Once
	cause   error // why it was closed; valid once gone is closed

	reading  atomic.Int32
	received atomic.Uint64 // grows when bytes come
	frames   atomic.Uint64 // grows with every frame

	// For tend only.
	lastReceived, lastFrames, lastWritten uint64
	awake                                 bool          // somebody waited at the last tick
	unsent, silent, owing, slow, stuck    time.Duration // for how long, in ticks
}

// order returns links in the order in which they were made, not in that of a map.
func order[L comparable](links map[L]struct{}, number func(L) uint64) []L {
	return slices.SortedFunc(maps.Keys(links), func(a, b L) int { return cmp.Compare(number(a), number(b)) })
}

// newLink starts a handshake's reader; complete sets the rest.
func newLink(conn Conn) *link {
	l := &link{conn: conn, gone: make(chan struct{})}
	l.reader = newFrameReader(conn, firstBufferBytes, func() { l.received.Add(1) })
	return l
}

// complete makes the link ready for use after the handshake.
func (l *link) complete(peer *Peer, lane Lane, replied func(int)) {
	l.peer, l.lane = peer, lane
	l.writer = newWriter(l.conn, replied)
	l.reader.most = lane.bufferBytes()
}

// close ends the link; the first cause counts. It does not wait.
func (l *link) close(cause error) {
	l.closing.Do(func() {
		l.cause = cause
		close(l.gone)
		l.conn.Close()
	})
}

// next takes the head of the next frame.
func (l *link) next(h *head) error {
	l.reading.Store(readingHead)
	if err := l.reader.head(h); err != nil {
		return err
	}
	if h.version != l.peer.Version {
		return fmt.Errorf("a frame has version %d after %d was agreed on", h.version, l.peer.Version)
	}
	l.frames.Add(1)
	l.reading.Store(readingFrame)
	return nil
}

// tend is called with each tick, which is this side's KeepAlive. It sends a sign of life, or returns
// why the link is to be closed.
//
// The interval of a connection is the longer one of what both sides have told, because neither may
// wait for a sign of life that the other one does not give. A sign of life is sent at the last tick
// after which nothing would be sent for longer than the interval: what was sent may be a tick older
// than is known, and the next tick is one away. A side that is silent, or takes nothing, for three
// intervals is given up; so signs of life may be late by two. Both sides give them of their own
// accord and none answers the other, so that a side that reads no more, because it has no room for
// more requests, still shows that it lives.
//
// While no request is under way nobody waits for the other side, and signs of life are restIntervals times
// as rare, if both sides have told that they know that. waits says that one is: both sides know it by
// themselves, because each request is answered, also one whose caller has gone. Who begins to wait gives the
// other side three intervals from then on.
func (l *link) tend(tick time.Duration, waits bool) error {
	interval := max(tick, l.peer.keepAlive)
	rest := interval
	if l.peer.rests && l.lane != LaneMessages { // a message has no answer
		rest *= restIntervals
	}
	sign := rest
	if waits {
		sign = interval
	}
	received, frames, written := l.received.Load(), l.frames.Load(), l.writer.progress.Load()
	reading := l.reading.Load()
	l.writer.mu.Lock()
	writing, failed := l.writer.busy, l.writer.err
	l.writer.mu.Unlock()

	l.unsent = counted(l.unsent, tick, written == l.lastWritten)
	l.silent = counted(l.silent, tick, reading != readingNot && received == l.lastReceived)
	l.owing = min(l.silent, counted(l.owing, tick, waits && l.awake))
	if f, ok := l.conn.(fullReceiver); ok && l.silent > 0 && reading == readingFrame {
		f.Wake() // so that what comes slowly does not look like silence
	}
	l.slow = counted(l.slow, tick, reading == readingFrame && frames == l.lastFrames)
	// A side that has no room for more requests reads nothing for as long as that lasts, and
	// so what is written to it may be stuck; that it lives shows in what comes from it.
	l.stuck = counted(l.stuck, tick, writing && written == l.lastWritten && received == l.lastReceived)
	stuckMax := silentIntervals * interval
	if l.lane == LaneBulk && reading == readingNot { // the reading goroutine sends a reply, perhaps over a slow link
		stuckMax = max(stuckMax, frameTime)
	}
	switch {
	case failed != nil:
		return failed
	case l.owing >= silentIntervals*interval, l.stuck >= stuckMax, l.silent >= silentIntervals*rest:
		return fmt.Errorf("%w for %v", errSilent, max(l.silent, l.stuck))
	case l.slow > frameTime:
		return fmt.Errorf("one frame took more than %v to come", frameTime)
	case !writing && l.unsent+2*tick > sign:
		l.writer.enqueue(&outgoing{frame: appendRaw(nil, head{version: l.peer.Version, kind: kindKeepAlive}, nil)}, prompt)
	}
	l.lastReceived, l.lastFrames, l.lastWritten, l.awake = received, frames, written, waits
	return nil
}

// counted adds to n for as long as something goes on.
func counted[N int | time.Duration](n, more N, again bool) N {
	if again {
		return n + more
	}
	return 0
}
