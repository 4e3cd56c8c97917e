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

// owner returns the shard that owns a slot, as grants have told; 0 if none has.
func (o *observer) owner(slot quarry.Slot) quarry.ShardID {
	for r, shard := range o.owners {
		if r.First <= slot && slot <= r.Last {
			return shard
		}
	}
	return 0
}

// heldBy returns what a process may hold of the shard that owns a chunk.
func (o *observer) heldBy(s *observedServer, handle quarry.Handle) seenLease {
	return o.leases[lease{leaseKey{s.id, s.incarnation}, o.owner(handle.Slot())}]
}

// seenLease is until when a server may hold each right at most, by the true time.
type seenLease struct{ end, read clock.Instant }

// granted notes what a heartbeat that came at an instant was granted.
func (o *observer) granted(h *Host, came clock.Instant, req *quarry.HeartbeatRequest, reply *quarry.HeartbeatReply) {
	for i := range reply.Grants {
		g := &reply.Grants[i]
		o.leaders[g.Shard] = h
		if g.Shard == quarry.RootShard || g.More {
			continue
		}
		for _, r := range g.Slots {
			o.owners[r] = g.Shard
		}
		key := lease{leaseKey{req.Server, req.Incarnation}, g.Shard}
		l := o.leases[key]
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
	if now, until := o.log.w.Now(), o.heldBy(s, req.Handle).end; now > until {
		o.violated("I10 leases end first", "%s says where chunk %v ends, and its lease is over for %v", s.p.host.name, req.Handle, now.Sub(until))
	}
	if at, sealed := c.sealedAt[req.Version+1]; sealed && at < from {
		o.violated("I10 leases end first", "%s says by the right of its lease where chunk %v ends, which is sealed at version %d", s.p.host.name, req.Handle, req.Version+1)
	}
}

// mayRead judges that a server that answers a read that is not validated has a lease.
func (o *observer) mayRead(s *observedServer, handle quarry.Handle) {
	if now, until := o.log.w.Now(), o.heldBy(s, handle).read; now > until {
		o.violated("I10 leases end first", "%s lets chunk %v be read, and its lease is over for %v", s.p.host.name, handle, now.Sub(until))
	}
}
