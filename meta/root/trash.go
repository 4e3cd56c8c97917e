package root

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/wire"
)

// KeepTrash sets how long every shard keeps removed files.
type KeepTrash struct {
	KeepMS int64 // 1 to quarry.TrashKeepMax
}

func (*KeepTrash) kind() Kind { return KindKeepTrash }

func (c *KeepTrash) fields(w *wire.Walk) { wire.Uint(w, 10, &c.KeepMS) }

func (c *KeepTrash) apply(t *tx, _ *Result) error {
	switch {
	case t.header.Cluster.IsZero():
		return errNotMade
	case c.KeepMS < 1 || c.KeepMS > quarry.TrashKeepMax:
		return refuse(quarry.Invalid, "%d ms; removed files can be kept for 1 to %d ms", c.KeepMS, int64(quarry.TrashKeepMax))
	}
	t.header.TrashMS = c.KeepMS
	return nil
}

// TrashMS returns how long removed files are kept, in milliseconds; 0: as the masters were started.
func TrashMS(v meta.View) int64 {
	s := state{view: v}
	return s.loadHeader().TrashMS
}
