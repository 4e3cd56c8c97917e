// Package clocktest is the suite that every clock.Clock passes.
package clocktest

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry/clock"
)

// short is how long the suite waits for what shall come.
const short = 20 * time.Millisecond

// far is a time that the suite does not wait for.
const far = time.Hour

// tests are the parts of the suite.
var tests = map[string]func(*testing.T, clock.Clock){
	"now": testNow, "timer": testTimer, "ticker": testTicker, "sleep": testSleep, "timeout": testTimeout,
}

// Run tests c. It waits some tenths of a second of c's time.
func Run(t *testing.T, c clock.Clock) {
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, c) })
	}
}

// RunInBubble tests the clocks that newClock returns in testing/synctest bubbles, where no real
// time passes.
func RunInBubble(t *testing.T, newClock func() clock.Clock) {
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, newClock()) })
		})
	}
}

func testNow(t *testing.T, c clock.Clock) {
	last := c.Now()
	for range 1000 {
		now := c.Now()
		if now < last {
			t.Fatalf("the clock went back from %d to %d", last, now)
		}
		last = now
	}
}

// since fails unless at least d of c's time has passed since start.
func since(t *testing.T, c clock.Clock, start clock.Instant, d time.Duration) {
	t.Helper()
	// The machine's timers and CLOCK_BOOTTIME may disagree by a rounding.
	if passed := c.Now().Sub(start); passed < d-100*time.Microsecond {
		t.Errorf("only %v passed, want %v", passed, d)
	}
}

func testTimer(t *testing.T, c clock.Clock) {
	start := c.Now()
	timer := c.NewTimer(short)
	<-timer.C()
	since(t, c, start, short)
	if timer.Stop() {
		t.Error("Stop of a timer that has fired returned true")
	}
	<-c.NewTimer(0).C()
	<-c.NewTimer(-far).C()

	timer.Reset(far)
	if !timer.Stop() {
		t.Error("Stop of an armed timer returned false")
	}
	timer.Reset(0)
	fired := c.NewTimer(short)
	<-fired.C()
	timer.Reset(far) // nobody took the value: it must be gone
	select {
	case <-timer.C():
		t.Error("a value from before Reset is left in the channel")
	default:
	}
	timer.Stop()
}

func testTicker(t *testing.T, c clock.Clock) {
	start := c.Now()
	ticker := c.NewTicker(short)
	for range 3 {
		<-ticker.C()
	}
	since(t, c, start, 3*short)
	ticker.Stop()
	if err := c.Sleep(t.Context(), 2*short); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ticker.C():
		t.Error("a stopped ticker ticked")
	default:
	}
}

func testSleep(t *testing.T, c clock.Clock) {
	ctx := t.Context()
	start := c.Now()
	if err := c.Sleep(ctx, short); err != nil {
		t.Error(err)
	}
	since(t, c, start, short)
	if err := c.Sleep(ctx, 0); err != nil {
		t.Error(err)
	}
	ctx, cancel := c.WithTimeout(ctx, short)
	defer cancel()
	if err := c.Sleep(ctx, far); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Sleep beyond the context's end: %v", err)
	}
	if err := c.Sleep(ctx, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Sleep in an ended context: %v", err)
	}
}

func testTimeout(t *testing.T, c clock.Clock) {
	start := c.Now()
	ended, cancel := c.WithTimeout(t.Context(), short)
	defer cancel()
	<-ended.Done()
	since(t, c, start, short)
	if !errors.Is(ended.Err(), context.DeadlineExceeded) {
		t.Error(ended.Err())
	}
	long, cancel := c.WithTimeout(t.Context(), far)
	cancel()
	<-long.Done()
	if !errors.Is(long.Err(), context.Canceled) {
		t.Error(long.Err())
	}
}
