// Package buffers is the memory of payloads: buffers that are used again, and a bound on how many
// bytes are in them.
package buffers

import (
	"math/bits"
	"sync"
)

// Buffers of payloads are kept for reuse by classes of powers of two, because a payload is
// often as large as 256 KiB or 1 MiB and clearing a fresh one costs as much as sending it.
const (
	classMin = 12 // 4 KiB
	classMax = 24 // 16 MiB; larger ones are left to the garbage collector
)

var pools [classMax + 1]sync.Pool

// Get returns a buffer of n bytes with any contents.
func Get(n int) []byte {
	class := max(bits.Len(uint(max(n, 1)-1)), classMin)
	if class > classMax {
		return make([]byte, n)
	}
	if p, _ := pools[class].Get().(*[]byte); p != nil {
		return (*p)[:n]
	}
	return make([]byte, n, 1<<class)
}

// Put gives back a buffer of Get that nobody uses any more. Others are left to the collector.
func Put(b []byte) {
	class := bits.Len(uint(cap(b))) - 1
	if class < classMin || class > classMax || cap(b) != 1<<class {
		return
	}
	b = b[:0]
	pools[class].Put(&b)
}

// Append is append for buffers of Get.
func Append(b, more []byte) []byte {
	if len(b)+len(more) > cap(b) {
		larger := Get(len(b) + len(more))
		copy(larger, b)
		b, larger = larger[:len(b)], b
		Put(larger)
	}
	return append(b, more...)
}

// Budget bounds the bytes of payloads in memory. Those who wait are served in their order,
// so that a large payload is not starved by small ones. Safe for use by many goroutines.
type Budget struct {
	Total int64 // set before the first use

	mu      sync.Mutex
	used    int64
	waiting []*waiter
}

type waiter struct {
	n     int64
	ready chan struct{}
}

// Acquire takes n bytes, or all there are if n is more. It returns what it took, or false
// if stop was closed first.
func (b *Budget) Acquire(n int64, stop <-chan struct{}) (int64, bool) {
	b.mu.Lock()
	n = min(n, b.Total)
	if len(b.waiting) == 0 && b.used+n <= b.Total {
		b.used += n
		b.mu.Unlock()
		return n, true
	}
	w := &waiter{n: n, ready: make(chan struct{})}
	b.waiting = append(b.waiting, w)
	b.mu.Unlock()
	select {
	case <-w.ready:
		return n, true
	case <-stop:
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.waiting {
		if b.waiting[i] == w {
			b.waiting = append(b.waiting[:i], b.waiting[i+1:]...)
			b.wake() // those behind may have been waiting only for w
			return 0, false
		}
	}
	b.used -= n // it became ready at the same moment
	b.wake()
	return 0, false
}

// Release gives back what Acquire took.
func (b *Budget) Release(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	b.wake()
}

// Used returns how many bytes are taken.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

func (b *Budget) wake() {
	for len(b.waiting) > 0 && b.used+b.waiting[0].n <= b.Total {
		b.used += b.waiting[0].n
		close(b.waiting[0].ready)
		b.waiting = b.waiting[1:]
	}
}
