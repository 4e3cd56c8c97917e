package chunkserver

import (
	"context"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// idleLooks is how often, in the time after which a chunk counts as idle, the chunks are
// looked at. A report that does not arrive is made again at the next look.
const idleLooks = 4

// idles has chunks sealed whose primary is here and to which nobody writes any more.
func (s *Server) idles(ctx context.Context) {
	for s.cfg.Clock.Sleep(ctx, s.cfg.IdleAfter/idleLooks) == nil {
		for _, r := range s.primaries() {
			if v := r.idleVersion(s.cfg.Clock.Now()); v != 0 {
				s.background(func(ctx context.Context) { s.tellIdle(ctx, r, v) })
			}
			r.release()
		}
	}
}

// primaries returns the replicas that have the role of primary, each held for the caller.
func (s *Server) primaries() (list []*replica) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, r := range s.replicas {
		r.mu.Lock()
		if r.member.Primary() != nil {
			r.users.Add(1)
			list = append(list, r)
		}
		r.mu.Unlock()
	}
	sortReplicas(list)
	return list
}

// idleVersion returns the version of which the replica is the primary, if nobody has written
// to it for so long that it should end; else 0.
func (r *replica) idleVersion(now clock.Instant) quarry.Version {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.member.Primary(); p != nil && p.Quiet() && now.Sub(r.touched) >= r.server.cfg.IdleAfter {
		return p.Version()
	}
	return 0
}

// idleTell is how long a master may take to hear that a chunk is idle.
const idleTell = time.Second

// tellIdle asks the master to end an idle version.
func (s *Server) tellIdle(ctx context.Context, r *replica, v quarry.Version) {
	ctx, cancel := s.cfg.Clock.WithTimeout(ctx, idleTell)
	defer cancel()
	if err := s.cfg.Masters.Report(ctx, &quarry.ReportRequest{Handle: r.handle, Version: v}); err != nil {
		s.cfg.Logger.Debug("the master could not be told of an idle chunk", "chunk", r.handle, "error", err)
	}
}
