package client

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

const (
	// segmentBytes is what one request of a sequential read fetches.
	segmentBytes = quarry.ReadBytesMax
	// directBytes is the size from which a Read bypasses the segments.
	directBytes = 4 << 20
	// directMin is the size from which a Read is worth waiting for its memory.
	directMin = 256 << 10
	// firstBytes is what the first read at a new position fetches at least.
	firstBytes = 64 << 10
	// placeMax is how long bytes that have come wait, in the network, for the reader to give
	// them its own memory. It is less than hedgeMin, and enough for the segments in front of
	// them at 400 MiB/s.
	placeMax = 20 * time.Millisecond
	// copiedSegments is how many segments do not wait for a reader that came too late for
	// one: while they wait, others have to do without their connections.
	copiedSegments = 16
)

// ahead fetches a file in segments before they are asked for: more of them the longer the
// reader goes on in a row.
type ahead struct {
	file     *File
	segments []*segment // in a row
	next     int64      // where the segment behind them begins
	window   int        // how many segments to have
	end      int64      // how far the reader may see, as far as asked
	large    bool       // the reader comes with much memory
	copied   int        // how many segments more go to buffers, because the reader came late
}

// segment is a part of the file on its way. Its memory is the reader's own if the reader
// comes for it soon enough, which spares a copy; else a buffer.
type segment struct {
	start int64
	n     int
	err   error
	done  chan struct{}
	stop  context.CancelFunc

	clock   clock.Clock
	ended   <-chan struct{} // nobody wants the bytes any more
	offer   chan []byte     // memory of the reader's; nil: it has none. At most one.
	asked   bool            // an offer was made; the reader's
	waits   atomic.Bool     // bytes have come and wait for an offer
	finding gate            // held while memory waits; guards what follows
	buf     []byte
	whole   *[segmentBytes]byte // what buf is a part of if it is a buffer
}

var segmentBuffers = sync.Pool{New: func() any { return new([segmentBytes]byte) }}

func (a *ahead) init(file *File) { a.file = file }

// rest returns the segment's bytes from a position in it.
func (s *segment) rest(position int64) []byte { return s.buf[position-s.start:] }

func (s *segment) stops() int64 { return s.start + int64(s.n) }

// memory returns where the segment's bytes are to be. The first call waits for an offer, for
// as long as placeMax.
func (s *segment) memory() []byte {
	s.finding.wait()
	defer s.finding.unlock()
	if s.buf != nil {
		return s.buf
	}
	if s.buf = s.offered(); s.buf == nil {
		s.whole = segmentBuffers.Get().(*[segmentBytes]byte)
		s.buf = s.whole[:s.n]
	}
	return s.buf
}

// offered returns the reader's memory; nil if it has none, or does not come.
func (s *segment) offered() []byte {
	select {
	case p := <-s.offer:
		return p
	default:
	}
	s.waits.Store(true)
	defer s.waits.Store(false)
	timer := s.clock.NewTimer(placeMax)
	defer timer.Stop()
	select {
	case p := <-s.offer:
		return p
	case <-timer.C():
	case <-s.ended:
	}
	return nil
}

// late reports whether the bytes have waited for the reader in vain.
func (s *segment) late() bool {
	select {
	case <-s.done:
		return !s.asked
	default:
		return false
	}
}

// give offers the segment p if it has room for all of it. Only the first offer counts.
func (s *segment) give(p []byte) {
	if s.asked {
		return
	}
	s.asked = true
	if len(p) < s.n {
		s.offer <- nil
		return
	}
	s.offer <- p[:s.n:s.n]
}

// get returns the segment that has the byte at position; io.EOF if the file ends there. If
// p has room for all of the segment its bytes may be there, and not in a buffer; then they
// begin at position.
func (a *ahead) get(position int64, p []byte) (*segment, error) {
	a.large = len(p) >= directMin
	if len(a.segments) > 0 && (position < a.segments[0].start || position >= a.segments[0].stops()) {
		a.drop()
	}
	if len(a.segments) == 0 {
		if position != a.next {
			a.window = 0
		}
		a.next = position
		if err := a.start(); err != nil {
			return nil, err
		}
	}
	s := a.segments[0]
	if position != s.start {
		p = nil
	}
	if s.late() {
		a.copied = copiedSegments
	}
	s.give(p)
	<-s.done
	if s.err != nil {
		err := s.err
		a.drop()
		return nil, err
	}
	return s, nil
}

// start fetches the segment at a.next; the end of the file is asked for if that is all that
// is known.
func (a *ahead) start() error {
	if a.end = a.file.knownEnd(); a.next >= a.end {
		end, err := a.file.end(a.file.ctx)
		if err != nil {
			return err
		}
		if a.end = end; a.next >= end {
			return io.EOF
		}
	}
	a.window = max(a.window, 1)
	a.fill()
	return nil
}

// fill starts segments until the window is full or the known end is reached.
func (a *ahead) fill() {
	for len(a.segments) < a.window && a.next < a.end {
		n := segmentBytes - a.next%segmentBytes
		if a.window == 1 && a.next+firstBytes < a.end { // perhaps no more than a look
			n = min(n, 4*firstBytes-a.next%firstBytes)
		}
		a.launch(min(n, a.end-a.next))
	}
}

func (a *ahead) launch(n int64) {
	s := &segment{start: a.next, n: int(n), done: make(chan struct{}), clock: a.file.f.clock, offer: make(chan []byte, 1), finding: newGate()}
	var ctx context.Context
	ctx, s.stop = context.WithCancel(a.file.ctx)
	s.ended = ctx.Done()
	if a.copied = max(a.copied-1, 0); a.copied > 0 || !a.large {
		s.give(nil)
	}
	go func() {
		defer close(s.done)
		s.err = a.file.layout.readPart(ctx, memory{segment: s, n: s.n}, s.start)
	}()
	a.segments = append(a.segments, s)
	a.next += n
}

// release gives up the segments before position, and fetches further ones in their place.
func (a *ahead) release(position int64) {
	if len(a.segments) == 0 || position < a.segments[0].stops() {
		return
	}
	a.segments[0].free()
	a.segments = a.segments[1:]
	a.window = min(max(1, 2*a.window), a.file.f.opts.ReadAhead/segmentBytes)
	if a.end = max(a.end, a.file.knownEnd()); a.next < a.end {
		a.fill()
	}
}

// free gives the buffer back. The segment is done.
func (s *segment) free() {
	s.stop()
	<-s.done
	if s.whole != nil {
		segmentBuffers.Put(s.whole)
	}
	s.buf, s.whole = nil, nil
}

// drop cancels and forgets all segments.
func (a *ahead) drop() {
	for _, s := range a.segments {
		s.stop()
	}
	for _, s := range a.segments {
		s.free()
	}
	a.segments = nil
	a.window = 0
	a.next = -1
}
