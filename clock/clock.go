// Package clock is the seam through which Quarry knows time. Nobody else in the repository
// calls time.Now, time.After or time.NewTicker: servers are given a [Clock], so that a test
// can give each node its own offset and rate.
//
// An [Instant] is what leases are counted in: it never goes back, it goes on while the
// machine sleeps, and a change of the wall clock does not touch it. Wall time is only ever
// shown to people or stored for them.
package clock

import (
	"context"
	"time"
)

// Instant is a point on a node's monotonic clock, in nanoseconds since some start that is
// the same for all processes of one boot of a host. Instants of different nodes cannot be
// compared.
type Instant int64

// Add returns the instant d later.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Sub returns the time from j to i.
func (i Instant) Sub(j Instant) time.Duration { return time.Duration(i - j) }

// Clock tells the time and wakes callers. Safe for use by many goroutines.
type Clock interface {
	// Now returns the present instant (CLOCK_BOOTTIME on Linux: suspended time counts).
	Now() Instant
	// Wall returns the time of day; it may jump in any direction at any time.
	Wall() time.Time
	// NewTimer returns a timer that fires once after d, or at once if d <= 0.
	NewTimer(d time.Duration) Timer
	// NewTicker returns a ticker that fires every d; a slow receiver loses ticks. d > 0.
	NewTicker(d time.Duration) Ticker
	// Sleep waits for d or until ctx ends, and then returns the context's error.
	Sleep(ctx context.Context, d time.Duration) error
	// WithTimeout derives a context that ends after d of this clock.
	WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc)
}

// Timer fires once on C.
type Timer interface {
	C() <-chan time.Time
	// Stop prevents the timer from firing; false if it has fired or was stopped.
	Stop() bool
	// Reset arms the timer again; like time.Timer since Go 1.23, no stale value is left in C.
	Reset(d time.Duration)
}

// Ticker fires on C until stopped.
type Ticker interface {
	C() <-chan time.Time
	Stop()
}
