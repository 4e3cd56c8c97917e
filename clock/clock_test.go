package clock_test

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/clock/clocktest"
)

func TestSystem(t *testing.T) { clocktest.Run(t, clock.System()) }

func TestSkewedSystem(t *testing.T) {
	clocktest.Run(t, clock.NewSkewed(clock.System(), -time.Hour, 1.25))
}

func TestSimulated(t *testing.T) {
	for name, newClock := range map[string]func() clock.Clock{
		"plain":  clock.Simulated,
		"fast":   func() clock.Clock { return clock.NewSkewed(clock.Simulated(), time.Hour, 3) },
		"slow":   func() clock.Clock { return clock.NewSkewed(clock.Simulated(), -time.Hour, 0.3) },
		"nested": func() clock.Clock { return clock.NewSkewed(clock.NewSkewed(clock.Simulated(), 5, 1.01), 7, 0.99) },
	} {
		t.Run(name, func(t *testing.T) { clocktest.RunInBubble(t, newClock) })
	}
}

func TestSimulatedIsTheBubblesTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clock.Simulated()
		start, wall := c.Now(), c.Wall()
		if err := c.Sleep(t.Context(), 24*time.Hour); err != nil {
			t.Fatal(err)
		}
		if d := c.Now().Sub(start); d != 24*time.Hour {
			t.Errorf("a day of sleep took %v", d)
		}
		if d := c.Wall().Sub(wall); d != 24*time.Hour {
			t.Errorf("a day of sleep moved the wall clock by %v", d)
		}
	})
}

func TestSkewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := clock.Simulated()
		c := clock.NewSkewed(base, time.Minute, 1.5)
		if d := c.Now().Sub(base.Now()); d != time.Minute {
			t.Errorf("the clock is %v ahead, want a minute", d)
		}
		start, own := base.Now(), c.Now()
		<-c.NewTimer(3 * time.Second).C()
		if d := base.Now().Sub(start); d != 2*time.Second {
			t.Errorf("3 s of a clock that gains half took %v of the base, want 2 s", d)
		}
		if d := c.Now().Sub(own); d != 3*time.Second {
			t.Errorf("3 s of the clock are %v on itself", d)
		}
	})
}

func TestJumpWallLeavesInstantsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clock.NewSkewed(clock.Simulated(), 0, 1)
		now, wall := c.Now(), c.Wall()
		c.JumpWall(24 * time.Hour)
		if c.Now() != now {
			t.Error("a jump of the wall clock moved the instants")
		}
		if d := c.Wall().Sub(wall); d != 24*time.Hour {
			t.Errorf("the wall clock moved by %v, want a day", d)
		}
	})
}

func TestRateIsChecked(t *testing.T) {
	for _, rate := range []float64{0, -1, 11, math.NaN()} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("rate %v was accepted", rate)
				}
			}()
			clock.NewSkewed(clock.System(), 0, rate)
		}()
	}
}
