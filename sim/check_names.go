package sim

import (
	"context"
	"time"

	"github.com/quarryfs/quarry"
)

// What a master tells is the newest at some instant between the question and the answer: a name
// that was made, and that nobody has touched since, is there. The prober asks every master that
// takes itself for the leader.

// probeNames asks a master for the name that was made last.
func (m *observedMaster) probeNames() {
	at, since := m.o.names.Newest()
	if at.Dir == 0 || m.p.gone() || m.p.host.held() {
		return
	}
	ctx, cancel := m.p.host.true.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err := m.Master.Lookup(ctx, &quarry.LookupRequest{From: at.Dir, Path: at.Name})
	m.o.end(m.p, func() {
		if quarry.KindOf(err) == quarry.NotFound && m.o.names.Untouched(at, since) {
			m.o.violated("masters tell the newest", "%s does not know name %q in %v, which was made and not touched since", m.p.host.name, at.Name, at.Dir)
		}
	})
}
