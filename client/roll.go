package client

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client/waiting"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/protocol"
)

const (
	askMin = 20 * time.Millisecond
	askMax = time.Second
	// rollsFree is how many chunks in a row may be given up before the next one is asked for
	// with a pause.
	rollsFree = 2
)

// run watches over the stream while anything is unsettled.
func (s *stream) run(ctx context.Context) {
	timer := s.f.clock.NewTimer(0)
	defer timer.Stop()
	for {
		wait, more := s.step()
		if !more {
			return
		}
		timer.Reset(wait)
		select {
		case <-s.wake:
		case <-timer.C():
		case <-ctx.Done():
			s.abort(errClosed)
		}
	}
}

// abort ends the stream from outside.
func (s *stream) abort(err error) {
	s.mu.Lock()
	defer s.unlock()
	s.fail(err)
}

// step does what is due. It returns how long there is nothing to do, and false if the
// stream is idle.
func (s *stream) step() (time.Duration, bool) {
	s.mu.Lock()
	defer s.unlock()
	now := s.f.clock.Now()
	next := s.moved.Add(s.f.opts.Patience)
	if s.err == nil && len(s.records) > 0 && now >= next {
		s.fail(quarry.Errorf("wait", quarry.Unavailable, "", "nothing has gone on for %v", s.f.opts.Patience))
	}
	if s.lane != nil {
		next = min(next, s.watch(s.lane, now))
	}
	if s.need != nil && !s.rolling {
		next = min(next, s.beginRoll(now))
	}
	if s.failing != nil || s.orphans() {
		next = min(next, s.askAgain(now))
	}
	if s.err != nil || len(s.records) == 0 {
		s.running = false
		return 0, false
	}
	return next.Sub(now), true
}

// orphans reports whether there are records whose chunk is not the tail any more.
func (s *stream) orphans() bool {
	for _, l := range s.lanes {
		if l != s.lane && l.unsettled > 0 {
			return true
		}
	}
	return false
}

// beginRoll asks for the next chunk. What the full one has taken is answered first, because
// a seal would cut it off and it would have to be sent again.
func (s *stream) beginRoll(now clock.Instant) clock.Instant {
	if l := s.lanes[laneKey{s.need.Last, s.need.Version}]; l != nil && l.ctx.Err() == nil && l.outstanding+len(l.queue) > 0 {
		if until := l.heard.Add(silenceMax); now < until {
			return until
		}
	}
	need, suspects := *s.need, slices.Clone(s.suspects)
	s.need, s.suspects = nil, nil
	s.rolls++
	pause := time.Duration(0)
	if s.rolls > rollsFree {
		pause = min(waiting.PauseMin<<min(s.rolls-rollsFree, 10), waiting.PauseMax)
	}
	s.rolling = s.f.background(func(context.Context) { s.roll(need, suspects, pause) })
	return now.Add(s.f.opts.Patience)
}

// roll gets the next chunk and makes it the lane.
func (s *stream) roll(need protocol.NeedTail, suspects []quarry.Suspect, pause time.Duration) {
	var chunk quarry.Chunk
	var piece quarry.Piece
	err := s.f.clock.Sleep(s.ctx, pause)
	for wait := s.f.patience(); err == nil; {
		chunk, piece, err = s.tails.next(s.ctx, need.Last, need.Version, suspects)
		if err == nil && (chunk.State != quarry.ChunkOpen || len(chunk.Members) == 0 || chunk.Handle == need.Last && chunk.Version <= need.Version) {
			err = quarry.Errorf("roll", quarry.Busy, chunk.Handle.String(), "the master names a chunk that cannot be written to")
		}
		if err == nil || !waiting.Transient(err) {
			break
		}
		err = wait.Wait(s.ctx, err)
	}
	s.mu.Lock()
	defer s.unlock()
	s.rolling = false
	s.askAt, s.askWait = s.f.clock.Now(), 0
	s.signal()
	switch {
	case s.err != nil:
	case err != nil:
		s.failing = err
	case s.lanes[laneKey{chunk.Handle, chunk.Version}] != nil:
		s.failing = quarry.Errorf("roll", quarry.Internal, chunk.Handle.String(), "the master names a chunk that was given up")
	default:
		s.lane = s.newLane(chunk, piece)
		s.lanes[s.lane.key()] = s.lane
		s.moved = s.f.clock.Now()
		s.do(s.machine.Tail(&chunk))
	}
}

// askAgain asks what became of records whose chunk cannot be written to. If no further chunk
// is to come, the stream ends when that is known of all of them.
func (s *stream) askAgain(now clock.Instant) clock.Instant {
	if now < s.askAt {
		return s.askAt
	}
	s.askWait = min(max(2*s.askWait, askMin), askMax)
	s.askAt = now.Add(s.askWait)
	asks := s.machine.Ask()
	if s.failing != nil && len(asks) == 0 {
		for _, seq := range slices.Sorted(maps.Keys(s.records)) { // they are in no chunk
			r := s.records[seq]
			if r.lane != nil {
				s.leave(r)
				r.lane = nil
			}
		}
		s.fail(s.failing)
		return now
	}
	s.do(asks)
	return s.askAt
}

// askChunk finds out what became of the records in a chunk.
func (s *stream) askChunk(h quarry.Handle) {
	if !s.asking[h] {
		s.asking[h] = s.f.background(func(context.Context) { s.learnFates(h) })
	}
}

func (s *stream) learnFates(h quarry.Handle) {
	ctx, cancel := s.f.clock.WithTimeout(s.ctx, s.f.opts.Patience)
	defer cancel()
	reply, err := s.f.masters.Chunk(ctx, &quarry.ChunkRequest{Handle: h})
	s.mu.Lock()
	var asks []protocol.Effect
	switch {
	case s.err != nil:
	case quarry.KindOf(err) == quarry.NotFound: // the file was removed, and its chunks are gone
		s.fail(quarry.Wrap("append", h.String(), err))
	case err == nil && reply.Chunk.Handle == h:
		asks = s.machine.Located(&reply.Chunk)
	}
	var ask *protocol.AskFate
	for _, e := range asks {
		if a, ok := e.(protocol.AskFate); ok {
			ask = &a
		} else {
			s.do([]protocol.Effect{e})
		}
	}
	if ask == nil {
		delete(s.asking, h)
		s.unlock()
		return
	}
	s.unlock()
	fates := s.askFate(ctx, &reply.Chunk, ask)
	s.mu.Lock()
	defer s.unlock()
	delete(s.asking, h)
	if fates != nil && s.err == nil && s.plausible(fates) {
		s.do(s.machine.Fates(h, fates))
		s.signal()
	}
}

// askFate asks the replicas of a sealed chunk in turn; nil if none answers.
func (s *stream) askFate(ctx context.Context, chunk *quarry.Chunk, ask *protocol.AskFate) *quarry.FateReply {
	soon := false // one that answers will know it
	for _, m := range s.f.order(chunk.Members) {
		if soon && s.f.health.Avoid([]quarry.Member{m})[0] {
			break
		}
		ref := reference(chunk, m)
		ref.Version = ask.Version
		try, cancel := s.f.clock.WithTimeout(ctx, replyMax)
		reply, err := s.f.servers(m).Fate(try, &quarry.FateRequest{ChunkRef: ref, Length: ask.Length, Session: s.session, Sequences: ask.Sequences})
		cancel()
		switch {
		case err != nil:
			soon = soon || quarry.KindOf(err) == quarry.StaleVersion
			s.f.log.Debug("a replica tells no fates", "chunk", chunk.Handle, "server", m.Server, "err", err)
		case reply.Version == ask.Version && reply.Length == ask.Length:
			return reply
		}
	}
	return nil
}

// plausible reports whether the records lie within the chunk where a replica says they do.
func (s *stream) plausible(reply *quarry.FateReply) bool {
	for _, f := range reply.Fates {
		r := s.records[f.Sequence]
		if r != nil && f.State == quarry.FateCommitted && (f.Offset < 0 || f.Offset+int64(r.length) > reply.Length) {
			return false
		}
	}
	return true
}
