package client

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

const (
	// replyMax is how long a server may take to answer a small request.
	replyMax = time.Second
	// avoidTime is how long a server that failed is passed over while there are others.
	avoidTime = 5 * time.Second
	// avoidMax bounds the servers that are passed over.
	avoidMax = 256

	hedgeMin = 50 * time.Millisecond
	hedgeMax = time.Second
	// hedgeShare is how many reads pay for one that is asked twice, so that a cluster that
	// is slow everywhere is not given double work.
	hedgeShare = 10
)

// health remembers which servers failed lately and how fast reads are.
type health struct {
	clock clock.Clock

	mu      sync.Mutex
	avoid   map[quarry.ServerID]clock.Instant // until when
	usual   time.Duration                     // moving average of a read's time
	credits int                               // hedgeShare of them pay for one hedge
}

func (h *health) init(c clock.Clock) {
	h.clock, h.avoid, h.credits = c, map[quarry.ServerID]clock.Instant{}, 10*hedgeShare
}

// failed notes that a server does not answer, or not in time.
func (h *health) failed(s quarry.ServerID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.clock.Now()
	if len(h.avoid) >= avoidMax {
		for id, until := range h.avoid {
			if until < now {
				delete(h.avoid, id)
			}
		}
	}
	if len(h.avoid) < avoidMax {
		h.avoid[s] = now.Add(avoidTime)
	}
}

// answered notes a read that went well and took d.
func (h *health) answered(s quarry.ServerID, d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.avoid, s)
	h.usual += (d - h.usual) / 16
	h.credits = min(h.credits+1, 10*hedgeShare)
}

// hedgeAfter is how long to wait for an answer before another replica is asked as well.
func (h *health) hedgeAfter() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return min(max(4*h.usual, hedgeMin), hedgeMax)
}

// mayHedge takes what a hedge costs.
func (h *health) mayHedge() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.credits < hedgeShare {
		return false
	}
	h.credits -= hedgeShare
	return true
}

// order returns a chunk's members as they are to be asked: those on this machine first, then
// as the master ordered them, and last those that failed lately.
func (f *FS) order(members []quarry.Member) []quarry.Member {
	out := make([]quarry.Member, 0, len(members))
	var ranks [quarry.ReplicasMax]int
	f.health.mu.Lock()
	for i := range members[:min(len(members), len(ranks))] {
		ranks[i] = f.rank(&members[i])
	}
	f.health.mu.Unlock()
	for rank := range 3 {
		for i := range members[:min(len(members), len(ranks))] {
			if ranks[i] == rank {
				out = append(out, members[i])
			}
		}
	}
	return out
}

// rank is 0 for a member on this machine, 2 for one that failed lately. health.mu is held.
func (f *FS) rank(m *quarry.Member) int {
	if until, ok := f.health.avoid[m.Server]; ok && until > f.clock.Now() {
		return 2
	}
	if f.here(m) {
		return 0
	}
	return 1
}

// here reports whether a member is on this machine.
func (f *FS) here(m *quarry.Member) bool {
	if len(f.opts.Hosts) == 0 {
		return false
	}
	host, _, err := net.SplitHostPort(m.Address)
	return err == nil && slices.Contains(f.opts.Hosts, host)
}

// report tells the master, in the background, of a member with broken bytes, or of one that
// does not do its part.
func (f *FS) report(chunk *quarry.Chunk, m quarry.Member, corrupt bool, why string) {
	f.log.Warn("a replica is reported", "chunk", chunk.Handle, "server", m.Server, "corrupt", corrupt, "why", why)
	select {
	case f.reports <- struct{}{}:
	default:
		return
	}
	req := &quarry.ReportRequest{
		Handle: chunk.Handle, Version: chunk.Version, Corrupt: corrupt,
		Suspects: []quarry.Suspect{{Server: m.Server, Incarnation: m.Incarnation, Why: why}},
	}
	started := f.background(func(ctx context.Context) {
		defer func() { <-f.reports }()
		ctx, cancel := f.clock.WithTimeout(ctx, 10*replyMax)
		defer cancel()
		if err := f.masters.Report(ctx, req); err != nil {
			f.log.Warn("the report was not taken", "chunk", req.Handle, "err", err)
		}
	})
	if !started {
		<-f.reports
	}
}
