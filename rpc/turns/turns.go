// Package turns has bulk payloads leave a processor to small calls. A goroutine that receives a large payload keeps a
// processor for as long as bytes are there, and the runtime looks for others that the network has woken only when a
// processor has nothing to do: beside 16 bulk streams in the same process of two processors an answer of 4 KiB waited
// for 2 ms. So while a small call is under way, one fewer than there are processors receive in bulk at a time, in
// turn. That a receiver lets others run after each part was tried and gained nothing: it was next again
// before the network was looked at.
package turns

import (
	"runtime"
	"sync/atomic"
)

// Turns are those of one process. Safe for use by many goroutines.
type Turns struct {
	small atomic.Int32  // calls under way that are waited for
	slots chan struct{} // a token for each that receives
}

// Receiving is this process's, as its processors are.
var Receiving = New(runtime.GOMAXPROCS(0))

// New returns the turns of that many processors.
func New(processors int) *Turns {
	return &Turns{slots: make(chan struct{}, max(1, processors-1))}
}

// Begin notes that a small call is under way until the returned function is called.
func (t *Turns) Begin() (end func()) {
	t.small.Add(1)
	return func() { t.small.Add(-1) }
}

// Small returns how many small calls are under way.
func (t *Turns) Small() int { return int(t.small.Load()) }

// Take calls receive, which takes what has come and does not wait for more, when it is its turn.
func (t *Turns) Take(receive func()) {
	if t.Small() > 0 {
		t.slots <- struct{}{}
		defer func() { <-t.slots }()
	}
	receive()
}
