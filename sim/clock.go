package sim

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry/clock"
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
	t := &timeout{Context: ctx, deadline: c.w.base.Wall().Add(d), done: make(chan struct{})}
	if at, ok := ctx.Deadline(); ok && at.Before(t.deadline) {
		t.deadline = at
	}
	stop := context.AfterFunc(ctx, func() { t.end(ctx.Err()) })
	e := c.after(d, func() { t.end(context.DeadlineExceeded) })
	return t, func() {
		stop()
		c.w.cancel(e)
		t.end(context.Canceled)
	}
}

// timeout is a context that an event of the world ends. Package context has no such type: the
// timers of its own contexts are the runtime's and would go on while a host is held still.
type timeout struct {
	context.Context
	deadline time.Time
	done     chan struct{}

	mu    sync.Mutex
	err   error
	after []*func() // what AfterFunc is to call, in its order
}

func (t *timeout) Deadline() (time.Time, bool) { return t.deadline, true }
func (t *timeout) Done() <-chan struct{}       { return t.done }

func (t *timeout) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		return t.Context.Err() // its end may not have been noticed yet
	}
	return t.err
}

// AfterFunc calls f in a goroutine of its own when the context ends; package context uses it
// for contexts derived from this one.
func (t *timeout) AfterFunc(f func()) (stop func() bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		go f()
		return func() bool { return false }
	}
	key := &f
	t.after = append(t.after, key)
	return func() bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		i := slices.Index(t.after, key)
		if i >= 0 {
			t.after = slices.Delete(t.after, i, i+1)
		}
		return i >= 0
	}
}

func (t *timeout) end(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return
	}
	t.err = err
	close(t.done)
	for _, f := range t.after {
		go (*f)()
	}
	t.after = nil
}
