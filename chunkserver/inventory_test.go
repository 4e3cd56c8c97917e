package chunkserver

import (
	"context"
	"errors"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// movingMasters are masters of whose two shards the first one has just given slots 10 to 19 away.
type movingMasters struct {
	Masters
	shards []quarry.ShardInfo
	owner  func(slot quarry.Slot) quarry.ShardID
	told   map[quarry.Slot]int
}

func (m *movingMasters) Topology(context.Context) (*quarry.TopologyReply, error) {
	return &quarry.TopologyReply{Shards: m.shards}, nil
}

func (m *movingMasters) Inventory(_ context.Context, req *quarry.InventoryRequest) (*quarry.InventoryReply, error) {
	for s := req.From.Slot(); s <= req.To.Slot() && s < quarry.Slots; s++ {
		if m.owner(s) != req.Shard {
			return nil, quarry.Errorf("inventory", quarry.WrongShard, "", "slot %d", s)
		}
	}
	for s := req.From.Slot(); s <= req.To.Slot() && s < quarry.Slots; s++ {
		m.told[s]++
	}
	return &quarry.InventoryReply{}, nil
}

// What a shard refuses because a slot has moved is told to the other one, and all else once.
func TestInventoryOfSlotsThatMove(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.start(1, 0, disk.NewMem())
		s.stop() // its loops: they ask masters by themselves
		s.jobs.Wait()
		m := &movingMasters{told: map[quarry.Slot]int{}, owner: func(s quarry.Slot) quarry.ShardID {
			return map[bool]quarry.ShardID{true: 1, false: 2}[s < 10 || s >= 20 && s < 30]
		}}
		m.shards = []quarry.ShardInfo{{Shard: 1, Slots: []quarry.SlotRange{{First: 0, Last: 19}, {First: 20, Last: 29}}}, {Shard: 2, Slots: []quarry.SlotRange{{First: 30, Last: quarry.Slots - 1}}}}
		s.cfg.Masters = m
		var told toldSlots
		if err := s.inventory(t.Context(), &told); !errors.Is(err, quarry.WrongShard) {
			t.Fatalf("error %v", err)
		}
		m.shards[0].Slots = []quarry.SlotRange{{First: 0, Last: 9}, {First: 20, Last: 29}}
		m.shards[1].Slots = []quarry.SlotRange{{First: 10, Last: 19}, {First: 30, Last: quarry.Slots - 1}}
		if err := s.inventory(t.Context(), &told); err != nil {
			t.Fatal(err)
		}
		for s := range quarry.Slot(quarry.Slots) {
			if m.told[s] != 1 {
				t.Fatalf("slot %d was told %d times", s, m.told[s])
			}
		}
	})
}
