package root

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// Init makes the cluster. The same command again succeeds; another cluster is refused with
// Exists.
type Init struct {
	Cluster quarry.ClusterID
	Masters []quarry.MasterNode // with their numbers
	Shards  int                 // beside the root group: shards 1 to Shards, with the slots of [Split]
	Key     quarry.Key
}

func (*Init) kind() Kind { return KindInit }

func (c *Init) fields(w *wire.Walk) {
	wire.Fixed16(w, 10, &c.Cluster)
	wire.List(w, 11, &c.Masters, mastersMax, masterFields)
	wire.Uint(w, 12, &c.Shards)
	wire.Message(w, 13, &c.Key, keyFields)
}

func (c *Init) apply(t *tx, _ *Result) error {
	h := &t.header
	switch {
	case h.Cluster == c.Cluster && !c.Cluster.IsZero():
		return nil
	case !h.Cluster.IsZero():
		return refuse(quarry.Exists, "this is cluster %v", h.Cluster)
	case c.Cluster.IsZero() || len(c.Masters) == 0 || c.Shards < 1 || c.Shards > shardsMax || c.Key.Number == 0:
		return refuse(quarry.Invalid, "a cluster needs an id, masters, 1 to %d shards and a key", shardsMax)
	}
	for i, m := range c.Masters {
		if m.Node == 0 || m.Node > nodeMax || m.Disk.IsZero() {
			return refuse(quarry.Invalid, "a master has no number, or one beyond %d, or no disk", nodeMax)
		}
		for _, before := range c.Masters[:i] {
			if before.Node == m.Node || before.Disk == m.Disk {
				return refuse(quarry.Invalid, "master %d comes twice", m.Node)
			}
		}
		h.NextNode = max(h.NextNode, m.Node+1)
	}
	*h = header{
		Cluster: c.Cluster, NextNode: h.NextNode, NextServer: 1, NextIncarnation: 1, MapVersion: 1,
		Masters: uint32(len(c.Masters)), Keys: 1, LastKey: c.Key.Number,
	}
	for i := range c.Masters {
		put(t, masterKey(c.Masters[i].Node), &c.Masters[i], masterFields)
	}
	put(t, keyKey(c.Key.Number), &c.Key, keyFields)
	for i, slots := range Split(c.Shards) {
		s := Shard{Shard: quarry.ShardID(i + 1), Slots: []quarry.SlotRange{slots}}
		put(t, shardKey(s.Shard), &s, shardFields)
	}
	return nil
}

// Split cuts the slots into one range for each of n shards, from 1 to quarry.Slots of them,
// of sizes that differ by one at most.
func Split(n int) []quarry.SlotRange {
	ranges := make([]quarry.SlotRange, n)
	for i := range ranges {
		ranges[i] = quarry.SlotRange{
			First: quarry.Slot(i * quarry.Slots / n), Last: quarry.Slot((i+1)*quarry.Slots/n - 1),
		}
	}
	return ranges
}
