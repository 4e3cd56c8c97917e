package client

import (
	"context"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client/waiting"
	"github.com/quarryfs/quarry/client/window"
	"github.com/quarryfs/quarry/clock"
)

const (
	// segmentBytes is what one request of a sequential read fetches.
	segmentBytes = quarry.ReadBytesMax
	// directBytes is the size from which a Read bypasses the segments.
	directBytes = 4 << 20
	// directMin is the size from which a Read is worth waiting for its memory.
	directMin = 256 << 10
	// placeMax is how long bytes that have come wait, in the network, for the reader to give
	// them its own memory. It is less than health.HedgeMin, and enough for the segments in front of
	// them at 400 MiB/s.
	placeMax = 20 * time.Millisecond
	// copiedSegments is how many segments do not wait for a reader that came too late for
	// one: while they wait, others have to do without their connections.
	copiedSegments = 16
)

// ahead fetches a file in segments before they are asked for: those that its course says, as many as
// its window says. With a window of one there is nothing ahead: a reader with memory for a segment has
// it received there by itself, without a segment's goroutine.
type ahead struct {
	file     *File
	segments []*segment    // in the order in which they are expected to be wanted
	course   window.Course // what to fetch next
	window   window.Window // how many segments to have
	period   int64         // of the crowd, when the reader was counted
	end      int64         // how far the reader may see, as far as asked
	large    bool          // the reader comes with much memory
	whole    bool          // with enough for a segment
	copied   int           // how many segments more go to buffers, because the reader came late
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
	used    bool            // the reader has had bytes of it; the reader's
	took    time.Duration   // without what it waited for the reader
	waited  time.Duration   // for the reader
	waits   atomic.Bool     // bytes have come and wait for an offer
	finding waiting.Gate    // held while memory waits; guards what follows
	buf     []byte
	whole   *[segmentBytes]byte // what buf is a part of if it is a buffer
}

var segmentBuffers = sync.Pool{New: func() any { return new([segmentBytes]byte) }}

func (a *ahead) init(file *File) {
	a.file, a.window.Most, a.course.Most = file, file.f.opts.ReadAhead/segmentBytes, segmentBytes
}

// rest returns the segment's bytes from a position in it.
func (s *segment) rest(position int64) []byte { return s.buf[position-s.start:] }

func (s *segment) stops() int64 { return s.start + int64(s.n) }

// memory returns where the segment's bytes are to be. The first call waits for an offer, for
// as long as placeMax.
func (s *segment) memory() []byte {
	s.finding.Take()
	defer s.finding.Unlock()
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
	start := s.clock.Now()
	s.waits.Store(true)
	defer func() {
		s.waits.Store(false)
		s.waited = s.clock.Now().Sub(start)
	}()
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

// here reports whether the bytes are there.
func (s *segment) here() bool {
	select {
	case <-s.done:
		return true
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
	a.large, a.whole = len(p) >= directMin, len(p) >= segmentBytes
	if err := a.start(position, p); err != nil {
		return nil, err
	}
	if len(a.segments) == 0 {
		a.fill()
	}
	s := a.segments[0]
	if position != s.start {
		p = nil
	}
	waited := !s.here() && !s.waits.Load()
	if s.here() && !s.asked { // the bytes have waited for the reader in vain
		a.copied = copiedSegments
	}
	s.give(p)
	<-s.done
	if s.err != nil {
		err := s.err
		a.drop()
		return nil, err
	}
	if !s.used {
		a.used(int64(s.n), s.took, waited)
	}
	s.used = true
	return s, nil
}

// start moves to a position: what was fetched before it is given up if it was passed over, and all of
// it if the position is not among it. The end of the file is asked for if the position is all that is
// known of it; io.EOF if the file ends there.
func (a *ahead) start(position int64, p []byte) error {
	a.course.Wants(position)
	if i := slices.IndexFunc(a.segments, func(s *segment) bool { return s.start <= position && position < s.stops() }); i >= 0 {
		free(a.segments[:i])
		a.segments = a.segments[i:]
		return nil
	}
	a.drop()
	if !a.course.Turn(position, int64(len(p))) {
		a.window.Restart()
	}
	a.window.Limit(a.share())
	if a.end = a.file.knownEnd(); position < a.end {
		return nil
	}
	end, err := a.file.end(a.file.ctx)
	if err != nil {
		return err
	}
	if a.end = end; position >= end {
		return io.EOF
	}
	return nil
}

// direct reads what is to be fetched next at position straight into p, if p has room for it and
// nothing is to be fetched ahead; 0: get is to be asked.
func (a *ahead) direct(position int64, p []byte) (int, error) {
	if len(a.segments) > 0 {
		return 0, nil
	}
	if err := a.start(position, p); err != nil {
		return 0, err
	}
	_, n := a.course.Next(a.end)
	if a.window.Size() > 1 || int64(len(p)) < n {
		return 0, nil
	}
	start := a.file.f.clock.Now()
	if err := a.file.layout.readPart(a.file.ctx, memory{known: p[:n:n], n: int(n)}, position); err != nil {
		return 0, err
	}
	a.course.Fetch(n)
	a.course.Got(position + n)
	a.large, a.whole = len(p) >= directMin, true
	a.used(n, a.file.f.clock.Now().Sub(start), true)
	a.more()
	return int(n), nil
}

// share returns how many segments the reader may have.
func (a *ahead) share() int {
	return a.file.f.crowd.Seen(&a.period, a.file.f.clock.Now(), a.window.Most)
}

// used adapts the window to what a whole segment of n bytes took, or what a part of a run took where
// the runs are alike.
func (a *ahead) used(n int64, d time.Duration, waited bool) {
	if n == segmentBytes {
		a.file.f.crowd.Took(d, a.file.f.clock.Now())
	}
	if n == segmentBytes || a.course.Steady() {
		a.window.Used(d, waited, a.share())
	}
}

// fill starts segments until the window is full, or no more are expected to be wanted.
func (a *ahead) fill() {
	for len(a.segments) < a.window.Size() {
		position, n := a.course.Next(a.end)
		if n == 0 {
			return
		}
		a.launch(position, n)
		a.course.Fetch(n)
	}
}

func (a *ahead) launch(position, n int64) {
	s := &segment{start: position, n: int(n), done: make(chan struct{}), clock: a.file.f.clock, offer: make(chan []byte, 1), finding: waiting.NewGate()}
	var ctx context.Context
	ctx, s.stop = context.WithCancel(a.file.ctx)
	s.ended = ctx.Done()
	if a.copied = max(a.copied-1, 0); a.copied > 0 || !a.large {
		s.give(nil)
	}
	go func() {
		defer close(s.done)
		start := s.clock.Now()
		s.err = a.file.layout.readPart(ctx, memory{segment: s, n: s.n}, s.start)
		s.took = s.clock.Now().Sub(start) - s.waited
	}()
	a.segments = append(a.segments, s)
}

// release is told that the reader has got the bytes before position, and fetches further ones in the
// place of a segment that is at its end.
func (a *ahead) release(position int64) {
	a.course.Got(position)
	if len(a.segments) == 0 || position < a.segments[0].stops() {
		return
	}
	a.segments[0].free()
	a.segments = a.segments[1:]
	a.more()
}

// more fills the window, but leaves what there is no other segment beside to a reader that will
// receive it itself.
func (a *ahead) more() {
	a.end = max(a.end, a.file.knownEnd())
	if !(a.whole && a.window.Size() == 1) {
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
	if len(a.segments) > 0 {
		a.window.Restart()
	}
	free(a.segments)
	a.segments = nil
}

// free cancels segments and gives their buffers back.
func free(list []*segment) {
	for _, s := range list {
		s.stop()
	}
	for _, s := range list {
		s.free()
	}
}
