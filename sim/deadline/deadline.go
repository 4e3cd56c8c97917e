// Package deadline has contexts that somebody ends by hand. Those of package context have timers
// of the runtime, which go on while a simulated host is held still.
package deadline

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Context is a context that ends when End is called, or the one above it ends. Safe for use by
// many goroutines.
type Context struct {
	parent   context.Context
	deadline time.Time
	done     chan struct{}

	mu    sync.Mutex
	err   error
	after []*func() // what AfterFunc is to call, in its order
}

// New returns a context below another one, which ends by End; it tells the earlier deadline.
func New(parent context.Context, at time.Time) *Context {
	if first, ok := parent.Deadline(); ok && first.Before(at) {
		at = first
	}
	return &Context{parent: parent, deadline: at, done: make(chan struct{})}
}

// Value implements context.Context.
func (t *Context) Value(key any) any { return t.parent.Value(key) }

// Deadline implements context.Context.
func (t *Context) Deadline() (time.Time, bool) { return t.deadline, true }

// Done implements context.Context.
func (t *Context) Done() <-chan struct{} { return t.done }

// Err implements context.Context.
func (t *Context) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		return t.parent.Err() // its end may not have been noticed yet
	}
	return t.err
}

// AfterFunc calls f in a goroutine of its own when the context ends; package context uses it
// for contexts derived from this one.
func (t *Context) AfterFunc(f func()) (stop func() bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		go f()
		return func() bool { return false }
	}
	key := &f
	t.after = append(t.after, key)
	return func() bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		i := slices.Index(t.after, key)
		if i >= 0 {
			t.after = slices.Delete(t.after, i, i+1)
		}
		return i >= 0
	}
}

// End ends the context with an error; once.
func (t *Context) End(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return
	}
	t.err = err
	close(t.done)
	for _, f := range t.after {
		go (*f)()
	}
	t.after = nil
}
