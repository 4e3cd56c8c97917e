package sim

import (
	"fmt"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/sim/image"
)

// I2: what is acknowledged is durable at every member of its version, by what the members'
// disks hold, not by what they say. I3: a commit is at most what every member has durable.

// acknowledged judges and notes that a record was acknowledged.
func (o *observer) acknowledged(from moment, h *Host, req *quarry.AppendRequest, offset int64) {
	c := o.chunk(req.Handle)
	end := offset + int64(len(req.Data))
	v := c.versions[req.Version]
	if v == nil {
		o.violated("I2 acknowledged is durable", "%s acknowledges a record in version %d of chunk %v, which has no primary", h.name, req.Version, req.Handle)
		return
	}
	for i, m := range v.members {
		member := o.at(m)
		if member.disk.replaced() != v.disks[i] {
			continue // what was there went with the disk
		}
		if !image.Durable(member.disk.files(), req.Handle, offset, req.Data) {
			o.violated("I2 acknowledged is durable", "record %d of session %d at %d+%d of chunk %v is acknowledged by %s and not on the disk of %s",
				req.Sequence, req.Session, offset, len(req.Data), req.Handle, h.name, member.name)
		}
	}
	if length, sealed := c.seals[req.Version+1]; sealed && end > length {
		o.violated("I5 seals keep what is acknowledged", "a record up to %d of version %d of chunk %v is acknowledged, which is sealed at %d", end, req.Version, req.Handle, length)
	}
	o.log.Detail("%-4s acknowledges record %d of session %d (oldest %d) at %d+%d of chunk %v", h.name, req.Sequence, req.Session, req.Oldest, offset, len(req.Data), req.Handle)
	c.acked.add(o.clock, end)
	o.committed(req.Handle, sequence{req.Session, req.Sequence}, offset, "an answer")
	o.shown(h, req.Handle, offset, req.Data, "an append")
	o.obeyed(from, h, &req.ChunkRef, "append")
}

// isDurable notes how far a secondary says that it is durable.
func (o *observer) isDurable(h *Host, handle quarry.Handle, end int64) {
	key := o.replica(h, handle)
	o.durable[key] = max(o.durable[key], end)
}

// commitTold judges how far a chunk is said to be committed.
func (o *observer) commitTold(ref *quarry.ChunkRef, commit int64, how string) {
	c := o.chunk(ref.Handle)
	if c.sealed() { // what is left of it counts as committed
		if commit > c.sealLen {
			o.violated("I5 seals keep what is acknowledged", "chunk %v is said to be committed to %d, %s, and is sealed at %d", ref.Handle, commit, how, c.sealLen)
		}
		return
	}
	v := c.versions[ref.Version]
	if v == nil || commit == 0 || ref.Version != c.openVer { // who waits may know of an earlier version
		return
	}
	for i, m := range v.members {
		member := o.at(m)
		if i == 0 || member.disk.replaced() != v.disks[i] {
			continue // nobody is told what the primary itself has
		}
		if have := o.durable[o.replica(member, ref.Handle)]; commit > have {
			o.violated("I3 commits are durable", "chunk %v is said to be committed to %d, %s, and %s has said %d", ref.Handle, commit, how, member.name, have)
		}
	}
}

// acks are the ends of what was acknowledged, and when.
type acks struct{ list []ack }

type ack struct {
	at  moment
	end int64
}

// add notes an end; ends that are lower than one before say nothing.
func (a *acks) add(at moment, end int64) {
	if n := len(a.list); n == 0 || a.list[n-1].end < end {
		a.list = append(a.list, ack{at, end})
	}
}

// before returns the highest end that was noted before a moment.
func (a *acks) before(m moment) (end int64, any bool) {
	for i := len(a.list) - 1; i >= 0; i-- {
		if a.list[i].at < m {
			return a.list[i].end, true
		}
	}
	return 0, false
}

// last returns the highest end.
func (a *acks) last() int64 {
	if n := len(a.list); n > 0 {
		return a.list[n-1].end
	}
	return 0
}

func (v *seenVersion) String() string {
	var list []string
	for _, m := range v.members {
		list = append(list, name(m))
	}
	return fmt.Sprint(list)
}
