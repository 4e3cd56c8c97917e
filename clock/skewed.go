package clock

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"
)

// Skewed is another node's view of a clock: it runs ahead or behind, faster or slower.
type Skewed struct {
	base   Clock
	anchor Instant // of the base, where the skew began
	offset time.Duration
	rate   float64

	mu   sync.Mutex
	wall time.Duration // what Wall differs from the base's
}

// NewSkewed returns a clock whose instants begin offset from those of base and then pass
// rate times as fast: 1.01 is a clock that gains 1 %. Timers follow. The rate is from 0.1
// to 10. The wall clock agrees with the base's until JumpWall.
func NewSkewed(base Clock, offset time.Duration, rate float64) *Skewed {
	if !(rate >= 0.1 && rate <= 10) {
		panic(fmt.Sprintf("clock: rate %v is not within 0.1 and 10", rate))
	}
	return &Skewed{base: base, anchor: base.Now(), offset: offset, rate: rate}
}

// JumpWall moves the wall clock, and nothing else, by d.
func (s *Skewed) JumpWall(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wall += d
}

// toBase returns how much time of the base d of this clock is, rounded up, so that a timer
// never fires before its instant.
func (s *Skewed) toBase(d time.Duration) time.Duration {
	return time.Duration(math.Ceil(float64(d) / s.rate))
}

// Now implements Clock.
func (s *Skewed) Now() Instant {
	passed := s.base.Now().Sub(s.anchor)
	return s.anchor.Add(s.offset + time.Duration(float64(passed)*s.rate))
}

// Wall implements Clock.
func (s *Skewed) Wall() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.base.Wall().Add(s.wall)
}

// NewTimer implements Clock.
func (s *Skewed) NewTimer(d time.Duration) Timer {
	return skewedTimer{s.base.NewTimer(s.toBase(d)), s}
}

// NewTicker implements Clock.
func (s *Skewed) NewTicker(d time.Duration) Ticker { return s.base.NewTicker(s.toBase(d)) }

// Sleep implements Clock.
func (s *Skewed) Sleep(ctx context.Context, d time.Duration) error {
	return s.base.Sleep(ctx, s.toBase(d))
}

// WithTimeout implements Clock.
func (s *Skewed) WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return s.base.WithTimeout(ctx, s.toBase(d))
}

type skewedTimer struct {
	Timer
	s *Skewed
}

func (t skewedTimer) Reset(d time.Duration) { t.Timer.Reset(t.s.toBase(d)) }
