package rpc

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry/clock"
)

// requestContext is the context of a request in service. It ends with the request, with its
// deadline, or when the caller cancels it or is gone. Most handlers never wait for it, so
// channel, timer and goroutine are made only when somebody asks for Done.
type requestContext struct {
	clk      clock.Clock
	peer     *Peer
	deadline time.Time     // on the wall clock; zero: none
	expires  clock.Instant // the same on the monotonic clock

	mu    sync.Mutex
	err   error
	done  chan struct{}
	after []*func() // what AfterFunc is to call, in its order
}

func newRequestContext(clk clock.Clock, peer *Peer, deadlineMS uint32) *requestContext {
	c := &requestContext{clk: clk, peer: peer}
	if deadlineMS > 0 {
		d := time.Duration(deadlineMS) * time.Millisecond
		c.deadline, c.expires = clk.Wall().Add(d), clk.Now().Add(d)
	}
	return c
}

// Deadline returns when the caller stops waiting.
func (c *requestContext) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }

// Value returns the peer.
func (c *requestContext) Value(key any) any {
	if key == (peerKey{}) {
		return c.peer
	}
	return nil
}

// Err returns why the context has ended, or nil.
func (c *requestContext) Err() error {
	c.mu.Lock()
	ended := c.err
	c.mu.Unlock()
	if ended == nil && !c.deadline.IsZero() && c.clk.Now() >= c.expires {
		c.end(context.DeadlineExceeded)
		return context.DeadlineExceeded
	}
	return ended
}

// Done returns a channel that is closed when the context ends.
func (c *requestContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.err != nil {
			close(c.done)
		} else if !c.deadline.IsZero() {
			go c.expire(c.done)
		}
	}
	return c.done
}

// expire ends the context at its deadline.
func (c *requestContext) expire(done <-chan struct{}) {
	timer := c.clk.NewTimer(c.expires.Sub(c.clk.Now()))
	defer timer.Stop()
	select {
	case <-timer.C():
		c.end(context.DeadlineExceeded)
	case <-done:
	}
}

// AfterFunc calls f in a goroutine of its own when the context ends. Package context uses it
// for contexts derived from this one.
func (c *requestContext) AfterFunc(f func()) (stop func() bool) {
	c.Done() // the deadline must have its timer
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		go f()
		return func() bool { return false }
	}
	key := &f
	c.after = append(c.after, key)
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		i := slices.Index(c.after, key)
		if i >= 0 {
			c.after = slices.Delete(c.after, i, i+1)
		}
		return i >= 0
	}
}

// end ends the context; the first reason counts.
func (c *requestContext) end(reason error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = reason
	if c.done != nil {
		close(c.done)
	}
	for _, f := range c.after {
		go (*f)()
	}
	c.after = nil
}
