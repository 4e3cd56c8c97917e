// Package flight bounds what a client has under way to chunk servers. How much that may be follows
// from how long it takes to be acknowledged: as much as the network and the disks take in some
// seconds and no more, whatever else waits. What is written and what is read are bounded each for itself; an
// acknowledgement of what is read is its answer.
package flight

import (
	"context"
	"sync"
	"time"

	"github.com/quarryfs/quarry/clock"
)

const (
	// least and Most bound the limit. least is what a slow link, of 100 kB/s, takes in 5 s.
	least = 512 << 10
	// Most is the most bytes under way. It bounds the client's memory, and is the product of 6 GB/s and a delay of 20 ms.
	Most = 128 << 20
	// first is where the limit begins: what a link of 500 kB/s takes in 4 s.
	first = 2 << 20
	// smallBytes is the size up to which a record is neither counted nor waits: there is one for each caller
	// at most, and what is small does not wait for large records of other files, whose server may hang.
	smallBytes = 16 << 10

	// The limit grows while acknowledgements take no longer than quick, by up to growthMax times what is
	// acknowledged, and shrinks when they take longer than slow. A stream gives a primary up that acknowledges
	// nothing for 10 s and longer.
	quick     = 2 * time.Second
	slow      = 4 * time.Second
	growthMax = 16
)

// Control bounds the bytes that are under way, of all streams of one client together, but for small records. While the limit is what
// holds the streams up, it grows by what is acknowledged, the more the sooner that is: up to 16
// times as much, so that a fast link is full after its first acknowledgements. It is halved when one takes more
// than four seconds, once for the bytes that were under way then. (Delay as the sign of congestion as in
// TCP Vegas, L. Brakmo and L. Peterson 1995; but what delays here are disks, too, so that seconds count and no round-trip times.)
//
// Those who wait have their turn in the order in which they came. Safe for use by many goroutines.
type Control struct {
	clock clock.Clock

	mu     sync.Mutex
	limit  int64
	used   int64
	queue  []*turn       // those who wait
	shrink clock.Instant // not again before
	delay  time.Duration // of acknowledgements: the longest, which the later ones make shorter
}

// turn is somebody who waits to send n bytes.
type turn struct {
	n    int64
	come chan struct{} // closed when it is its turn and n is counted
}

// New returns the control of a client that has nothing under way.
func New(c clock.Clock) *Control { return &Control{clock: c, limit: first, shrink: c.Now()} }

// TryTake counts n bytes as under way if they need not wait.
func (c *Control) TryTake(n int64) bool {
	if n <= smallBytes {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tryTake(n)
}

func (c *Control) tryTake(n int64) bool {
	if len(c.queue) > 0 || !c.fits(n) {
		return false
	}
	c.used += n
	return true
}

// Take counts n bytes as under way. It waits until they fit, or nothing else is under way, and errs with the
// context's cause if that ends first; nothing is counted then.
func (c *Control) Take(ctx context.Context, n int64) error {
	if n <= smallBytes {
		return nil
	}
	c.mu.Lock()
	if c.tryTake(n) {
		c.mu.Unlock()
		return nil
	}
	t := &turn{n: n, come: make(chan struct{})}
	c.queue = append(c.queue, t)
	c.mu.Unlock()
	select {
	case <-t.come:
		return nil
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-t.come: // at the same time
		c.used -= n
	default:
		for i := range c.queue {
			if c.queue[i] == t {
				c.queue = append(c.queue[:i], c.queue[i+1:]...)
				break
			}
		}
	}
	c.admit()
	return context.Cause(ctx)
}

// Acknowledged is told that n bytes that were taken have been acknowledged after a time.
func (c *Control) Acknowledged(n int64, after time.Duration) {
	if n <= smallBytes {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch now := c.clock.Now(); {
	case after > slow && now >= c.shrink:
		c.limit = max(c.limit/2, least)
		c.shrink = now.Add(after)
	case after < quick && (len(c.queue) > 0 || c.used > c.limit/2):
		growth := min(float64(quick/2)/float64(max(after, 1)), growthMax)
		c.limit = min(c.limit+int64(growth*float64(n)), Most)
	}
	c.delay = max(after, c.delay-c.delay/16)
	c.used -= n
	c.admit()
}

// Delay returns how long acknowledgements take at most of late; 0: there were none.
func (c *Control) Delay() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.delay
}

// Lost is told that n bytes that were taken are not under way any more, and were not acknowledged.
func (c *Control) Lost(n int64) {
	if n <= smallBytes {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used -= n
	c.admit()
}

// Stuck is told that nothing was acknowledged for long: there may be far too much under way.
func (c *Control) Stuck() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.clock.Now(); now >= c.shrink {
		c.limit = least
		c.shrink = now.Add(slow)
	}
}

// fits reports whether n more bytes may be under way.
func (c *Control) fits(n int64) bool { return c.used == 0 || c.used+n <= c.limit }

// admit lets those through whose turn it is.
func (c *Control) admit() {
	for len(c.queue) > 0 && c.fits(c.queue[0].n) {
		c.used += c.queue[0].n
		close(c.queue[0].come)
		c.queue[0] = nil
		c.queue = c.queue[1:]
	}
}
