package sim

import "github.com/quarryfs/quarry"

// I12: the length of a file never falls. What masters tell is the length without an open
// tail, which may be a chunk that is opened again: that length is no bound. The checkers of package history judge what clients are told.

// fileLength is a length that a master has told.
type fileLength struct {
	told acks
}

// lengthTold judges and notes a length that a master tells.
func (o *observer) lengthTold(from moment, a *quarry.Attr) {
	if a.Kind != quarry.KindFile {
		return
	}
	f := o.files[a.Inode]
	if f == nil {
		f = &fileLength{}
		o.files[a.Inode] = f
	}
	if before, _ := f.told.before(from); a.Length < before && !a.Open {
		o.violated("I12 lengths never fall", "file %v has %d bytes, and had %d before", a.Inode, a.Length, before)
	}
	f.told.add(o.clock, a.Length)
}
