package chunks

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/meta"
)

// sim is the clock of a bubble. A bubble's time begins before that of the machine; instants
// are counted from long before.
var sim clock.Clock = bubble{clock.Simulated()}

type bubble struct{ clock.Clock }

func (b bubble) Now() clock.Instant { return b.Clock.Now().Add(100 * 365 * 24 * time.Hour) }

// state is a shard's replicated state, without the replication.
type state struct {
	mu      sync.Mutex
	kv      *meta.Memory
	machine meta.Machine
	term    uint64
	applied func(body meta.Body, r *meta.Result) // looks at each command that was applied
}

// termLog is the log as the leader of one term sees it.
type termLog struct {
	s     *state
	term  uint64
	base  meta.LogTime
	began clock.Instant

	mu sync.Mutex
	// fault: errReplyLost: applied, and not known; errDeposedAfter: the same, and the term is
	// over; other errors: not applied.
	fault func(body meta.Body) error
}

const errDeposedAfter = faultKind("deposed after that")

func (l *termLog) setFault(f func(body meta.Body) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = f
}

func (l *termLog) Propose(ctx context.Context, op quarry.Op, body meta.Body) (*meta.Result, error) {
	if err := sim.Sleep(ctx, time.Millisecond); err != nil {
		return nil, err
	}
	l.mu.Lock()
	fault := l.fault
	l.mu.Unlock()
	var lost error
	if fault != nil {
		if lost = fault(body); lost != nil && lost != errReplyLost && lost != errDeposedAfter {
			return nil, lost
		}
	}
	if ctx.Err() != nil { // the command is on its way, and nobody waits for it
		lost = errReplyLost
	}
	c := &meta.Command{Time: l.Time(), Op: op, Body: body}
	encoded, err := c.Append(nil)
	if err != nil {
		return nil, err
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if l.s.term != l.term {
		return nil, quarry.Errorf("propose", quarry.NotLeader, "", "term %d has begun", l.s.term)
	}
	r, err := meta.DecodeResult(l.s.machine.Apply(l.s.kv, encoded))
	if err != nil {
		return nil, err
	}
	if l.s.applied != nil {
		l.s.applied(body, r)
	}
	if lost != nil {
		if lost == errDeposedAfter {
			l.s.term++
		}
		return nil, quarry.Errorf("propose", quarry.Unknown, "", "the answer is lost")
	}
	return r, nil
}

// heldConfirm is the key of a channel in a context: Confirm waits until it is closed.
type heldConfirm struct{}

func (l *termLog) Confirm(ctx context.Context) error {
	if held, ok := ctx.Value(heldConfirm{}).(chan struct{}); ok {
		<-held
	}
	if err := sim.Sleep(ctx, time.Millisecond); err != nil {
		return err
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if l.s.term != l.term {
		return quarry.Errorf("confirm", quarry.NotLeader, "", "term %d has begun", l.s.term)
	}
	return nil
}

func (l *termLog) View(fn func(meta.View) error) error {
	l.s.mu.Lock()
	kv := l.s.kv.Copy()
	l.s.mu.Unlock()
	return fn(kv)
}

func (l *termLog) Time() meta.LogTime {
	return l.base + meta.LogTime(sim.Now().Sub(l.began)/time.Millisecond)
}

// world is a shard and its chunk servers, in a bubble of simulated time.
type world struct {
	t       *testing.T
	ctx     context.Context
	net     *network
	state   *state
	cfg     Config
	session quarry.SessionID
	seq     quarry.Sequence
	work    sync.WaitGroup

	mu       sync.Mutex
	leader   *Leader // nil while nobody leads
	log      *termLog
	end      context.CancelFunc
	ended    chan struct{}
	acked    map[quarry.Handle]int64 // end of the last acknowledged record
	registry map[quarry.ServerID]quarry.Incarnation
}

// inWorld runs a test in a world with n chunk servers and a leader whom all have greeted.
func inWorld(t *testing.T, n int, test func(w *world)) {
	t.Helper()
	inWorldOf(t, n, Config{}, test)
}

// inWorldOf is inWorld with a leader that is configured otherwise.
func inWorldOf(t *testing.T, n int, cfg Config, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		w := &world{
			t: t, ctx: ctx, cfg: cfg, net: newNetwork(), state: &state{kv: meta.NewMemory()},
			acked: map[quarry.Handle]int64{}, registry: map[quarry.ServerID]quarry.Incarnation{},
		}
		w.state.applied, w.net.watch = w.checkApplied, w.checkRequest
		if os.Getenv("CHUNKS_LOG") != "" {
			w.cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
		}
		for i := range n {
			w.join(quarry.ServerID(i + 1))
		}
		w.elect()
		w.propose(&meta.Init{Slots: []quarry.SlotRange{{First: 0, Last: quarry.Slots - 1}}})
		w.session = w.propose(&meta.OpenSession{}).Session
		w.pass(1200 * time.Millisecond)
		test(w)
		w.depose()
		cancel()
		w.work.Wait()
	})
}

// pass lets time pass.
func (w *world) pass(d time.Duration) {
	if err := sim.Sleep(w.ctx, d); err != nil {
		w.t.Fatal(err)
	}
}

// until lets time pass until something is so, and returns how long that took.
func (w *world) until(what string, limit time.Duration, ok func() bool) time.Duration {
	w.t.Helper()
	began := sim.Now()
	for !ok() {
		if sim.Now().Sub(began) > limit {
			w.t.Fatalf("after %v it is still not so that %s", limit, what)
		}
		w.pass(10 * time.Millisecond)
	}
	return sim.Now().Sub(began)
}

// join adds a chunk server, which sends a heartbeat every half second while it is up.
func (w *world) join(id quarry.ServerID) *fakeServer {
	s := w.net.add(id)
	w.mu.Lock()
	w.registry[id] = s.inc
	w.mu.Unlock()
	w.work.Go(func() {
		_ = sim.Sleep(w.ctx, time.Duration(id)*7*time.Millisecond)
		for w.ctx.Err() == nil {
			w.work.Go(func() { w.beat(s) })
			_ = sim.Sleep(w.ctx, 500*time.Millisecond)
		}
	})
	return s
}

func (w *world) beat(s *fakeServer) {
	l := w.lead()
	if l == nil || s.isDown() {
		return
	}
	ctx, cancel := sim.WithTimeout(w.ctx, time.Second)
	defer cancel()
	req := s.heartbeat()
	if sim.Sleep(ctx, time.Millisecond) != nil {
		return
	}
	grant, err := l.Heartbeat(ctx, req, true)
	if err != nil || sim.Sleep(ctx, time.Millisecond) != nil || s.isDown() {
		return
	}
	s.granted(req, *grant)
}

// restart begins a server's process again, which registers, and has its inventory compared
// once the leader has heard of it.
func (w *world) restart(s *fakeServer) {
	w.mu.Lock()
	w.registry[s.id]++
	inc := w.registry[s.id]
	w.mu.Unlock()
	s.start(inc)
	w.work.Go(func() {
		for sim.Sleep(w.ctx, 700*time.Millisecond) == nil && !s.isDown() {
			l := w.lead()
			if l == nil {
				continue
			}
			req := s.inventory(0)
			if req.Incarnation != inc {
				return
			}
			reply, err := l.Inventory(w.ctx, req)
			if err != nil {
				continue
			}
			s.granted(&quarry.HeartbeatRequest{Incarnation: inc}, quarry.Grant{Items: reply.Drop, More: true})
			return
		}
	})
}

func (w *world) lead() *Leader {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.leader
}

// elect begins a term of leadership.
func (w *world) elect() {
	w.state.mu.Lock()
	w.state.term++
	log := &termLog{s: w.state, term: w.state.term, began: sim.Now(), base: meta.Time(w.state.kv)}
	w.state.mu.Unlock()
	cfg := w.cfg
	cfg.Term, cfg.Log, cfg.Servers, cfg.Clock = log.term, log, w, sim
	cfg.Keys = func() quarry.Keys { return quarry.Keys{{Number: 1}} }
	l := New(cfg)
	ctx, end := context.WithCancel(w.ctx)
	ended := make(chan struct{})
	w.mu.Lock()
	w.leader, w.log, w.end, w.ended = l, log, end, ended
	w.mu.Unlock()
	w.work.Go(func() {
		defer close(ended)
		l.Run(ctx)
	})
}

// depose ends the leadership at an instant, as a crash of its node would.
func (w *world) depose() {
	w.state.mu.Lock()
	w.state.term++
	w.state.mu.Unlock()
	w.mu.Lock()
	end, ended := w.end, w.ended
	w.leader = nil
	w.mu.Unlock()
	end()
	<-ended
}

// failover ends the leadership and begins another one, on another node, after a second.
func (w *world) failover() {
	w.depose()
	w.pass(time.Second)
	w.elect()
}

// Lookup, List and Dial are the registry of servers.
func (w *world) Lookup(id quarry.ServerID) (quarry.Member, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	inc, ok := w.registry[id]
	return quarry.Member{Server: id, Incarnation: inc, Address: addressOf(id), Rack: w.net.server(id).rack}, ok
}

func (w *world) List() (list []quarry.ServerID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range len(w.registry) {
		list = append(list, quarry.ServerID(id+1))
	}
	return list
}

func (w *world) Dial(m quarry.Member) quarry.ChunkServer { return w.net.server(m.Server) }

// propose has a command applied that must succeed.
func (w *world) propose(body meta.Body) *meta.Result {
	w.t.Helper()
	w.seq++
	r, err := w.log.Propose(w.ctx, quarry.Op{Session: w.session, Sequence: w.seq, Oldest: w.seq}, body)
	if err == nil {
		err = r.Err
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// file makes an empty file.
func (w *world) file(name string) quarry.Inode {
	return w.propose(&meta.Make{Parent: quarry.RootInode, Name: name, Kind: quarry.KindFile}).Attr.Inode
}

// roll asks for a chunk to append to, in the place of last, and fails the test if there is
// none.
func (w *world) roll(file quarry.Inode, last quarry.Chunk, suspects ...quarry.Member) quarry.Chunk {
	w.t.Helper()
	reply, err := w.tryRoll(file, last, suspects...)
	if err != nil {
		w.t.Fatal(err)
	}
	return reply.Chunk
}

func (w *world) tryRoll(file quarry.Inode, last quarry.Chunk, suspects ...quarry.Member) (*quarry.RollReply, error) {
	req := &quarry.RollRequest{Session: w.session, File: file, Last: last.Handle, Version: last.Version}
	for _, s := range suspects {
		req.Suspects = append(req.Suspects, quarry.Suspect{Server: s.Server, Incarnation: s.Incarnation, Why: "no answer"})
	}
	l := w.lead()
	if l == nil {
		return nil, over()
	}
	return l.Roll(w.ctx, req)
}

// append appends a record of n bytes, which must be acknowledged.
func (w *world) append(c quarry.Chunk, n int64) {
	w.t.Helper()
	w.seq++
	if err := w.tryAppend(c, w.seq, n); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) tryAppend(c quarry.Chunk, seq quarry.Sequence, n int64) error {
	ctx, cancel := sim.WithTimeout(w.ctx, time.Second)
	defer cancel()
	offset, err := w.net.append(ctx, c, w.session, seq, n)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acked[c.Handle] = max(w.acked[c.Handle], offset+n)
	return nil
}

// record returns what the log says of a chunk; nil if it says nothing.
func (w *world) record(h quarry.Handle) *meta.ChunkRecord {
	w.state.mu.Lock()
	defer w.state.mu.Unlock()
	return recordIn(w.state.kv, h)
}

func recordIn(v meta.View, h quarry.Handle) *meta.ChunkRecord {
	rec, err := meta.ChunkOf(v, h)
	if err != nil {
		return nil
	}
	return rec
}

// sealed returns the record of a chunk if it is sealed and n replicas hold the seal.
func (w *world) holds(h quarry.Handle, n int) bool {
	rec := w.record(h)
	return rec != nil && rec.State == quarry.ChunkSealed && rec.Count(meta.ReplicaHolding) == n
}

func (w *world) server(m quarry.Member) *fakeServer { return w.net.server(m.Server) }

// checkApplied checks, at the instant at which a command is applied, what must be so.
func (w *world) checkApplied(body meta.Body, r *meta.Result) {
	seal, ok := body.(*meta.Seal)
	if !ok || r.Err != nil || seal.Lost {
		return
	}
	w.mu.Lock()
	acked := w.acked[seal.Handle]
	w.mu.Unlock()
	if r.Chunk.Length < acked && !r.Chunk.Suspect {
		w.t.Errorf("chunk %v is sealed at %d, acknowledged is %d", seal.Handle, r.Chunk.Length, acked)
	}
	w.net.mu.Lock()
	defer w.net.mu.Unlock()
	for _, s := range w.net.servers {
		if s.saysEnd(seal.Handle, r.Chunk.WritableVersion) {
			w.t.Errorf("chunk %v is sealed while server %d may say where it ends", seal.Handle, s.id)
		}
	}
}

// checkRequest checks what is sent to a server.
func (w *world) checkRequest(op string, s *fakeServer, req any) {
	w.state.mu.Lock()
	defer w.state.mu.Unlock()
	switch req := req.(type) {
	case *quarry.CreateRequest:
		if recordIn(w.state.kv, req.Handle) != nil {
			w.t.Errorf("CREATE of chunk %v after it was logged", req.Handle)
		}
	case *quarry.SealRequest:
		if rec := recordIn(w.state.kv, req.Handle); rec != nil && rec.Position != req.Position {
			w.t.Errorf("%s of chunk %v at position %d, the log has %+v", op, req.Handle, req.Position, rec)
		}
	case *quarry.AddRequest:
		rec := recordIn(w.state.kv, req.Handle)
		if rec != nil && (rec.Replica(s.id) == nil || rec.Replica(s.id).State == meta.ReplicaAway) {
			w.t.Errorf("%s of chunk %v at server %d, the log has %+v", op, req.Handle, s.id, rec)
		}
	case *quarry.ActivateRequest:
		if slot := req.Handle.Slot(); meta.Owned(w.state.kv, slot, slot) != nil {
			break // another shard's
		}
		rec := recordIn(w.state.kv, req.Handle)
		if rec == nil || rec.Replicas[0].Server != s.id || len(req.Members) != len(rec.Replicas) && rec.State == quarry.ChunkOpen {
			w.t.Errorf("%s of chunk %v with %d members, the log has %+v", op, req.Handle, len(req.Members), rec)
		}
	}
}

// always is a setting that does not change.
func always(d time.Duration) func() time.Duration { return func() time.Duration { return d } }
