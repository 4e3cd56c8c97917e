package meta

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/replica"
	"github.com/quarryfs/quarry/wire"
)

// SettleItems notes what a server has made durable. Items that it does not owe are ignored.
// A replica that is dropped leaves its chunk's record, and the last one of a chunk that is
// garbage takes the record with it. Result: Count, the items that were owed.
type SettleItems struct {
	Server quarry.ServerID
	Items  []quarry.Item // at most ItemsMax
}

func (*SettleItems) kind() Kind { return KindSettleItems }

func (c *SettleItems) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Server)
	wire.List(w, 11, &c.Items, quarry.ItemsMax, replica.ItemFields)
}

func (c *SettleItems) apply(t *tx, r *Result) error {
	for _, item := range c.Items {
		chunk := t.edit(item.Handle) // nil as well if its slot is another shard's, who keeps what is owed
		if chunk == nil {
			continue
		}
		replica := chunk.Replica(c.Server)
		if replica == nil || replica.Owes == 0 || replica.Owes != item.Kind || replica.OwesVersion != item.Version {
			continue
		}
		replica.Owes, replica.OwesVersion = 0, 0
		if replica.State == ReplicaDropping {
			chunk.forget(c.Server)
		}
		t.saveChunk(chunk)
		r.Count++
	}
	return nil
}

// Unsettled returns at most n items that a server owes; more tells that there are others.
func Unsettled(v View, server quarry.ServerID, n int) (items []quarry.Item, more bool) {
	s := reading(v)
	s.index(table(nil, shardSlot, tableItem, uint64(server)), after(table(nil, shardSlot, tableItem, uint64(server))), func(key, value []byte) bool {
		if len(items) == n {
			more = true
			return false
		}
		var item quarry.Item
		decode(key, value, &item, replica.ItemFields)
		item.Handle = quarry.Handle(lastNumber(key))
		items = append(items, item)
		return true
	})
	return items, more
}
