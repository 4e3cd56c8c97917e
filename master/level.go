package master

import (
	"context"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/root"
)

// levelEvery is how often the masters are asked which feature level they speak, while the
// cluster uses a lower one than the leader of the root group.
const levelEvery = 5 * time.Second

// speak returns Unsupported unless every master speaks a feature level.
func (g *rootGroup) speak(level uint32) error {
	if level == 0 {
		return nil
	}
	if known := g.known.Load(); known == nil || known.level < level {
		return quarry.Errorf("propose", quarry.Unsupported, "", "not every master speaks feature level %d yet: start the same release on all of them", level)
	}
	return nil
}

// raiseLevel has the log note that every master speaks this release's feature level, as soon
// as they do. It ends then, and with the leadership.
func (g *rootGroup) raiseLevel(ctx context.Context) {
	m := g.master
	for {
		known := g.known.Load()
		if known != nil && known.level >= quarry.FeatureLevel {
			return
		}
		if st, err := m.host.Status(quarry.RootShard); err != nil || !st.Leading {
			return
		}
		if g.tryRaise(ctx) {
			m.cfg.Logger.Info("every master speaks this feature level", "level", quarry.FeatureLevel)
			return
		}
		if m.cfg.Clock.Sleep(ctx, levelEvery) != nil {
			return
		}
	}
}

// tryRaise raises the level, unless a master does not speak it. No master is added meanwhile.
func (g *rootGroup) tryRaise(ctx context.Context) bool {
	leave, err := g.master.alone(ctx, "raise level")
	if err != nil {
		return false
	}
	defer leave()
	known := g.known.Load()
	if known == nil || !g.master.allSpeak(ctx, known.topology.Masters) {
		return false
	}
	_, err = g.propose(ctx, &root.RaiseLevel{Level: quarry.FeatureLevel})
	return err == nil
}

// allSpeak asks every master for its feature level.
func (m *Master) allSpeak(ctx context.Context, masters []quarry.MasterNode) bool {
	ctx, cancel := m.cfg.Clock.WithTimeout(ctx, identifyTime)
	defer cancel()
	for _, n := range masters {
		if n.Node == m.node {
			continue
		}
		id, err := m.cfg.Client.Master(n.Address).Identify(ctx)
		if err != nil || id.Disk != n.Disk || id.Level < quarry.FeatureLevel {
			return false
		}
	}
	return true
}
