package route

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// nodesMax bounds the addresses that a Masters keeps connections to.
const nodesMax = 64

// Options say how masters are reached.
type Options struct {
	// Addresses are masters to begin with, host:port; one that answers is enough, the others
	// are learnt from it. At least 1, at most 64.
	Addresses []string
	// Dial returns a stub for the master at an address. It does not wait for a connection;
	// it errs only if the address can never work. If the stub is an io.Closer it is closed
	// by Masters.Close.
	Dial func(address string) (quarry.Master, error)
	// Clock measures silence and patience.
	Clock clock.Clock
	// Patience is how long a request is tried again before it fails with Unavailable.
	// Default 30 s; a context may end it earlier.
	Patience time.Duration
	// Silence is how long a node may take to answer before the others are asked whether it
	// still leads. Default 500 ms.
	Silence time.Duration
}

func (o *Options) withDefaults() {
	if o.Patience <= 0 {
		o.Patience = 30 * time.Second
	}
	if o.Silence <= 0 {
		o.Silence = 500 * time.Millisecond
	}
}

// Masters is a quarry.Master over all masters of a cluster. Requests for one particular
// node (Heartbeat, Identify, Init, Join) are refused: see [Masters.Node]. Safe for use by
// many goroutines.
type Masters struct {
	opts Options

	mu       sync.Mutex
	closed   bool
	nodes    map[string]quarry.Master // by address
	learned  table                    // what the nodes told
	asked    clock.Instant            // when the last refresh that succeeded began
	fetching *refreshing              // nil if no refresh runs
}

var _ quarry.Master = (*Masters)(nil)

// New returns a Masters that has not spoken to any node yet.
func New(opts Options) (*Masters, error) {
	opts.withDefaults()
	switch n := len(opts.Addresses); {
	case n == 0:
		return nil, quarry.Errorf("masters", quarry.Invalid, "", "no address is given")
	case n > nodesMax:
		return nil, quarry.Errorf("masters", quarry.TooLarge, "", "%d addresses are given, at most %d are allowed", n, nodesMax)
	}
	m := &Masters{opts: opts, nodes: map[string]quarry.Master{}}
	m.learned.addresses = slices.Clone(opts.Addresses)
	for _, address := range opts.Addresses {
		if _, err := m.Node(address); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Node returns the stub of one master, for requests that address a particular node. The
// stub belongs to m.
func (m *Masters) Node(address string) (quarry.Master, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.nodeLocked(address)
}

func (m *Masters) nodeLocked(address string) (quarry.Master, error) {
	if n, ok := m.nodes[address]; ok {
		return n, nil
	}
	if m.closed {
		return nil, &quarry.Error{Op: "masters", Kind: quarry.Unavailable, Subject: address, Err: errClosed}
	}
	if len(m.nodes) >= nodesMax {
		m.forgetOneLocked()
	}
	n, err := m.opts.Dial(address)
	if err != nil {
		return nil, quarry.Wrap("dial", address, err)
	}
	m.nodes[address] = n
	return n, nil
}

// forgetOneLocked closes a connection to an address that the cluster does not name any more.
func (m *Masters) forgetOneLocked() {
	for address, n := range m.nodes {
		if !slices.Contains(m.learned.addresses, address) {
			delete(m.nodes, address)
			closeNode(n)
			return
		}
	}
}

// Close closes all connections. Requests under way fail.
func (m *Masters) Close() error {
	m.mu.Lock()
	nodes := m.nodes
	m.nodes, m.closed = map[string]quarry.Master{}, true
	m.mu.Unlock()
	for _, n := range nodes {
		closeNode(n)
	}
	return nil
}

func closeNode(n quarry.Master) {
	if c, ok := n.(io.Closer); ok {
		_ = c.Close() // nothing is lost with a connection that is not used any more
	}
}

// Addresses returns the addresses of all masters known, in no particular order.
func (m *Masters) Addresses() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.learned.addresses)
}

// attempt is one request on its way to a master that takes it.
type attempt struct {
	target target
	tried  []string // in this round
	prefer string   // named by the last answer
	pause  time.Duration
	waits  int
	toldOf uint64 // the last slot map that a node told of and that was fetched because of that
	last   error  // why the last try failed
	at     string
}

// Times between rounds in which every node was tried in vain.
const (
	pauseMin = 20 * time.Millisecond
	pauseMax = 500 * time.Millisecond
)

// call sends a request to the target's leader until one master decides it.
func call[Q, R any](ctx context.Context, m *Masters, op string, to target, req Q, method func(quarry.Master, context.Context, Q) (R, error)) (R, error) {
	var none R
	outer := ctx
	ctx, cancel := m.opts.Clock.WithTimeout(ctx, m.opts.Patience)
	defer cancel()
	a := attempt{target: to}
	for {
		if err := m.choose(ctx, &a); err != nil {
			return none, m.giveUp(outer, ctx, op, &a, err)
		}
		node, err := m.Node(a.at)
		if err == nil {
			var reply R
			reply, err = try(ctx, m, &a, node, req, method)
			if err == nil {
				m.note(to, a.at)
				return reply, nil
			}
		}
		if !m.goOn(ctx, &a, err) {
			return none, err
		}
		if err := ctx.Err(); err != nil {
			return none, m.giveUp(outer, ctx, op, &a, err)
		}
	}
}

var errClosed = errors.New("the connections are closed")

// goOn decides after a failed try whether the request may go elsewhere, and prepares for it.
func (m *Masters) goOn(ctx context.Context, a *attempt, err error) bool {
	if errors.Is(err, errClosed) {
		return false
	}
	a.last = err
	var hint *quarry.NotLeaderError
	switch quarry.KindOf(err) {
	case quarry.NotLeader:
		if errors.As(err, &hint) && hint.Address != "" && !slices.Contains(a.tried, hint.Address) {
			a.prefer = hint.Address
			if !slices.Contains(m.Addresses(), hint.Address) {
				_ = m.refresh(ctx) // other masters have come; if it fails, the hint is followed all the same
			}
		}
		m.doubt(a.target, a.at)
	case quarry.Unavailable:
		m.doubt(a.target, a.at)
	case quarry.WrongShard:
		return m.moved(ctx, a, err)
	case quarry.Busy:
		a.tried = nil
		a.prefer = a.at
		m.wait(ctx, a)
	default:
		return false
	}
	return true
}

// moved decides what follows from a refusal because a slot lives on another shard. If the node
// has a later slot map than this one, the map is fetched and the request goes where it says. If
// not, the slot is on its way or the node is behind, and the request waits a little first. A
// change that is refused where its session is, because of another slot, is given back: it was not
// done, and this session cannot do it. So is what was sent to a shard by its number.
func (m *Masters) moved(ctx context.Context, a *attempt, err error) bool {
	var told *quarry.WrongShardError
	m.mu.Lock()
	version, shard := m.learned.version, m.learned.shard(a.target)
	m.mu.Unlock()
	typed := errors.As(err, &told)
	newer := typed && told.Map > version
	if typed && (a.target.byOp && told.Slot != a.target.slot || !a.target.bySlot) {
		if newer {
			_ = m.refresh(ctx) // the caller asks next where the slot lives
		}
		return false
	}
	if !newer || a.toldOf == told.Map { // the map was fetched for that one already, in vain
		m.wait(ctx, a)
	}
	if newer {
		a.toldOf = told.Map
	}
	_ = m.refresh(ctx) // if it fails, the round goes on with what is known
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.learned.shard(a.target) != shard || newer {
		a.tried = a.tried[:0]
	}
	return true
}

// choose picks the node for the next try. When all have been tried it waits, learns anew,
// and begins another round.
func (m *Masters) choose(ctx context.Context, a *attempt) error {
	if a.last == nil && !m.known() {
		if err := m.learn(ctx, a); err != nil {
			return err
		}
	}
	for {
		if at := m.next(a); at != "" {
			a.at, a.prefer = at, ""
			a.tried = append(a.tried, at)
			return nil
		}
		m.wait(ctx, a)
		if err := ctx.Err(); err != nil {
			return err
		}
		a.tried = a.tried[:0]
		_ = m.refresh(ctx) // if it fails, all addresses are tried in turn
	}
}

// learn fetches the first topology; without it no request can be routed. It waits longer for an answer
// each time: masters that are busy with a thousand clients which have just started answer late, and an
// answer that nobody waits for any more is asked for again, which makes them busier.
func (m *Masters) learn(ctx context.Context, a *attempt) error {
	for limit := refreshMax; ; limit = min(2*limit, m.opts.Patience) {
		err := m.refreshWithin(ctx, limit)
		if err == nil {
			return nil
		}
		a.last = err
		switch quarry.KindOf(err) {
		case quarry.Unavailable, quarry.Busy, quarry.NotLeader:
		default:
			return err
		}
		m.wait(ctx, a)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// wait pauses, longer each time; each operation in a way of its own.
func (m *Masters) wait(ctx context.Context, a *attempt) {
	a.pause = min(max(2*a.pause, pauseMin), pauseMax)
	a.waits++
	pause := clock.Spread(a.pause, uint64(a.target.op.Session), uint64(a.target.op.Sequence), a.waits)
	_ = m.opts.Clock.Sleep(ctx, pause) // the callers look at ctx
}

// giveUp builds the error of a request that no master has decided.
func (m *Masters) giveUp(outer, ctx context.Context, op string, a *attempt, err error) error {
	if ctx.Err() == nil {
		return err // learn was refused for good
	}
	cause := context.Cause(outer)
	where := strings.Join(m.Addresses(), ",")
	switch {
	case cause == nil && a.last != nil:
		return quarry.Errorf(op, quarry.Unavailable, where, "no master took the request within %v: %w", m.opts.Patience, a.last)
	case cause == nil:
		return quarry.Errorf(op, quarry.Unavailable, where, "no master answered within %v", m.opts.Patience)
	case a.last != nil:
		return quarry.Errorf(op, quarry.Unavailable, where, "%w, after: %w", cause, a.last)
	}
	return quarry.Errorf(op, quarry.Unavailable, where, "%w", cause)
}

// try sends a request to one node. If the node is silent and the others name another
// leader, it gives up with Unavailable.
func try[Q, R any](ctx context.Context, m *Masters, a *attempt, node quarry.Master, req Q, method func(quarry.Master, context.Context, Q) (R, error)) (R, error) {
	type result struct {
		reply R
		err   error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan result, 1)
	go func() {
		reply, err := method(node, ctx, req)
		done <- result{reply, err}
	}()
	timer := m.opts.Clock.NewTimer(m.opts.Silence)
	defer timer.Stop()
	for {
		select {
		case r := <-done:
			return r.reply, r.err
		case <-timer.C():
		}
		if at := m.movedTo(ctx, a); at != "" {
			cancel()
			a.prefer = at
			<-done
			return *new(R), quarry.Errorf("try", quarry.Unavailable, a.at, "it is silent, and the leader is at %s", at)
		}
		timer.Reset(m.opts.Silence)
	}
}
