package protocol

import (
	"slices"
	"sort"

	"github.com/quarryfs/quarry"
)

const (
	millisecond = Instant(1e6)
	second      = 1000 * millisecond

	// EndLease is how long, from the sending of a heartbeat, a server may say where an open
	// chunk ends without asking the master.
	EndLease = 2 * second
	// ReadLease is how long, from the sending of a heartbeat, a server may answer reads that
	// are not validated.
	ReadLease = 10 * second

	// LeaseDriftPercent is what the rates of two clocks may differ by. A server whose drift
	// measures above half of it gets no lease.
	LeaseDriftPercent = 1
	leasePad          = 50 * millisecond
)

// Right is what a lease allows.
type Right uint8

// The rights of a lease.
const (
	RightEnd  Right = iota // to say where an open chunk ends
	RightRead              // to answer reads that are not validated
	rights
)

var leaseTime = [rights]Instant{RightEnd: EndLease, RightRead: ReadLease}

// grantTime is how long the grantor believes that a lease of the right may last, by its own
// clock and from the arrival of the heartbeat.
func grantTime(r Right) Instant {
	if off(NoClockMargin) {
		return leaseTime[r]
	}
	return leaseTime[r] + leaseTime[r]*2*LeaseDriftPercent/100 + leasePad
}

// Leases is the grantor's side: what one leader of one shard has granted. It is volatile; a
// leader that begins believes that every server holds every lease.
//
// A lease belongs to an incarnation of a server. When a server restarts, the lease of the
// incarnation before goes on until its time, unless the start proves that it is gone.
//
// Slots may come to the shard from another one while the leader leads; for them it is as new as
// for all of them when it was elected.
type Leases struct {
	elected Instant
	grants  []grant   // sorted by server and incarnation
	arrived []arrival // at most arrivalsMax
}

// arrivalsMax bounds the rows of slots whose earlier leases are waited out by themselves.
const arrivalsMax = 16

// arrival is slots that came to the shard.
type arrival struct {
	slots []quarry.SlotRange
	at    Instant // no lease of theirs, of another shard, is of a heartbeat sent after it
}

// grant is what one incarnation of a server holds at most.
type grant struct {
	server      quarry.ServerID
	incarnation quarry.Incarnation
	gone        bool // its process has surely ended
	until       [rights]Instant
}

// NewLeases returns the leases of a leader elected at now. It may know of no grant, so it
// waits out all those that leaders before it may have made.
func NewLeases(now Instant) Leases { return Leases{elected: now} }

// Took notes that slots are about to come from another shard, whose log says by now that they
// are not its own any more. What it may have granted for them is waited out as if all servers
// had asked for it at now.
func (l *Leases) Took(slots []quarry.SlotRange, now Instant) {
	if len(l.arrived) == arrivalsMax { // then for all slots
		l.elected, l.arrived = now, nil
		return
	}
	l.arrived = append(l.arrived, arrival{slices.Clone(slots), now})
}

// Heartbeat notes that a server asks for its lease, and reports whether it may have it. The
// caller has confirmed its leadership after the heartbeat arrived; now is read after that. Only when
// Heartbeat has returned true is the grant sent.
func (l *Leases) Heartbeat(server quarry.ServerID, inc quarry.Incarnation, now Instant) bool {
	i, ok := l.find(server, inc)
	next := i
	if ok {
		next++
	}
	superseded := next < len(l.grants) && l.grants[next].server == server
	if superseded || ok && l.grants[i].gone {
		return false
	}
	g := l.put(i, ok, server, inc)
	for r := range g.until {
		if until := now + grantTime(Right(r)); until > g.until[r] || off(GrantMovesBack) {
			g.until[r] = until
		}
	}
	return true
}

// Registered notes that an incarnation of a server has begun, as the log says. Leases of
// lower incarnations are not renewed any more, but go on until their time.
func (l *Leases) Registered(server quarry.ServerID, inc quarry.Incarnation) {
	if i, ok := l.find(server, inc); !ok {
		l.put(i, false, server, inc)
	}
	for i := range l.grants {
		if g := &l.grants[i]; off(RegisterEndsLease) && g.server == server && g.incarnation < inc {
			g.gone = true
		}
	}
}

// Ended notes that the process of an incarnation has surely ended, and its leases with it:
// another one was started in the same boot of the same host and holds the lock of the
// server's folder.
func (l *Leases) Ended(server quarry.ServerID, inc quarry.Incarnation) {
	i, ok := l.find(server, inc)
	l.put(i, ok, server, inc).gone = true
}

// Over reports whether an incarnation of a server surely does not hold a right at now, for chunks
// of a slot.
func (l *Leases) Over(slot quarry.Slot, server quarry.ServerID, inc quarry.Incarnation, r Right, now Instant) bool {
	return now > l.Until(slot, server, inc, r)
}

// Until returns the last instant at which an incarnation of a server may hold a right, for chunks
// of a slot.
func (l *Leases) Until(slot quarry.Slot, server quarry.ServerID, inc quarry.Incarnation, r Right) Instant {
	until := l.since(slot) + grantTime(r) // what a leader before this one granted
	if off(FailoverWithoutWait) {
		until = 0
	}
	i, ok := l.find(server, inc)
	if !ok {
		return until
	}
	if l.grants[i].gone {
		return 0
	}
	return max(until, l.grants[i].until[r])
}

// since returns the instant up to which others may have granted leases for a slot.
func (l *Leases) since(slot quarry.Slot) Instant {
	at := l.elected
	for _, t := range l.arrived {
		for _, r := range t.slots {
			if r.First <= slot && slot <= r.Last && !off(TakenWithoutWait) {
				at = max(at, t.at)
			}
		}
	}
	return at
}

// Prune forgets grants that are over and not of a server's last incarnation, and slots whose
// earlier leases are over.
func (l *Leases) Prune(now Instant) {
	kept := l.grants[:0]
	for i, g := range l.grants {
		last := i+1 == len(l.grants) || l.grants[i+1].server != g.server
		if last || now <= max(g.until[RightEnd], g.until[RightRead], l.elected+grantTime(RightRead)) && !g.gone {
			kept = append(kept, g)
		}
	}
	l.grants = kept
	l.arrived = slices.DeleteFunc(l.arrived, func(t arrival) bool { return now > t.at+grantTime(RightRead) })
}

// Clone returns a copy that shares nothing with l.
func (l *Leases) Clone() Leases {
	return Leases{l.elected, slices.Clone(l.grants), slices.Clone(l.arrived)}
}

func (l *Leases) find(server quarry.ServerID, inc quarry.Incarnation) (int, bool) {
	i := sort.Search(len(l.grants), func(k int) bool {
		g := &l.grants[k]
		return g.server > server || g.server == server && g.incarnation >= inc
	})
	return i, i < len(l.grants) && l.grants[i].server == server && l.grants[i].incarnation == inc
}

func (l *Leases) put(i int, ok bool, server quarry.ServerID, inc quarry.Incarnation) *grant {
	if !ok {
		l.grants = slices.Insert(l.grants, i, grant{server: server, incarnation: inc})
	}
	return &l.grants[i]
}

// asksMax bounds the heartbeats whose grants a holder waits for.
const asksMax = 16

// HeldLease is the holder's side: what one server holds of one shard. It is counted from
// the instant at which the heartbeat was sent, by the holder's clock.
type HeldLease struct {
	asks  []ask // the newest last
	until [rights]Instant
}

type ask struct {
	nonce uint64
	sent  Instant
}

// Ask notes that a heartbeat is about to be sent at now. Its nonce grows with each.
func (h *HeldLease) Ask(nonce uint64, now Instant) {
	if len(h.asks) == asksMax {
		h.asks = slices.Delete(h.asks, 0, 1)
	}
	h.asks = append(h.asks, ask{nonce, now})
}

// Granted notes that the heartbeat with this nonce was granted for these times, and that
// everything the grant carried (fences, marks, drops) is durable here. Times above EndLease
// and ReadLease are cut to them. A nonce that was not asked, or long ago, is ignored.
func (h *HeldLease) Granted(nonce uint64, end, read Instant) {
	i := slices.IndexFunc(h.asks, func(a ask) bool { return a.nonce == nonce })
	if i < 0 {
		return
	}
	for r, t := range [rights]Instant{RightEnd: end, RightRead: read} {
		if t = min(t, leaseTime[r]); t > 0 {
			h.until[r] = max(h.until[r], h.asks[i].sent+t)
		}
	}
	h.asks = slices.Delete(h.asks, i, i+1)
}

// Holds reports whether the server has a right at now. The order in an answer is: take the
// bytes and the commit, then read the clock and ask Holds, then send.
func (h *HeldLease) Holds(r Right, now Instant) bool {
	return now <= h.until[r] && h.until[r] != 0 || off(NoLeaseCheck)
}

// Clone returns a copy that shares nothing with h.
func (h *HeldLease) Clone() HeldLease { return HeldLease{slices.Clone(h.asks), h.until} }
