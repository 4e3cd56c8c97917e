package buffers

import "sync"

var scratch = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// Scratch returns an empty buffer in which a frame is encoded before it is copied to the queue of a
// connection, so that the queue is not locked meanwhile.
func Scratch() *[]byte { return scratch.Get().(*[]byte) }

// PutScratch gives a buffer of Scratch back, unless it has grown large.
func PutScratch(b *[]byte) {
	if cap(*b) <= 64<<10 {
		*b = (*b)[:0]
		scratch.Put(b)
	}
}
