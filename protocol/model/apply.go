package model

import (
	"slices"

	"github.com/quarryfs/quarry"
)

// apply performs one act.
func (w *world) apply(a act) {
	switch a.K {
	case aDeliver, aLate:
		w.deliver(w.take(int(a.A)))
	case aKeep:
		w.left.dup--
		w.deliver(w.net[a.A])
	case aLose:
		w.take(int(a.A))
	case aStart, aTail, aResend, aLearn, aDoubt:
		w.applyClient(a, w.clients[a.A])
	case aSync, aCommit, aPreps, aHeartbeat:
		w.applyProcess(a, w.own(a.A))
	case aCrash, aWipe, aRollback, aFail, aZombie, aForget, aGarbage:
		w.applyFault(a)
	case aTick:
		w.left.ticks--
		w.now += ticks[a.A]
	case aCopy:
		w.left.copies--
		w.copyChunk(a.A, a.B, a.C)
	case aReadFresh:
		w.startRead(false)
	case aReadCached:
		w.startRead(true)
	case aReadRetry:
		w.readFresh()
	default:
		w.applyMaster(a)
	}
}

// deliver hands a packet to whom it is for. One for an incarnation that is gone reaches its
// successor, which is at the same address.
func (w *world) deliver(p packet) {
	switch p.to.kind {
	case atMaster:
		w.atMaster(p.body)
	case atClient:
		w.atClient(w.clients[p.to.id], p.body)
	case atReader:
		w.atReader(p.body.(*endedMsg))
	default:
		to := w.own(w.index(p.to))
		switch p.body.(type) {
		case *grantMsg, *ackMsg: // answers belong to who asked
			if to.inc != p.to.inc {
				return
			}
		}
		w.atServer(to, p.body)
	}
}

// index is that of the process that a packet reaches: the zombie only if it is meant.
func (w *world) index(n node) uint8 {
	if z := w.zombie; z != nil && z.index() == n.id && z.inc == n.inc {
		return maxServers
	}
	return n.id
}

// at is the process of server i; maxServers is the zombie.
func (w *world) at(i uint8) *process {
	if i == maxServers {
		return w.zombie
	}
	return w.servers[i]
}

func (w *world) applyClient(a act, c *client) {
	switch a.K {
	case aStart:
		w.left.sends--
		w.start(c)
	case aTail:
		w.left.seal -= int(a.B)
		w.tail(c)
	case aResend:
		w.left.sends--
		w.do(c, c.app.Resend(), 0)
	case aLearn:
		w.left.sends--
		w.learn(c, a.B, a.C)
	case aDoubt:
		w.left.doubt--
		w.do(c, c.app.Doubt(handleOf(a.B), w.m.chunks[a.B].writable), 0)
	}
}

func (w *world) applyProcess(a act, p *process) {
	m := p.members[a.B]
	switch a.K {
	case aSync:
		w.sync(p, a.B, int(a.C))
	case aCommit:
		for _, o := range m.Primary().Members()[1:] {
			req := &quarry.CommitRequest{Commit: m.Committed()}
			req.ChunkRef = quarry.ChunkRef{Handle: m.Handle(), Version: m.Primary().Version(), Target: o.Incarnation}
			w.send(memberNode(o), req)
		}
	case aPreps:
		w.run(p, a.B, m.Resend())
	case aHeartbeat:
		w.left.heartbeat--
		w.heartbeat(p)
	}
}

func (w *world) applyFault(a act) {
	p := w.own(a.A)
	switch a.K {
	case aCrash:
		w.left.crash--
		w.restart(a.A, int(a.B), a.C == 1)
	case aWipe: // the disk is replaced: nothing is left
		w.left.wipe--
		w.g.lossy = true
		w.g.wiped |= 1 << a.A
		p.disk = [maxChunks]disk{}
		for k := range w.m.chunks {
			w.m.chunks[k].holders &^= 1 << a.A
		}
		w.restart(a.A, 0, true)
	case aRollback: // the disk loses the last record of the tail, or its promise, or both
		w.left.rollback--
		w.g.lossy = true
		w.g.fault |= 1 << a.A
		k, _ := w.m.tail()
		r := &p.disk[k].replica
		r.Records.Cut(r.DurableLength() - int64(a.B)*w.cfg.length)
		if a.C == 1 {
			r.Promised = r.LogVersion
		}
		w.restart(a.A, 0, true)
	case aFail: // the disk errs, the process lives on without it
		w.left.fail--
		w.g.lossy = true
		w.g.fault |= 1 << a.A
		for k := range uint8(maxChunks) {
			p.disk[k].queue = nil
			if m := p.members[k]; m != nil {
				w.run(p, k, m.Fail())
			}
		}
	case aZombie: // the host was paused and copied: a new incarnation begins on the copy
		w.left.zombie--
		w.g.fault |= 1 << a.A
		w.zombie, w.owned[maxServers] = p.clone(), true
		w.restart(a.A, 0, false)
	case aForget: // the session has expired: a server may drop its records, and says so for ever
		w.left.forget--
		w.run(p, a.B, p.members[a.B].Forget(call(callForget, 0, 0), quarry.SessionID(a.C+1)))
	case aGarbage:
		w.left.garbage--
		to, ref := w.target(a.A, handleOf(a.B), first)
		w.send(to, &quarry.DropRequest{ChunkRef: ref})
	}
}

func (w *world) applyMaster(a act) {
	k, _ := w.m.tail()
	last, _ := w.m.last()
	switch a.K {
	case aSeal:
		w.left.seal--
		w.beginSeal(k)
	case aFences:
		w.sendFences()
	case aDecide:
		w.publish()
	case aSeals:
		w.sendSeals(k)
	case aRoll:
		var ids []uint8
		for i := range w.cfg.replicas {
			ids = append(ids, uint8((int(a.A)+i+int(w.m.count))%w.cfg.servers))
		}
		w.create(ids)
	case aReopen:
		w.left.reopen--
		w.reopen(a.A)
	case aReopens:
		w.sendReopens()
	case aCreates:
		if a.A == 1 {
			last = k
		}
		w.sendCreates(last)
	case aActivate:
		w.activate()
	case aGone:
		w.left.gone--
		w.g.lossy = true
		w.g.gone |= 1 << a.A
		w.m.sealer.Gone(quarry.ServerID(a.A + 1))
	case aFailover:
		w.left.failover--
		w.failover()
	case aBarrier:
		w.lead(a.A == 0)
	case aLogged:
		if w.m.unlogged != 0 {
			w.m.unlogged = 0
			return
		}
		w.logged(last)
	case aAbandon: // this leader will never log it
		w.m.chunks[last].state = dead
		w.m.created = 0
	default:
		panic("model: no such act")
	}
}

// find returns the first packet whose text begins so; -1 if there is none.
func (w *world) find(text string) int {
	return slices.IndexFunc(w.net, func(p packet) bool {
		s := p.String()
		return len(s) >= len(text) && s[:len(text)] == text
	})
}
