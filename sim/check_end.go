package sim

import "github.com/quarryfs/quarry"

// I9: no two primaries of one file tell where it ends at one instant. Whoever says where the
// file ends, and has a lease to say so, must know of everything that was acknowledged in the
// file, in this chunk or in one behind it, before it was asked.

// endTold judges and notes an answer about the end of an open chunk.
func (o *observer) endTold(from moment, h *Host, req *quarry.EndRequest, reply *quarry.EndReply) {
	o.commitTold(&req.ChunkRef, reply.Commit, "as its end")
	c := o.chunk(req.Handle)
	if reply.Confirm {
		o.log.Count("end without a lease")
		return
	}
	if end, _ := c.acked.before(from); reply.Commit < end {
		o.violated("I9 one end", "%s says that chunk %v ends at %d, and %d bytes were acknowledged before", h.name, req.Handle, reply.Commit, end)
	}
	if end, _ := c.shown.before(from); reply.Commit < end {
		o.violated("I9 one end", "%s says that chunk %v ends at %d, and it was said to end at %d before", h.name, req.Handle, reply.Commit, end)
	}
	if c.sealed() && reply.Commit > c.sealLen {
		o.violated("I5 seals keep what is acknowledged", "%s says that chunk %v ends at %d, which is sealed at %d", h.name, req.Handle, reply.Commit, c.sealLen)
	}
	c.shown.add(o.clock, reply.Commit)
	if !c.made || c.file == 0 {
		return
	}
	for handle, other := range o.chunks { // what is made for a file stands there in the order of handles
		if other.file == c.file && handle > req.Handle {
			if _, any := other.acked.before(from); any {
				o.violated("I9 one end", "%s says that file %v ends in chunk %v, and a record was acknowledged in chunk %v behind it", h.name, c.file, req.Handle, handle)
			}
		}
	}
}
