package window

import (
	"testing"
	"time"

	"github.com/quarryfs/quarry/clock"
)

// drive has a window settle on a network where a segment takes latency and then its turn at a
// link that carries one in perSegment, for a reader that needs pause for each.
func drive(w *Window, share, segments int, latency, perSegment, pause time.Duration) {
	for range segments {
		inTurn := latency + perSegment
		took := max(inTurn, time.Duration(w.size)*perSegment) // those in front take their turns
		w.Used(took, w.size == 1 || pause < took/time.Duration(w.size), share)
	}
}

func TestWindow(t *testing.T) {
	for name, c := range map[string]struct {
		latency, perSegment, pause time.Duration
		share                      int
		least, most                int
	}{
		"the link is the limit":       {0, time.Millisecond, 0, 8, 2, 2},
		"a little latency":            {500 * time.Microsecond, time.Millisecond, 0, 8, 2, 3},
		"latency is the limit":        {20 * time.Millisecond, time.Millisecond, 0, 8, 8, 8},
		"the reader is the limit":     {0, time.Millisecond, 5 * time.Millisecond, 8, 2, 2},
		"far, and the reader is slow": {20 * time.Millisecond, 100 * time.Microsecond, 100 * time.Millisecond, 8, 1, 2},
		"others read as well":         {20 * time.Millisecond, time.Millisecond, 0, 1, 1, 1},
		"a share of two":              {20 * time.Millisecond, time.Millisecond, 0, 2, 2, 2},
	} {
		t.Run(name, func(t *testing.T) {
			w := Window{Most: 8}
			w.Limit(c.share)
			if w.size != 1 {
				t.Errorf("it begins with %d segments", w.size)
			}
			drive(&w, c.share, 600, c.latency, c.perSegment, c.pause)
			if w.size < c.least || w.size > c.most {
				t.Errorf("%d segments, want %d to %d", w.size, c.least, c.most)
			}
		})
	}
}

// A window follows a network that becomes slower, and one that becomes faster.
func TestWindowFollows(t *testing.T) {
	w := Window{Most: 8}
	w.Limit(8)
	drive(&w, 8, 100, 20*time.Millisecond, time.Millisecond, 0)
	drive(&w, 8, 700, 0, time.Millisecond, 0)
	if w.size > 3 {
		t.Errorf("%d segments on a fast link", w.size)
	}
	drive(&w, 8, 400, 20*time.Millisecond, time.Millisecond, 0)
	if w.size != 8 {
		t.Errorf("%d segments where latency is the limit", w.size)
	}
}

func TestCrowd(t *testing.T) {
	const start = clock.Instant(time.Hour)
	var c Crowd
	in := make([]int64, 16)
	c.Took(time.Millisecond, start)
	if n := c.Seen(&in[0], start, 8); n != 8 {
		t.Errorf("the only reader may have %d segments, want 8", n)
	}
	for _, r := range []struct{ readers, want int }{{2, 2}, {4, 1}, {16, 1}} {
		now := start.Add(time.Duration(r.readers) * time.Second)
		for i := range r.readers {
			c.Seen(&in[i], now, 8)
		}
		now = now.Add(crowdPeriod)
		if n := c.Seen(&in[0], now, 8); n != r.want {
			t.Errorf("one of %d readers may have %d segments, want %d", r.readers, n, r.want)
		}
		if n := c.Seen(&in[0], now.Add(-5*crowdPeriod), 8); n != r.want { // it was late to take the lock
			t.Errorf("one of %d readers with an earlier time may have %d segments, want %d", r.readers, n, r.want)
		}
	}
	if n := c.Seen(&in[0], start.Add(20*time.Second), 8); n != 8 {
		t.Errorf("when the others have gone a reader may have %d segments, want 8", n)
	}
}

// Where segments take long, whatever the reason, readers do not hold each other back.
func TestCrowdFarAway(t *testing.T) {
	now := clock.Instant(time.Hour)
	var c Crowd
	in := make([]int64, 16)
	for second := range 60 {
		d := 20 * time.Millisecond
		if second < 10 {
			d = nearTime / 2
		}
		c.Took(d, now)
		for i := range in {
			c.Seen(&in[i], now, 8)
		}
		want := 1
		if second > 32 { // the fast ones are forgotten
			want = 8
		}
		if n := c.Seen(&in[0], now, 8); n != want && (second < 10 || second > 32) {
			t.Errorf("in second %d a reader may have %d segments, want %d", second, n, want)
		}
		now = now.Add(time.Second)
	}
}
