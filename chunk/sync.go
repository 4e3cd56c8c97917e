package chunk

import (
	"cmp"
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/journal"
	"maps"
	"slices"
)

const (
	// inlineBytesMax is the most bytes of one chunk that a journal record carries. They need
	// no sync of the chunk's file: the journal's own sync, which is cheaper and which all
	// chunks share, makes them durable.
	inlineBytesMax = 64 << 10
	// inlineTotalMax is how many bytes only the journal may have of a chunk before its file
	// is synced.
	inlineTotalMax = 1 << 20
	// syncBytes is how many unsynced bytes of a chunk are synced without being asked.
	syncBytes = 8 << 20
	// asksMax bounds what is asked for and not done.
	asksMax = 1 << 17
)

// How a change becomes durable.
//
// What is asked for of one replica waits in its queue, and is worked off in rounds, one at a
// time. A round takes from the head of the queue
//
//   - either an op that needs the replica for itself, because files must be made, written or
//     renamed for it: a worker does that first (prepare), and what must come after it last
//     (finish);
//   - or all ops for which it is enough that bytes written before them are durable: Sync and
//     small changes. If those bytes are few, the record in the journal carries them; if not,
//     a worker syncs the file.
//
// Then the round is ready for the committer. It takes all rounds that are ready, of all
// chunks, and makes one journal record of each: file first, journal after it, so that the
// journal never speaks of bytes that are not durable. One append of the journal makes all of
// them durable with one sync; meanwhile the next rounds become ready. Then the states that
// others see are replaced, the callbacks called, and the replicas' next rounds begin.

// op is one change of a replica that was asked for.
type op struct {
	upTo int64 // bytes written before it was asked for
	lazy bool  // it can wait for others to be synced
	ends bool  // it ends the growth, or the replica: no Write after it

	prepare func(State) error // work on files that must be durable before the record; s.mu not held
	change  func(*State) error
	finish  func() error // work on files that must come after the record; s.mu not held
	done    func(error)
	begins  *growth // set by prepare: what a replica that grows from now on begins with
	err     error
}

// alone reports whether the op needs a round for itself.
func (o *op) alone() bool { return o.prepare != nil || o.finish != nil }

// stage is what is to be done next for a round.
type stage uint8

const (
	stageReady stage = iota // commit; whether the file needs a sync is not decided
	stageFlush
	stageFlushed // commit
	stagePrepare
	stagePrepared // commit
	stageFinish
	stageTrim // of no replica: shorten the journal
)

// round is some ops of one replica that become durable together.
type round struct {
	r     *replica
	stage stage
	ops   []*op

	length  int64  // the durable length after the round
	tail    uint32 // checksum of the last block then
	flushed bool   // the file is durable up to length
	data    []byte // else the bytes added, for the journal

	next  State   // after the round
	grown *growth // what the replica grows from after it, if it did not grow before
	whole bool    // the record is a whole one
	trim  journal.Position
}

// Sync asks for everything written to a chunk so far to be durable.
func (s *Store) Sync(h quarry.Handle, done func(error)) { s.ask(h, &op{done: done}) }

// SyncLater is Sync for a stream, which is fastest in large steps: it is in no hurry and
// waits until 8 MiB of the chunk are unsynced, or somebody calls Sync or SyncAll, or a later
// change of the chunk makes it necessary.
func (s *Store) SyncLater(h quarry.Handle, done func(error)) { s.ask(h, &op{done: done, lazy: true}) }

// SyncAll begins to sync every chunk that has unsynced bytes.
func (s *Store) SyncAll() {
	s.mu.Lock()
	s.syncDirty()
	s.mu.Unlock()
}

// syncDirty is SyncAll with mu held.
func (s *Store) syncDirty() {
	dirty := slices.SortedFunc(maps.Keys(s.dirty), func(a, b *replica) int { return cmp.Compare(a.state.Handle, b.state.Handle) })
	for _, r := range dirty {
		r.urgent = true
		s.schedule(r)
	}
}

// ask queues an op.
func (s *Store) ask(h quarry.Handle, o *op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.usable()
	if s.failed != nil && !s.hung && !s.stopped {
		err = nil // it is told so in its turn
	}
	if err == nil && s.asked >= asksMax {
		err = quarry.Errorf("chunk", quarry.Busy, h.String(), "%d changes wait for the disk", s.asked)
	}
	if err != nil {
		if o.done != nil {
			go o.done(err)
		}
		return
	}
	r := s.replica(h)
	s.replicas.Set(h, r)
	if r.growth != nil && r.ending == 0 { // behind an end nothing is written, and it may cut what was
		o.upTo = r.growth.sums.length
	}
	o.lazy = o.lazy && o.upTo > r.state.Length
	r.queue = append(r.queue, o)
	s.asked++
	if !o.lazy {
		r.eager++
	}
	if o.ends {
		r.ending++
	}
	s.schedule(r)
}

// schedule begins the next round of a replica, if it is time.
func (s *Store) schedule(r *replica) {
	if r.busy || !s.due(r) {
		return
	}
	r.busy = true
	rd := &round{r: r}
	if s.failed == nil && r.headAlone() && r.queue[0].prepare != nil {
		rd.stage = stagePrepare
		rd.ops = r.take(1)
		s.toWorker(rd)
		return
	}
	if s.mustFlush(r) {
		rd.stage = stageFlush
		s.toWorker(rd)
		return
	}
	s.toCommitter(rd)
}

// due reports whether a replica has something to do that should not wait.
func (s *Store) due(r *replica) bool {
	switch {
	case s.failed != nil || r.growth == nil:
		return len(r.queue) > 0
	case r.eager > 0 || r.image:
		return true
	case len(r.queue) > 0 && r.queue[0].upTo <= r.state.Length: // what it waited for came with other ops
		return true
	}
	unsynced := r.growth.sums.length - r.state.Length
	return unsynced >= syncBytes || unsynced > 0 && r.urgent
}

// headAlone reports whether the next op is one that needs the replica for itself, and can
// have it.
func (r *replica) headAlone() bool {
	return len(r.queue) > 0 && r.queue[0].alone() && r.queue[0].upTo <= r.state.Length
}

// grows reports whether the next round is to make written bytes durable. It is not if the
// next op does not need them: then that op need not wait for them either.
func (r *replica) grows() bool {
	g := r.growth
	return g != nil && g.sums.length > r.state.Length && (len(r.queue) == 0 || r.queue[0].upTo > r.state.Length)
}

// mustFlush reports whether the next round of a replica begins with a sync of its file.
func (s *Store) mustFlush(r *replica) bool {
	g := r.growth
	if s.failed != nil || g == nil || g.sums.length == r.state.flushed {
		return false
	}
	if !r.grows() {
		return r.image && len(r.queue) == 0
	}
	inline := g.captured+int64(len(g.small)) == g.sums.length
	return !inline || r.image || g.sums.length-r.state.flushed > inlineTotalMax || s.pinned > s.opts.FilesMax/2
}

// take removes the first n ops of the queue.
func (r *replica) take(n int) []*op {
	ops := r.queue[:n:n]
	r.queue = r.queue[n:]
	for _, o := range ops {
		if !o.lazy {
			r.eager--
		}
	}
	return ops
}

// takeUpTo removes the ops at the head of the queue for which length durable bytes are
// enough: one that needs the replica for itself, or all before such a one.
func (r *replica) takeUpTo(length int64) []*op {
	n := 0
	for n < len(r.queue) && r.queue[n].upTo <= length && !r.queue[n].alone() {
		n++
	}
	if n == 0 && len(r.queue) > 0 && r.queue[0].alone() && r.queue[0].prepare == nil && r.queue[0].upTo <= length {
		n = 1
	}
	return r.take(n)
}

func (s *Store) toWorker(rd *round) {
	s.work = append(s.work, rd)
	s.workable.Signal()
}

func (s *Store) toCommitter(rd *round) {
	s.ready = append(s.ready, rd)
	s.loggable.Signal()
}

// workRounds is a worker: it does what blocks.
func (s *Store) workRounds() {
	defer s.running.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for len(s.work) == 0 && !s.stopped {
			s.workable.Wait()
		}
		if s.stopped {
			return
		}
		rd := s.work[0]
		s.work = s.work[1:]
		switch rd.stage {
		case stageFlush:
			s.flush(rd)
		case stagePrepare:
			state := rd.r.state
			s.mu.Unlock()
			rd.ops[0].err = rd.ops[0].prepare(state)
			s.mu.Lock()
			rd.stage = stagePrepared
			s.toCommitter(rd)
		case stageFinish:
			s.mu.Unlock()
			o := rd.ops[0]
			o.err = o.finish()
			if o.done != nil {
				o.done(o.err)
			}
			s.mu.Lock()
			s.complete(rd)
		case stageTrim:
			s.trimJournal(rd.trim)
		}
	}
}

// flush syncs a chunk's file. Bytes written meanwhile may be synced, too, or not: they are
// not captured, and belong to the next round.
func (s *Store) flush(rd *round) {
	g := rd.r.growth
	if s.failed == nil {
		s.capture(rd)
		g.small = g.small[:0]
		rd.flushed = true
		f := g.file
		s.mu.Unlock()
		err := f.Sync()
		if err != nil {
			// The system may have dropped the bytes it could not write, and says so once.
			s.fail(disk.Wrap("sync", rd.r.state.Handle.String(), err))
		}
		s.mu.Lock()
	}
	rd.stage = stageFlushed
	s.toCommitter(rd)
}

// capture fixes which bytes the round makes durable: all that are written.
func (s *Store) capture(rd *round) {
	g := rd.r.growth
	rd.length, rd.tail = g.sums.length, g.sums.last()
	g.captured = rd.length
	rd.r.urgent = false
}

// complete ends a round.
func (s *Store) complete(rd *round) {
	r := rd.r
	r.busy = false
	s.ended++
	if s.asked -= len(rd.ops); s.asked == 0 {
		s.idle.Broadcast()
	}
	s.schedule(r)
	s.forget(r)
}

// forget removes a replica that is none, and that nobody asks anything of.
func (s *Store) forget(r *replica) {
	if !r.state.Exists() && !r.busy && !r.copying && len(r.queue) == 0 {
		s.replicas.Delete(r.state.Handle)
	}
}
