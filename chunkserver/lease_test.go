package chunkserver

import (
	"slices"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/protocol"
)

// Each shard's lease is good for the slots that are its by the newest map that any grant was of,
// and for no other shard's.
func TestLeasesOfSeveralShards(t *testing.T) {
	var l leases
	grant := func(shard quarry.ShardID, version uint64, slots ...quarry.SlotRange) {
		g := &quarry.Grant{Shard: shard, Term: 1, Slots: slots, Map: version, EndMS: 2000, ReadMS: 10000}
		l.granted(g, 1, clock.Instant(time.Second))
	}
	now := clock.Instant(2 * time.Second)
	want := func(slot quarry.Slot, holds bool) {
		t.Helper()
		if got := l.holds(slot, protocol.RightEnd, now); got != holds {
			t.Errorf("slot %d: %v", slot, got)
		}
	}
	grant(1, 1, quarry.SlotRange{First: 0, Last: 9})
	want(5, true)
	want(15, false)
	grant(2, 2, quarry.SlotRange{First: 5, Last: 19})
	want(15, true)
	grant(1, 1, quarry.SlotRange{First: 0, Last: 9}) // by a master that is behind
	if l.owner[5] != 2 || l.owner[4] != 1 || l.owner[15] != 2 || l.owner[20] != 0 {
		t.Errorf("owners: %v", l.owner[:21])
	}
	now = clock.Instant(4 * time.Second)
	grant(1, 2, quarry.SlotRange{First: 0, Last: 4})
	want(4, false)
	want(5, false)
}

// What a heartbeat can say is shared by the shards, so that none of them is never heard.
func TestShare(t *testing.T) {
	item := func(h int) quarry.Item { return quarry.Item{Kind: quarry.ItemFence, Handle: quarry.Handle(h)} }
	var many, few []quarry.Item
	for i := range 2 * quarry.ItemsMax {
		many = append(many, item(i))
	}
	few = []quarry.Item{item(-1), item(-2)}
	got := share([][]quarry.Item{many, nil, few}, quarry.ItemsMax)
	if len(got) != quarry.ItemsMax || !slices.Contains(got, few[0]) || !slices.Contains(got, few[1]) || !slices.Contains(got, many[quarry.ItemsMax-3]) {
		t.Errorf("%d items", len(got))
	}
	if got := share([][]quarry.Item{few, few[:1]}, 10); !slices.Equal(got, []quarry.Item{few[0], few[0], few[1]}) {
		t.Errorf("%v", got)
	}
	if got := share(nil, 10); len(got) != 0 {
		t.Errorf("%v", got)
	}
}
