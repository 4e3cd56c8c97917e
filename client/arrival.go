package client

import (
	"sync/atomic"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client/verify"
	"github.com/quarryfs/quarry/clock"
)

// memory is where the bytes of a read are wanted: known from the start, or a part of a segment's, which is found when
// bytes have come.
type memory struct {
	known   []byte
	segment *segment
	from, n int // the part of the segment's memory; of known memory n only
}

// first returns the first n bytes, or all if there are fewer.
func (m memory) first(n int64) memory {
	m.n = int(min(int64(m.n), n))
	if m.segment == nil {
		m.known = m.known[:m.n]
	}
	return m
}

// behind returns what follows the first n bytes.
func (m memory) behind(n int) memory {
	m.n -= n
	if m.segment == nil {
		m.known = m.known[n:]
	} else {
		m.from += n
	}
	return m
}

// bytes returns the memory. It may wait for a moment.
func (m memory) bytes() []byte {
	if m.segment == nil {
		return m.known
	}
	return m.segment.memory()[m.from : m.from+m.n]
}

// waits reports whether bytes have come and wait for the reader to give them memory.
func (m memory) waits() bool { return m.segment != nil && m.segment.waits.Load() }

// arrival is a reply on its way. As a quarry.ReadSink it has the bytes received straight to where they are
// wanted, and compares them with their checksums while they are in the processor's caches.
type arrival struct {
	p      memory
	clock  clock.Clock
	check  verify.Check
	placed []byte        // where the network puts the bytes
	waited time.Duration // for the reader, not for the server
	begun  atomic.Bool   // bytes have come
}

// Place implements quarry.ReadSink.
func (a *arrival) Place(n int) []byte {
	a.begun.Store(true)
	start := a.clock.Now()
	a.placed = a.p.bytes()
	a.waited += a.clock.Now().Sub(start)
	return a.placed
}

// Arrived implements quarry.ReadSink.
func (a *arrival) Arrived(crcs []uint32, data []byte) { a.check.Step(crcs, data, false) }

// take checks what has not been checked yet, and puts the bytes where they are wanted.
func (a *arrival) take(reply *quarry.ReadReply) error {
	data := reply.Data
	if len(data) > a.p.n {
		return quarry.Errorf("read", quarry.Corrupt, a.check.Handle.String(), "%d bytes came, %d were asked for", len(data), a.p.n)
	}
	if len(data) == 0 {
		return nil
	}
	received := len(a.placed) > 0 && &a.placed[0] == &data[0]
	if !received { // a server in this process, or a short reply
		a.check = verify.Check{Handle: a.check.Handle, Offset: a.check.Offset}
	}
	a.check.Step(reply.CRCs, data, true)
	if a.check.Err() != nil || received {
		return a.check.Err()
	}
	if into := a.p.bytes(); &into[0] != &data[0] {
		copy(into, data)
	}
	return nil
}
