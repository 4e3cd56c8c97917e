package sim

import "github.com/quarryfs/quarry"

// I5: a sealed length is at least every end that was acknowledged or told. I6: a seal never
// changes.

// sealTold judges and notes a seal that somebody tells of.
func (o *observer) sealTold(handle quarry.Handle, v quarry.Version, length int64, who string) {
	c := o.chunk(handle)
	if before, known := c.seals[v]; known {
		if before != length {
			o.violated("I6 seals never change", "chunk %v is sealed at version %d with %d bytes by the word of %s, and was with %d", handle, v, length, who, before)
		}
		return
	}
	c.seals[v] = length
	if v < c.sealVer || v < c.openVer {
		o.violated("I6 seals never change", "seal %d of chunk %v is told by %s for the first time, and version %d and seal %d are known", v, handle, who, c.openVer, c.sealVer)
		return
	}
	c.sealVer, c.sealLen, c.sealedAt[v], c.sealedSince = v, length, o.clock, o.log.w.Now()
	go o.probeChunk(handle) // whoever holds a lease to say where it ends is to have lost it by now
	if end := max(c.acked.last(), c.shown.last(), int64(c.lastKnown())); length < end {
		o.violated("I5 seals keep what is acknowledged", "chunk %v is sealed at %d, and bytes up to %d were acknowledged or shown", handle, length, end)
	}
}

// lastKnown returns the end of the bytes that were acknowledged or read.
func (c *seenChunk) lastKnown() int { return len(c.known) }
