package chunks

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/meta"
)

// Log is the shard's replicated log and state, as the leader of one term sees it. Safe for
// use by many goroutines.
type Log interface {
	// Propose has a command applied and returns what the state machine said of it; that it
	// was refused is the result's Err, not an error. When it returns, View sees the effects.
	// A command is applied in the term of this leader or never: a leader that was deposed
	// cannot decide anything, even if the same node leads again.
	//
	// Errors: NotLeader, Busy, Unavailable: it was not applied and never will be. Any other,
	// Unknown above all: it may have been applied, or may be yet.
	Propose(ctx context.Context, op quarry.Op, body meta.Body) (*meta.Result, error)
	// Confirm returns when a majority has said, since the call, that this node still leads in
	// this leader's term, and a View sees everything that was acknowledged before the call.
	// Calls that wait at the same time share one question.
	Confirm(ctx context.Context) error
	// View calls fn with the state here, which does not change meanwhile, and returns fn's
	// error, or its own if there is no state any more.
	View(fn func(v meta.View) error) error
	// Time returns the log time of a command proposed at this instant.
	Time() meta.LogTime
}

// Servers tells where chunk servers are. Safe for use by many goroutines.
type Servers interface {
	// Lookup returns a server's incarnation, address and rack as the registry has them.
	Lookup(id quarry.ServerID) (quarry.Member, bool)
	// List returns all servers that the registry has.
	List() []quarry.ServerID
	// Dial returns the server at a member's address. It does not wait: that there is no way
	// to the server shows when it is called.
	Dial(m quarry.Member) quarry.ChunkServer
}

// Config is what a leader is made with.
type Config struct {
	Shard   quarry.ShardID
	Cluster quarry.ClusterID
	Term    uint64             // of the shard's Raft group; a leader lives for one
	Keys    func() quarry.Keys // the present capability keys
	Log     Log
	Servers Servers
	Clock   clock.Clock
	Logger  *slog.Logger

	// Copies is how many replicas a chunk should have. 3 if 0; at most ReplicasMax.
	Copies int
	// DeadAfter is how long a server is silent before its replicas are made elsewhere. 30 s
	// if 0.
	DeadAfter time.Duration
	// RepairBytesPerSecond bounds the bytes that repair copies in the shard. 200 MiB/s if 0.
	RepairBytesPerSecond int64
	// TrashAfter tells how long removed files and their chunks are kept at present. 24 h if nil;
	// it must be longer than SessionExpiry, whose clients may still ask for fates.
	TrashAfter func() time.Duration
	// MergePieces is how many small pieces in a row become one. 8 if 0.
	MergePieces int
	// SessionExpiry is how long a session lives without a sign of life. 1 h if 0.
	SessionExpiry time.Duration
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	set(&c.DeadAfter, 30*time.Second)
	if c.TrashAfter == nil {
		c.TrashAfter = func() time.Duration { return 24 * time.Hour }
	}
	set(&c.SessionExpiry, time.Hour)
	if c.Copies == 0 {
		c.Copies = 3
	}
	c.Copies = min(c.Copies, quarry.ReplicasMax)
	if c.MergePieces == 0 {
		c.MergePieces = meta.MergeMin
	}
	if c.RepairBytesPerSecond == 0 {
		c.RepairBytesPerSecond = 200 << 20
	}
	if c.Keys == nil {
		c.Keys = func() quarry.Keys { return nil }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Logger = c.Logger.With("shard", c.Shard, "term", c.Term)
	return c
}

const (
	// replySilence is how long a member may take to answer before it counts as silent.
	replySilence = time.Second
	// openSilence is the same for what makes it sync more than its journal, or is not sent
	// again.
	openSilence = 2 * time.Second
)

// Leader is one term of leadership of one shard, for everything about chunks. Safe for use
// by many goroutines; requests are served from New on, until Stop.
type Leader struct {
	Config
	roster *roster

	ctx    context.Context // ends with the leadership
	cancel context.CancelFunc
	jobs   sync.WaitGroup // everything that runs in the background

	handles handles
	seals   flights[quarry.Handle, *meta.ChunkRecord]
	settles flights[quarry.Handle, struct{}]
	rolls   flights[quarry.Inode, *meta.Result]
	spares  spares
	merges  flights[quarry.Inode, struct{}]
	unfit   unfit
	reports flights[quarry.Handle, struct{}] // open chunks that are to be sealed soon
	visits  flights[quarry.ServerID, struct{}]
	walk    chan struct{} // has a value: the active chunks are to be looked at
	settled chan settled
	repairs repairs

	mu      sync.Mutex
	stopped bool
	active  map[quarry.Handle]activated    // open chunks
	slow    map[quarry.Inode]clock.Instant // when the file's tail is next to be ended for a slow member
}

// activated tells which version's primary this leader has given its role, and when.
type activated struct {
	version quarry.Version
	since   clock.Instant
}

// bounds of a leader's maps and queues.
const (
	slowMax    = 1 << 16
	sealsMax   = 4096 // seals under way
	rollsMax   = 4096 // rolls under way
	settledMax = 1024 // heartbeats whose settled items wait to be logged
	visitsMax  = 256  // servers whose replicas are gone through at the same time
)

// New begins a term of leadership. It is called after the node was elected, and after the
// Leader of an earlier term was stopped: every server is treated as if it held leases that
// were granted up to now. The log need not be ready; requests wait for it.
func New(cfg Config) *Leader {
	cfg = cfg.withDefaults()
	ctx, cancel := context.WithCancel(context.Background())
	l := &Leader{
		Config: cfg, roster: newRoster(cfg.Clock), ctx: ctx, cancel: cancel,
		walk:    make(chan struct{}, 1),
		settled: make(chan settled, settledMax),
		active:  map[quarry.Handle]activated{}, slow: map[quarry.Inode]clock.Instant{},
	}
	l.handles.init(l)
	l.repairs.init(l)
	l.seals.init(l, sealsMax)
	l.settles.init(l, sealsMax)
	l.rolls.init(l, rollsMax)
	l.spares.init(l)
	l.merges.init(l, mergesMax)
	l.reports.init(l, sealsMax)
	l.visits.init(l, visitsMax)
	return l
}

// Run does what nobody asks for: it finishes what earlier leaders have begun, watches open
// chunks, repairs, frees garbage and ends sessions. It returns, after Stop, when ctx ends.
func (l *Leader) Run(ctx context.Context) {
	defer l.Stop()
	stop := context.AfterFunc(ctx, l.cancel)
	defer stop()
	l.Logger.Info("leading", "copies", l.Copies, "dead after", l.DeadAfter)
	l.kick()
	for range settleWorkers {
		l.spawn(l.settleLoop)
	}
	l.spawn(l.walkLoop)
	l.spawn(l.watchLoop)
	l.spawn(l.repairLoop)
	l.spawn(l.tickLoop)
	<-l.ctx.Done()
}

// Stop ends the leadership: no lease is granted and no command proposed when it has
// returned. It waits for everything under way. Safe to be called again.
func (l *Leader) Stop() {
	l.mu.Lock()
	l.stopped = true
	l.mu.Unlock()
	l.roster.end()
	l.cancel()
	l.jobs.Wait()
}

// spawn runs f in the background. f must end soon after its context. It reports whether f
// runs: it does not after Stop.
func (l *Leader) spawn(f func(ctx context.Context)) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return false
	}
	l.jobs.Go(func() { f(l.ctx) })
	return true
}

// kick has the active chunks looked at soon.
func (l *Leader) kick() {
	select {
	case l.walk <- struct{}{}:
	default:
	}
}

// propose has a command applied that needs no Op. A refusal is an error; then the result is
// there as well, and the command has changed nothing.
func (l *Leader) propose(ctx context.Context, body meta.Body) (*meta.Result, error) {
	r, err := l.apply(ctx, quarry.Op{}, body)
	if err != nil {
		return nil, err
	}
	return r, r.Err
}

// apply is Log.Propose for as long as the leadership lasts.
func (l *Leader) apply(ctx context.Context, op quarry.Op, body meta.Body) (*meta.Result, error) {
	if l.ctx.Err() != nil {
		return nil, over()
	}
	r, err := l.Log.Propose(ctx, op, body)
	if r != nil && r.HandleFloor != 0 { // slots have come that may have used the numbers in hand
		l.handles.below(r.HandleFloor)
	}
	return r, err
}

// insist proposes until the command is applied or refused; what it returns as an error is a
// refusal or the end of the leadership. The command must be one that may be applied twice.
func (l *Leader) insist(ctx context.Context, body meta.Body) (*meta.Result, error) {
	for pause := newPause(l.Clock); ; {
		r, err := l.propose(ctx, body)
		if r != nil {
			return r, err
		}
		switch quarry.KindOf(err) {
		case quarry.NotLeader, quarry.Invalid, quarry.TooLarge:
			return nil, err
		}
		if err := pause.wait(ctx); err != nil {
			return nil, err
		}
	}
}

// lookup returns a chunk's record as it is here.
func (l *Leader) lookup(h quarry.Handle) (rec *meta.ChunkRecord, err error) {
	err = l.Log.View(func(v meta.View) error {
		rec, err = meta.ChunkOf(v, h)
		return err
	})
	return rec, err
}

// present returns a server as it is reached at this instant, and false if nobody has heard
// of it.
func (l *Leader) present(id quarry.ServerID) (quarry.Member, bool) {
	known, ok := l.Servers.Lookup(id)
	if heard, heardOK := l.roster.present(id); heardOK && heard.Incarnation >= known.Incarnation {
		return heard, true
	}
	return known, ok
}

// ref addresses a chunk at a server for the master's own requests.
func (l *Leader) ref(h quarry.Handle, v quarry.Version, target quarry.Incarnation) quarry.ChunkRef {
	return quarry.ChunkRef{Handle: h, Version: v, Target: target, Capability: l.Keys().Sign(l.Cluster, h, quarry.RightControl)}
}

// timeout derives a context for one request to a member that can be sent again.
func (l *Leader) timeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return l.Clock.WithTimeout(ctx, replySilence)
}

// longTimeout is timeout for the others.
func (l *Leader) longTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return l.Clock.WithTimeout(ctx, openSilence)
}

// Describe returns what a client is told of a chunk that this leader has the record of.
func (l *Leader) Describe(rec *meta.ChunkRecord, rights quarry.Rights) quarry.Chunk {
	c := rec.Chunk()
	l.Complete(&c, rights)
	return c
}

// Complete gives a chunk as [meta] tells it the addresses of its members, and a capability.
// The members of an open version are named by the incarnations that belong to it, replicas of
// a sealed one by those that run; of these, the ones at silent servers come last.
func (l *Leader) Complete(c *quarry.Chunk, rights quarry.Rights) {
	open := c.State == quarry.ChunkOpen || c.State == quarry.ChunkSealing
	silent := map[quarry.ServerID]bool{}
	for i := range c.Members {
		m := &c.Members[i]
		silent[m.Server] = l.roster.silence(m.Server) > usableFor
		p, ok := l.present(m.Server)
		if !ok {
			continue
		}
		m.Address, m.Rack = p.Address, p.Rack
		if !open {
			m.Incarnation = p.Incarnation
		}
	}
	if !open {
		slices.SortStableFunc(c.Members, func(a, b quarry.Member) int {
			switch x, y := silent[a.Server], silent[b.Server]; {
			case x == y:
				return 0
			case y:
				return -1
			}
			return 1
		})
	}
	c.Capability = l.Keys().Sign(l.Cluster, c.Handle, rights)
}

// pause waits between attempts, each time longer, from 20 ms to 1 s.
type pause struct {
	clock clock.Clock
	next  time.Duration
}

func newPause(c clock.Clock) *pause { return &pause{c, 20 * time.Millisecond} }

func (p *pause) wait(ctx context.Context) error {
	d := p.next
	p.next = min(2*p.next, time.Second)
	return p.clock.Sleep(ctx, d)
}
