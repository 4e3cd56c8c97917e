package chunks

import "github.com/quarryfs/quarry"

// Expect notes that slots are about to come to the shard from another one, in whose log their
// release is by now. Whatever leases that shard may have granted for them is waited out from
// here on, as a new leader does for the leaders before it: it is called before the slots are
// proposed to be the shard's own, so no seal of theirs comes first.
func (l *Leader) Expect(slots []quarry.SlotRange) { l.roster.expect(slots) }

// Came has what has come with slots looked after: open chunks, those with too few copies. The
// handles in hand are given up: their numbers may have been used in the slots before.
func (l *Leader) Came() {
	l.handles.drop()
	l.kick()
	l.repairs.wake()
}
