package sim

import (
	"context"
	"time"

	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/sim/alarm"
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

// alarms makes timers of the world's events.
func (c *nodeClock) alarms() *alarm.Events {
	return &alarm.Events{Wall: c.Wall, After: func(d time.Duration, f func()) func() bool {
		e := c.after(d, f)
		return func() bool { return c.w.cancel(e) }
	}}
}

// NewTimer implements Clock.
func (c *nodeClock) NewTimer(d time.Duration) clock.Timer { return c.alarms().NewTimer(d) }

// NewTicker implements Clock.
func (c *nodeClock) NewTicker(d time.Duration) clock.Ticker { return c.alarms().NewTicker(d) }

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
