package sim

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/chunk"
)

// I1 and I2 hold across a loss of power: what a server says of a replica, that it is made, that
// it promises a version, has a role, has so many bytes or holds a seal, is on its disk when it
// says so. The disk that a crash at this instant would leave is opened and looked at.

// imageOneIn is how many answers there are for each that is compared with such a disk.
const imageOneIn = 3

// onDisk judges an answer about a replica by the disk; good says whether that has what was said.
func (o *observer) onDisk(h *Host, handle quarry.Handle, what string, good func(*chunk.State) bool) {
	r := o.log.w.chance("image", uint64(h.number), uint64(handle), uint64(o.log.w.Now()))
	if r.IntN(imageOneIn) != 0 {
		return
	}
	o.log.Count("answers compared with what a crash leaves")
	store, err := chunk.Open(h.disk.files().Crash(r), chunk.Options{ReserveBytes: reserveBytes, JournalBytes: journalBytes})
	if err != nil {
		o.violated("I2 acknowledged is durable", "the disk of %s cannot be opened after a crash: %v", h.name, err)
		return
	}
	state, ok := store.State(handle)
	if !ok || !good(&state) {
		o.violated("I2 acknowledged is durable", "%s says that %s of chunk %v, and a crash would leave %+v there", h.name, what, handle, state.Info(quarry.DiskID{}))
	}
	_ = store.Close() // nobody needs the image any more
}
