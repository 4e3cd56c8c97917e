package model

import (
	"fmt"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/protocol"
)

// The kinds of acts.
const (
	aDeliver = iota
	aKeep
	aLate
	aLose
	aStart
	aTail
	aResend
	aLearn
	aDoubt
	aSync
	aCommit
	aPreps
	aSeal
	aFences
	aDecide
	aSeals
	aRoll
	aReopen
	aReopens
	aCreates
	aActivate
	aCopy
	aHeartbeat
	aTick
	aCrash
	aWipe
	aRollback
	aFail
	aZombie
	aGone
	aFailover
	aBarrier
	aLogged
	aAbandon
	aGarbage
	aForget
	aReadFresh
	aReadCached
	aReadRetry
	actKinds
)

var actName = [actKinds]string{
	"deliver", "keep", "late", "lose", "start", "tail", "resend", "learn", "doubt", "sync", "commit", "preps", "seal",
	"fences", "decide", "seals", "roll", "reopen", "reopens", "creates", "activate", "copy", "heartbeat", "tick", "crash", "wipe", "rollback", "fail",
	"zombie", "gone", "failover", "barrier", "logged", "abandon", "garbage", "forget", "read", "read-cached", "read-retry",
}

// weight is how often each kind of act is drawn in random schedules.
var weight = [actKinds]int{
	aDeliver: 200, aKeep: 20, aLate: 12, aLose: 20, aStart: 60, aTail: 60, aResend: 8, aLearn: 30, aDoubt: 2, aSync: 80,
	aCommit: 15, aPreps: 8, aSeal: 8, aFences: 5, aDecide: 30, aSeals: 8, aRoll: 15, aReopen: 15, aReopens: 8, aCreates: 8, aActivate: 30, aCopy: 10,
	aHeartbeat: 40, aTick: 25, aCrash: 4, aWipe: 3, aRollback: 6, aFail: 6, aZombie: 6, aGone: 3, aFailover: 3, aBarrier: 40,
	aLogged: 10, aAbandon: 5, aGarbage: 12, aForget: 6, aReadFresh: 60, aReadCached: 80, aReadRetry: 10,
}

// ticks are the steps of time: within a wait for the rest, a lease, and its margin.
var ticks = [...]protocol.Instant{second / 2, 2 * second, second / 14}

func (w *world) describe(a act) string {
	d := fmt.Sprintf("%s %d %d %d", actName[a.K], a.A, a.B, a.C)
	if a.K <= aLose {
		d = actName[a.K] + " " + w.net[a.A].String()
	}
	return d
}

// lister collects enabled acts.
type lister struct {
	w      *world
	out    []act
	random bool
}

func (l *lister) add(k, a, b, c uint8) { l.out = append(l.out, act{k, a, b, c}) }

func (l *lister) addIf(ok bool, k, a, b, c uint8) {
	if ok {
		l.add(k, a, b, c)
	}
}

// actions lists the enabled acts into out[:0]. Random runs have more of them (loss,
// retransmission) than searches.
func (w *world) actions(random bool, out []act) []act {
	l := &lister{w, out[:0], random}
	if w.stop {
		return l.out
	}
	l.net()
	for i := range w.cfg.clients {
		l.client(w.clients[i])
	}
	for i := range w.cfg.servers {
		l.server(w.servers[i], uint8(i))
	}
	l.process(w.zombie, maxServers)
	if w.m.barrier { // until its first entry is committed a leader does nothing
		l.add(aBarrier, 0, 0, 0)
		l.add(aBarrier, 1, 0, 0)
		return l.out
	}
	l.master()
	l.reader()
	return l.out
}

func (l *lister) net() {
	w := l.w
	for i := range w.net {
		p, n := &w.net[i], uint8(i)
		if i > 250 {
			break
		}
		if l.random && w.dangerousLate(p) {
			l.add(aLate, n, 0, 0)
			continue
		}
		l.add(aDeliver, n, 0, 0)
		l.addIf(w.left.dup > 0, aKeep, n, 0, 0)
		l.addIf(l.random && i%4 == 0, aLose, n, 0, 0)
	}
}

// dangerousLate names the packets whose late arrival is the danger.
func (w *world) dangerousLate(p *packet) bool {
	toOld := p.to.kind == atServer && w.zombie != nil && p.to.inc == w.zombie.inc && p.to.id == w.zombie.index()
	switch p.body.(type) {
	case *quarry.DropRequest:
		return true
	case *quarry.FenceRequest:
		return toOld || w.cfg.late
	case *ackMsg:
		return toOld
	}
	return false
}

func (l *lister) client(c *client) {
	w := l.w
	if w.left.sends == 0 || c.dead || w.m.barrier {
		return
	}
	tk, tail := w.m.tail()
	flying, bytes := c.app.Unsettled()
	room := flying < w.cfg.window && (flying == 0 || bytes+w.cfg.length <= quarry.WindowBytes)
	l.addIf(c.started < maxSeq && room, aStart, c.id, 0, 0)
	if c.need != nil {
		if c.need.Last == handleOf(tk) && c.need.Version >= tail.writable {
			l.addIf(tail.state == open && w.left.seal > 0, aTail, c.id, 1, 0)
		} else {
			l.addIf(tail.state == open, aTail, c.id, 0, 0)
		}
	}
	l.addIf(flying > 0 && c.need == nil, aResend, c.id, 0, 0)
	l.addIf(l.random && w.left.doubt > 0 && flying > 0 && c.need == nil, aDoubt, c.id, tk, 0)
	for _, k := range w.m.file {
		ch := &w.m.chunks[k]
		told := ch.state == sealed || off(protocol.FateBeforeSeal) && ch.state == sealing
		if !told || !c.app.At(handleOf(k)) {
			continue
		}
		for i := range uint8(w.cfg.servers) {
			l.addIf(w.servers[i].members[k] != nil, aLearn, c.id, k, i)
		}
	}
}

// process lists what a live process may do of itself.
func (l *lister) process(p *process, at uint8) {
	if p == nil {
		return
	}
	for k := range uint8(maxChunks) {
		if n := len(p.disk[k].queue); n > 0 {
			l.add(aSync, at, k, 0)
			l.addIf(n > 1, aSync, at, k, 1)
		}
		m := p.members[k]
		if !l.random || m == nil || m.Primary() == nil {
			continue
		}
		l.addIf(m.Committed() > 0, aCommit, at, k, 0)
		l.addIf(len(m.Primary().Behind()) > 0, aPreps, at, k, 0)
	}
}

func (l *lister) server(p *process, i uint8) {
	w := l.w
	l.process(p, i)
	l.addIf(w.left.heartbeat > 0, aHeartbeat, i, 0, 0)
	if w.left.crash > 0 {
		l.add(aCrash, i, 0, 1)
		l.addIf(l.random, aCrash, i, 0, 0)
		l.addIf(l.random, aCrash, i, 1, 1)
		l.addIf(l.random, aCrash, i, 9, 0)
	}
	l.addIf(w.left.wipe > 0, aWipe, i, 0, 0)
	oneFault := w.g.fault&^(1<<i) == 0
	l.addIf(w.left.fail > 0 && oneFault, aFail, i, 0, 0)
	l.addIf(w.left.zombie > 0 && w.zombie == nil && oneFault, aZombie, i, 0, 0)
	tk, tail := w.m.tail()
	if r := &p.disk[tk].replica; w.left.rollback > 0 && oneFault && (tail.state == open || tail.state == sealing) &&
		tail.has(i) && r.Exists && r.LogVersion > r.SealVersion {
		l.addIf(r.DurableLength() > r.SealLength, aRollback, i, 1, 0) // the last record
		l.addIf(r.DurableLength() > r.SealLength, aRollback, i, 1, 1) // and the promise
		l.addIf(tail.state == sealing, aRollback, i, 0, 1)            // the promise only
	}
	l.addIf(l.random && w.left.gone > 0 && w.m.sealer != nil && tail.has(i), aGone, i, 0, 0)
	for k := range uint8(maxChunks) {
		if p.members[k] == nil {
			continue
		}
		for c := 0; c < w.cfg.clients && w.left.forget > 0; c++ {
			l.add(aForget, i, k, uint8(c))
		}
		st := w.m.chunks[k].state
		judged := (st == dead || st == none && off(HandleTakenTwice)) && !w.m.barrier
		judged = judged || off(OwnRangeJudged) && (st == creating || st == logging) || off(JudgedEarly) && st == limbo
		l.addIf(w.left.garbage > 0 && judged, aGarbage, i, k, 0)
	}
}

func (l *lister) master() {
	w := l.w
	k, tail := w.m.tail()
	_, last := w.m.last()
	switch tail.state {
	case open:
		l.addIf(w.left.seal > 0, aSeal, 0, 0, 0)
		m := w.at(w.index(memberNode(tail.members[0]))).members[k]
		l.addIf(l.random && w.allReopened() || m != nil && m.Replica().Adopted < tail.writable && w.allReopened(), aActivate, 0, 0, 0)
		l.addIf(l.random && tail.prev != 0, aReopens, 0, 0, 0)
	case sealing:
		l.addIf(l.random, aFences, 0, 0, 0)
		l.addIf(w.decision().Verdict != protocol.Waiting, aDecide, 0, 0, 0)
	case sealed:
		l.addIf(l.random, aSeals, 0, 0, 0)
		if w.left.reopen > 0 && w.mayReopen() {
			for i := range uint8(w.cfg.servers) {
				l.addIf(l.random || i == 0, aReopen, i, 0, 0)
			}
		}
		if w.m.count < maxChunks && !last.state.pending() && (l.random || w.m.count < 2) {
			for i := range uint8(w.cfg.servers) {
				l.addIf(l.random || i == 0, aRoll, i, 0, 0)
			}
		}
	}
	if last.state == creating && l.random {
		l.add(aCreates, 0, 0, 0)
		l.addIf(w.m.count < maxChunks, aAbandon, 0, 0, 0)
	}
	l.addIf(off(CreateAfterLogged) && tail.state == open, aCreates, 1, 0, 0)
	l.addIf(last.state == logging || w.m.unlogged != 0, aLogged, 0, 0, 0)
	l.addIf(w.left.failover > 0, aFailover, 0, 0, 0)
	for t := range ticks {
		l.addIf(w.left.ticks > 0, aTick, uint8(t), 0, 0)
	}
	l.copies()
}

func (l *lister) copies() {
	w := l.w
	if w.left.copies == 0 {
		return
	}
	n := uint8(w.cfg.servers)
	for _, k := range w.m.file {
		if w.m.chunks[k].state != sealed {
			continue
		}
		for from := range n {
			if w.servers[from].disk[k].replica.SealVersion != w.m.chunks[k].version() {
				continue
			}
			for to := range n {
				l.addIf(to != from && w.servers[to].disk[k].replica.SealVersion != w.m.chunks[k].version(), aCopy, k, from, to)
			}
		}
	}
}

func (l *lister) reader() {
	w := l.w
	if (!w.rd.on || l.random) && w.left.reads > 0 {
		l.add(aReadFresh, 0, 0, 0)
		l.add(aReadCached, 0, 0, 0)
	}
	l.addIf(w.rd.on && l.random, aReadRetry, 0, 0, 0)
}
