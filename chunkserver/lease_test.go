package chunkserver

import (
	"slices"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/protocol"
)

// Each shard's lease is good for the slots of its newest grant: not for those that it named
// before, nor for another shard's.
func TestLeasesOfSeveralShards(t *testing.T) {
	var l leases
	second := clock.Instant(time.Second)
	grant := func(shard quarry.ShardID, term, nonce uint64, sent clock.Instant, slots ...quarry.SlotRange) {
		l.granted(&quarry.Grant{Shard: shard, Term: term, Slots: slots, EndMS: 2000, ReadMS: 10000}, nonce, sent)
	}
	now := 2 * second
	want := func(slot quarry.Slot, holds bool) {
		t.Helper()
		if got := l.holds(slot, protocol.RightEnd, now); got != holds {
			t.Errorf("slot %d: %v", slot, got)
		}
	}
	grant(1, 1, 1, second, quarry.SlotRange{First: 0, Last: 9})
	want(5, true)
	want(15, false)
	grant(1, 1, 3, 2*second, quarry.SlotRange{First: 0, Last: 4}) // slots 5 to 9 are released
	want(4, true)
	want(5, false)
	grant(1, 1, 2, 2*second, quarry.SlotRange{First: 0, Last: 9}) // late
	want(5, false)
	grant(2, 1, 4, 2*second, quarry.SlotRange{First: 5, Last: 19})
	want(5, true)
	grant(1, 2, 5, 2*second, quarry.SlotRange{First: 0, Last: 4})
	want(5, true) // the new grant of who had it before takes nothing away
	now = 4*second + 1
	grant(1, 2, 6, 4*second, quarry.SlotRange{First: 0, Last: 3})
	want(3, true)
	want(4, false)
	want(5, false)                                                // what shard 2 granted is over, whatever shard 1 grants
	grant(1, 1, 7, 4*second, quarry.SlotRange{First: 0, Last: 9}) // of an older term
	want(4, false)
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
