package waiting

import (
	"context"
	"sync"

	"github.com/quarryfs/quarry"
)

// Work counts what is under way, and keeps the first error of it. The zero value counts nothing. Safe for use
// by many goroutines.
type Work struct {
	mu    sync.Mutex
	n     int
	zero  chan struct{} // closed when n falls to 0; nil if nobody waits
	first error
}

// Add counts one more.
func (w *Work) Add() {
	w.mu.Lock()
	w.n++
	w.mu.Unlock()
}

// Done is told that one is over, and how it ended.
func (w *Work) Done(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n--
	if w.first == nil {
		w.first = err
	}
	if w.n == 0 && w.zero != nil {
		close(w.zero)
		w.zero = nil
	}
}

// Lose notes an error of something that never was under way.
func (w *Work) Lose(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.first == nil {
		w.first = err
	}
}

// Err returns the first error.
func (w *Work) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.first
}

// Wait returns the first error when nothing is under way any more; Unknown if ctx ends before.
func (w *Work) Wait(ctx context.Context) error {
	w.mu.Lock()
	if w.n == 0 {
		defer w.mu.Unlock()
		return w.first
	}
	if w.zero == nil {
		w.zero = make(chan struct{})
	}
	zero := w.zero
	w.mu.Unlock()
	select {
	case <-zero:
		return w.Err()
	case <-ctx.Done():
		return quarry.Errorf("wait", quarry.Unknown, "", "records were on their way: %w", context.Cause(ctx))
	}
}
