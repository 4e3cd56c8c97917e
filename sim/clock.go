package sim

import (
	"context"
	"sync"
	"time"

	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/sim/deadline"
)

// nodeClock is the true time as the processes of a host wait for it: its timers are events of
// the world, so they stand still with the host. A host's own offset and rate are put over it
// by clock.NewSkewed.
type nodeClock struct {
	w    *World
	host *Host // nil: nobody's
	key  uint64
}

var _ clock.Clock = (*nodeClock)(nil)

func newNodeClock(w *World, host *Host) *nodeClock {
	c := &nodeClock{w: w, host: host}
	if host != nil {
		c.key = mix("timer", uint64(host.number))
	}
	return c
}

// Now implements Clock.
func (c *nodeClock) Now() clock.Instant { return c.w.base.Now() }

// Wall implements Clock.
func (c *nodeClock) Wall() time.Time { return c.w.base.Wall() }

// after has f called by the world after d.
func (c *nodeClock) after(d time.Duration, f func()) *event {
	return c.w.schedule(c.Now().Add(max(d, 0)), c.key, c.host, f)
}

// NewTimer implements Clock.
func (c *nodeClock) NewTimer(d time.Duration) clock.Timer {
	t := &timer{clock: c, c: make(chan time.Time, 1)}
	t.Reset(d)
	return t
}

type timer struct {
	clock *nodeClock
	c     chan time.Time
	mu    sync.Mutex
	event *event
}

func (t *timer) C() <-chan time.Time { return t.c }

func (t *timer) fire() {
	select {
	case t.c <- t.clock.Wall():
	default:
	}
}

// Stop implements Timer.
func (t *timer) Stop() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stop()
}

func (t *timer) stop() bool {
	if t.event == nil {
		return false
	}
	stopped := t.clock.w.cancel(t.event)
	t.event = nil
	select {
	case <-t.c: // no stale value is left
		stopped = true
	default:
	}
	return stopped
}

// Reset implements Timer.
func (t *timer) Reset(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stop()
	t.event = t.clock.after(d, t.fire)
}

// NewTicker implements Clock.
func (c *nodeClock) NewTicker(d time.Duration) clock.Ticker {
	t := &ticker{timer: timer{clock: c, c: make(chan time.Time, 1)}, every: d}
	t.mu.Lock()
	t.event = c.after(d, t.tick)
	t.mu.Unlock()
	return t
}

type ticker struct {
	timer
	every   time.Duration
	stopped bool
}

func (t *ticker) tick() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return
	}
	t.fire()
	t.event = t.clock.after(t.every, t.tick)
}

func (t *ticker) Stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped = true
	t.stop()
}

// Sleep implements Clock.
func (c *nodeClock) Sleep(ctx context.Context, d time.Duration) error {
	if err := ctx.Err(); err != nil || d <= 0 {
		return err
	}
	t := c.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// WithTimeout implements Clock. The context tells a deadline of the bubble's time, by which
// package rpc reckons how long a call may take.
func (c *nodeClock) WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	t := deadline.New(ctx, c.w.base.Wall().Add(d))
	stop := context.AfterFunc(ctx, func() { t.End(ctx.Err()) })
	e := c.after(d, func() { t.End(context.DeadlineExceeded) })
	return t, func() {
		stop()
		c.w.cancel(e)
		t.End(context.Canceled)
	}
}
