package model

import (
	"fmt"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/protocol"
)

func name(r recID) string {
	if r == 0 {
		return "?"
	}
	return fmt.Sprintf("%d.%d", r>>3+1, r&7)
}

func names(list []recID) (out []string) {
	for _, r := range list {
		out = append(out, name(r))
	}
	return out
}

// check tests the invariants after a step. What a replica holds is looked at only where the
// step touched it.
func (w *world) check() {
	grown := false
	for _, d := range w.dirty {
		grown = w.checkReplica(d) || grown
	}
	w.dirty = w.dirty[:0]
	if w.stop {
		return
	}
	if grown {
		w.checkOnce()
	}
	for f, k := range w.m.file {
		w.checkChunk(k, f == len(w.m.file)-1)
	}
	w.checkAcked()
	w.checkLeases()
}

// checkReplica: promises never fall (I1), what replicas show agrees (I4), a replica has one
// seal (I6), and a fate told absent stays so (I8). It reports whether more is known to be
// committed than before.
func (w *world) checkReplica(d place) (grown bool) {
	m, k := d.p.members[d.k], d.k
	disk := &d.p.disk[k]
	i := d.p.index()
	if d.p != w.zombie && d.p == w.servers[i] && !bit(w.g.fault|w.g.wiped, i) {
		if was := w.g.promised[i][k]; disk.replica.Exists && disk.replica.Promised < was {
			bad("I1: server %d promised %d for chunk %d, then %d", i+1, was, k, disk.replica.Promised)
		}
		w.g.promised[i][k] = disk.replica.Promised
	}
	if m == nil {
		return false
	}
	s := m.Info().Status
	if r := m.Replica(); s <= quarry.ReplicaMissing && len(disk.queue) == 0 && m.Primary() == nil && (r.Exists != disk.replica.Exists || !r.Records.Equal(&disk.replica.Records)) {
		bad("server %d: machine and disk differ for chunk %d", i+1, k)
	}
	reply, err := m.RecordRuns(&quarry.RecordsRequest{})
	if err != nil {
		return false
	}
	if r := &disk.replica; r.SealVersion != 0 && w.g.lengths[k][r.SealVersion/2] != r.SealLength+1 && !bit(w.g.fault, i) {
		bad("I6: seal %d of chunk %d is at %d, at server %d at %d", r.SealVersion, k, w.g.lengths[k][r.SealVersion/2]-1, i+1, r.SealLength)
	}
	have := contentOf(&m.Replica().Records, reply.Length)
	if int64(len(have))*w.cfg.length < reply.Length {
		bad("server %d may show %d bytes of chunk %d but has %d records", i+1, reply.Length, k, len(have))
	}
	t := w.g.truth[k]
	for x := range min(len(have), len(t)) {
		if !same(have[x], t[x]) {
			bad("I4: chunk %d at server %d differs below commit: %v, %v", k, i+1, names(have), names(t))
		}
	}
	if len(have) <= len(t) {
		return false
	}
	w.g.truth[k] = have
	for x, r := range have {
		if r != 0 && x+1 < int(w.g.absent[k][r]) {
			bad("I8: record %s was told absent and is committed in chunk %d", name(r), k)
		}
	}
	return true
}

// checkOnce: no record is committed twice, and those of a session are in order (I7).
func (w *world) checkOnce() {
	var seen uint32
	var last [maxClients]uint8
	for _, k := range w.m.file {
		for _, r := range w.g.truth[k] {
			if r == 0 {
				continue
			}
			if bit(seen, r) {
				bad("I7: record %s committed twice", name(r))
			}
			seen |= 1 << r
			if c := r >> 3; r&7 != last[c]+1 && !w.forgot(c) {
				bad("session %d: record %d committed after %d", c+1, r&7, last[c])
			}
			last[r>>3] = r & 7
		}
	}
}

// forgot reports whether a session's records may be nameless somewhere.
func (w *world) forgot(c uint8) bool {
	for _, k := range w.m.file {
		for _, r := range w.g.truth[k] {
			if r == 0 {
				return true
			}
		}
	}
	return false
}

// checkChunk: a seal keeps what is committed (I5), on at least one whole replica; commit is
// durable on every member of an open chunk (I3).
func (w *world) checkChunk(k uint8, tail bool) {
	c := &w.m.chunks[k]
	truth := int64(len(w.g.truth[k])) * w.cfg.length
	if c.state != sealed {
		w.checkCommit(k)
		return
	}
	if truth > c.length {
		if c.suspect && w.g.fault != 0 && w.g.wiped|w.g.gone != 0 { // two faults: lost, but not silently
			w.stop = true
			return
		}
		bad("I5: chunk %d sealed at %d below committed %d", k, c.length, truth)
	}
	for i := range w.cfg.servers {
		if r := &w.servers[i].disk[k].replica; r.Exists && r.DurableLength() >= c.length && (r.LogVersion == c.writable || c.length == c.base && r.LogVersion == c.prev) {
			return
		}
	}
	if !w.g.lossy {
		bad("chunk %d sealed at %d: no complete replica", k, c.length)
	}
}

func (w *world) checkCommit(k uint8) {
	c := &w.m.chunks[k]
	for _, m := range c.members {
		p := w.servers[m.Server-1]
		if p.inc != m.Incarnation || p.members[k] == nil || p.members[k].Primary() == nil {
			continue
		}
		commit := p.members[k].Committed()
		for _, o := range c.members {
			i := uint8(o.Server - 1)
			if bit(w.g.fault|w.g.wiped, i) {
				continue
			}
			if n := w.servers[i].disk[k].replica.DurableLength(); n < commit {
				bad("I3: chunk %d committed to %d, server %d has %d", k, commit, o.Server, n)
			}
		}
	}
}

// checkAcked: an acknowledged record is at its place (I7), not cut (I5), and durable at
// every member of its version (I2).
func (w *world) checkAcked() {
	for r := range uint8(32) {
		if w.g.pos[r] == 0 {
			continue
		}
		k, x := (w.g.pos[r]-1)>>5, int((w.g.pos[r]-1)&31)
		c := &w.m.chunks[k]
		if c.state == sealed && int64(x)*w.cfg.length >= c.length {
			if w.stop {
				return
			}
			bad("I5: acked record %s at %d cut by the seal of chunk %d at %d", name(r), x, k, c.length)
		}
		if t := w.g.truth[k]; x < len(t) && !same(t[x], r) {
			bad("I7: acked record %s is not at its place", name(r))
		}
		if c.state != open && c.state != sealing {
			continue
		}
		for _, m := range c.members {
			i := uint8(m.Server - 1)
			if bit(w.g.wiped|w.g.fault, i) {
				continue
			}
			disk := &w.servers[i].disk[k].replica
			at, ok := disk.Records.Find(quarry.SessionID(r>>3+1), quarry.Sequence(r&7))
			if (!ok || at.Offset != int64(x)*w.cfg.length) && len(disk.Forgotten) == 0 {
				bad("I2: acked record %s is not durable on member %d", name(r), i+1)
			}
		}
	}
}

// checkLeases: the grantor waits longer than any holder (I10), and at most one server may
// say where the file ends without asking (I9).
func (w *world) checkLeases() {
	primaries, chunks := 0, 0
	for i := range uint8(maxServers + 1) {
		p := w.at(i)
		if p == nil || !p.lease.Holds(protocol.RightEnd, w.serverNow()) {
			continue
		}
		if !off(protocol.NoLeaseCheck) && w.m.leases.Over(0, p.id, p.inc, protocol.RightEnd, w.masterNow()) {
			bad("I10: server %d.%d holds a lease that the master believes over", p.id, p.inc)
		}
		for k := range uint8(maxChunks) {
			m := p.members[k]
			if m == nil || m.Primary() == nil && !off(protocol.SecondaryAnswersEnd) {
				continue
			}
			v := m.Replica().LogVersion
			if m.Primary() != nil {
				v = m.Primary().Version()
			}
			req := quarry.EndRequest{ChunkRef: quarry.ChunkRef{Handle: handleOf(k), Version: v, Target: p.inc}}
			if _, err := m.End(&req); err == nil {
				chunks |= 1 << k
				if m.Primary() != nil {
					primaries++
				}
			}
		}
	}
	if primaries > 1 || chunks&(chunks-1) != 0 {
		bad("I9: %d primaries may say where the file ends, chunks %b", primaries, chunks)
	}
}
