package root

import (
	"slices"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/wire"
)

// Shard is what the root group keeps of a shard.
type Shard struct {
	Shard quarry.ShardID
	Slots []quarry.SlotRange
	// Founders are the masters that the shard's Raft group began with, which each of them starts
	// when it hears of the shard; every other master starts an empty member. None: the group was
	// made with the cluster.
	Founders []quarry.MasterNode
}

func shardFields(w *wire.Walk, s *Shard) {
	wire.Uint(w, 1, &s.Shard)
	wire.List(w, 2, &s.Slots, quarry.Slots, wire.SlotRangeFields)
	wire.List(w, 3, &s.Founders, mastersMax, masterFields)
}

// AddShard makes a shard known that has no slots. Its number is the last one plus 1; one that is
// known is a success, whoever its founders are. Invalid: another number, or no founders.
type AddShard struct {
	Shard    quarry.ShardID
	Founders []quarry.MasterNode
}

func (*AddShard) kind() Kind { return KindAddShard }

func (c *AddShard) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Shard)
	wire.List(w, 11, &c.Founders, mastersMax, masterFields)
}

func (c *AddShard) apply(t *tx, _ *Result) error {
	if t.header.Cluster.IsZero() {
		return errNotMade
	}
	last := Shards(t.view)
	next := last[len(last)-1].Shard + 1
	switch {
	case c.Shard != quarry.RootShard && c.Shard < next:
		return nil
	case c.Shard != next:
		return refuse(quarry.Invalid, "the next shard is %d", next)
	case next > shardsMax:
		return refuse(quarry.Busy, "there are %d shards already", shardsMax)
	case len(c.Founders) == 0:
		return refuse(quarry.Invalid, "a shard needs masters")
	}
	for i, m := range c.Founders {
		doubled := slices.ContainsFunc(c.Founders[:i], func(o quarry.MasterNode) bool { return o.Node == m.Node || o.Disk == m.Disk })
		if m.Node == 0 || m.Disk.IsZero() || m.Address == "" || doubled {
			return refuse(quarry.Invalid, "a master comes twice, or has no number, disk or address")
		}
	}
	put(t, shardKey(c.Shard), &Shard{Shard: c.Shard, Founders: c.Founders}, shardFields)
	t.header.MapVersion++
	return nil
}

// Shards returns all shards, in the order of their numbers.
func Shards(v meta.View) []Shard {
	return all(&state{view: v}, tableShard, shardFields)
}
