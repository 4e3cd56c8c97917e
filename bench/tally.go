package bench

import (
	"sync"
	"time"

	"github.com/quarryfs/quarry/clock"
)

// done is what was done of one kind.
type done struct {
	Operations int64
	Bytes      int64
	Waits      histogram     // how long each operation took, if that was looked at
	Wall       time.Duration // how long it all took, if not as long as the run
}

// tally is what a run has done, by kind; a verb that does one thing calls it "". Safe for use by
// many goroutines.
type tally struct {
	clock clock.Clock
	mu    sync.Mutex
	kinds map[string]*done
	away  time.Duration           // processor time of other processes that did a part of it
	rows  map[string][][]standing // of each file, of each of its appenders, what they appended here
}

func newTally(c clock.Clock) *tally { return &tally{clock: c, kinds: map[string]*done{}} }

// change has f change what was done of a kind.
func (t *tally) change(kind string, f func(*done)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kinds[kind] == nil {
		t.kinds[kind] = &done{}
	}
	f(t.kinds[kind])
}

// count notes operations whose times are not looked at.
func (t *tally) count(kind string, operations, bytes int64) {
	t.change(kind, func(d *done) { d.Operations, d.Bytes = d.Operations+operations, d.Bytes+bytes })
}

// add notes what another process has done, and its processor time.
func (t *tally) add(kinds map[string]*done, cpu time.Duration) {
	for kind, o := range kinds {
		t.change(kind, func(d *done) {
			d.Operations, d.Bytes, d.Wall = d.Operations+o.Operations, d.Bytes+o.Bytes, max(d.Wall, o.Wall)
			d.Waits.join(&o.Waits)
		})
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.away += cpu
}

// time does one operation on some bytes, and notes it and how long it took if it succeeds.
func (t *tally) time(kind string, bytes int64, f func() error) error {
	began := t.clock.Now()
	if err := f(); err != nil {
		return err
	}
	took := t.clock.Now().Sub(began)
	t.change(kind, func(d *done) {
		d.Operations, d.Bytes = d.Operations+1, d.Bytes+bytes
		d.Waits.add(took)
	})
	return nil
}
