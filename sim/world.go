package sim

import (
	"container/heap"
	"context"
	"encoding/binary"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry/clock"
)

// World is the queue of everything that is going to happen, and the goroutine that makes it
// happen. It lives in a testing/synctest bubble. All methods may be called by many goroutines.
type World struct {
	seed  uint64
	base  clock.Clock // the bubble's time
	start clock.Instant
	wake  chan struct{}
	stop  chan struct{}
	done  chan struct{}

	mu     sync.Mutex
	events eventQueue
	number uint64  // of the last event
	dirty  []*pipe // written to since the last event
	count  int64   // events performed
	hash   uint64  // of all of them
	trace  func(e *event)
}

// event is something that happens at an instant. Events of one instant happen in the order
// of their keys, and those with equal keys in the order in which they were made.
type event struct {
	at     clock.Instant
	key    uint64
	number uint64
	host   *Host // whose event it is: it waits while the host is held still; may be nil
	run    func()
	place  int    // in the queue; -1: not there
	note   string // for a trace
}

// what names an event for people.
func (e *event) what() string {
	if e.host == nil {
		return e.note
	}
	return e.host.name + " " + e.note
}

// NewWorld returns a world in which nothing happens yet. It must be closed.
func NewWorld(seed uint64) *World {
	base := clock.Simulated()
	w := &World{seed: seed, base: base, start: base.Now(), wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	go w.loop()
	return w
}

// Close ends the world: no event happens any more. Everything that runs in it must have ended.
func (w *World) Close() {
	close(w.stop)
	<-w.done
}

// Now returns the time since the simulation's clock began.
func (w *World) Now() clock.Instant { return w.base.Now() }

// Sleep waits for d of the true time.
func (w *World) Sleep(d time.Duration) {
	_ = newNodeClock(w, nil).Sleep(context.Background(), d) // such a context does not end
}

// schedule has run called at an instant by the world's goroutine. run must not block.
func (w *World) schedule(at clock.Instant, key uint64, host *Host, run func()) *event {
	e := &event{at: at, key: key, host: host, run: run}
	w.mu.Lock()
	w.add(e)
	w.mu.Unlock()
	w.kick()
	return e
}

// add puts an event into the queue; mu is held.
func (w *World) add(e *event) {
	w.number++
	e.number = w.number
	heap.Push(&w.events, e)
}

// cancel takes an event out of the queue; false if it has happened already.
func (w *World) cancel(e *event) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.place < 0 {
		return false
	}
	heap.Remove(&w.events, e.place)
	return true
}

// touch notes that a pipe has been written to.
func (w *World) touch(p *pipe) {
	w.mu.Lock()
	w.dirty = append(w.dirty, p)
	w.mu.Unlock()
	w.kick()
}

// kick wakes the world's goroutine.
func (w *World) kick() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// loop performs the events.
func (w *World) loop() {
	defer close(w.done)
	for {
		synctest.Wait() // everybody has done what follows from the event before
		w.send()
		e, next := w.take()
		if e != nil {
			e.run()
			continue
		}
		if !w.rest(next) {
			return
		}
	}
}

// send lets what was written since the last event set out.
func (w *World) send() {
	w.mu.Lock()
	dirty := w.dirty
	w.dirty = nil
	w.mu.Unlock()
	for _, p := range dirty {
		p.send()
	}
}

// take takes the next event out of the queue if it is due; if not it tells how long it is
// until then, at most a day.
func (w *World) take() (*event, time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.base.Now()
	for len(w.events) > 0 && w.events[0].at <= now {
		e := heap.Pop(&w.events).(*event)
		if e.host != nil && e.host.heldUntil > now {
			e.at = e.host.heldUntil
			w.add(e)
			continue
		}
		w.count++
		w.hash = mix("event", w.hash, uint64(e.at), e.key)
		if w.trace != nil {
			w.trace(e)
		}
		return e, 0
	}
	if len(w.events) == 0 {
		return nil, 24 * time.Hour
	}
	return nil, w.events[0].at.Sub(now)
}

// rest waits for d, or until there is something to do; false at the end of the world.
func (w *World) rest(d time.Duration) bool {
	timer := w.base.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C():
	case <-w.wake:
	case <-w.stop:
		return false
	}
	return true
}

// chance returns the random source that belongs to the seed and to what the parts name. Two
// sources of different parts have nothing to do with each other.
func (w *World) chance(what string, parts ...uint64) *rand.Rand {
	return rand.New(rand.NewPCG(w.seed, mix(what, parts...)))
}

// mix returns a number that depends on all parts.
func mix(what string, parts ...uint64) uint64 {
	h := fnv.New64a()
	h.Write([]byte(what))
	var b [8]byte
	for _, p := range parts {
		binary.LittleEndian.PutUint64(b[:], p)
		h.Write(b[:])
	}
	return h.Sum64()
}

// eventQueue is a heap, the next event first.
type eventQueue []*event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	a, b := q[i], q[j]
	switch {
	case a.at != b.at:
		return a.at < b.at
	case a.key != b.key:
		return a.key < b.key
	}
	return a.number < b.number
}
func (q eventQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}
func (q *eventQueue) Push(x any) {
	e := x.(*event)
	e.place = len(*q)
	*q = append(*q, e)
}
func (q *eventQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	e.place = -1
	return e
}
