// Package window decides where and how far a reader reads ahead. A [Course] says which bytes one
// reader is likely to want, a [Window] how many segments of them it has under way, a [Crowd] is what
// the readers of a client know of each other. It reads no clock: times come in as arguments.
package window

import (
	"sync"
	"time"

	"github.com/quarryfs/quarry/clock"
)

const (
	// probeEvery is how many segments the least time counts for.
	probeEvery = 256
	// crowdPeriod is for how long a sequential reader counts as one of a crowd.
	crowdPeriod = 100 * time.Millisecond
	// leastPeriod is for how long the least time of a segment counts, at least.
	leastPeriod = 10 * time.Second
	// nearTime is what a segment takes where processors set the pace, not latency: 500 MiB/s.
	nearTime = 2 * time.Millisecond
)

// Window decides how many segments a sequential reader has under way or at hand. As TCP Vegas
// does with packets it compares the time of a segment with the least there was: what is more
// has been spent waiting for the segments in front, and reading further ahead would only make
// that longer. Every probeEvery segments it forgets the least time and halves itself, because
// with several segments under way the least cannot be seen. Used by one goroutine at a time.
type Window struct {
	// Most is the most segments there may be, at least 1.
	Most int

	size  int           // 0: nothing is known of the reader
	least time.Duration // of a segment's time, since the last probe
	now   time.Duration // its moving average
	seen  int           // segments since the last probe
	still int           // segments that were asked for before it
	early int           // segments in a row that were there before they were wanted
}

// Used is told that the reader has got a whole segment that took d, and whether it had to wait
// for it; share is how many segments this reader may have beside the others.
func (w *Window) Used(d time.Duration, waited bool, share int) {
	if w.seen++; w.seen > probeEvery {
		w.seen, w.still, w.least, w.now, w.size = 0, w.size, 0, 0, w.size/2
	}
	if w.still > 0 {
		w.still--
		w.Limit(share)
		return
	}
	if w.least == 0 || d < w.least {
		w.least = d
	}
	if w.now += (d - w.now) / 4; w.now < w.least {
		w.now = d
	}
	behind := float64(w.size) * (1 - float64(w.least)/float64(max(w.now, 1))) // segments that only wait
	if w.early++; waited {
		w.early = 0
	}
	switch {
	case behind > 1.5, w.early > w.size && w.size > 2: // of those that come together only the first is waited for
		w.size, w.early = w.size-1, 0
	case waited && behind < 0.5:
		w.size++
	}
	w.Limit(share)
}

// Size returns how many segments there are to be.
func (w *Window) Size() int { return w.size }

// Restart is told that the reader goes on somewhere else.
func (w *Window) Restart() { w.size = 0 }

// Limit keeps the window within what the reader may have.
func (w *Window) Limit(share int) { w.size = max(1, min(w.size, share, w.Most)) }

// Crowd counts the sequential readers of a client. What one reader gains by having several
// segments under way, several readers have by being several; the more of them read ahead, the
// less of what has come is still in the processor's caches when it is wanted. That counts
// where segments come fast; where they do not, each reads ahead as if it were alone.
// Safe for use by many goroutines.
type Crowd struct {
	mu        sync.Mutex
	period    int64 // the number of the present one
	now, last int   // readers that were seen in it and in the one before

	leastFrom clock.Instant    // when least[0] begins
	least     [2]time.Duration // of a segment, in the present period and in the one before; 0: none
}

// Seen counts a reader, which was counted in the period *in, and returns how many segments it may have.
func (c *Crowd) Seen(in *int64, now clock.Instant, most int) (share int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	period := max(c.period, int64(now)/int64(crowdPeriod)+1) // another reader's time may be the later one
	if period > c.period {
		if c.last = 0; period == c.period+1 {
			c.last = c.now
		}
		c.period, c.now = period, 0
	}
	if *in != period {
		*in = period
		c.now++
	}
	readers := max(c.now, c.last)
	if readers <= 1 || c.fastest() > nearTime {
		return most
	}
	return max(1, most/(2*readers))
}

// fastest returns the least time of a segment; mu is held.
func (c *Crowd) fastest() time.Duration {
	switch {
	case c.least[0] == 0:
		return c.least[1]
	case c.least[1] == 0:
		return c.least[0]
	}
	return min(c.least[0], c.least[1])
}

// Took notes the time of a segment.
func (c *Crowd) Took(d time.Duration, now clock.Instant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.leastFrom) > leastPeriod {
		c.leastFrom, c.least = now, [2]time.Duration{0, c.least[0]}
	}
	if c.least[0] == 0 || d < c.least[0] {
		c.least[0] = d
	}
}
