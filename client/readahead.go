package client

import (
	"context"
	"io"
	"sync"

	"github.com/quarryfs/quarry"
)

const (
	// segmentBytes is what one request of a sequential read fetches.
	segmentBytes = quarry.ReadBytesMax
	// directBytes is the size from which a Read bypasses the segments.
	directBytes = 4 << 20
	// firstBytes is what the first read at a new position fetches at least.
	firstBytes = 64 << 10
)

// ahead fetches a file in segments before they are asked for: more of them the longer the
// reader goes on in a row.
type ahead struct {
	file     *File
	segments []*segment // in a row
	next     int64      // where the segment behind them begins
	window   int        // how many segments to have
	end      int64      // how far the reader may see, as far as asked
}

// segment is a part of the file on its way.
type segment struct {
	start int64
	buf   []byte
	err   error
	done  chan struct{}
	stop  context.CancelFunc
	whole *[segmentBytes]byte
}

var segmentBuffers = sync.Pool{New: func() any { return new([segmentBytes]byte) }}

func (a *ahead) init(file *File) { a.file = file }

// rest returns the segment's bytes from a position in it.
func (s *segment) rest(position int64) []byte { return s.buf[position-s.start:] }

func (s *segment) stops() int64 { return s.start + int64(len(s.buf)) }

// get returns the segment that has the byte at position; io.EOF if the file ends there.
func (a *ahead) get(position int64) (*segment, error) {
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
	whole := segmentBuffers.Get().(*[segmentBytes]byte)
	s := &segment{start: a.next, whole: whole, buf: whole[:n], done: make(chan struct{})}
	var ctx context.Context
	ctx, s.stop = context.WithCancel(a.file.ctx)
	go func() {
		defer close(s.done)
		s.err = a.file.layout.read(ctx, s.buf, s.start)
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
	segmentBuffers.Put(s.whole)
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
