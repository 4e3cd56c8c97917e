// Package health remembers which chunk servers failed lately and how fast reads are, so that a client
// asks others first and knows when to ask a second one. Its memory does not grow with the cluster.
package health

import (
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

const (
	// avoidTime is how long a server that failed is passed over while there are others.
	avoidTime = 5 * time.Second
	// avoidMax bounds the servers that are passed over.
	avoidMax = 256

	// HedgeMin is the least time after which a read is asked for twice.
	HedgeMin = 50 * time.Millisecond
	hedgeMax = time.Second
	// firstMax is how long the first answers may take to come when they have begun to.
	firstMax = 3 * time.Second
	// hedgeShare is how many reads pay for one that is asked twice, so that a cluster that
	// is slow everywhere is not given double work.
	hedgeShare = 10
)

// Memory is what one client remembers. Safe for use by many goroutines.
type Memory struct {
	clock clock.Clock

	mu      sync.Mutex
	avoid   map[quarry.ServerID]clock.Instant // until when
	usual   time.Duration                     // moving average of a read's time; 0: there was none
	credits int                               // hedgeShare of them pay for one hedge
}

// New returns the memory of a client that has not met any server.
func New(c clock.Clock) *Memory {
	return &Memory{clock: c, avoid: map[quarry.ServerID]clock.Instant{}, credits: 10 * hedgeShare}
}

// Failed notes that a server does not answer, or not in time.
func (h *Memory) Failed(s quarry.ServerID) {
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

// Answered notes a read that went well and took d.
func (h *Memory) Answered(s quarry.ServerID, d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.avoid, s)
	if h.usual == 0 {
		h.usual = d
	}
	h.usual += (d - h.usual) / 16
	h.credits = min(h.credits+1, 10*hedgeShare)
}

// HedgeAfter is how long to wait for the first byte of an answer before another replica is asked as well.
func (h *Memory) HedgeAfter() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return min(max(4*h.usual, HedgeMin), hedgeMax)
}

// Slow reports whether d is too long for an answer whose bytes are coming. On a slow link it takes
// seconds, and the same bytes from another server would only come more slowly; so only what other
// reads took says what is long.
func (h *Memory) Slow(d time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.usual == 0 {
		return d > firstMax
	}
	return d >= max(4*h.usual, HedgeMin)
}

// MayHedge takes what a hedge costs; false: too many reads are asked twice already.
func (h *Memory) MayHedge() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.credits < hedgeShare {
		return false
	}
	h.credits -= hedgeShare
	return true
}

// Avoid reports of each server whether it failed lately.
func (h *Memory) Avoid(servers []quarry.Member) (avoid [quarry.ReplicasMax]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.clock.Now()
	for i := range servers[:min(len(servers), len(avoid))] {
		until, ok := h.avoid[servers[i].Server]
		avoid[i] = ok && until > now
	}
	return avoid
}
