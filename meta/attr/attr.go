// Package attr is a change of the attributes that a shard keeps of a file or directory for people to
// look at, and decides nothing by.
package attr

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// Change says what is set. Its operation is that of the command it belongs to.
type Change = quarry.SetAttrRequest

// Fields walks the fields of a change in a command, whose numbers begin at 10.
func Fields(w *wire.Walk, c *Change) {
	wire.Uint(w, 10, &c.Inode)
	wire.Bool(w, 11, &c.SetMode)
	wire.Bool(w, 12, &c.SetUID)
	wire.Bool(w, 13, &c.SetGID)
	wire.Bool(w, 14, &c.SetModified)
	wire.Uint(w, 15, &c.Mode)
	wire.Uint(w, 16, &c.UID)
	wire.Uint(w, 17, &c.GID)
	wire.Uint(w, 18, &c.ModifiedNS)
}

// Set gives an attribute a value, if it is one of those that are set.
func Set[T any](is bool, attribute *T, value T) {
	if is {
		*attribute = value
	}
}
