package sim

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/sim/image"
)

// I4: two replicas agree about all bytes that either has ever shown. The observer keeps the
// bytes of every chunk as they were first acknowledged or read, and compares.

// shown judges and notes bytes that were acknowledged or read.
func (o *observer) shown(h *Host, handle quarry.Handle, offset int64, data []byte, how string) {
	c := o.chunk(handle)
	end := int(offset) + len(data)
	if end > len(c.bytes) {
		c.bytes = append(c.bytes, make([]byte, end-len(c.bytes))...)
		c.known = append(c.known, make([]bool, end-len(c.known))...)
	}
	for i, b := range data {
		at := int(offset) + i
		if c.known[at] && c.bytes[at] != b {
			o.violated("I4 replicas agree", "byte %d of chunk %v is %#x by %s at %s, and was %#x before", at, handle, b, how, h.name, c.bytes[at])
			return
		}
		c.bytes[at], c.known[at] = b, true
	}
	if c.sealed() && int64(end) > c.sealLen && len(data) > 0 {
		o.violated("I5 seals keep what is acknowledged", "bytes up to %d of chunk %v are shown by %s at %s, which is sealed at %d", end, handle, how, h.name, c.sealLen)
	}
}

// read judges and notes the answer to a read. Bytes that do not match the checksums that come
// with them are not shown to anybody: the client passes the replica over.
func (o *observer) read(h *Host, handle quarry.Handle, offset int64, reply *quarry.ReadReply) {
	if !image.Matches(reply, offset) {
		o.log.Count("a read that does not match its checksums")
		return
	}
	o.shown(h, handle, offset, reply.Data, "a read")
}
