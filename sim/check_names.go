package sim

import (
	"context"
	"time"

	"github.com/quarryfs/quarry"
)

// What a master tells is the newest at some instant between the question and the answer: a name
// that was made, and that nobody has touched since, is there. The prober asks every master that
// takes itself for the leader.

type entryPlace struct { // a name in a directory
	dir  quarry.Inode
	name string
}

// touches are the changes of a name: how many were asked for, and how many of them may still
// come about.
type touches struct{ asked, open int }

// touch notes that names may be about to change, and returns how often the last has been touched.
func (o *observer) touch(names ...entryPlace) (last int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, at := range names {
		t := o.touches[at]
		t.asked, t.open = t.asked+1, t.open+1
		o.touches[at], last = t, t.asked
		if o.made == at {
			o.made = entryPlace{}
		}
	}
	return last
}

// settle notes that a change of names is done, the last of them made, or refused for good; it
// had been touched so often before.
func (o *observer) settle(err error, last int, names ...entryPlace) {
	switch quarry.KindOf(err) {
	case 0, quarry.NotFound, quarry.Exists, quarry.NotDir, quarry.IsDir, quarry.NotEmpty:
	default:
		return // it may still come about
	}
	for _, at := range names {
		t := o.touches[at]
		t.open--
		if o.touches[at] = t; err == nil && t.open == 0 && t.asked == last && at == names[len(names)-1] {
			o.made = at
		}
	}
}

// probeNames asks a master for the name that was made last.
func (m *observedMaster) probeNames() {
	m.o.mu.Lock()
	at, before := m.o.made, m.o.touches[m.o.made]
	m.o.mu.Unlock()
	if at.dir == 0 || m.p.gone() || m.p.host.held() {
		return
	}
	ctx, cancel := m.p.host.true.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err := m.Master.Lookup(ctx, &quarry.LookupRequest{From: at.dir, Path: at.name})
	m.o.end(m.p, func() {
		if quarry.KindOf(err) == quarry.NotFound && m.o.touches[at] == before {
			m.o.violated("masters tell the newest", "%s does not know name %q in %v, which was made and not touched since", m.p.host.name, at.name, at.dir)
		}
	})
}
