package sim

import (
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// I10: a lease ends at its holder before it ends at its grantor.
//
// The holder's end: a server uses a right only while a grant gives it, counted from when the
// heartbeat that was granted came to the master; that was not before it was sent. The grantor's
// end: once a seal has been told to anybody, nobody says any more, by the right of a lease, where
// the chunk ends. The prober asks every primary at that instant.

// clockSlack is how much longer than it says a lease may last on a clock that runs too slow.
const clockSlack = 0.006

// leaseKey names a process that may hold leases.
type leaseKey struct {
	server      quarry.ServerID
	incarnation quarry.Incarnation
}

// lease is what a process holds of one shard.
type lease struct {
	leaseKey
	shard quarry.ShardID
}

// seenLease is what a server was granted of a shard: until when it may hold each right at most, by
// the true time, and the slots that grants have named.
type seenLease struct {
	end, read clock.Instant
	slots     map[quarry.SlotRange]bool
}

// heldBy returns until when a process may hold each right over a chunk at most. What it holds of a
// shard counts for all slots that a grant has named, also for those that came to the shard after the
// right was granted: whoever takes slots waits as if everybody had been granted it at that instant.
func (o *observer) heldBy(s *observedServer, handle quarry.Handle) (end, read clock.Instant) {
	for shard := range o.leaders {
		l := o.leases[lease{leaseKey{s.id, s.incarnation}, shard}]
		for r := range l.slots {
			if r.First <= handle.Slot() && handle.Slot() <= r.Last {
				end, read = max(end, l.end), max(read, l.read)
			}
		}
	}
	return end, read
}

// granted notes what a heartbeat that came at an instant was granted.
func (o *observer) granted(h *Host, came clock.Instant, req *quarry.HeartbeatRequest, reply *quarry.HeartbeatReply) {
	for i := range reply.Grants {
		g := &reply.Grants[i]
		o.leaders[g.Shard] = h
		if g.Shard == quarry.RootShard || g.More {
			continue
		}
		o.owned(g)
		key := lease{leaseKey{req.Server, req.Incarnation}, g.Shard}
		l := o.leases[key]
		if l.slots == nil {
			l.slots = map[quarry.SlotRange]bool{}
		}
		for _, r := range g.Slots {
			l.slots[r] = true
		}
		l.end, l.read = max(l.end, slow(came, g.EndMS)), max(l.read, slow(came, g.ReadMS))
		o.leases[key] = l
	}
}

// slow returns when a time that begins at an instant is surely over on any clock.
func slow(from clock.Instant, ms int64) clock.Instant {
	return from.Add(time.Duration(float64(ms) * (1 + clockSlack) * 1e6))
}

// authorised judges that a server that tells where an open chunk ends may do so: it is the
// primary, and if it says so by the right of its lease, it has one and there is no seal.
func (o *observer) authorised(from moment, s *observedServer, req *quarry.EndRequest, reply *quarry.EndReply) {
	c := o.chunk(req.Handle)
	v := c.versions[req.Version]
	if v == nil || v.members[0].Server != s.id || v.members[0].Incarnation != s.incarnation {
		o.violated("I9 one end", "%s says where version %d of chunk %v ends, and is not its primary", s.p.host.name, req.Version, req.Handle)
		return
	}
	if reply.Confirm {
		return
	}
	now := o.log.w.Now()
	if until, _ := o.heldBy(s, req.Handle); now > until {
		o.violated("I10 leases end first", "%s says where chunk %v ends, and its lease is over for %v", s.p.host.name, req.Handle, now.Sub(until))
	}
	if at, sealed := c.sealedAt[req.Version+1]; sealed && at < from {
		o.violated("I10 leases end first", "%s says by the right of its lease where chunk %v ends, which is sealed at version %d", s.p.host.name, req.Handle, req.Version+1)
	}
}

// mayRead judges that a server that answers a read that is not validated has a lease.
func (o *observer) mayRead(s *observedServer, handle quarry.Handle) {
	now := o.log.w.Now()
	if _, until := o.heldBy(s, handle); now > until {
		o.violated("I10 leases end first", "%s lets chunk %v be read, and its lease is over for %v", s.p.host.name, handle, now.Sub(until))
	}
}
