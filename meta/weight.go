package meta

import "github.com/quarryfs/quarry"

// Owned returns WrongShard unless the shard owns all slots from one to another.
func Owned(v View, first, last quarry.Slot) error {
	s := reading(v)
	for slot := int(first); slot <= int(last); slot++ {
		if err := s.checkSlot(quarry.Slot(slot)); err != nil {
			return err
		}
	}
	return nil
}

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
