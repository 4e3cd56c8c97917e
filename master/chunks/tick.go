package chunks

import (
	"context"
	"time"

	"github.com/quarryfs/quarry/meta"
)

const (
	// tickEvery is how often sessions and garbage are looked at.
	tickEvery = time.Second
	// tickRounds bounds the entries that one tick logs of each sort.
	tickRounds = 16
)

// tickLoop lets log time pass where something depends on it: it ends sessions that show no
// life, and collects garbage.
func (l *Leader) tickLoop(ctx context.Context) {
	ticker := l.Clock.NewTicker(tickEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C():
		case <-ctx.Done():
			return
		}
		l.expire(ctx)
		l.collect(ctx)
	}
}

// expire ends the sessions that are due, and has the chunks sealed that they were writing.
func (l *Leader) expire(ctx context.Context) {
	expiry := uint64(l.SessionExpiry / time.Millisecond)
	for range tickRounds {
		due := false
		if l.Log.View(func(v meta.View) error {
			due = meta.Expired(v, l.Log.Time(), expiry)
			return nil
		}) != nil || !due {
			return
		}
		r, err := l.propose(ctx, &meta.ExpireSessions{ExpiryMS: expiry})
		if err != nil {
			return
		}
		if len(r.Sessions) > 0 {
			l.Logger.Info("sessions have expired", "sessions", len(r.Sessions))
		}
		l.Orphans(r.Orphans)
	}
}
