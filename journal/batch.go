package journal

import (
	"encoding/binary"

	"github.com/quarryfs/quarry/crc32c"
)

// batch is the records of the calls that are committed together, in the form in which they
// are written. The checksums are filled in by seal, when the batch has its place.
type batch struct {
	buf   []byte // the batch header's place, then the records
	count uint32 // of the records
	calls []call
}

// call is one Append in a batch.
type call struct {
	done    func([]Position, error)
	records int
	err     error // the call was refused; it has no records, but its turn to be answered
}

// bytes is the size of the batch when it is written, padding included.
func (b *batch) bytes() int {
	return (max(len(b.buf), batchHeaderBytes) + batchAlign - 1) &^ (batchAlign - 1)
}

// callsMax bounds the calls of a batch, which may be without bytes.
const callsMax = 1 << 16

// full reports whether a call of n bytes must wait for the next batch. An empty batch takes
// any call.
func (b *batch) full(n, limit int) bool {
	return len(b.calls) >= callsMax || len(b.calls) > 0 && len(b.buf)+n > limit
}

// add takes one call into the batch and copies its records.
func (b *batch) add(c call, records [][]byte) {
	b.calls = append(b.calls, c)
	if len(b.buf) == 0 {
		b.buf = append(b.buf, make([]byte, batchHeaderBytes)...)
	}
	for _, r := range records {
		var head [recordHeaderBytes]byte
		binary.LittleEndian.PutUint32(head[:], uint32(len(r)))
		b.buf = append(append(b.buf, head[:]...), r...)
	}
	b.count += uint32(len(records))
}

// seal fills in the checksums for the batch's place, behind the batch whose checksum is
// chain, pads it, and returns its own chain checksum and the places of its records.
func (b *batch) seal(s seed, segment uint64, off, chain uint32, positions []Position) (uint32, []Position) {
	if len(b.buf) == 0 {
		b.buf = append(b.buf, make([]byte, batchHeaderBytes)...)
	}
	at, body := batchHeaderBytes, uint32(0)
	for at < len(b.buf) {
		head := b.buf[at : at+recordHeaderBytes]
		n := int(binary.LittleEndian.Uint32(head))
		place := off + uint32(at)
		binary.LittleEndian.PutUint32(head[4:], s.record(place, b.buf[at+recordHeaderBytes:][:n]))
		body = crc32c.Update(body, head)
		positions = append(positions, Position{Segment: segment, Offset: place})
		at += recordHeaderBytes + n
	}
	for len(b.buf)%batchAlign != 0 {
		b.buf = append(b.buf, 0)
	}
	h := b.buf[:batchHeaderBytes]
	copy(h, batchMagic)
	binary.LittleEndian.PutUint32(h[4:], uint32(len(b.buf)))
	binary.LittleEndian.PutUint32(h[8:], b.count)
	binary.LittleEndian.PutUint32(h[12:], chain)
	binary.LittleEndian.PutUint32(h[16:], body)
	sum := s.batchHeader(off, h)
	binary.LittleEndian.PutUint32(h[20:], sum)
	return sum, positions
}

// answer calls the callbacks of the batch in their order.
func (b *batch) answer(positions []Position, err error) {
	for _, c := range b.calls {
		own := positions[:min(c.records, len(positions))]
		positions = positions[len(own):]
		switch {
		case c.done == nil:
		case c.err != nil:
			c.done(nil, c.err)
		case err != nil:
			c.done(nil, err)
		default:
			c.done(own, nil)
		}
	}
}

// reset empties the batch for its next use; a buffer beyond keep bytes is let go.
func (b *batch) reset(keep int) {
	clear(b.calls)
	b.calls, b.buf, b.count = b.calls[:0], b.buf[:0], 0
	if cap(b.buf) > keep {
		b.buf = nil
	}
}
