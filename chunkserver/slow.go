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
// before it, and nobody else. How often a file's version is ended for that is the master's to
// bound.

// sets notes that a batch is on its way, and has somebody look at it. What it returns is
// called when the batch is answered or given up.
func (r *replica) sets(p *passage) (arrived func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.chain.passages = append(r.chain.passages, p)
	if !r.chain.watched {
		r.chain.watched = r.server.begin(r.watchNext) // one for each replica at most
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if i := slices.Index(r.chain.passages, p); i >= 0 {
			r.chain.passages = slices.Delete(r.chain.passages, i, i+1)
		}
	}
}

// watchNext looks at the batches on their way for as long as there are any.
func (r *replica) watchNext(ctx context.Context) {
	for {
		err := r.server.cfg.Clock.Sleep(ctx, slowLook)
		r.mu.Lock()
		if err != nil || len(r.chain.passages) == 0 {
			r.chain.watched = false
			r.mu.Unlock()
			return
		}
		p := r.slowest(r.server.cfg.Clock.Now())
		r.mu.Unlock()
		if p != nil {
			slow := quarry.Errorf("prepare", quarry.Unavailable, p.to.Address, "no answer to a batch that server %d has had for %d times %v", r.server.id, p.behind+1, slowMember)
			r.report(p.version, []quarry.Suspect{suspect(p.to, slow)})
		}
	}
}

// slowest returns a batch whose member is slow, or nil. r.mu is held.
func (r *replica) slowest(now clock.Instant) *passage {
	durable := r.member.DurableLength()
	for _, p := range r.chain.passages {
		switch {
		case p.end > durable:
			return nil // nor are those behind it
		case p.since == 0:
			p.since = now
		case now.Sub(p.since) >= time.Duration(p.behind+1)*slowMember:
			return p
		}
	}
	return nil
}
