package turns

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// While a small call is under way one fewer than there are processors receive in bulk, but at least one, and all of them
// get their turn; without one nobody waits.
func TestTurns(t *testing.T) {
	for processors, want := range map[int]int32{1: 1, 2: 1, 4: 3} {
		for _, small := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				turns, end := New(processors), func() {}
				if small {
					end = turns.Begin()
				}
				var inside, done atomic.Int32
				leave := make(chan struct{})
				for range 10 {
					go turns.Take(func() {
						inside.Add(1)
						<-leave
						inside.Add(-1)
						done.Add(1)
					})
				}
				synctest.Wait()
				want := want
				if !small {
					want = 10
				}
				if n := inside.Load(); n != want {
					t.Errorf("%d processors, small %v: %d receive", processors, small, n)
				}
				end()
				close(leave)
				synctest.Wait()
				if n := done.Load(); n != 10 {
					t.Errorf("%d processors, small %v: %d have had a turn", processors, small, n)
				}
			})
		}
	}
}
