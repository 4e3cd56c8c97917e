package chunk

import (
	"cmp"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/journal"
	"github.com/quarryfs/quarry/wire"
)

// commitBytes is the size of records at which a commit takes no more of them. With the
// largest record behind it, it is below what one append of the journal takes.
const commitBytes = 8 << 20

// commitRounds is the committer: it writes the journal.
func (s *Store) commitRounds() {
	defer s.running.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	var buf []byte
	for {
		for len(s.ready) == 0 && (s.failed != nil || !s.check.scanning()) && !s.stopped {
			s.loggable.Wait()
		}
		if s.stopped {
			return
		}
		rounds := s.ready
		s.ready = nil
		buf = s.commit(rounds, buf[:0])
	}
}

// commit makes rounds durable, all with one sync, and ends them. Called with mu held, which
// it releases while it waits for the disk and while it calls back. It returns the buffer for
// its next use.
func (s *Store) commit(rounds []*round, buf []byte) []byte {
	var cuts []int // where the records end in buf
	buf, cuts = s.checkpointRecords(buf, cuts)
	formed := make([]*round, 0, len(rounds))
	for i, rd := range rounds {
		if len(buf) > commitBytes {
			s.ready = append(rounds[i:], s.ready...)
			break
		}
		if !s.form(rd) {
			continue
		}
		formed = append(formed, rd)
		if s.apply(rd) {
			buf = rd.appendRecord(buf)
			cuts = append(cuts, len(buf))
		}
	}
	failed := s.failed
	s.mu.Unlock()
	if failed == nil && len(cuts) > 0 {
		if _, err := s.journal.Write(cutRecords(buf, cuts)...); err != nil {
			failed = s.fail(err)
		}
	}
	s.mu.Lock()
	var unpinned []*openFile
	for _, rd := range formed {
		if failed == nil {
			unpinned = s.publish(rd, unpinned)
		}
		for _, o := range rd.ops {
			if o.ends {
				rd.r.ending--
			}
		}
	}
	s.endCheckpoint()
	s.mu.Unlock()
	for _, f := range unpinned {
		s.files.put(f)
	}
	for _, rd := range formed {
		rd.answer(failed)
	}
	s.mu.Lock()
	for _, rd := range formed {
		if rd.stage == stageFinish {
			s.toWorker(rd)
		} else {
			s.complete(rd)
		}
	}
	return buf
}

func cutRecords(buf []byte, cuts []int) [][]byte {
	records, from := make([][]byte, len(cuts)), 0
	for i, to := range cuts {
		records[i], from = buf[from:to], to
	}
	return records
}

// form decides what a round that is ready consists of; false if it needs a worker first.
func (s *Store) form(rd *round) bool {
	r := rd.r
	switch rd.stage {
	case stagePrepared:
		rd.length = r.state.Length
		return true
	case stageReady:
		if s.mustFlush(r) { // more was written since it was scheduled
			rd.stage = stageFlush
			s.toWorker(rd)
			return false
		}
		rd.length = r.state.Length
		if s.failed == nil && r.grows() {
			s.capture(rd)
			rd.data, r.growth.small = r.growth.small, nil
		}
	}
	if s.failed != nil {
		rd.ops = r.take(len(r.queue))
	} else {
		rd.ops = r.takeUpTo(rd.length)
	}
	return true
}

// apply computes the state after a round, and reports whether that needs a record.
func (s *Store) apply(rd *round) bool {
	state := &rd.r.state
	rd.next = *state
	if s.failed != nil {
		return false
	}
	if rd.length > state.Length {
		rd.next.Length = rd.length
	}
	if rd.flushed {
		rd.next.flushed = rd.length
	}
	changed := rd.next.Length != state.Length || rd.next.flushed != state.flushed
	for _, o := range rd.ops {
		if o.err != nil {
			continue
		}
		before := rd.next
		if o.change == nil {
			o.err = rd.next.usable("sync")
		} else if o.err = o.change(&rd.next); o.err != nil {
			rd.next = before
		} else {
			rd.grown = o.begins
			changed = changed || before.Exists() || rd.next.Exists()
		}
	}
	image := rd.r.image && rd.next.flushed == rd.next.Length
	rd.whole = image || !state.growing() || !rd.next.growing()
	return changed || image
}

// usable returns why nothing can be done with the replica, or nil.
func (s *State) usable(op string) error {
	switch {
	case !s.Exists():
		return quarry.Errorf(op, quarry.NotFound, s.Handle.String(), "there is no replica on this disk")
	case s.Status == quarry.ReplicaLost:
		return quarry.Errorf(op, quarry.Unavailable, s.Handle.String(), "the replica is lost: the disk holds less of it than it acknowledged")
	}
	return nil
}

// appendRecord appends the journal record of a round to buf.
func (rd *round) appendRecord(buf []byte) []byte {
	r := rd.r
	if !rd.next.Exists() {
		return (&record{Kind: recordDropped, Handle: rd.next.Handle}).encode(buf)
	}
	if rd.whole {
		return r.wholeRecord(buf, &rd.next, cmp.Or(r.growth, rd.grown), rd.tail)
	}
	rec := record{Kind: recordGrown, Handle: rd.next.Handle, State: rd.next, Data: rd.data}
	rec.State.File, rec.State.Position, rec.State.Hint = 0, 0, ""
	if from := r.state.Length; rd.length > from {
		g := r.growth
		rec.CRCs = append(rec.CRCs, g.sums.crcs[from/quarry.BlockBytes:quarry.Blocks(rd.length)]...)
		rec.CRCs[len(rec.CRCs)-1] = rd.tail
		rec.Runs = packRuns(cutRuns(g.runs, from, rd.length))
	}
	return rec.encode(buf)
}

// wholeRecord appends a record of all that the journal must know of the replica in a state, in
// which it has grown as g says; tail is the checksum of its last block.
func (r *replica) wholeRecord(buf []byte, state *State, g *growth, tail uint32) []byte {
	rec := record{Kind: recordWhole, Handle: state.Handle, State: *state}
	if g != nil && state.growing() && state.Length > 0 {
		rec.CRCs = append(rec.CRCs, g.sums.crcs[:quarry.Blocks(state.Length)]...)
		if state.Length > r.state.Length {
			rec.CRCs[len(rec.CRCs)-1] = tail
		} else {
			rec.CRCs[len(rec.CRCs)-1] = g.durableTail
		}
		rec.Runs = packRuns(cutRuns(g.runs, 0, state.Length))
	}
	return rec.encode(buf)
}

// encode appends the record's bytes to buf.
func (rec *record) encode(buf []byte) []byte { return wire.Marshal(buf, rec, recordFields) }

// publish makes the state after a round the one that is seen. It returns the files that need
// not stay open any more.
func (s *Store) publish(rd *round, unpinned []*openFile) []*openFile {
	r, g := rd.r, rd.r.growth
	was := r.state
	r.state = rd.next
	if r.image && rd.whole {
		r.image = false
		s.check.left--
	}
	switch {
	case g == nil && r.state.growing(): // created, or opened again; the space was reserved before
		if r.growth = rd.grown; r.growth == nil {
			r.growth = newGrowth(sums{}, nil)
		}
		r.edition = s.newEdition()
		return unpinned
	case g == nil:
		r.edition = s.newEdition()
		return unpinned
	case !r.state.growing():
		s.unsynced -= g.sums.length - was.Length
		s.reserved -= quarry.ChunkBytesMax - g.sums.length
		r.growth = nil
		r.edition = s.newEdition()
	default:
		s.unsynced -= r.state.Length - was.Length
		if r.state.Length > was.Length {
			g.durableTail = rd.tail
		}
		if len(g.small) == 0 && cap(g.small) < cap(rd.data) {
			g.small = rd.data[:0]
		}
	}
	if r.growth == nil || g.sums.length == r.state.Length {
		delete(s.dirty, r)
		r.urgent = false // whatever was urgent is durable
	}
	s.room.Broadcast()
	if g.file != nil && (r.growth == nil || g.sums.length == r.state.flushed) {
		unpinned = append(unpinned, g.file)
		g.file = nil
		s.pinned--
	}
	return unpinned
}

// answer calls the callbacks of a round, but for that of an op that has yet to finish.
func (rd *round) answer(failed error) {
	for _, o := range rd.ops {
		if failed != nil {
			o.err = failed
		}
		if o.err == nil && o.finish != nil {
			rd.stage = stageFinish
			continue
		}
		if o.done != nil {
			o.done(o.err)
		}
	}
}

// checkpoint is the state of the present or next checkpoint: a whole record of every
// replica, so that the journal before them can go. Replicas change meanwhile; but each
// record stands for its replica when it is written, and only what is before all of them is
// removed. A crash in the midst of it leaves the old records, and some replicas twice.
type checkpoint struct {
	due    int64 // the next one begins when the journal has so many bytes
	active bool
	next   quarry.Handle // replicas from here on have not been looked at; 0: all have
	left   int           // growing replicas that have yet to be logged, after a sync
	trim   journal.Position
}

// checkpointStep is how many replicas a commit takes into the checkpoint: it should not take
// much longer for it.
const checkpointStep = 512

func (c *checkpoint) scanning() bool { return c.active && c.next != 0 }

// checkpointRecords appends the records of the next replicas of a checkpoint. They come
// before the records of the rounds, because they tell of the states before these.
func (s *Store) checkpointRecords(buf []byte, cuts []int) ([]byte, []int) {
	c := &s.check
	if s.failed != nil {
		return buf, cuts
	}
	if !c.active && s.journal.Bytes() >= c.due {
		c.active, c.next, c.trim = true, 1, s.journal.End()
		buf = (&record{Kind: recordServer, Number: uint64(s.incarnation)}).encode(buf)
		cuts = append(cuts, len(buf))
	}
	if !c.scanning() {
		return buf, cuts
	}
	from, n := c.next, 0
	c.next = 0
	s.replicas.Ascend(from, func(h quarry.Handle, r *replica) bool {
		if n == checkpointStep || len(buf) > commitBytes/2 {
			c.next = h
			return false
		}
		n++
		switch {
		case !r.state.Exists():
		case r.growth != nil:
			r.image = true
			c.left++
			s.schedule(r)
		default:
			buf = r.wholeRecord(buf, &r.state, nil, 0)
			cuts = append(cuts, len(buf))
		}
		return true
	})
	return buf, cuts
}

// endCheckpoint has a worker shorten the journal when the checkpoint is complete.
func (s *Store) endCheckpoint() {
	c := &s.check
	if s.failed == nil && c.active && c.next == 0 && c.left == 0 {
		s.toWorker(&round{stage: stageTrim, trim: c.trim})
		*c = checkpoint{due: 1 << 62}
	}
}

// trimJournal removes what is before a checkpoint.
func (s *Store) trimJournal(before journal.Position) {
	s.mu.Unlock()
	err := s.journal.Trim(before)
	if err != nil {
		s.fail(err)
	}
	s.mu.Lock()
	s.check.due = s.journal.Bytes() + s.opts.JournalBytes
}
