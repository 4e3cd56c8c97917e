package chunks

import (
	"fmt"
	"strings"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

// Lacking returns at most n chunks that have too few replicas, those without any first, and why
// that is still so.
func (l *Leader) Lacking(n int) []quarry.Lack {
	var handles []quarry.Handle
	_ = l.Log.View(func(v meta.View) error { // a host that stops has nothing to tell
		handles = meta.MissingChunks(v, 0, n)
		if left := n - len(handles); left > 0 {
			for _, c := range meta.NextRepairs(v, meta.Repair{}, left) {
				handles = append(handles, c.Handle)
			}
		}
		return nil
	})
	var list []quarry.Lack
	for _, h := range handles[:min(n, len(handles))] {
		rec, err := l.lookup(h)
		if err != nil || rec.Freed != 0 {
			continue
		}
		list = append(list, quarry.Lack{Handle: h, Copies: rec.Copies(), Wanted: int(rec.Wanted), Why: l.whyLacking(rec)})
	}
	return list
}

// whyLacking tells in words why a chunk has too few replicas.
func (l *Leader) whyLacking(rec *meta.ChunkRecord) string {
	r := &l.repairs
	r.mu.Lock()
	to, running := r.running[rec.Handle]
	again, failed := r.failed[rec.Handle]
	r.mu.Unlock()
	switch now := l.Clock.Now(); {
	case running && to != 0:
		return fmt.Sprintf("it is being copied to server %d", to)
	case running:
		return "its replicas are being asked"
	case rec.Copies() == 0:
		return "no server that is alive is known to have it whole; " + l.whereabouts(rec)
	case failed && again > now:
		return fmt.Sprintf("the last try to copy it failed; the next one is in %v", again.Sub(now).Round(time.Second))
	case l.mayReturn(rec):
		return fmt.Sprintf("a server that is silent may come back within %v; %s", l.DeadAfter, l.whereabouts(rec))
	}
	sites := l.roster.sites()
	ask := wish{handle: rec.Handle, copies: 1, not: map[quarry.ServerID]bool{}, racks: map[string]bool{}}
	alive := 0
	for _, replica := range rec.Replicas {
		ask.not[replica.Server] = true
		for i := range sites {
			if sites[i].Server == replica.Server && replica.State == meta.ReplicaHolding {
				alive++
			}
		}
	}
	switch {
	case alive == 0:
		return "no server that has it is alive; " + l.whereabouts(rec)
	case len(sites) <= len(rec.Replicas) && len(place(sites, ask)) == 0:
		return fmt.Sprintf("every server that is alive has a replica already (%d)", len(sites))
	case len(place(sites, ask)) == 0:
		return fmt.Sprintf("none of the %d servers that are alive has room for it", len(sites))
	}
	return "it waits for its turn to be copied"
}

// whereabouts tells where the replicas of a chunk are, or were.
func (l *Leader) whereabouts(rec *meta.ChunkRecord) string {
	if len(rec.Replicas) == 0 {
		return "no server has a replica"
	}
	var parts []string
	for _, replica := range rec.Replicas {
		state := "has a replica that has yet to prove whole"
		switch {
		case replica.State == meta.ReplicaBad:
			state = "has a broken one"
		case replica.State == meta.ReplicaDropping:
			state = "has one that is being removed"
		case l.roster.silence(replica.Server) > usableFor:
			state = fmt.Sprintf("is silent for %v", l.roster.silence(replica.Server).Round(time.Second))
		case !l.roster.reachable(replica.Server, replica.Disk):
			state = "has lost the disk"
		case replica.State == meta.ReplicaHolding:
			state = "has one"
		}
		parts = append(parts, fmt.Sprintf("server %d %s", replica.Server, state))
	}
	return strings.Join(parts, ", ")
}
