package chunks

import (
	"context"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/meta/move"
)

const (
	// watchEvery is how often the servers' silence and disks are looked at.
	watchEvery = time.Second
	// gonePage is how many replicas of a server one log entry goes through.
	gonePage = 500
	// sweepPage is how many replicas are looked at again in each round, whatever is known of
	// them; it bounds what that costs.
	sweepPage = 128
)

// watch is what the loop that watches servers knows between its rounds.
type watch struct {
	taken  move.ID                  // the last move by which slots had come when they were marked
	gone   map[quarry.ServerID]bool // silent servers whose replicas are marked away
	disks  map[quarry.DiskID]bool   // failed disks whose replicas are marked away
	server int                      // where the sweep is: in the list of servers
	past   quarry.Handle            // and in that server's replicas
}

// watchLoop marks the replicas of dead servers and failed disks, so that they are made
// elsewhere, and goes round all replicas slowly, for what no event tells of.
func (l *Leader) watchLoop(ctx context.Context) {
	ticker := l.Clock.NewTicker(watchEvery)
	defer ticker.Stop()
	w := watch{gone: map[quarry.ServerID]bool{}, disks: map[quarry.DiskID]bool{}}
	for {
		select {
		case <-ticker.C():
		case <-ctx.Done():
			return
		}
		if len(l.roster.sites()) == 0 {
			continue // it may be this node that is cut off
		}
		l.forgetMarks(&w)
		servers := l.Servers.List()
		for _, id := range servers {
			l.watchServer(ctx, &w, id)
		}
		l.repairs.wake() // only here, so that what two servers have lost comes first
		l.sweep(ctx, &w, servers)
	}
}

// forgetMarks has everything that is gone marked once more when slots have come since: the shard
// they come from may have had no time to mark their replicas. It goes by the log, since whoever
// has slots come may fail to say so.
func (l *Leader) forgetMarks(w *watch) {
	taken := w.taken
	_ = l.Log.View(func(v meta.View) error {
		taken = meta.MovingOf(v).LastTaken
		return nil
	})
	if taken != w.taken {
		w.taken = taken
		clear(w.gone)
		clear(w.disks)
	}
}

// watchServer marks what is gone with a server that is silent, or with a disk of it.
func (l *Leader) watchServer(ctx context.Context, w *watch, id quarry.ServerID) {
	silence := l.roster.silence(id)
	switch {
	case silence < l.DeadAfter:
		delete(w.gone, id)
	case !w.gone[id] && l.markAway(ctx, id, quarry.DiskID{}):
		l.Logger.Warn("a chunk server is silent: its replicas are made elsewhere", "server", id, "silent", silence)
		w.gone[id] = true
	}
	for _, disk := range l.roster.failedDisks(id) {
		if !w.disks[disk] && l.markAway(ctx, id, disk) {
			l.Logger.Warn("a disk has failed: its replicas are made elsewhere", "server", id, "disk", disk)
			w.disks[disk] = true
		}
	}
}

// markAway logs that the replicas of a server, or of one of its disks, do not count.
func (l *Leader) markAway(ctx context.Context, id quarry.ServerID, disk quarry.DiskID) bool {
	for from := quarry.Handle(0); ; {
		r, err := l.insist(ctx, &meta.ServerGone{Server: id, Disk: disk, From: from, Max: gonePage})
		if err != nil {
			return false
		}
		if !r.More {
			return true
		}
		from = r.Next
	}
}

// sweep looks at the next few replicas of all.
func (l *Leader) sweep(ctx context.Context, w *watch, servers []quarry.ServerID) {
	if w.server >= len(servers) {
		w.server, w.past = 0, 0
		return
	}
	id := servers[w.server]
	list := l.replicasOf(id, w.past)
	l.reconsider(ctx, id, list)
	l.addAgain(ctx, id, list)
	if len(list) < sweepPage {
		w.server, w.past = w.server+1, 0
		return
	}
	w.past = list[len(list)-1] + 1
}

// addAgain lets replicas serve that the log lists: a leader may have ended after it had logged
// a copy and before its word had reached the server. One that serves takes no notice.
func (l *Leader) addAgain(ctx context.Context, id quarry.ServerID, list []quarry.Handle) {
	at, ok := l.present(id)
	for _, h := range list {
		if !ok {
			return
		}
		rec, err := l.lookup(h)
		if err != nil { // it is being dropped; others need the word
			continue
		}
		r := rec.Replica(id)
		if r == nil || r.State != meta.ReplicaHolding || !l.roster.reachable(id, r.Disk) {
			continue
		}
		if err := l.addAt(ctx, rec, at); quarry.KindOf(err) == quarry.Unavailable {
			return
		}
	}
}

func (l *Leader) replicasOf(id quarry.ServerID, from quarry.Handle) (list []quarry.Handle) {
	_ = l.Log.View(func(v meta.View) error {
		list = meta.ReplicasOf(v, id, from, ^quarry.Handle(0), sweepPage)
		return nil
	})
	return list
}

// welcome goes through the replicas of a server that was given up and is back.
func (l *Leader) welcome(id quarry.ServerID) {
	_, _, _ = l.visits.start(id, func(ctx context.Context) (struct{}, error) {
		for from := quarry.Handle(0); ctx.Err() == nil; {
			list := l.replicasOf(id, from)
			l.reconsider(ctx, id, list)
			if len(list) < sweepPage {
				break
			}
			from = list[len(list)-1] + 1
		}
		return struct{}{}, nil
	})
}

// reconsider has replicas at a server dropped that are not wanted any more: only when as many
// others hold as are wanted. Those that are away and wanted are the repair's to take back.
func (l *Leader) reconsider(ctx context.Context, id quarry.ServerID, list []quarry.Handle) {
	for _, h := range list {
		rec, err := l.lookup(h)
		if err != nil || rec.State != quarry.ChunkSealed || rec.Freed != 0 {
			continue
		}
		r := rec.Replica(id)
		if r == nil || r.State != meta.ReplicaAway && r.State != meta.ReplicaHolding || !l.roster.reachable(id, r.Disk) {
			continue
		}
		others := rec.Count(meta.ReplicaHolding)
		if r.State == meta.ReplicaHolding {
			others--
		}
		if others >= int(rec.Wanted) && l.dropReplica(ctx, rec, id, meta.DropSurplus) != nil {
			return
		}
	}
}
