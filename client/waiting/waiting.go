// Package waiting is how a client waits: at a [Gate] for its turn, and between [Tries] for what may
// succeed later. Both end with a context.
package waiting

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// Gate is a lock for work that waits, for a server or for a window. Unlike a sync.Mutex it
// can be waited for until a context ends, and lets a simulated clock go on meanwhile; no
// sync.Mutex of a client is held while anything is waited for.
type Gate chan struct{}

// NewGate returns a gate that nobody holds.
func NewGate() Gate { return make(Gate, 1) }

// Lock takes the gate, or errs when ctx ends before it can.
func (g Gate) Lock(ctx context.Context) error {
	select {
	case g <- struct{}{}:
		return nil
	default:
	}
	select {
	case g <- struct{}{}:
		return nil
	case <-ctx.Done():
		return Ended(context.Cause(ctx), nil)
	}
}

// Take takes the gate whatever happens; who holds it is known to give it back soon.
func (g Gate) Take() { g <- struct{}{} }

// Unlock gives the gate back.
func (g Gate) Unlock() { <-g }

// Times between tries.
const (
	PauseMin = 10 * time.Millisecond
	PauseMax = time.Second
)

// Tries measure how long something has gone on without progress, and pace its tries.
type Tries struct {
	clock    clock.Clock
	patience time.Duration
	since    clock.Instant
	pause    time.Duration
}

// NewTries begins: tries go on for as long as patience without progress.
func NewTries(c clock.Clock, patience time.Duration) Tries {
	return Tries{clock: c, patience: patience, since: c.Now()}
}

// Progress begins anew.
func (t *Tries) Progress() { t.since, t.pause = t.clock.Now(), 0 }

// Excuse takes time off what has gone by without progress: it was spent waiting for others.
func (t *Tries) Excuse(d time.Duration) { t.since = t.since.Add(d) }

// Wait pauses before another try, longer each time. It returns an error when ctx has ended,
// or nothing has gone on for too long; last is then its cause.
func (t *Tries) Wait(ctx context.Context, last error) error {
	if err := context.Cause(ctx); err != nil {
		return Ended(err, last)
	}
	left := t.patience - t.clock.Now().Sub(t.since)
	if left <= 0 {
		return quarry.Errorf("wait", quarry.Unavailable, "", "nothing has gone on for %v: %w", t.patience, last)
	}
	t.pause = min(max(2*t.pause, PauseMin), PauseMax, left)
	if t.clock.Sleep(ctx, t.pause) != nil {
		return Ended(context.Cause(ctx), last)
	}
	return nil
}

// Again does something until it succeeds, or fails in a way that trying again does not mend.
func (t *Tries) Again(ctx context.Context, do func() error) error {
	for {
		err := do()
		if err == nil || !Transient(err) {
			return err
		}
		if err := t.Wait(ctx, err); err != nil {
			return err
		}
	}
}

// Ended is the error of work whose context has ended. last is what went wrong before, if
// anything.
func Ended(cause, last error) error {
	if last == nil || errors.Is(last, cause) {
		return &quarry.Error{Op: "wait", Kind: quarry.Unavailable, Err: cause}
	}
	return &quarry.Error{Op: "wait", Kind: quarry.Unavailable, Err: fmt.Errorf("%w, after: %w", cause, last)}
}

// Transient reports whether an error says that the same request may succeed later.
func Transient(err error) bool {
	switch quarry.KindOf(err) {
	case quarry.Unavailable, quarry.Busy, quarry.NotLeader, quarry.WrongShard:
		return true
	}
	return false
}

// Join derives a context that ends with either of two.
func Join(ctx, other context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(other, func() { cancel(context.Cause(other)) })
	return ctx, func() { stop(); cancel(nil) }
}
