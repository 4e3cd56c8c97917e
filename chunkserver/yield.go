package chunkserver

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/quarryfs/quarry/clock"
)

// Copies yield to clients. Whoever fetches a chunk, for repair or to put it together from parts, works
// piece by piece: it reads a piece at the source and writes it here. While either server has served a
// client a moment ago, a piece is followed by a pause of several times what it took, so that disks,
// network and processors are the clients' for most of the time; however slow the piece was, so that
// this needs no knowledge of the machine. The master says how fast a copy may be, and how fast
// it is to be whatever clients do: the fewer copies a chunk has left, the faster.

const (
	// quietTime is how long after its last request of a client a server counts as quiet. A client that
	// waits for one answer after the other is heard again within it, also over a slow network.
	quietTime = 100 * time.Millisecond
	// yieldShare is how many times as long as a piece took the pause behind it is: a copy has a fourth
	// of the time.
	yieldShare = 3
)

// traffic knows when the server last worked for a client. Safe for use by many goroutines.
type traffic struct {
	last atomic.Int64 // clock.Instant; 0: never
}

// served notes that the server works for a client.
func (t *traffic) served(now clock.Instant) { t.last.Store(int64(now)) }

// quiet reports whether it has not for a while.
func (t *traffic) quiet(now clock.Instant) bool {
	last := t.last.Load()
	return last == 0 || now.Sub(clock.Instant(last)) >= quietTime
}

// pacer paces one copy. Used by one goroutine.
type pacer struct {
	clock       clock.Clock
	traffic     *traffic // of the server that fetches
	most, least int64    // bytes per second; most 0: no bound; least 0: it does not yield
	since       clock.Instant
}

// pace begins a copy.
func (s *Server) pace(most, least int64) *pacer {
	return &pacer{clock: s.cfg.Clock, traffic: &s.traffic, most: most, least: least, since: s.cfg.Clock.Now()}
}

// piece is told that n bytes more are here, and whether their source has clients; it waits before the
// next ones are to be fetched.
func (p *pacer) piece(ctx context.Context, n int64, pressed bool) error {
	now := p.clock.Now()
	took := now.Sub(p.since)
	wait := max(0, passing(n, p.most)-took)
	if pressed || !p.traffic.quiet(now) {
		wait = max(wait, min(yieldShare*took, passing(n, p.least)-took))
	}
	if wait > 0 {
		if err := p.clock.Sleep(ctx, wait); err != nil {
			return err
		}
	}
	p.since = p.clock.Now()
	return nil
}

// passing is how long n bytes take at a rate; 0 if none is given.
func passing(n, rate int64) time.Duration {
	if rate <= 0 {
		return 0
	}
	return time.Duration(float64(n) / float64(rate) * float64(time.Second))
}
