package chunks

import (
	"context"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

const (
	// collectStep is how many pieces, files and chunks one entry of the log frees, and tickRounds
	// how many such entries are logged in one second: so files can be removed as fast as they
	// are made for long, and the trash does not grow without end.
	collectStep = 200
	// owedMax is how many items an alive server may owe before more garbage is freed: a
	// grant that cannot carry them all gives no lease.
	owedMax = quarry.ItemsMax / 2
	// trashMargin is how much longer than a session the trash is kept when space is short, and a
	// file that was not to be kept: until then somebody may ask for the fate of a record.
	trashMargin = 10 * time.Minute
)

// collect frees garbage whose time is over. The replicas are dropped by their servers, who
// are told in their grants.
func (l *Leader) collect(ctx context.Context) {
	keep, soon := l.TrashAfter(), l.SessionExpiry+trashMargin
	if l.roster.full() {
		keep = min(keep, soon)
	}
	soon = min(soon, keep)
	for range tickRounds {
		if !l.collectOnce(ctx, uint64(keep/time.Millisecond), uint64(soon/time.Millisecond)) {
			return
		}
	}
}

// collectOnce frees one step of garbage and reports whether there may be more to free at once.
func (l *Leader) collectOnce(ctx context.Context, keepMS, soonMS uint64) bool {
	due := false
	err := l.Log.View(func(v meta.View) error {
		due = meta.Garbage(v, l.Log.Time(), keepMS, soonMS)
		for _, s := range l.roster.sites() {
			_, more := meta.Unsettled(v, s.Server, owedMax)
			due = due && !more
		}
		return nil
	})
	if err != nil || !due {
		return false
	}
	r, err := l.propose(ctx, &meta.Collect{KeepMS: keepMS, SoonMS: soonMS, Max: collectStep})
	if err != nil {
		return false
	}
	if r.Count > 0 {
		l.Logger.Debug("garbage freed", "pieces and chunks", r.Count)
	}
	return r.More
}
