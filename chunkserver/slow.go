package chunkserver

import (
	"context"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// A member that lives but does not answer holds up the whole chunk, so it is reported; a
// disk that is slow for a while, as all of them are when a machine is busy, is no reason. So
// each member of a chain compares the next one with itself: that one is slow if this server
// has had a batch durable for a second longer. Who has others behind it answers for them,
// too, and is given a second more for each, so that the one that is slow is named by the one
// before it, and nobody else. Before the primary there is nobody: it compares itself with the
// others, and names itself if all of them have had a batch for a second longer. How often a
// file's version is ended for that is the master's to bound.

// sets notes that a batch is on its way, and has somebody look at it, until it has arrived.
func (r *replica) sets(p *passage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.chain.passages = append(r.chain.passages, p)
	if !r.chain.watched {
		r.chain.watched = r.server.begin(r.watchNext) // one for each replica at most
	}
}

// arrived notes that a batch was answered or given up.
func (r *replica) arrived(p *passage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.Index(r.chain.passages, p); i >= 0 {
		r.chain.passages = slices.Delete(r.chain.passages, i, i+1)
	}
}

// breaks notes that the connection of a batch has broken, and reports whether that was the first
// time.
func (r *replica) breaks(p *passage) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := !p.broken
	p.broken = true
	return first
}

// watchNext looks at the batches on their way, and at this server's own part in them, for as long
// as there are any.
func (r *replica) watchNext(ctx context.Context) {
	for {
		err := r.server.cfg.Clock.Sleep(ctx, slowLook)
		r.mu.Lock()
		now := r.server.cfg.Clock.Now()
		version, slow := r.lags(now)
		if slow == nil {
			version, slow = r.slowest(now)
		}
		if err != nil || len(r.chain.passages) == 0 && r.chain.ahead == 0 {
			r.chain.watched = false
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		if slow != nil {
			r.report(version, slow)
		}
	}
}

// lags returns this server if it is a primary whose disk is slow, and the version. r.mu is held.
func (r *replica) lags(now clock.Instant) (quarry.Version, []quarry.Suspect) {
	c, p, durable := &r.chain, r.member.Primary(), r.member.DurableLength()
	if p == nil || p.Others() <= durable {
		c.ahead = 0
		return 0, nil
	}
	if durable >= c.ahead {
		c.ahead, c.lacked = p.Others(), now
	}
	if now.Sub(c.lacked) < slowMember {
		return 0, nil
	}
	return p.Version(), []quarry.Suspect{r.server.suspects("its disk does not answer for a batch that all the others have had for %v", slowMember)}
}

// slowest returns the member that is slow to take a batch, if there is one, and the version. If the
// way to it has broken, it may as well be this server that others do not hear: it names itself, too,
// behind the other one. r.mu is held.
func (r *replica) slowest(now clock.Instant) (quarry.Version, []quarry.Suspect) {
	durable := r.member.DurableLength()
	for _, p := range r.chain.passages {
		switch {
		case p.end > durable:
			return 0, nil // nor are those behind it
		case p.since == 0:
			p.since = now
		case now.Sub(p.since) >= time.Duration(p.behind+1)*slowMember:
			why := quarry.Errorf("prepare", quarry.Unavailable, p.to.Address, "no answer to a batch that server %d has had for %d times %v", r.server.id, p.behind+1, slowMember)
			slow := []quarry.Suspect{suspect(p.to, why)}
			if p.broken {
				slow = append(slow, r.server.suspects("there is no way between it and server %d", p.to.Server))
			}
			return p.version, slow
		}
	}
	return 0, nil
}

// suspects returns this server as one that is to be passed over.
func (s *Server) suspects(format string, args ...any) quarry.Suspect {
	self := quarry.Member{Server: s.id, Incarnation: s.incarnation}
	return suspect(self, quarry.Errorf("prepare", quarry.Unavailable, s.cfg.Address, format, args...))
}
