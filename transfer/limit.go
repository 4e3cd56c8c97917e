package transfer

import (
	"context"
	"sync"
	"time"

	"github.com/quarryfs/quarry/clock"
)

// Limiter keeps transfers below a rate, all of them together. Safe for use by many goroutines.
type Limiter struct {
	clock clock.Clock
	rate  int64 // bytes per second

	mu   sync.Mutex
	next clock.Instant // when the next bytes may come
}

// limitBurst is how much of a pause may be made up for: a limit is kept over any quarter of a second.
const limitBurst = 250 * time.Millisecond

// NewLimiter returns a limiter; of 0 bytes per second, one that never waits.
func NewLimiter(c clock.Clock, bytesPerSecond int64) *Limiter {
	return &Limiter{clock: c, rate: bytesPerSecond}
}

// Wait returns when n bytes more may have been moved, or ctx has ended.
func (l *Limiter) Wait(ctx context.Context, n int) error {
	if l.rate <= 0 {
		return nil
	}
	l.mu.Lock()
	now := l.clock.Now()
	l.next = max(l.next, now.Add(-limitBurst)).Add(time.Duration(float64(n) / float64(l.rate) * float64(time.Second)))
	wait := l.next.Sub(now)
	l.mu.Unlock()
	if wait <= 0 {
		return nil
	}
	return l.clock.Sleep(ctx, wait)
}
