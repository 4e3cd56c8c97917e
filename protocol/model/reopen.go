package model

import (
	"math/bits"

	"github.com/quarryfs/quarry"
)

// mayReopen reports whether the tail may be opened again: it is sealed, has room, and at least
// two replicas are known to be complete at the seal.
func (w *world) mayReopen() bool {
	_, c := w.m.tail()
	_, last := w.m.last()
	room := c.length+w.cfg.length <= quarry.ChunkBytesMax && c.writable/2+1 < maxSeal
	return c.state == sealed && room && !last.state.pending() && bits.OnesCount8(w.reopeners()) >= 2
}

// reopeners are the servers that would be members.
func (w *world) reopeners() uint8 {
	_, c := w.m.tail()
	if !off(ReopenUnconfirmed) {
		return c.holders
	}
	all := uint8(0)
	for _, m := range c.members {
		all |= 1 << (m.Server - 1)
	}
	return all
}

// reopen logs the next writable version of the sealed tail. The first of its members from
// server first on is to be the primary.
func (w *world) reopen(first uint8) {
	_, c := w.m.tail()
	who := w.reopeners()
	c.members = nil
	for n := range uint8(w.cfg.servers) {
		if i := (first + n) % uint8(w.cfg.servers); bit(who, i) {
			c.members = append(c.members, quarry.Member{Server: quarry.ServerID(i + 1), Incarnation: w.m.incs[i]})
		}
	}
	c.state, c.prev, c.writable, c.base, c.holders = open, c.writable, c.writable+2, c.length, 0
	w.m.reopened = 0
	w.note("reopened at version %d, base %d", c.writable, c.base)
	w.sendReopens()
}

// sendReopens asks the members that have not answered this leader.
func (w *world) sendReopens() {
	k, c := w.m.tail()
	if c.state != open || c.prev == 0 {
		return
	}
	for _, m := range c.members {
		if !bit(w.m.reopened, uint8(m.Server-1)) {
			ref := quarry.ChunkRef{Handle: handleOf(k), Version: c.writable, Target: m.Incarnation}
			w.send(memberNode(m), &quarry.ReopenRequest{ChunkRef: ref, Base: c.base, PrevWritableVersion: c.prev})
		}
	}
}

// reopened is the answer of a member.
func (w *world) reopened(b *reopenedMsg) {
	k, c := w.m.tail()
	if c.state != open || k != chunkOf(b.handle) || b.version != c.writable {
		return
	}
	for _, m := range c.members {
		if m.Server == b.from && m.Incarnation == b.inc {
			w.m.reopened |= 1 << (b.from - 1)
		}
	}
}

// allReopened reports whether the tail's primary may be given its role.
func (w *world) allReopened() bool {
	_, c := w.m.tail()
	return c.prev == 0 || bits.OnesCount8(w.m.reopened) == len(c.members)
}
