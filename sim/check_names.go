package sim

import (
	"context"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// What a master tells is the newest at some instant between the question and the answer: a name
// that was made, and that nobody has touched since, is there. The prober asks every master that
// takes itself for the leader.

// probeNames asks a master for the names that were made last, at most so many.
func (m *observedMaster) probeNames(most int) {
	places, since := m.o.names.Newest(most)
	for i, at := range places {
		if m.p.gone() || m.p.host.held() {
			return
		}
		came := m.p.host.w.Now()
		ctx, cancel := m.p.host.true.WithTimeout(context.Background(), time.Second)
		_, err := m.Master.Lookup(ctx, &quarry.LookupRequest{From: at.Dir, Path: at.Name})
		cancel()
		m.o.end(m.p, func() {
			if err == nil || quarry.KindOf(err) == quarry.NotFound {
				m.o.answered(m.p, came)
			}
			if quarry.KindOf(err) == quarry.NotFound && m.o.names.Untouched(at, since[i]) {
				m.o.violated("masters tell the newest", "%s does not know name %q in %v, which was made and not touched since", m.p.host.name, at.Name, at.Dir)
			}
		})
	}
}

// newestMax is how many names a master is asked for that has just come to itself.
const newestMax = 8

// awake asks a master, at the instant until which it stands still and before it learns of
// anything, what it takes for the newest.
func (o *observer) awake(h *Host, at clock.Instant) {
	h.w.schedule(at, 0, nil, func() {
		if p := h.life(); p != nil && p.master.Load() != nil {
			o.log.Count("a master is asked as it comes to itself")
			go (&observedMaster{p.master.Load(), o, p}).probeNames(newestMax)
		}
	})
}
