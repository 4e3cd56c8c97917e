package flight_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry/client/flight"
	"github.com/quarryfs/quarry/clock"
)

const packet = 256 << 10

// way is a network and a disk behind it: a packet has its turn, and is acknowledged a delay later.
type way struct {
	rate  float64 // bytes per second
	delay time.Duration

	mu   sync.Mutex
	free time.Time
}

// carry returns when a packet has been acknowledged, on simulated time.
func (w *way) carry() {
	w.mu.Lock()
	if now := time.Now(); w.free.Before(now) {
		w.free = now
	}
	w.free = w.free.Add(time.Duration(packet / w.rate * 1e9))
	wait := time.Until(w.free) + w.delay
	w.mu.Unlock()
	<-time.After(wait)
}

// Many streams on any way: its rate is used, and nothing takes much longer than it must.
func TestLimitFollowsTheWay(t *testing.T) {
	for _, c := range []struct {
		rate    float64
		delay   time.Duration
		longest time.Duration
	}{
		{100e3, 0, 22 * time.Second}, // what is under way in the beginning
		{300e3, 0, 8 * time.Second},
		{1e6, 0, 5 * time.Second},
		{1e6, time.Second, 6 * time.Second},
		{10e6, 10 * time.Millisecond, 5 * time.Second},
		{100e6, 100 * time.Millisecond, 2 * time.Second},
		{1e9, time.Millisecond, time.Second},
		{1e9, 20 * time.Millisecond, time.Second},
		{50e6, 1500 * time.Millisecond, 4 * time.Second}, // a disk that takes its time
	} {
		synctest.Test(t, func(t *testing.T) {
			f := flight.New(clock.Simulated())
			w := &way{rate: c.rate, delay: c.delay}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			var mu sync.Mutex
			var bytes float64
			var longest time.Duration
			var work sync.WaitGroup
			var left atomic.Int64
			left.Store(int64(c.rate * 60))
			start := time.Now()
			for range 64 {
				work.Go(func() {
					for left.Add(-packet) >= 0 {
						if err := f.Take(ctx, packet); err != nil {
							t.Errorf("%v", err)
							return
						}
						work.Go(func() {
							sent := time.Now()
							w.carry()
							after := time.Since(sent)
							f.Acknowledged(packet, after)
							mu.Lock()
							bytes, longest = bytes+packet, max(longest, after)
							mu.Unlock()
						})
					}
				})
			}
			work.Wait()
			rate := bytes / time.Since(start).Seconds()
			t.Logf("%.1f MB/s, %v: %.1f MB/s, acknowledged after %v at most", c.rate/1e6, c.delay, rate/1e6, longest)
			if rate < 0.8*c.rate {
				t.Errorf("%.0f bytes/s of %.0f with a delay of %v", rate, c.rate, c.delay)
			}
			if longest > c.longest {
				t.Errorf("%.0f bytes/s, a delay of %v: something was acknowledged after %v, want %v at most", c.rate, c.delay, longest, c.longest)
			}
		})
	}
}

// The limit comes down when the way gets slow, and goes up again with it.
func TestLimitComesDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := flight.New(clock.Simulated())
		w := &way{rate: 200e6}
		send := func(rate float64, d time.Duration) (delay time.Duration) {
			w.mu.Lock()
			w.rate = rate
			w.mu.Unlock()
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			var work sync.WaitGroup
			for f.Take(ctx, packet) == nil {
				work.Go(func() {
					sent := time.Now()
					w.carry()
					f.Acknowledged(packet, time.Since(sent))
				})
			}
			sent := time.Now()
			work.Wait()
			return time.Since(sent) // for what was under way
		}
		if d := send(200e6, time.Minute); d < 300*time.Millisecond {
			t.Errorf("%v of a fast way were under way", d)
		}
		if d := send(1e6, 10*time.Minute); d > 5*time.Second {
			t.Errorf("%v of a slow way were under way", d)
		}
		if d := send(200e6, time.Minute); d < 300*time.Millisecond {
			t.Errorf("%v of a way that is fast again were under way", d)
		}
	})
}

// Who waits has its turn in order; who gives up takes nothing with it; what is small does not wait.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := flight.New(clock.Simulated())
		fill := 0
		for ctx, cancel := context.WithCancel(t.Context()); ; fill++ {
			synctest.Wait()
			stop := time.AfterFunc(time.Second, cancel)
			err := f.Take(ctx, packet)
			stop.Stop()
			if err != nil {
				break
			}
		}
		if err := f.Take(t.Context(), 4<<10); err != nil {
			t.Fatal(err)
		}
		f.Lost(4 << 10)
		var order []int
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		for i := range 4 {
			go func() {
				c := t.Context()
				if i == 1 {
					c = ctx
				}
				err := f.Take(c, packet)
				if want := map[bool]error{true: gone}[i == 1]; !errors.Is(err, want) {
					t.Errorf("%d: %v", i, err)
				}
				if err == nil {
					order = append(order, i)
				}
			}()
			synctest.Wait()
		}
		cancel(gone)
		synctest.Wait()
		for n := range 3 {
			if len(order) != n {
				t.Fatalf("%v have had their turn with %d packets gone", order, n)
			}
			f.Lost(packet)
			synctest.Wait()
		}
		if order[0] != 0 || order[1] != 2 || order[2] != 3 {
			t.Errorf("they had their turns in the order %v", order)
		}
		for range fill {
			f.Lost(packet)
		}
		if err := f.Take(t.Context(), flight.Most); err != nil { // however much, if there is nothing else
			t.Fatal(err)
		}
	})
}
