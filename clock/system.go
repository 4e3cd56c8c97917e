package clock

import (
	"context"
	"time"
)

// System returns the clock of this machine.
func System() Clock { return system{} }

// Simulated returns the clock for tests in a testing/synctest bubble: all of it, Now
// included, is the bubble's time. Outside a bubble it is the machine's clock without
// suspended time.
func Simulated() Clock { return simulated{} }

type system struct{ runtimeClock }

// Now implements Clock.
func (system) Now() Instant { return bootInstant() }

type simulated struct{ runtimeClock }

// start is where the simulated instants begin, before the time at which a bubble begins, so
// that they are not negative.
var start = time.Unix(0, 0)

// Now implements Clock.
func (simulated) Now() Instant { return Instant(time.Since(start)) }

// runtimeClock is the part of a clock that Go's runtime has. Its timers stand still while the
// machine is suspended; who must not be late asks Now.
type runtimeClock struct{}

// Wall implements Clock.
func (runtimeClock) Wall() time.Time { return time.Now().Round(0) }

// NewTimer implements Clock.
func (runtimeClock) NewTimer(d time.Duration) Timer { return timer{time.NewTimer(d)} }

// NewTicker implements Clock.
func (runtimeClock) NewTicker(d time.Duration) Ticker { return ticker{time.NewTicker(d)} }

// Sleep implements Clock.
func (runtimeClock) Sleep(ctx context.Context, d time.Duration) error {
	if err := ctx.Err(); err != nil || d <= 0 {
		return err
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// WithTimeout implements Clock.
func (runtimeClock) WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d)
}

type timer struct{ t *time.Timer }

func (t timer) C() <-chan time.Time   { return t.t.C }
func (t timer) Stop() bool            { return t.t.Stop() }
func (t timer) Reset(d time.Duration) { t.t.Reset(d) }

type ticker struct{ t *time.Ticker }

func (t ticker) C() <-chan time.Time { return t.t.C }
func (t ticker) Stop()               { t.t.Stop() }
