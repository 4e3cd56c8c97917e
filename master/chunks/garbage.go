package chunks

import (
	"context"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

const (
	// collectStep is how many pieces and chunks are freed in one second.
	collectStep = 200
	// owedMax is how many items an alive server may owe before more garbage is freed: a
	// grant that cannot carry them all gives no lease.
	owedMax = quarry.ItemsMax / 2
	// trashMargin is how much longer than a session the trash is kept when space is short:
	// until then somebody may ask for the fate of a record.
	trashMargin = 10 * time.Minute
)

// collect frees garbage whose time is over. The replicas are dropped by their servers, who
// are told in their grants.
func (l *Leader) collect(ctx context.Context) {
	keep := l.TrashAfter
	if l.roster.full() {
		keep = min(keep, l.SessionExpiry+trashMargin)
	}
	keepMS := uint64(keep / time.Millisecond)
	due := false
	err := l.Log.View(func(v meta.View) error {
		due = meta.Garbage(v, l.Log.Time(), keepMS)
		for _, s := range l.roster.sites() {
			_, more := meta.Unsettled(v, s.Server, owedMax)
			due = due && !more
		}
		return nil
	})
	if err != nil || !due {
		return
	}
	r, err := l.propose(ctx, &meta.Collect{KeepMS: keepMS, Max: collectStep})
	if err == nil && r.Count > 0 {
		l.Logger.Debug("garbage freed", "pieces and chunks", r.Count)
	}
}
