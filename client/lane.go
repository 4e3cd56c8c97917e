package client

import (
	"context"
	"fmt"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/protocol"
)

const (
	// silenceMax is how long a primary may keep silent before it is asked whether it lives, and
	// probeAgain the time until it is asked again: its role may have been ended meanwhile.
	silenceMax = time.Second
	probeAgain = silenceMax / 2
	// stuckMax is how long a primary that lives may acknowledge nothing, and stuckDelays the same as a
	// multiple of what acknowledgements take elsewhere, where that is longer.
	stuckMax    = 10 * time.Second
	stuckDelays = 3
	// resendMin is the pause before records are sent again to the same primary.
	resendMin = 5 * time.Millisecond
	resendMax = 200 * time.Millisecond
)

// lane is the way to one primary, for the records of a stream whose home is its chunk in
// one version. Guarded by the stream's mutex, but for what does not change.
type lane struct {
	s      *stream
	chunk  quarry.Chunk
	piece  quarry.Piece
	ctx    context.Context // of its requests
	cancel context.CancelFunc

	queue       []protocol.Send // to be sent, in order
	sending     bool            // a goroutine empties the queue
	outstanding int             // requests without an answer
	unsettled   int             // records whose lane this is
	end         int64           // bytes the chunk surely has
	ahead       []protocol.Send // first sendings of records that stand behind end, in order
	aheadBytes  int64
	full        bool          // nothing new fits, by what is known here
	refused     bool          // nothing new fits, says the primary
	heard       clock.Instant // last answer, or when the first request without one was sent
	resend      bool          // what is unsettled is to be sent again, when all is answered
	resendAt    clock.Instant
	resendWait  time.Duration
	failures    int  // rounds of resending that the server did not answer
	failed      bool // in this round
	probing     bool
	probeAt     clock.Instant
}

func (s *stream) newLane(chunk quarry.Chunk, piece quarry.Piece) *lane {
	l := &lane{s: s, chunk: chunk, piece: piece, probeAt: s.f.clock.Now()}
	l.ctx, l.cancel = context.WithCancel(s.ctx)
	return l
}

// laneKey names a version of a chunk: one that was opened again is another lane.
type laneKey struct {
	handle  quarry.Handle
	version quarry.Version
}

func (l *lane) key() laneKey { return laneKey{l.chunk.Handle, l.chunk.Version} }

func (l *lane) handle() quarry.Handle { return l.chunk.Handle }

// fileOffset converts an offset in the chunk.
func (l *lane) fileOffset(offset int64) int64 { return l.piece.Offset + offset - l.piece.ChunkOffset }

// send queues a record for its chunk's primary. One that surely does not fit is not sent at
// all: a stream would otherwise send a whole window in vain at the end of each chunk. That
// holds only for a record that was never sent there, in no version of the chunk: one that was
// may be in it, and only the primary knows.
func (s *stream) send(e protocol.Send) {
	r, l := s.records[e.Sequence], s.lanes[laneKey{e.Handle, e.Version}]
	if r == nil || l == nil {
		panic("client: a record is to be sent where there is no lane")
	}
	if r.lane != l {
		r.again = r.lane != nil && r.lane.handle() == e.Handle
		if l.full = l.full || l.refused || l.end+l.aheadBytes+e.Length > quarry.ChunkBytesMax; l.full && !r.again {
			s.effects = append(s.effects, s.machine.Answered(e.Sequence, e.Handle, e.Version, nil, quarry.Full)...)
			return
		}
		if r.lane != nil {
			s.leave(r)
		}
		r.lane, r.tries = l, 0
		l.unsettled++
		l.ahead = append(l.ahead, e)
		l.aheadBytes += e.Length
	}
	l.queue = append(l.queue, e)
	if !l.sending {
		l.sending = s.f.background(func(context.Context) { l.empty() })
	}
}

// leave takes a record off its lane, and closes a lane that nothing depends on any more.
func (s *stream) leave(r *record) {
	l := r.lane
	l.unsettled--
	if l.unsettled == 0 && l != s.lane {
		s.close(l)
	}
}

// leaveLane sends nothing more to the lane. Its requests go on as long as their answers may
// tell something.
func (s *stream) leaveLane() {
	l := s.lane
	s.lane = nil
	if l != nil && l.unsettled == 0 {
		s.close(l)
	}
}

func (s *stream) close(l *lane) {
	l.cancel()
	delete(s.lanes, l.key())
}

// empty sends what is queued, in order, until there is nothing.
func (l *lane) empty() {
	s := l.s
	server := s.f.servers(l.chunk.Primary())
	for {
		s.mu.Lock()
		r, e := l.pop()
		if r == nil {
			l.queue, l.sending = nil, false
			s.unlock()
			return
		}
		s.sent = true
		r.calls++
		r.tries++
		if l.outstanding++; l.outstanding == 1 {
			l.heard = s.f.clock.Now()
		}
		req := &quarry.AppendRequest{
			ChunkRef: reference(&l.chunk, l.chunk.Primary()), Session: s.session,
			Sequence: e.Sequence, Oldest: e.Oldest, CRCs: r.crcs, Data: r.data,
		}
		s.mu.Unlock()
		answered := false
		server.Append(l.ctx, req, func(reply *quarry.AppendReply, err error) {
			if !answered {
				answered = true
				s.answered(l, r, reply, err)
			}
		})
	}
}

// pop returns the next record to send; nil if there is none. When the primary has said that
// it is full, what was never sent to it need not be.
func (l *lane) pop() (*record, protocol.Send) {
	s := l.s
	for len(l.queue) > 0 && l.ctx.Err() == nil {
		e := l.queue[0]
		l.queue = l.queue[1:]
		r := s.records[e.Sequence]
		switch {
		case r == nil || r.lane != l: // settled meanwhile, or elsewhere
		case l.refused && r.tries == 0 && !r.again:
			s.do(s.machine.Answered(e.Sequence, e.Handle, e.Version, nil, quarry.Full))
		default:
			return r, e
		}
	}
	return nil, protocol.Send{}
}

// answered is the event that a request was answered, or lost.
func (s *stream) answered(l *lane, r *record, reply *quarry.AppendReply, err error) {
	s.mu.Lock()
	r.calls--
	l.outstanding--
	if err == nil && (reply == nil || reply.Offset < 0 || reply.Offset+int64(r.length) > quarry.ChunkBytesMax) {
		err = quarry.Errorf("append", quarry.Internal, l.handle().String(), "the primary's answer is broken: %+v", reply)
	}
	if !r.over && r.lane == l {
		if err == nil {
			l.reached(r.sequence, reply.Offset+int64(r.length))
		}
		l.refused = l.refused || quarry.KindOf(err) == quarry.Full
		s.do(s.machine.Answered(r.sequence, l.handle(), l.chunk.Version, reply, err))
		s.judge(l, err)
	}
	if l.outstanding == 0 && (l.resend || s.need != nil) {
		s.signal()
	}
	unused := r.over
	s.unlock()
	if unused && r.free != nil && s.unused(r) {
		r.free()
	}
}

// reached notes that a record ends at end. Answers may come in another order than the
// records stand in.
func (l *lane) reached(seq quarry.Sequence, end int64) {
	l.end = max(l.end, end)
	for len(l.ahead) > 0 && l.ahead[0].Sequence <= seq {
		l.aheadBytes -= l.ahead[0].Length
		l.ahead = l.ahead[1:]
	}
}

// judge draws conclusions about a lane from an answer.
func (s *stream) judge(l *lane, err error) {
	kind := quarry.KindOf(err)
	if kind != quarry.Unavailable {
		l.heard = s.f.clock.Now()
	}
	if l != s.lane {
		return
	}
	switch kind {
	case 0:
		l.failures, l.resendWait = 0, 0
	case quarry.Full, quarry.StaleVersion, quarry.NotPrimary, quarry.NotFound, quarry.SessionExpired:
		// The machine has dealt with it.
	case quarry.Busy, quarry.Corrupt, quarry.Internal:
		l.again()
	case quarry.Unavailable:
		if !l.failed {
			l.failed = true
			l.failures++
		}
		if l.failures > 1 {
			s.doubt(l, err.Error())
			return
		}
		l.again()
	case quarry.Invalid, quarry.TooLarge, quarry.Unsupported:
		s.fail(quarry.Wrap("append", l.handle().String(), err)) // it would be refused everywhere
	default:
		s.doubt(l, "")
	}
}

// again has what is unsettled sent once more, when all requests are answered.
func (l *lane) again() {
	if !l.resend {
		l.resend = true
		l.resendWait = min(max(2*l.resendWait, resendMin), resendMax)
		l.resendAt = l.s.f.clock.Now().Add(l.resendWait)
	}
}

// doubt gives a lane up: the chunk has to be sealed. why, if not empty, is what the master is
// told of the primary.
func (s *stream) doubt(l *lane, why string) {
	if l != s.lane {
		return
	}
	l.cancel()
	if p := l.chunk.Primary(); why != "" {
		s.suspects = append(s.suspects[:0], quarry.Suspect{Server: p.Server, Incarnation: p.Incarnation, Why: why})
		s.f.health.Failed(p.Server)
		s.f.log.Info("a chunk is given up", "chunk", l.handle(), "server", p.Server, "why", why)
	}
	s.do(s.machine.Doubt(l.handle(), l.chunk.Version))
	if s.lane == l { // nothing is to be written
		s.leaveLane()
	}
}

// watch looks after a lane. It returns when it has to look again.
func (s *stream) watch(l *lane, now clock.Instant) clock.Instant {
	if patience := max(stuckMax, stuckDelays*s.f.writes.Delay()); len(s.records) > 0 && now >= s.moved.Add(patience) {
		s.f.writes.Stuck()
		s.doubt(l, fmt.Sprintf("it has acknowledged nothing for %v", patience))
		return now
	}
	if l.outstanding == 0 {
		switch {
		case !l.resend: // what is queued is about to be sent
			return now.Add(silenceMax)
		case now < l.resendAt:
			return l.resendAt
		}
		l.resend, l.failed = false, false
		s.do(s.machine.Resend())
		return now.Add(silenceMax)
	}
	if now.Sub(l.heard) >= silenceMax && !l.probing && now >= l.probeAt {
		l.probing = s.f.background(func(context.Context) { s.probe(l) })
	}
	return max(l.heard.Add(silenceMax), l.probeAt, now.Add(silenceMax/10))
}

// probe asks a silent primary for something that needs no disk. One that does not even
// answer this is given up; one that does is busy, and judges its members itself.
func (s *stream) probe(l *lane) {
	primary := l.chunk.Primary()
	ctx, cancel := s.f.clock.WithTimeout(l.ctx, replyMax)
	defer cancel()
	began := s.f.clock.Now()
	_, err := s.f.servers(primary).End(ctx, &quarry.EndRequest{ChunkRef: reference(&l.chunk, primary)})
	s.mu.Lock()
	defer s.unlock()
	l.probing, l.probeAt = false, s.f.clock.Now().Add(probeAgain)
	if l.heard >= began {
		return
	}
	switch quarry.KindOf(err) {
	case quarry.Unavailable:
		s.doubt(l, "it does not answer: "+err.Error())
	case quarry.StaleVersion, quarry.NotPrimary, quarry.NotFound:
		s.doubt(l, "")
	}
}
