package chunks

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

const (
	// spareAge is how old a chunk that became full may be for the next one to be made ahead: to
	// files that grow more slowly a roll is too rare to matter. One that ended before spareYoung
	// did not become full.
	spareAge   = time.Minute
	spareYoung = 100 * time.Millisecond
	// spareLives is for how many times that age a chunk that was made ahead is kept, at least for
	// spareLeast.
	spareLives = 4
	spareLeast = 5 * time.Second
	// sparesMax bounds the chunks that are made ahead; each has the room of a whole one set aside.
	sparesMax = 64
	// spareFree is how much must be free on each disk of such a chunk, so that what is set aside
	// is never what somebody else lacks.
	spareFree = 64 * quarry.ChunkBytesMax
)

// spares are chunks made ahead. Of a roll, making the replicas takes the longest: each is a file, a
// name in a folder and a record in a journal, synced one after the other while the disks are busy
// with what the chunk before has just been given. So where a file fills its chunks, the next one is
// made while the present one fills; the roll only logs it. Until then it is like any chunk whose round
// of CREATE is under way: no log knows it, and its handle is in hand. At most one is made for a file.
type spares struct {
	l *Leader

	mu sync.Mutex
	of map[quarry.Inode]*spare
}

// spare is a chunk that is to be made ahead, or is made.
type spare struct {
	made *made         // nil: not yet
	over chan struct{} // closed when it was taken
}

func (s *spares) init(l *Leader) { s.l, s.of = l, map[quarry.Inode]*spare{} }

// order has the next chunk of a file made when its tail is half as old as the one before became, as
// far as that can be told.
func (s *spares) order(p plan, age time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[p.file] != nil || len(s.of) >= sparesMax {
		return
	}
	e := &spare{over: make(chan struct{})}
	if s.l.spawn(func(ctx context.Context) { s.keep(ctx, &p, e, age) }) {
		s.of[p.file] = e
	}
}

// keep makes a chunk and keeps it until it is taken or has been waited for in vain.
func (s *spares) keep(ctx context.Context, p *plan, e *spare, age time.Duration) {
	defer s.forget(p.file, e)
	if s.wait(ctx, e, age/2) {
		return
	}
	// A round that fails is not worth another one: the roll makes its chunk itself.
	m, err := s.make(ctx, p)
	if err != nil {
		s.l.Logger.Debug("no chunk was made ahead", "file", p.file, "error", err)
		return
	}
	s.mu.Lock()
	if s.of[p.file] == e {
		e.made = m
	}
	s.mu.Unlock()
	if e.made != nil && s.wait(ctx, e, max(spareLives*age, spareLeast)) {
		return
	}
	if s.forget(p.file, e) || e.made == nil {
		s.l.giveUp(m)
	}
}

// make makes the replicas of a chunk, if that leaves enough room on their disks.
func (s *spares) make(ctx context.Context, p *plan) (*made, error) {
	h, err := s.l.handles.take(ctx, p.slot)
	if err != nil {
		return nil, err
	}
	m, err := s.l.assign(ctx, p, h)
	if err != nil {
		return nil, err
	}
	if !s.l.roster.roomFor(m.members, spareFree) {
		s.l.handles.settle(h)
		return nil, quarry.Errorf("place", quarry.NoSpace, "", "a disk has less than %d MiB left", spareFree>>20)
	}
	if err := s.l.createAll(ctx, m, p); err != nil {
		s.l.giveUp(m)
		return nil, err
	}
	return m, nil
}

// wait returns true when the spare is taken, or the leadership over, and false after d.
func (s *spares) wait(ctx context.Context, e *spare, d time.Duration) bool {
	timer := s.l.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C():
		return false
	case <-e.over:
	case <-ctx.Done():
	}
	return true
}

// forget removes a spare, and reports whether nobody had taken it.
func (s *spares) forget(file quarry.Inode, e *spare) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[file] != e {
		return false
	}
	delete(s.of, file)
	return true
}

// take returns the chunk that was made ahead for a plan, if there is one and it is as good as one that
// is made at this instant; else nil.
func (s *spares) take(p *plan) *made {
	s.mu.Lock()
	e := s.of[p.file]
	if e == nil {
		s.mu.Unlock()
		return nil
	}
	delete(s.of, p.file)
	close(e.over)
	m := e.made
	s.mu.Unlock()
	if m == nil {
		return nil // it is being made: whoever does that gives it up
	}
	sites := s.l.roster.sites()
	for _, member := range m.members {
		good := slices.ContainsFunc(sites, func(x site) bool {
			return x.Server == member.Server && x.Incarnation == member.Incarnation && x.suspected == 0
		})
		if !good || p.not[member.Server] || !s.l.roster.reachable(member.Server, member.Disk) {
			s.l.giveUp(m)
			return nil
		}
	}
	return m
}

// ageOf returns how long ago this leader has activated the primary of a file's open tail; 0 if another
// one has, or if there is none.
func (l *Leader) ageOf(tail *meta.Result) time.Duration {
	if !tail.Attr.Open || tail.Chunk.State != quarry.ChunkOpen {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	a, ok := l.active[tail.Chunk.Handle]
	if !ok || a.version != tail.Chunk.WritableVersion {
		return 0
	}
	return l.Clock.Now().Sub(a.since)
}

// orderSpare has a chunk made ahead behind a tail that has just been opened in the place of one that
// became full at an age. Where it will begin is not known: it is told so as if the tail became quite
// full, and what is true with its seal.
func (l *Leader) orderSpare(p *plan, age time.Duration) {
	if age < spareYoung || age > spareAge {
		return
	}
	next := *p
	next.position, next.not = p.position+quarry.ChunkBytesMax, nil
	l.spares.order(next, age)
}
