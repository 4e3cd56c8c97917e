package client

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client/verify"
	"github.com/quarryfs/quarry/client/waiting"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/protocol"
)

// stream appends records in order, each exactly once, to a row of chunks that its tails
// name. It carries out what a protocol.Appender decides: the machine knows sequences, homes
// and fates, the stream has the bytes, the goroutines and the time.
//
// The records that are not settled are its window. They are sent through a lane, which is
// the present chunk's primary, by one goroutine at a time, so they leave in order. When the
// lane fails, the next one is asked for, and what became of its records is found out from
// the sealed chunk. One goroutine, run, watches over this for as long as anything is
// unsettled; an idle stream has none.
type stream struct {
	f       *FS
	session quarry.SessionID
	tails   tails
	window  int64           // bytes that may be unsettled
	ctx     context.Context // of all its requests
	cancel  context.CancelFunc

	// died is called once, without the lock, when the stream fails. If it has sent anything,
	// its session cannot append to the file any more: the sequences would have a gap.
	died func(sent bool)

	adding waiting.Gate // callers of add come one after the other

	mu       sync.Mutex
	machine  *protocol.Appender
	effects  []protocol.Effect // to be carried out
	records  map[quarry.Sequence]*record
	bytes    int64              // of records
	room     chan struct{}      // closed when a record is settled; nil: nobody waits
	lane     *lane              // where records are sent; nil: there is none now
	lanes    map[laneKey]*lane  // those that records may be in
	need     *protocol.NeedTail // asked for and not yet begun
	suspects []quarry.Suspect   // to be named to the master with it
	rolling  bool
	asking   map[quarry.Handle]bool // chunks whose fate is being asked for
	askAt    clock.Instant          // when to ask again
	askWait  time.Duration
	sent     bool // anything, ever
	running  bool
	wake     chan struct{}
	moved    clock.Instant // when something last went on
	rolls    int           // without a record settled since
	failing  error         // no further chunk will come
	err      error         // the stream is at its end
	settled  []settlement  // to be told without the lock
}

// tails is where a stream finds the chunks to append to.
type tails interface {
	// next returns an open chunk other than last (0 for the first), or last opened again at a
	// version above, and the piece of the file that it is. It is tried again if the error is transient.
	next(ctx context.Context, last quarry.Handle, version quarry.Version, suspects []quarry.Suspect) (quarry.Chunk, quarry.Piece, error)
}

// record is an append under way.
type record struct {
	sequence quarry.Sequence
	data     []byte // nil when it is not used any more
	length   int
	since    clock.Instant // when it was taken
	counted  bool          // as under way, by the client's flight.Control
	crcs     []uint32
	lane     *lane // where it was sent last; nil: nowhere
	tries    int   // requests to that lane
	again    bool  // it was sent to an earlier version of that chunk
	calls    int   // requests that still use data
	over     bool  // settled or failed
	done     func(offset int64, err error)
	free     func() // called when data is not used any more; may be nil
}

// settlement is what a caller is to be told.
type settlement struct {
	r      *record
	offset int64
	err    error
}

func newStream(f *FS, session quarry.SessionID, t tails, window int64, died func(sent bool)) *stream {
	s := &stream{
		f: f, session: session, tails: t, window: min(window, quarry.WindowBytes), died: died,
		adding: waiting.NewGate(), wake: make(chan struct{}, 1),
		machine: protocol.NewAppender(session), records: map[quarry.Sequence]*record{},
		lanes: map[laneKey]*lane{}, asking: map[quarry.Handle]bool{},
	}
	s.ctx, s.cancel = context.WithCancel(f.ctx)
	s.askAt = f.clock.Now()
	return s
}

// add takes a record behind all others; it waits while the window is full. When the record
// is settled, done is called with where it begins in the file, or with why that is not
// known; and free when its data may be used for something else. If add errs, neither is.
func (s *stream) add(ctx context.Context, data []byte, done func(int64, error), free func()) error {
	r := &record{data: data, length: len(data), crcs: verify.Sums(data), done: done, free: free}
	if err := s.adding.Lock(ctx); err != nil {
		return err
	}
	defer s.adding.Unlock()
	for {
		room, err := s.tryAdd(r)
		if err == nil && room == nil {
			if r.counted {
				return nil
			}
			if err := s.f.writes.Take(ctx, int64(r.length)); err != nil {
				return waiting.Ended(err, nil)
			}
			r.counted = true
			continue
		}
		if r.counted {
			s.f.writes.Lost(int64(r.length))
			r.counted = false
		}
		if err != nil {
			return err
		}
		select {
		case <-room:
		case <-ctx.Done():
			return waiting.Ended(context.Cause(ctx), nil)
		}
	}
}

// tryAdd takes a record, or returns what to wait for. If it returns neither that nor an error, the record
// is counted as under way, and taken; or it is not, and has to be before it can be taken.
func (s *stream) tryAdd(r *record) (room <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.unlock()
	switch {
	case s.err != nil:
		return nil, s.err
	case s.failing != nil && len(s.records) > 0:
		// Those before it may still be found in a chunk. Until that is known, what comes behind
		// them must not go another way, by which it could stand before them.
		return s.full(), nil
	case s.failing != nil:
		return nil, s.failing
	case s.bytes > 0 && s.bytes+int64(r.length) > s.window:
		return s.full(), nil
	case !r.counted && !s.f.writes.TryTake(int64(r.length)):
		return nil, nil
	}
	r.counted = true
	seq, effects, err := s.machine.Add(int64(r.length))
	switch quarry.KindOf(err) {
	case 0:
	case quarry.Busy:
		return s.full(), nil
	default:
		return nil, err
	}
	r.since = s.f.clock.Now()
	if len(s.records) == 0 {
		s.moved = r.since
	}
	r.sequence = seq
	s.records[seq] = r
	s.bytes += int64(r.length)
	s.do(effects)
	if !s.running {
		if s.running = s.f.background(s.run); !s.running {
			s.fail(errClosed)
		}
	}
	return nil, nil
}

// over reports whether the stream is at its end, and whether it has ever sent anything.
func (s *stream) over() (over, sent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil || s.failing != nil, s.sent
}

// full returns what to wait for when the window is full.
func (s *stream) full() <-chan struct{} {
	if s.room == nil {
		s.room = make(chan struct{})
	}
	return s.room
}

// unlock tells callers what was settled, after the lock is given back.
func (s *stream) unlock() {
	settled, died, sent := s.settled, s.died, s.sent
	s.settled = nil
	if s.err == nil {
		died = nil
	} else {
		s.died = nil
	}
	s.mu.Unlock()
	for _, x := range settled {
		x.r.done(x.offset, x.err)
		if x.r.free != nil && s.unused(x.r) {
			x.r.free()
		}
	}
	if died != nil {
		died(sent)
	}
}

// unused reports whether no request uses a settled record's bytes; true once.
func (s *stream) unused(r *record) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.calls > 0 || r.data == nil {
		return false
	}
	r.data = nil
	return true
}

// do carries out what the machine asks for. The lock is held.
func (s *stream) do(effects []protocol.Effect) {
	if s.err != nil {
		return
	}
	s.effects = append(s.effects, effects...)
	for len(s.effects) > 0 {
		e := s.effects[0]
		s.effects = s.effects[1:]
		switch e := e.(type) {
		case protocol.Send:
			s.send(e)
		case protocol.NeedTail:
			s.need = &e
			s.leaveLane()
			s.signal()
		case protocol.AskChunk:
			s.askChunk(e.Handle)
		case protocol.Settled:
			s.settle(e)
		case protocol.Unknown:
			s.finish(s.records[e.Sequence], 0, quarry.Errorf("record", quarry.Unknown, "", "the record's fate is not known to the chunk"))
			s.fail(quarry.Errorf("append", quarry.SessionExpired, "", "the fate of an earlier record is unknown"))
		default:
			panic("client: an effect that a client does not have")
		}
	}
}

// signal has run look again.
func (s *stream) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *stream) settle(e protocol.Settled) {
	r := s.records[e.Sequence]
	if r == nil || r.lane == nil || r.lane.handle() != e.Handle {
		panic("client: a record was settled where it was not sent")
	}
	s.rolls = 0
	s.finish(r, r.lane.fileOffset(e.Offset), nil)
}

// finish takes a record out of the window.
func (s *stream) finish(r *record, offset int64, err error) {
	if r == nil || r.over {
		return
	}
	r.over = true
	delete(s.records, r.sequence)
	s.bytes -= int64(r.length)
	s.moved = s.f.clock.Now()
	if err == nil {
		s.f.writes.Acknowledged(int64(r.length), s.moved.Sub(r.since))
	} else {
		s.f.writes.Lost(int64(r.length))
	}
	s.settled = append(s.settled, settlement{r, offset, err})
	if s.room != nil {
		close(s.room)
		s.room = nil
	}
	if r.lane != nil {
		s.leave(r)
	}
	if len(s.records) == 0 {
		s.signal()
	}
}

// fail ends the stream. Records that were never sent are certainly not appended; of the
// others it is not known.
func (s *stream) fail(err error) {
	if s.err != nil {
		return
	}
	s.err = err
	unknown := &quarry.Error{Op: "record", Kind: quarry.Unknown, Err: err}
	for _, seq := range slices.Sorted(maps.Keys(s.records)) {
		r := s.records[seq]
		if r.lane == nil {
			s.finish(r, 0, err)
		} else {
			s.finish(r, 0, unknown)
		}
	}
	s.cancel()
	s.lane, s.need, s.effects = nil, nil, nil
	clear(s.lanes)
	s.signal()
}
