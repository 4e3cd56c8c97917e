// Package replica is what a shard keeps of one replica of a chunk.
package replica

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// State is what the shard knows of one replica of a chunk.
type State uint8

// The states of a replica.
const (
	// Member belongs to the writable version of an open or sealing chunk.
	Member State = 1
	// Pending was a good member when the chunk was sealed; it has not confirmed the seal yet. It
	// counts as a copy.
	Pending State = 2
	// Holding is complete at the seal, durably. It counts as a copy.
	Holding State = 3
	// Away is at a server that is silent or was declared gone. It may be complete, and is taken
	// back if it proves so while copies are wanted. It does not count.
	Away State = 4
	// Bad has broken bytes and is kept as the last resort until a good copy holds. It does not
	// count.
	Bad State = 5
	// Dropping is to be removed: its server owes the drop.
	Dropping State = 6
)

func (s State) String() string {
	return [...]string{"none", "member", "pending", "holding", "away", "bad", "dropping", "unknown"}[min(s, 7)]
}

// Replica is one replica of a chunk as its record names it.
type Replica struct {
	Server      quarry.ServerID
	Incarnation quarry.Incarnation // that took part in the writable version, or made the copy
	Disk        quarry.DiskID
	State       State
	Owes        quarry.ItemKind // what the server has yet to make durable; 0: nothing
	OwesVersion quarry.Version
}

// Fields walks the fields of a replica.
func Fields(w *wire.Walk, r *Replica) {
	wire.Uint(w, 1, &r.Server)
	wire.Uint(w, 2, &r.Incarnation)
	wire.Fixed16(w, 3, &r.Disk)
	wire.Uint(w, 4, &r.State)
	wire.Uint(w, 5, &r.Owes)
	wire.Uint(w, 6, &r.OwesVersion)
}

// Drop has the replica removed: its server owes that, as of a version of the chunk.
func (r *Replica) Drop(v quarry.Version) {
	r.State, r.Owes, r.OwesVersion = Dropping, quarry.ItemDrop, v
}

// ItemFields walks the fields of what a server owes for a replica.
func ItemFields(w *wire.Walk, i *quarry.Item) {
	wire.Uint(w, 1, &i.Kind)
	wire.Uint(w, 2, &i.Version)
	wire.Uint(w, 3, &i.Handle)
}
