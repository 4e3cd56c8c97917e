package chunkserver

import (
	"sync"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/protocol"
)

// leasesMax bounds the shards whose leases are kept.
const leasesMax = quarry.Slots

// leases is what the server holds of each shard. Safe for use by many goroutines.
type leases struct {
	mu     sync.RWMutex
	shards map[quarry.ShardID]*held
	// owner is the shard whose lease counts for a slot: the last one that named the slot in a
	// grant, if its newest grant still does. Of a slot that moves, two shards may name it at the
	// same time for a moment, each with a right that the other one waits for.
	owner [quarry.Slots]quarry.ShardID
}

type held struct {
	lease protocol.HeldLease
	term  uint64
	nonce uint64 // of the newest heartbeat that a leader of this term has granted
}

// holds reports whether the server has a right, at now, for chunks of a slot. A slot that no
// grant has named belongs to shard 0, which grants nothing.
func (l *leases) holds(slot quarry.Slot, right protocol.Right, now clock.Instant) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	h := l.shards[l.owner[slot%quarry.Slots]]
	return h != nil && h.lease.Holds(right, protocol.Instant(now))
}

// granted notes a grant whose items are durable here; sent is when the heartbeat that it
// answers was sent. What the shard holds counts for the grant's slots from here on, and for no
// others: a slot that the shard has released is not its own, however long its lease lasts.
func (l *leases) granted(g *quarry.Grant, nonce uint64, sent clock.Instant) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shards == nil {
		l.shards = map[quarry.ShardID]*held{}
	}
	h := l.shards[g.Shard]
	switch {
	case g.Shard == quarry.RootShard || h == nil && len(l.shards) >= leasesMax:
		return
	case h == nil:
		h = &held{}
		l.shards[g.Shard] = h
	case g.Term < h.term || g.Term == h.term && nonce < h.nonce:
		return // of an older leader, or late: its word about items and slots may be incomplete
	}
	h.term, h.nonce = g.Term, nonce
	l.own(g)
	h.lease.Ask(nonce, protocol.Instant(sent))
	h.lease.Granted(nonce, protocol.Instant(g.EndMS)*1e6, protocol.Instant(g.ReadMS)*1e6)
}

// own replaces the slots of a shard by those of its newest grant.
func (l *leases) own(g *quarry.Grant) {
	for slot, owner := range l.owner {
		if owner == g.Shard {
			l.owner[slot] = quarry.RootShard
		}
	}
	for _, s := range g.Slots {
		for slot := int(s.First); slot <= int(s.Last) && slot < quarry.Slots; slot++ {
			l.owner[slot] = g.Shard
		}
	}
}
