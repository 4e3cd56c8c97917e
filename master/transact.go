package master

import (
	"context"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

// coordinator carries out the transactions of a shard while this node leads it: it prepares
// their parts, decides, and has the parts finished. Everything it may forget: what the log says
// is enough for its successor to give a transaction up, or to finish it.
type coordinator struct {
	shard *shard
	term  *term
	ctx   context.Context // ends with the term

	mu      sync.Mutex
	stopped bool
	running map[meta.TxID]*running // at most meta.TransactionsMax
	jobs    sync.WaitGroup
}

// running is a transaction that is being carried out.
type running struct {
	decided chan struct{}
	told    bool         // decided is closed
	result  *meta.Result // of the operation, once it is decided; nil: ask again
}

const (
	// prepareTime is how long all parts of a transaction may take to be prepared.
	prepareTime = 8 * time.Second
	// orderTime is how long a transaction waits for its turn to move a directory. Whoever has
	// the turn waits for nobody who waits for it: a part that meets an intent is Busy at once.
	orderTime = 5 * time.Second
	// climbMax bounds the shards that the way up from a directory passes.
	climbMax = 4096
	// sweepEvery is how often a leader looks for transactions and intents that nobody cares for.
	sweepEvery = 2 * time.Second
	// sweepMax is the most intents that one sweep looks at.
	sweepMax = 1000
)

func newCoordinator(ctx context.Context, s *shard, t *term) *coordinator {
	return &coordinator{shard: s, term: t, ctx: ctx, running: map[meta.TxID]*running{}}
}

// run finishes what earlier leaders have begun, and then sees to it that nothing is left lying.
// It returns when the term has ended and nothing is under way.
func (c *coordinator) run() {
	defer c.stop()
	m := c.shard.master
	for pause := askPauseMin; ; pause = min(2*pause, askPauseMax) {
		if m.host.ReadIndex(c.ctx, c.shard.id) == nil {
			break
		}
		if m.cfg.Clock.Sleep(c.ctx, pause) != nil {
			return
		}
	}
	sweep := sweep{c: c}
	sweep.transactions(true)
	// Intents and strangers may wait for other shards: each has a goroutine of its own.
	intents := newIntentSweep(c)
	c.jobs.Go(func() { c.every(sweepEvery, func() { intents.round(c.ctx) }) })
	c.jobs.Go(func() { c.every(sweepEvery, sweep.strangers) })
	c.every(sweepEvery, func() { sweep.transactions(false) })
}

func (c *coordinator) stop() {
	c.mu.Lock()
	c.stopped = true
	c.mu.Unlock()
	c.jobs.Wait()
}

// await carries a transaction out that an operation has begun, and returns the operation's
// result when it is decided; nil if the log has it.
func (c *coordinator) await(ctx context.Context, id meta.TxID) (*meta.Result, error) {
	r := c.start(id, true)
	if r == nil {
		return nil, c.shard.notLeader("transact")
	}
	select {
	case <-r.decided:
		return r.result, nil
	case <-c.ctx.Done():
		return nil, c.shard.notLeader("transact")
	case <-ctx.Done():
		return nil, quarry.Errorf("transact", quarry.Unavailable, "", "it is not decided yet; the same operation can be sent again")
	}
}

// start has a transaction carried out, unless that is under way. One that is not begun by a
// request of this term, and is not decided, is given up. nil: the term has ended.
func (c *coordinator) start(id meta.TxID, begun bool) *running {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.running[id]; r != nil {
		return r
	}
	if c.stopped {
		return nil
	}
	r := &running{decided: make(chan struct{})}
	c.running[id] = r
	c.jobs.Go(func() {
		defer func() {
			c.mu.Lock()
			delete(c.running, id)
			c.mu.Unlock()
		}()
		defer r.tell(nil) // the term has ended, or the log took nothing for a while: ask again
		c.carryOut(id, begun, r)
	})
	return r
}

func (c *coordinator) load(id meta.TxID) (x meta.Transaction, known bool) {
	err := c.shard.local(func(v meta.View) (err error) {
		x, known, err = meta.TransactionOf(v, id)
		return err
	})
	return x, known && err == nil
}

// carryOut brings one transaction to its end.
func (c *coordinator) carryOut(id meta.TxID, begun bool, r *running) {
	x, known := c.load(id)
	if known && !x.Committed {
		d := &meta.Decide{Tx: id}
		if begun {
			c.prepare(&x, d)
		} else {
			d.Err = quarry.Errorf("transact", quarry.Unavailable, "", "the leader changed before it was decided")
		}
		if d.Commit && off(ToldBeforeLogged) {
			r.tell(&meta.Result{Attr: d.Attr})
		}
		c.shard.master.reached("decide")
		result, ok := c.decide(d)
		if !ok {
			return // the term has ended: nobody knows, the log does
		}
		c.shard.master.reached("decided")
		r.tell(result)
		if d.Err != nil {
			c.undo(&x, d.Parts)
			return
		}
		x, known = c.load(id)
	}
	r.tell(nil)
	c.shard.master.reached("told")
	if known && c.finish(&x) {
		_, _ = c.insist(&meta.Forget{Tx: id}) // if it fails the next leader finishes it again
		c.shard.master.reached("forgotten")
	}
}

// tell lets those go on who wait for the decision. Only the first call counts.
func (r *running) tell(result *meta.Result) {
	if !r.told {
		r.told, r.result = true, result
		close(r.decided)
	}
}

// prepare prepares the parts, and puts into the decision what has come of that.
func (c *coordinator) prepare(x *meta.Transaction, d *meta.Decide) {
	m := c.shard.master
	m.reached("begun")
	ctx, cancel := m.cfg.Clock.WithTimeout(c.ctx, prepareTime)
	defer cancel()
	if x.Ordered() {
		if d.Err = c.takeOrder(ctx, x); d.Err != nil {
			return
		}
		m.reached("ordered")
	}
	for _, part := range x.Prepares() {
		result, err := m.apply(ctx, part.Where(), &meta.Prepare{Tx: x.ID, Part: part})
		if err == nil {
			err = result.Err
		}
		if err != nil {
			if result != nil && result.Met != nil { // for the next one who comes
				m.begin(func() { _, _ = m.settleAt(*result.Met) })
			}
			d.Err = err
			return
		}
		if part.Kind != meta.PartLink {
			d.Attr = result.Attr
		}
		if result.Part == nil {
			d.Err = quarry.Errorf("transact", quarry.Internal, "", "a part was prepared without a ticket")
			return
		}
		d.Parts = append(d.Parts, *result.Part)
		m.reached("prepared")
	}
	d.Commit = true
}

// decide logs the decision and returns the operation's result; false: the term has ended, and
// the decision may be logged or not.
func (c *coordinator) decide(d *meta.Decide) (*meta.Result, bool) {
	result, ok := c.insist(d)
	switch {
	case !ok:
		return nil, false
	case result.Err == nil && d.Commit:
		return &meta.Result{Attr: d.Attr}, true
	case result.Err == nil:
		return &meta.Result{Err: d.Err}, true
	}
	// Its record is gone: it was decided by an earlier try, or never. The log has the result.
	d.Err = result.Err
	return nil, true
}

// insist proposes a command, which may be applied twice, until it is applied; false: the term
// has ended.
func (c *coordinator) insist(body meta.Body) (*meta.Result, bool) {
	m := c.shard.master
	for pause := askPauseMin; ; pause = min(2*pause, askPauseMax) {
		result, err := c.shard.apply(c.ctx, c.term, quarry.Op{}, body)
		if err == nil {
			return result, true
		}
		if quarry.KindOf(err) == quarry.NotLeader || m.cfg.Clock.Sleep(c.ctx, pause) != nil {
			return nil, false
		}
	}
}

// undo takes back what was prepared of a transaction that was given up. A participant that does
// not hear of it asks by itself.
func (c *coordinator) undo(x *meta.Transaction, parts []meta.Part) {
	m := c.shard.master
	ctx, cancel := m.cfg.Clock.WithTimeout(c.ctx, askSilence)
	defer cancel()
	for _, part := range parts {
		_, _ = m.apply(ctx, part.Where(), &meta.Finish{Tx: x.ID, Part: part})
	}
	if x.Ordered() {
		_, _ = m.ask(ctx, &question{Verb: askEndOrder, Tx: x.ID}) // or the next one finds out that it is over
	}
}

// finish has every part carried out; false: the term has ended before.
func (c *coordinator) finish(x *meta.Transaction) bool {
	m := c.shard.master
	for _, part := range x.Parts {
		for {
			result, err := m.apply(c.ctx, part.Where(), &meta.Finish{Tx: x.ID, Commit: true, Part: part})
			if err == nil && result.Err == nil {
				break
			}
			if err == nil {
				err = result.Err
			}
			m.cfg.Logger.Warn("a part of a transaction is not carried out yet", "transaction", uint64(x.ID), "error", err)
			if m.cfg.Clock.Sleep(c.ctx, askPauseMax) != nil {
				return false
			}
		}
		m.reached("finished")
	}
	if !x.Ordered() {
		return true
	}
	_, err := m.ask(c.ctx, &question{Verb: askEndOrder, Tx: x.ID})
	return err == nil
}

// takeOrder waits for the turn to move a directory, and then looks whether the directory would
// come into itself: until the turn ends nobody else gives a directory another parent.
func (c *coordinator) takeOrder(ctx context.Context, x *meta.Transaction) error {
	m := c.shard.master
	patience, cancel := m.cfg.Clock.WithTimeout(ctx, orderTime)
	defer cancel()
	for pause := askPauseMin; ; pause = min(2*pause, 4*askPauseMin) {
		if off(MovedOutOfOrder) {
			return c.climb(ctx, x)
		}
		a, err := m.ask(patience, &question{Verb: askTakeOrder, Tx: x.ID})
		if err != nil {
			return err
		}
		if a.Holder == 0 {
			return c.climb(ctx, x)
		}
		if _, known, err := m.outcome(patience, a.Holder); err == nil && !known {
			_, _ = m.ask(patience, &question{Verb: askEndOrder, Tx: a.Holder}) // the next round tells
			continue
		}
		if m.cfg.Clock.Sleep(patience, pause) != nil {
			return quarry.Errorf("transact", quarry.Busy, "", "other directories are being moved")
		}
	}
}

// climb goes up from the new parent to the root.
func (c *coordinator) climb(ctx context.Context, x *meta.Transaction) error {
	at := x.ToParent
	for range climbMax {
		a, err := c.shard.master.ask(ctx, &question{Verb: askClimb, Slot: at.Slot(), From: at, Dir: x.Inode})
		switch {
		case err != nil:
			return err
		case a.Inode == x.Inode:
			return quarry.Errorf("transact", quarry.Invalid, "", "a directory cannot be moved into itself")
		case a.Inode == quarry.RootInode:
			return nil
		}
		at = a.Inode
	}
	return quarry.Errorf("transact", quarry.Invalid, "", "the way up to the root passes more than %d shards", climbMax)
}
