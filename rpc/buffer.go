package rpc

import (
	"math/bits"
	"sync"
)

// Buffers of payloads are kept for reuse by classes of powers of two, because a payload is
// often as large as 256 KiB or 1 MiB and clearing a fresh one costs as much as sending it.
const (
	bufferClassMin = 12 // 4 KiB
	bufferClassMax = 24 // 16 MiB; larger ones are left to the garbage collector
)

var bufferPools [bufferClassMax + 1]sync.Pool

// getBuffer returns a buffer of n bytes with any contents.
func getBuffer(n int) []byte {
	class := max(bits.Len(uint(max(n, 1)-1)), bufferClassMin)
	if class > bufferClassMax {
		return make([]byte, n)
	}
	if p, _ := bufferPools[class].Get().(*[]byte); p != nil {
		return (*p)[:n]
	}
	return make([]byte, n, 1<<class)
}

// putBuffer gives back a buffer of getBuffer that nobody uses any more.
func putBuffer(b []byte) {
	class := bits.Len(uint(cap(b))) - 1
	if class < bufferClassMin || class > bufferClassMax || cap(b) != 1<<class {
		return
	}
	b = b[:0]
	bufferPools[class].Put(&b)
}

// budget bounds the bytes of payloads in memory. Those who wait are served in their order,
// so that a large payload is not starved by small ones.
type budget struct {
	mu      sync.Mutex
	total   int64
	used    int64
	waiting []*budgetWaiter
}

type budgetWaiter struct {
	n     int64
	ready chan struct{}
}

// acquire takes n bytes, or all there are if n is more. It returns what it took, or false
// if stop was closed first.
func (b *budget) acquire(n int64, stop <-chan struct{}) (int64, bool) {
	b.mu.Lock()
	n = min(n, b.total)
	if len(b.waiting) == 0 && b.used+n <= b.total {
		b.used += n
		b.mu.Unlock()
		return n, true
	}
	w := &budgetWaiter{n: n, ready: make(chan struct{})}
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

// release gives back what acquire took.
func (b *budget) release(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	b.wake()
}

func (b *budget) wake() {
	for len(b.waiting) > 0 && b.used+b.waiting[0].n <= b.total {
		b.used += b.waiting[0].n
		close(b.waiting[0].ready)
		b.waiting = b.waiting[1:]
	}
}
