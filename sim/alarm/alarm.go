// Package alarm makes the timers and tickers of a [clock.Clock] out of events that somebody else has
// happen.
package alarm

import (
	"sync"
	"time"

	"github.com/quarryfs/quarry/clock"
)

// Events has things happen at their time. Its functions may be called by many goroutines.
type Events struct {
	// After has f called after d. The event does not happen any more when cancel returns true.
	After func(d time.Duration, f func()) (cancel func() bool)
	// Wall tells the time that is sent to who waits.
	Wall func() time.Time
}

// NewTimer returns a timer that fires after d.
func (e *Events) NewTimer(d time.Duration) clock.Timer {
	t := &timer{events: e, c: make(chan time.Time, 1)}
	t.Reset(d)
	return t
}

// NewTicker returns a ticker.
func (e *Events) NewTicker(d time.Duration) clock.Ticker {
	t := &ticker{timer: timer{events: e, c: make(chan time.Time, 1)}, every: d}
	t.mu.Lock()
	t.cancel = e.After(d, t.tick)
	t.mu.Unlock()
	return t
}

type timer struct {
	events *Events
	c      chan time.Time
	mu     sync.Mutex
	cancel func() bool // nil: nothing is to happen
}

func (t *timer) C() <-chan time.Time { return t.c }

func (t *timer) fire() {
	select {
	case t.c <- t.events.Wall():
	default:
	}
}

func (t *timer) Stop() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stop()
}

func (t *timer) stop() bool {
	if t.cancel == nil {
		return false
	}
	stopped := t.cancel()
	t.cancel = nil
	select {
	case <-t.c: // no stale value is left
		stopped = true
	default:
	}
	return stopped
}

func (t *timer) Reset(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stop()
	t.cancel = t.events.After(d, t.fire)
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
	t.cancel = t.events.After(t.every, t.tick)
}

func (t *ticker) Stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped = true
	t.stop()
}
