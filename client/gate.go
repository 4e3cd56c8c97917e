package client

import "context"

// gate is a lock for work that waits, for a server or for a window. Unlike a sync.Mutex it
// can be waited for until a context ends, and lets a simulated clock go on meanwhile; no
// sync.Mutex of this package is held while anything is waited for.
type gate chan struct{}

func newGate() gate { return make(gate, 1) }

// lock takes the gate, or errs when ctx ends before it can.
func (g gate) lock(ctx context.Context) error {
	select {
	case g <- struct{}{}:
		return nil
	default:
	}
	select {
	case g <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ended(context.Cause(ctx), nil)
	}
}

// wait takes the gate whatever happens; who holds it is known to give it back soon.
func (g gate) wait() { g <- struct{}{} }

func (g gate) unlock() { <-g }
