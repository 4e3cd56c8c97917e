package chunkserver

import (
	"sync"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/protocol"
)

// leasesMax bounds the shards whose leases are kept.
const leasesMax = quarry.Slots

// leases is what the server holds of each shard, and which slots it knows of each. Safe for
// use by many goroutines.
type leases struct {
	mu     sync.RWMutex
	shards map[quarry.ShardID]*held
	owner  [quarry.Slots]quarry.ShardID
	slots  uint64 // the version of the slot map that owner is of
}

type held struct {
	lease protocol.HeldLease
	term  uint64
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
// answers was sent.
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
	case g.Term < h.term:
		return // a leader of an older term: its word about items may be incomplete
	}
	h.term = g.Term
	for _, s := range l.newer(g) {
		for slot := int(s.First); slot <= int(s.Last) && slot < quarry.Slots; slot++ {
			l.owner[slot] = g.Shard
		}
	}
	h.lease.Ask(nonce, protocol.Instant(sent))
	h.lease.Granted(nonce, protocol.Instant(g.EndMS)*1e6, protocol.Instant(g.ReadMS)*1e6)
}

// newer returns the slots of a grant, unless they are of an older slot map than the one known: a
// slot that has moved does not go back because the master that it came from is behind.
func (l *leases) newer(g *quarry.Grant) []quarry.SlotRange {
	if g.Map < l.slots {
		return nil
	}
	l.slots = g.Map
	return g.Slots
}
