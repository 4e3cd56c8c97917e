package meta

import "github.com/quarryfs/quarry"

// SlotWeight returns how many files, directories and chunks a slot of the shard has; it counts to
// max at most.
func SlotWeight(v View, slot quarry.Slot, max int64) (n int64) {
	for _, t := range [...]byte{tableInode, tableChunk} {
		prefix := table(nil, uint16(slot), t)
		v.Scan(prefix, after(prefix), func(_, _ []byte) bool {
			if n < max {
				n++
			}
			return n < max
		})
	}
	return n
}
