package master

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/master/chunks"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/meta/root"
	"github.com/quarryfs/quarry/raft"
)

// shard is one shard's group at this node.
type shard struct {
	master *Master
	id     quarry.ShardID

	lead atomic.Pointer[term] // nil unless this node leads the shard

	mu   sync.Mutex
	stop context.CancelFunc // ends the present term's work
	done chan struct{}      // closed when it has ended
}

// term is one term of leadership of a shard.
type term struct {
	number       uint64
	chunks       *chunks.Leader
	transactions *coordinator
	moves        *mover
	base         meta.LogTime  // the last logged time when it began
	began        clock.Instant // when that was, here
}

// shardMachine adapts meta.Machine to the host.
type shardMachine struct{ meta.Machine }

// Apply applies one command; see [meta.Machine.Apply].
func (m *shardMachine) Apply(kv raft.KV, _ uint64, command []byte) []byte {
	return m.Machine.Apply(kv, command)
}

// Installed tells the machine that the state was replaced.
func (m *shardMachine) Installed(raft.Reader) { m.Machine.Installed() }

// propose has a command applied and returns its result. An outcome that is not known is
// Unavailable here: the caller asks again with the same Op, and is told the first result.
func (s *shard) propose(ctx context.Context, op quarry.Op, body meta.Body) (*meta.Result, error) {
	t := s.lead.Load()
	if t == nil {
		return nil, s.notLeader("propose")
	}
	return s.proposeIn(ctx, t, op, body)
}

// termLog is the shard's log as the leader of one term sees it; it is a chunks.Log.
type termLog struct {
	shard *shard
	term  *term
}

// Propose has a command applied in this term, or never.
func (l termLog) Propose(ctx context.Context, op quarry.Op, body meta.Body) (*meta.Result, error) {
	return l.shard.apply(ctx, l.term, op, body)
}

// Confirm returns when a majority has said that this node still leads.
func (l termLog) Confirm(ctx context.Context) error {
	return l.shard.master.host.ReadIndex(ctx, l.shard.id)
}

// View calls fn with the state here.
func (l termLog) View(fn func(meta.View) error) error { return l.shard.local(fn) }

// Time returns the present log time.
func (l termLog) Time() meta.LogTime { return l.term.now(l.shard.master.cfg.Clock) }

var errLeaderChanged = errors.New("the leader changed while the operation was under way; the same operation can be sent again")

func (s *shard) proposeIn(ctx context.Context, t *term, op quarry.Op, body meta.Body) (*meta.Result, error) {
	result, err := s.apply(ctx, t, op, body)
	if errors.Is(err, quarry.Unknown) {
		return nil, &quarry.Error{Op: "propose", Kind: quarry.Unavailable, Err: errLeaderChanged}
	}
	if err != nil {
		return nil, err
	}
	return result, result.Err
}

// apply has a command applied and returns what the state machine said of it.
func (s *shard) apply(ctx context.Context, t *term, op quarry.Op, body meta.Body) (*meta.Result, error) {
	c := &meta.Command{Time: t.now(s.master.cfg.Clock), WallNS: s.master.cfg.Clock.Wall().UnixNano(), Op: op, Body: body}
	if err := s.master.root.speak(c.Level()); err != nil {
		return nil, err
	}
	command, err := c.Append(nil)
	if err != nil {
		return nil, err
	}
	encoded, err := s.master.host.ProposeIn(ctx, s.id, t.number, command)
	if err != nil {
		return nil, err
	}
	result, err := meta.DecodeResult(encoded)
	if err != nil {
		return nil, quarry.Errorf("propose", quarry.Internal, "", "the state machine's result cannot be read: %v", err)
	}
	return result, nil
}

// read calls f with a state in which everything is that was acknowledged before.
func (s *shard) read(ctx context.Context, f func(meta.View) error) error {
	if err := s.master.host.ReadIndex(ctx, s.id); err != nil {
		return err
	}
	return s.local(f)
}

// local calls f with the state as this node has it.
func (s *shard) local(f func(meta.View) error) error {
	return s.master.host.View(s.id, func(kv raft.Reader) error { return f(kv) })
}

// now is log time: what the log says, and what has passed at this leader since.
func (t *term) now(c clock.Clock) meta.LogTime {
	return t.base + meta.LogTime(c.Now().Sub(t.began)/time.Millisecond)
}

// present returns the present term, if this node leads the shard.
func (s *shard) present(op string) (*term, error) {
	if t := s.lead.Load(); t != nil {
		return t, nil
	}
	return nil, s.notLeader(op)
}

// notLeader is the error that names the leader, if it is known.
func (s *shard) notLeader(op string) error { return s.master.notLeading(op, s.id) }

// orphaned has open chunks sealed that nothing needs any more.
func (s *shard) orphaned(handles []quarry.Handle) {
	if t := s.lead.Load(); t != nil && len(handles) > 0 {
		t.chunks.Orphans(handles)
	}
}

// leadership begins or ends this node's work as the shard's leader. The host calls it, one
// call after the other; it returns at once.
func (s *shard) leadership(number uint64, leading bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lead.Store(nil)
	if s.stop != nil {
		s.stop()
	}
	before := s.done
	if !leading {
		return
	}
	s.master.mark(s.id, false)
	ctx, stop := context.WithCancel(s.master.ctx)
	done := make(chan struct{})
	s.stop, s.done = stop, done
	begun := s.master.begin(func() {
		defer close(done)
		defer stop()
		if before != nil {
			<-before
		}
		s.serve(ctx, number)
	})
	if !begun {
		stop()
		close(done)
	}
}

// officeRetry is how long a new leader waits before it tries again to take office.
const officeRetry = time.Second

// serve is one term: it takes office and cares for the chunks until ctx ends.
func (s *shard) serve(ctx context.Context, number uint64) {
	t := &term{number: number, began: s.master.cfg.Clock.Now()}
	for {
		err := s.takeOffice(ctx, t)
		if err == nil {
			break
		}
		// While the leadership lasts nobody else can do it.
		s.master.cfg.Logger.Warn("cannot take office", "shard", uint64(s.id), "term", number, "error", err)
		if s.master.cfg.Clock.Sleep(ctx, officeRetry) != nil {
			return
		}
	}
	t.chunks = chunks.New(s.chunksConfig(t))
	t.transactions = newCoordinator(ctx, s, t)
	t.moves = newMover(ctx, s, t)
	for _, req := range s.master.heardLately() {
		t.chunks.Seen(req)
	}
	s.mu.Lock()
	if ctx.Err() == nil {
		s.lead.Store(t)
	}
	s.mu.Unlock()
	var work sync.WaitGroup
	work.Go(t.transactions.run)
	work.Go(t.moves.run)
	work.Go(t.moves.clean)
	t.chunks.Run(ctx)
	work.Wait()
}

// takeOffice learns the log time, and gives the slots of a new cluster to the shard. A shard that
// was added later has none until they are moved to it.
func (s *shard) takeOffice(ctx context.Context, t *term) error {
	var slots []quarry.SlotRange
	err := s.local(func(v meta.View) error {
		t.base, slots = meta.Time(v), meta.Slots(v)
		return nil
	})
	if first := s.beginning(); err == nil && len(slots) == 0 && len(first) > 0 {
		_, err = s.proposeIn(ctx, t, quarry.Op{}, &meta.Init{Slots: first})
	}
	return err
}

// beginning is the slots that the shard of a new cluster begins with.
func (s *shard) beginning() []quarry.SlotRange {
	o := s.master.originNow()
	if o == nil || o.Init == nil || int(s.id) > o.Init.Shards {
		return nil
	}
	return []quarry.SlotRange{root.Split(o.Init.Shards)[s.id-1]}
}

func (s *shard) chunksConfig(t *term) chunks.Config {
	m := s.master
	return chunks.Config{
		Shard: s.id, Cluster: m.originNow().cluster(), Term: t.number, Keys: m.root.keys,
		Log: termLog{s, t}, Servers: &m.root, Clock: m.cfg.Clock, Logger: m.cfg.Logger,
		DeadAfter: m.cfg.DeadAfter, RepairBytesPerSecond: m.cfg.RepairBytesPerSecond,
		MergePieces: m.cfg.MergePieces, TrashAfter: m.trashKeep, SessionExpiry: m.cfg.SessionExpiry,
	}
}
