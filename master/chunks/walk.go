package chunks

import (
	"context"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

const (
	// walkEvery is how often a leader looks at all chunks that are not at rest.
	walkEvery = 5 * time.Second
	// walkPage is how many of them it reads at a time.
	walkPage = 256
	// walkJobs bounds the seals that a walk begins or finds under way.
	walkJobs = 256
)

// walkLoop looks at the active chunks: when the leadership begins, when a server restarts,
// and now and then. What leaders before this one left unfinished is finished here.
func (l *Leader) walkLoop(ctx context.Context) {
	ticker := l.Clock.NewTicker(walkEvery)
	defer ticker.Stop()
	for {
		select {
		case <-l.walk:
		case <-ticker.C():
		case <-ctx.Done():
			return
		}
		if !l.hasSlots() || l.Log.Confirm(ctx) != nil || l.handles.ready(ctx) != nil { // not ready yet, or over
			_ = l.Clock.Sleep(ctx, 100*time.Millisecond)
			l.kick()
			continue
		}
		l.walkActive(ctx)
	}
}

// hasSlots reports whether the shard owns anything: a new one does not until slots come, and its
// log gives no handles.
func (l *Leader) hasSlots() (has bool) {
	_ = l.Log.View(func(v meta.View) error {
		has = len(meta.Slots(v)) > 0
		return nil
	})
	return has
}

// walkActive looks at each active chunk once.
func (l *Leader) walkActive(ctx context.Context) {
	seen := map[quarry.Handle]bool{}
	for past := quarry.Handle(0); ctx.Err() == nil; {
		var page []meta.Active
		if l.Log.View(func(v meta.View) error {
			page = meta.ActiveChunks(v, past, walkPage)
			return nil
		}) != nil || len(page) == 0 {
			break
		}
		var idle []*meta.ChunkRecord // open, and not known to be active
		for _, a := range page {
			past, seen[a.Handle] = a.Handle, true
			if rec := l.attend(a); rec != nil {
				idle = append(idle, rec)
			}
		}
		parallel(len(idle), func(i int) error {
			if err := l.activate(ctx, idle[i]); err != nil && ctx.Err() == nil {
				l.endOpen(idle[i], "its primary does not take its role")
			}
			return nil
		})
	}
	l.forgetSealed(seen)
}

// attend does what an active chunk needs. An open one whose primary this leader has not
// activated is returned.
func (l *Leader) attend(a meta.Active) *meta.ChunkRecord {
	if a.State == quarry.ChunkSealed {
		l.startSettle(a.Handle)
		return nil
	}
	rec, err := l.lookup(a.Handle)
	switch {
	case err != nil || rec.State == quarry.ChunkSealed || rec.State == quarry.ChunkLost:
	case rec.State == quarry.ChunkSealing:
		l.endOpen(rec, "it was begun")
	case a.Orphan:
		l.endOpen(rec, "nothing needs it")
	case l.memberGone(rec):
		l.endOpen(rec, "a member is gone")
	case !l.isActive(rec):
		return rec
	}
	return nil
}

// memberGone reports whether a member of an open chunk has restarted, or is silent for so
// long that it must be replaced.
func (l *Leader) memberGone(rec *meta.ChunkRecord) bool {
	for _, r := range rec.Replicas {
		if p, ok := l.roster.present(r.Server); ok && p.Incarnation > r.Incarnation || l.roster.silence(r.Server) >= l.DeadAfter {
			return true
		}
	}
	return false
}

// endOpen seals a chunk unless too many seals are under way; then a later walk does.
func (l *Leader) endOpen(rec *meta.ChunkRecord, why string) {
	if l.seals.count() < walkJobs {
		_, _ = l.startSeal(rec.Handle, rec.WritableVersion, why)
	}
}

// forgetSealed removes chunks that are not open from those that are active here. A chunk
// that was opened since the walk began is not among those it has seen.
func (l *Leader) forgetSealed(seen map[quarry.Handle]bool) {
	l.mu.Lock()
	var unseen []quarry.Handle
	for h := range l.active {
		if !seen[h] {
			unseen = append(unseen, h)
		}
	}
	l.mu.Unlock()
	slices.Sort(unseen)
	for _, h := range unseen {
		if rec, err := l.lookup(h); err == nil && rec.State == quarry.ChunkOpen {
			continue
		}
		l.mu.Lock()
		delete(l.active, h)
		l.mu.Unlock()
	}
}
