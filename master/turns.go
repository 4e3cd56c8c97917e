package master

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/meta"
)

const (
	// turnSilence is how long a transaction that waits for its turn may not ask before its place
	// is given away. One that has given up is found out earlier, by the one behind it.
	turnSilence = time.Second
	// turnWait is how long the first one that waits is kept waiting for an answer.
	turnWait = 4 * askPauseMin
	// turnsMax bounds the transactions that have a place; others take theirs when there is room.
	turnsMax = 4096
)

// turns are the transactions that wait for their turn to move a directory, in the order in which
// they first asked, as the leader of the root group has heard of them. Without an order, whoever
// asks at the right instant has the next turn, and of many some never do. Nothing depends on it but
// fairness: who has the turn is a matter for the log, and a new leader hears of all again, because
// they go on asking. Safe for use by many goroutines.
type turns struct {
	mu      sync.Mutex
	waiting []waiter
	changed chan struct{} // closed when a turn may have ended; nil: nobody waits for that
}

type waiter struct {
	tx    meta.TxID
	asked clock.Instant // last
}

// ask gives a transaction its place and returns whose turn is next.
func (t *turns) ask(tx meta.TxID, now clock.Instant) (next meta.TxID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = slices.DeleteFunc(t.waiting, func(w waiter) bool { return w.tx != tx && now.Sub(w.asked) > turnSilence })
	if i := slices.IndexFunc(t.waiting, func(w waiter) bool { return w.tx == tx }); i >= 0 {
		t.waiting[i].asked = now
	} else if len(t.waiting) < turnsMax {
		t.waiting = append(t.waiting, waiter{tx, now})
	}
	return t.waiting[0].tx
}

// leave takes a transaction's place away: it has the turn, or has had it.
func (t *turns) leave(tx meta.TxID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = slices.DeleteFunc(t.waiting, func(w waiter) bool { return w.tx == tx })
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

// watch returns a channel that is closed when a turn may have ended.
func (t *turns) watch() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	return t.changed
}

// await waits until changed is closed, but not for long.
func (t *turns) await(ctx context.Context, clk clock.Clock, changed <-chan struct{}) {
	timer := clk.NewTimer(turnWait)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C():
	case <-ctx.Done():
	}
}

// takeOrder answers a transaction that wants its turn to move a directory: it has it, or somebody
// else has it or is before it. Only a turn that is free is a matter for the log.
func (m *Master) takeOrder(ctx context.Context, tx meta.TxID) (holder meta.TxID, err error) {
	changed := m.turns.watch()
	holder, err = m.orderHolder(ctx)
	if err != nil || holder == tx {
		return 0, err
	}
	next := m.turns.ask(tx, m.cfg.Clock.Now())
	if holder != 0 && next == tx {
		m.turns.await(ctx, m.cfg.Clock, changed)
		if holder, err = m.orderHolder(ctx); err != nil {
			return 0, err
		}
	}
	if holder != 0 {
		return holder, nil
	}
	if next != tx {
		return next, nil
	}
	if holder, err = m.proposeOrder(ctx, tx); err == nil && holder == 0 {
		m.turns.leave(tx)
	}
	return holder, err
}
