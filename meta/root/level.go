package root

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/wire"
)

// RaiseLevel notes that every master speaks a feature level, so that commands of that level may
// be proposed in every group. It never falls; a lower one is a success.
type RaiseLevel struct{ Level uint32 }

func (*RaiseLevel) kind() Kind { return KindRaiseLevel }

func (c *RaiseLevel) fields(w *wire.Walk) { wire.Uint(w, 10, &c.Level) }

func (c *RaiseLevel) apply(t *tx, _ *Result) error {
	if t.header.Cluster.IsZero() {
		return errNotMade
	}
	if c.Level > quarry.FeatureLevel { // whoever proposed it has asked another release of this node
		panic(quarry.Errorf("apply", quarry.Unsupported, "", "the cluster uses feature level %d, this release speaks level %d: start a later release on this folder", c.Level, quarry.FeatureLevel))
	}
	t.header.Level = max(t.header.Level, c.Level)
	return nil
}

// Level returns the feature level that every master speaks.
func Level(v meta.View) uint32 {
	s := state{view: v}
	h := s.loadHeader()
	return h.Level
}
