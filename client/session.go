package client

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client/waiting"
	"github.com/quarryfs/quarry/clock"
)

// mutationsMax bounds the operations of one session that are under way at a master.
const mutationsMax = 256

// sessions are the client's sessions, one at each shard it changes something at.
type sessions struct {
	f *FS

	mu      sync.Mutex
	owners  *[quarry.Slots]quarry.ShardID // nil: not known
	live    map[quarry.ShardID]*session
	retired map[*session]bool               // replaced; somebody still needs them, or their master has yet to be told that they end
	opening map[quarry.ShardID]waiting.Gate // one caller opens a session, the others wait
}

func (s *sessions) init(f *FS) {
	s.f = f
	s.live = map[quarry.ShardID]*session{}
	s.retired = map[*session]bool{}
	s.opening = map[quarry.ShardID]waiting.Gate{}
}

// session is the client's session at one shard: what makes each operation and each record
// happen once. A background goroutine keeps it alive.
type session struct {
	f      *FS
	id     quarry.SessionID
	shard  quarry.ShardID // under which it is among the live ones; guarded by sessions.mu
	expiry time.Duration
	slots  chan struct{} // a token for each operation under way
	stop   context.CancelFunc
	alive  func() // told when the session has shown life; nil: nobody

	mu       sync.Mutex
	gone     bool // expired or closed: nothing new begins in it
	renewed  clock.Instant
	sequence quarry.Sequence   // last one given out
	open     []quarry.Sequence // operations under way, ascending
	streams  map[quarry.Inode]*stream
	users    int // appenders, writers and puts that need the session
}

// of returns the session at the shard that owns a slot; it opens one if there is none.
func (s *sessions) of(ctx context.Context, slot quarry.Slot) (*session, error) {
	return s.at(ctx, slot, func(shard quarry.ShardID) (*session, error) { return s.ofShard(ctx, shard) })
}

// at returns a session at the shard that owns a slot. The slot, and all that the shard has, may just
// be moving to another one; then that is asked.
func (s *sessions) at(ctx context.Context, slot quarry.Slot, get func(quarry.ShardID) (*session, error)) (*session, error) {
	for wait := s.f.patience(); ; {
		shard, err := s.shard(ctx, slot)
		var n *session
		if err == nil {
			n, err = get(shard)
		}
		if quarry.KindOf(err) != quarry.WrongShard {
			return n, err
		}
		s.forgetOwners()
		if err := wait.Wait(ctx, err); err != nil {
			return nil, err
		}
	}
}

func (s *sessions) ofShard(ctx context.Context, shard quarry.ShardID) (*session, error) {
	if live := s.get(shard); live.fresh() {
		return live, nil
	}
	gate := s.gate(shard)
	if err := gate.Lock(ctx); err != nil {
		return nil, err
	}
	defer gate.Unlock()
	live := s.get(shard)
	if live.fresh() {
		return live, nil
	}
	if live != nil { // the machine may have slept: ask before anything depends on it
		switch err := live.renew(ctx); quarry.KindOf(err) {
		case 0:
			return live, nil
		case quarry.SessionExpired:
			s.expire(live)
		default:
			return nil, err
		}
	}
	return s.begin(ctx, shard)
}

// begin opens a session. That goes on for a moment when its caller is gone, or the client is being
// closed: of a session whose answer nobody awaits the master would keep everything until it expires.
func (s *sessions) begin(ctx context.Context, shard quarry.ShardID) (*session, error) {
	type opened struct {
		n   *session
		err error
	}
	done := make(chan opened, 1)
	if !s.f.background(func(context.Context) {
		asking, cancel := s.f.linger(ctx)
		defer cancel()
		n, err := s.open(asking, shard)
		done <- opened{n, err}
	}) {
		return nil, errClosed
	}
	select {
	case o := <-done:
		return o.n, o.err
	case <-ctx.Done():
		return nil, waiting.Ended(context.Cause(ctx), nil)
	}
}

func (s *sessions) open(ctx context.Context, shard quarry.ShardID) (*session, error) {
	n, err := s.ask(ctx, &quarry.SessionRequest{Shard: shard})
	if err != nil {
		s.forgetOwners()
		return nil, err
	}
	n.shard = shard
	if !s.add(n) {
		n.tellEnd(context.Background())
		return nil, errClosed
	}
	return n, nil
}

// ask asks for a session and returns what came.
func (s *sessions) ask(ctx context.Context, req *quarry.SessionRequest) (*session, error) {
	sent := s.f.clock.Now()
	reply, err := s.f.masters.Session(ctx, req)
	if err != nil {
		return nil, err
	}
	n := &session{
		f: s.f, id: reply.Session, expiry: time.Duration(reply.ExpiryMS) * time.Millisecond,
		slots: make(chan struct{}, mutationsMax), renewed: sent, streams: map[quarry.Inode]*stream{},
	}
	if n.id == 0 || n.expiry < time.Second {
		return nil, quarry.Errorf("session", quarry.Internal, "", "the master gave session %d for %v", n.id, n.expiry)
	}
	return n, nil
}

// add takes a session into use; false if the client is being closed.
func (s *sessions) add(n *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keep context.Context
	keep, n.stop = context.WithCancel(s.f.ctx)
	if !s.f.background(func(context.Context) { n.keepAlive(keep) }) {
		n.stop()
		return false
	}
	if came := s.live[n.shard]; came != nil { // its slot has moved to the shard meanwhile, or a caller was gone
		s.retired[came] = true
		s.f.background(func(context.Context) { s.endUnused(came) })
	}
	s.live[n.shard] = n
	return true
}

func (s *sessions) get(shard quarry.ShardID) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live[shard]
}

func (s *sessions) gate(shard quarry.ShardID) waiting.Gate {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.opening[shard]
	if g == nil {
		g = waiting.NewGate()
		s.opening[shard] = g
	}
	return g
}

// shard returns the shard that owns a slot.
func (s *sessions) shard(ctx context.Context, slot quarry.Slot) (quarry.ShardID, error) {
	s.mu.Lock()
	owners := s.owners
	s.mu.Unlock()
	if owners != nil {
		return owners[slot], nil
	}
	reply, err := s.f.masters.Topology(ctx)
	if err != nil {
		return 0, err
	}
	owners = new([quarry.Slots]quarry.ShardID)
	for _, shard := range reply.Shards {
		for _, r := range shard.Slots {
			for i := int(r.First); i <= min(int(r.Last), quarry.Slots-1); i++ {
				owners[i] = shard.Shard
			}
		}
	}
	for _, unused := range s.rekey(owners) {
		s.endUnused(unused)
	}
	return owners[slot], nil
}

// rekey takes over a new slot map. A session lives where its slot lives: one whose slot has moved
// is from then on the session at that shard, or retired if there is one already.
func (s *sessions) rekey(owners *[quarry.Slots]quarry.ShardID) (retired []*session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owners = owners
	for _, shard := range slices.Sorted(maps.Keys(s.live)) {
		n := s.live[shard]
		home := owners[n.id.Slot()]
		if home == shard || home == quarry.RootShard {
			continue
		}
		delete(s.live, shard)
		if s.live[home] == nil {
			n.shard = home
			s.live[home] = n
			continue
		}
		s.retired[n] = true
		retired = append(retired, n)
	}
	return retired
}

// forgetOwners has the next caller ask again which shard owns what.
func (s *sessions) forgetOwners() {
	s.mu.Lock()
	s.owners = nil
	s.mu.Unlock()
}

// expire takes a session out of use that its master does not know any more.
func (s *sessions) expire(old *session) {
	s.forgetOwners()
	s.mu.Lock()
	if s.live[old.shard] == old {
		delete(s.live, old.shard)
	}
	delete(s.retired, old)
	s.mu.Unlock()
	old.end()
}

// retire takes a session out of use for new work; it is kept alive until its last user has
// gone.
func (s *sessions) retire(old *session) {
	s.mu.Lock()
	if s.live[old.shard] == old {
		delete(s.live, old.shard)
		s.retired[old] = true
	}
	s.mu.Unlock()
	s.endUnused(old)
}

// endUnused ends a retired session that nobody uses. With the session its results are forgotten, so
// an operation under way is a use: it may have to be asked again.
func (s *sessions) endUnused(old *session) {
	s.mu.Lock()
	old.mu.Lock()
	over := s.retired[old] && !old.gone && old.users == 0 && len(old.open) == 0
	old.gone = old.gone || over
	old.mu.Unlock()
	s.mu.Unlock()
	if !over {
		return
	}
	old.end()
	s.f.background(func(ctx context.Context) {
		old.tellEnd(ctx)
		if ctx.Err() != nil {
			return // the client is being closed, which tells the master of those that are left
		}
		s.mu.Lock()
		delete(s.retired, old)
		s.mu.Unlock()
	})
}

// close ends all sessions at their masters. Work in the background is over by then.
func (s *sessions) close() {
	s.mu.Lock()
	var all []*session
	for _, x := range s.live {
		all = append(all, x)
	}
	for x := range s.retired {
		all = append(all, x)
	}
	clear(s.live)
	clear(s.retired)
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, x := range all {
		x.end()
		wg.Go(func() { x.tellEnd(context.Background()) })
	}
	wg.Wait()
}

// tellEnd has the master forget the session. If that fails it expires by itself.
func (n *session) tellEnd(ctx context.Context) {
	ctx, cancel := n.f.clock.WithTimeout(ctx, closeMax)
	defer cancel()
	_, err := n.f.masters.Session(ctx, &quarry.SessionRequest{Session: n.id, Close: true})
	if err != nil {
		n.f.log.Debug("a session was not ended", "session", n.id, "err", err)
	}
}

// end lets nothing begin in the session, and ends what is under way.
func (n *session) end() {
	n.mu.Lock()
	n.gone = true
	streams := n.streams
	n.streams = map[quarry.Inode]*stream{}
	n.mu.Unlock()
	n.stop()
	for _, file := range slices.Sorted(maps.Keys(streams)) {
		streams[file].abort(quarry.Errorf("append", quarry.SessionExpired, "", "the session has ended"))
	}
}

// use keeps the session from being ended while it is retired; false if it has ended.
func (n *session) use() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gone {
		return false
	}
	n.users++
	return true
}

// unuse undoes use.
func (n *session) unuse() {
	n.mu.Lock()
	n.users--
	n.mu.Unlock()
	n.f.sessions.endUnused(n)
}

// fresh reports whether the session can be used without asking the master.
func (n *session) fresh() bool {
	if n == nil {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.gone && n.f.clock.Now().Sub(n.renewed) < n.expiry*3/4
}

func (n *session) renew(ctx context.Context) error {
	sent := n.f.clock.Now()
	_, err := n.f.masters.Session(ctx, &quarry.SessionRequest{Session: n.id})
	if err == nil {
		n.mu.Lock()
		n.renewed = max(n.renewed, sent)
		n.mu.Unlock()
		if n.alive != nil {
			n.alive()
		}
	}
	return err
}

func (n *session) keepAlive(ctx context.Context) {
	for wait := n.expiry / 3; n.f.clock.Sleep(ctx, wait) == nil; {
		switch err := n.renew(ctx); quarry.KindOf(err) {
		case 0:
			wait = n.expiry / 3
		case quarry.SessionExpired:
			n.f.sessions.expire(n)
			return
		default:
			wait = n.expiry / 20
		}
	}
}

// errGone is the error of an operation that was not begun, because its session was over.
var errGone = quarry.Errorf("session", quarry.SessionExpired, "", "it has ended")

// begin numbers an operation. errGone: the session has ended.
func (n *session) begin(ctx context.Context) (quarry.Op, error) {
	select {
	case n.slots <- struct{}{}:
	case <-ctx.Done():
		return quarry.Op{}, waiting.Ended(context.Cause(ctx), nil)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gone {
		<-n.slots
		return quarry.Op{}, errGone
	}
	n.sequence++
	n.open = append(n.open, n.sequence)
	return quarry.Op{Session: n.id, Sequence: n.sequence, Oldest: n.open[0]}, nil
}

// operation begins an operation in the session at the shard that owns a slot.
func (s *sessions) operation(ctx context.Context, slot quarry.Slot) (*session, quarry.Op, error) {
	for {
		n, err := s.of(ctx, slot)
		if err != nil {
			return nil, quarry.Op{}, err
		}
		op, err := n.begin(ctx)
		if err != errGone { // errGone: it is not the shard's session any more
			return n, op, err
		}
	}
}

// settle notes that an operation will not be asked again.
func (n *session) settle(op quarry.Op) {
	n.mu.Lock()
	if i, ok := slices.BinarySearch(n.open, op.Sequence); ok {
		n.open = slices.Delete(n.open, i, i+1)
	}
	n.mu.Unlock()
	<-n.slots
	n.f.sessions.endUnused(n)
}

// mutate runs an operation that changes something at the shard of a slot. The masters' stub
// asks again with the same Op until it has an answer; if it has none, the outcome is Unknown. If
// the slot has moved, the operation was surely not done: it is done in a session at the shard
// that owns the slot by then.
func mutate[R any](ctx context.Context, f *FS, slot quarry.Slot, do func(quarry.Op) (R, error)) (R, error) {
	for p := f.patience(); ; {
		reply, err := mutateOnce(ctx, f, slot, do)
		if quarry.KindOf(err) != quarry.WrongShard {
			return reply, err
		}
		f.sessions.forgetOwners()
		if err := p.Wait(ctx, err); err != nil {
			return reply, err
		}
	}
}

func mutateOnce[R any](ctx context.Context, f *FS, slot quarry.Slot, do func(quarry.Op) (R, error)) (R, error) {
	var none R
	s, op, err := f.sessions.operation(ctx, slot)
	if err != nil {
		return none, err
	}
	defer s.settle(op)
	reply, err := do(op)
	switch quarry.KindOf(err) {
	case 0:
		return reply, nil
	case quarry.SessionExpired:
		f.sessions.expire(s)
		return none, &quarry.Error{Op: "masters", Kind: quarry.Unknown, Err: err}
	case quarry.Unavailable:
		return none, &quarry.Error{Op: "masters", Kind: quarry.Unknown, Err: err}
	}
	return none, err
}
