package chunkserver

import (
	"context"
	"time"

	"github.com/quarryfs/quarry"
)

const (
	// waitMax is the longest that a Wait waits; its caller asks again.
	waitMax = 10 * time.Second
	// waitMargin is how long before the caller's deadline a Wait is answered.
	waitMargin = 200 * time.Millisecond
)

// Wait returns when there is more to read than the caller knows, or the chunk is sealed.
func (s *Server) Wait(ctx context.Context, req *quarry.WaitRequest) (*quarry.WaitReply, error) {
	r, err := s.allowed("wait", &req.ChunkRef, quarry.RightRead)
	if err != nil {
		return nil, err
	}
	defer r.release()
	limit := waitMax
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, max(s.until(deadline)-waitMargin, 0))
	}
	timer := s.cfg.Clock.NewTimer(limit)
	defer timer.Stop()
	for {
		r.mu.Lock()
		reply, over, err := r.member.Wait(req)
		changed := r.changed
		r.mu.Unlock()
		if over || err != nil {
			return &reply, err
		}
		select {
		case <-changed:
		case <-timer.C():
			return &reply, nil
		case <-ctx.Done():
			return &reply, nil
		case <-s.ctx.Done():
			return nil, s.stopping("wait", req.Handle)
		}
	}
}

// until is how long a deadline of the wall clock is ahead, by this server's clock.
func (s *Server) until(deadline time.Time) time.Duration { return deadline.Sub(s.cfg.Clock.Wall()) }
