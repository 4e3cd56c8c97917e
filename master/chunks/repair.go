package chunks

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/meta"
)

const (
	// repairEvery is how often the queue of repairs is looked at.
	repairEvery = time.Second
	// repairsMax bounds the repairs under way; repairsAtServer those that copy to, and those
	// that copy from, one server.
	repairsMax      = 16
	repairsAtServer = 2
	// repairScan is how many chunks with too few copies are looked at in one round.
	repairScan = 4096
	// repairAgain is how long a chunk is left alone after a repair that failed. One whose replica did
	// not confirm its seal, though its server lives, is copied instead as soon as it is looked at again.
	repairAgain = 10 * time.Second
	// replacesMax bounds the corrupt replicas that wait to be replaced.
	replacesMax = 4096
	// repairLeast is the rate, in bytes a second, down to which a copy yields to clients when the chunk
	// has other copies: a chunk takes 8 s then.
	repairLeast = 8 << 20
	// copySlack is what a copy may take beyond its length at the least rate.
	copySlack = time.Minute
	// addTries is how often ADD is sent; after that an inventory finds the replica.
	addTries = 5
)

// errUnconfirmed: replicas may be good, and their servers, which are alive, do not say so.
var errUnconfirmed = errors.New("servers that are alive did not answer")

// repairs are the copies under way and what is known beside the log's queue of them.
type repairs struct {
	l    *Leader
	kick chan struct{}

	mu      sync.Mutex
	running map[quarry.Handle]quarry.ServerID          // the server that each repair copies to; 0: to none
	sources map[quarry.ServerID]int                    // copies read from a server
	targets map[quarry.ServerID]int                    // copies written to a server
	failed  map[quarry.Handle]clock.Instant            // when to try again
	bad     map[quarry.Handle]map[quarry.ServerID]bool // corrupt replicas that are to be replaced
	badSize int
	next    clock.Instant // when the bytes of earlier copies have passed at the configured rate

	missing quarry.Handle // where the loop is in the chunks without a copy
}

func (r *repairs) init(l *Leader) {
	*r = repairs{
		l: l, kick: make(chan struct{}, 1), running: map[quarry.Handle]quarry.ServerID{},
		sources: map[quarry.ServerID]int{}, targets: map[quarry.ServerID]int{},
		failed: map[quarry.Handle]clock.Instant{}, bad: map[quarry.Handle]map[quarry.ServerID]bool{},
	}
}

// replace has a corrupt replica of a sealed chunk replaced by a copy of a good one. What is
// not done when this leader ends is found by the next reader, or by a scrub.
func (r *repairs) replace(h quarry.Handle, server quarry.ServerID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bad[h][server] {
		return nil
	}
	if r.badSize >= replacesMax {
		return quarry.Errorf("report", quarry.Busy, h.String(), "%d corrupt replicas wait to be replaced", r.badSize)
	}
	if r.bad[h] == nil {
		r.bad[h] = map[quarry.ServerID]bool{}
	}
	r.bad[h][server] = true
	r.badSize++
	r.wake()
	return nil
}

func (r *repairs) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// repairLoop starts repairs while there is room for them.
func (l *Leader) repairLoop(ctx context.Context) {
	ticker := l.Clock.NewTicker(repairEvery)
	defer ticker.Stop()
	for {
		select {
		case <-l.repairs.kick:
		case <-ticker.C():
		case <-ctx.Done():
			return
		}
		if len(l.roster.sites()) > 0 { // or it is this node that is cut off
			l.startRepairs()
		}
	}
}

// startRepairs begins the most urgent repairs that can be begun: corrupt replicas, then
// chunks with the fewest copies.
func (l *Leader) startRepairs() {
	for _, h := range l.repairs.corrupt() {
		if !l.startRepair(h) {
			return
		}
	}
	if !l.startMissing() {
		return
	}
	usable := len(l.roster.sites())
	past := meta.Repair{}
	for looked := 0; looked < repairScan; {
		var page []meta.Repair
		if l.Log.View(func(v meta.View) error {
			page = meta.NextRepairs(v, past, walkPage)
			return nil
		}) != nil || len(page) == 0 {
			return
		}
		looked += len(page)
		for _, c := range page {
			past = c
			if int(c.Copies) < usable && !l.startRepair(c.Handle) { // or every server has a copy already
				return
			}
		}
	}
}

// startMissing begins to take back chunks that have no copy that counts, where a server with
// a replica is alive. It reports whether there was room.
func (l *Leader) startMissing() bool {
	r := &l.repairs
	var page []quarry.Handle
	_ = l.Log.View(func(v meta.View) error {
		page = meta.MissingChunks(v, r.missing, walkPage)
		return nil
	})
	for _, h := range page {
		if !l.startRepair(h) {
			return false
		}
		r.missing = h
	}
	if len(page) < walkPage {
		r.missing = 0
	}
	return true
}

// mayReturn reports whether a copy is missing only because its server has been silent for a
// short while, and the chunk can wait for it.
func (l *Leader) mayReturn(rec *meta.ChunkRecord) bool {
	if rec.Copies() < 2 {
		return false
	}
	for _, r := range rec.Replicas {
		if silence := l.roster.silence(r.Server); r.State == meta.ReplicaAway && silence > usableFor && silence < l.DeadAfter {
			return true
		}
	}
	return false
}

// corrupt returns the chunks with corrupt replicas.
func (r *repairs) corrupt() []quarry.Handle {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.bad))
}

// startRepair begins the next step of a chunk's repair, if there is one that can be done: to
// take back a replica whose server is alive again, to copy, to take out a corrupt replica. It
// reports whether there was room. Only the repair loop calls it, so what is more urgent has
// its servers first.
func (l *Leader) startRepair(h quarry.Handle) bool {
	room, due, failed := l.repairs.look(h)
	if !room || !due {
		return room
	}
	rec, err := l.lookup(h)
	if err != nil || !rec.LengthKnown || rec.Freed != 0 {
		l.repairs.replaced(h)
		return true // nothing is left to repair
	}
	bad := l.repairs.badOf(rec)
	dropBad := func(ctx context.Context) error { return l.dropBad(ctx, rec, bad) }
	back := l.away(rec)
	switch {
	case len(back) > 0 && !failed && rec.Copies() < int(rec.Wanted):
		l.repairs.run(h, func(ctx context.Context) error { return l.restore(ctx, rec, back) })
	case rec.State != quarry.ChunkSealed || rec.Copies() == 0:
		l.repairs.replaced(h)
	case rec.Copies()-len(bad) >= int(rec.Wanted):
		l.repairs.run(h, dropBad)
	case len(bad) == 0 && l.mayReturn(rec):
	default:
		way, err := l.route(rec, bad)
		switch {
		case err == nil:
			l.repairs.run(h, func(ctx context.Context) error { return l.copyOne(ctx, rec, way) })
		case errors.Is(err, errNoTarget) && len(bad) > 0 && others(rec, bad) > 0:
			// Its own server is the only place for the copy, once the corrupt one is dropped.
			l.repairs.run(h, dropBad)
		}
	}
	return true
}

// look reports whether there is room for a repair, whether this chunk's may begin, and
// whether that is because the time after one that failed is just over.
func (r *repairs) look(h quarry.Handle) (room, due, failed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, running := r.running[h]
	again, failed := r.failed[h]
	now := r.l.Clock.Now()
	return len(r.running) < repairsMax, !running && now >= again, failed && now.Sub(again) < 2*repairEvery
}

// run does a step of a chunk's repair in the background.
func (r *repairs) run(h quarry.Handle, step func(ctx context.Context) error) {
	r.mu.Lock()
	if _, routed := r.running[h]; !routed {
		r.running[h] = 0
	}
	r.mu.Unlock()
	r.l.spawn(func(ctx context.Context) {
		err := step(ctx)
		r.finished(h, err)
		if err != nil && ctx.Err() == nil {
			r.l.Logger.Warn("a repair has failed", "chunk", h, "error", err)
		}
	})
}

// finished notes the end of a repair.
func (r *repairs) finished(h quarry.Handle, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.running, h)
	now, again := r.l.Clock.Now(), repairAgain
	if errors.Is(err, errUnconfirmed) {
		again = 0
		r.wake()
	}
	if err != nil {
		if len(r.failed) >= repairScan {
			for k, until := range r.failed {
				if now >= until {
					delete(r.failed, k)
				}
			}
		}
		if len(r.failed) < repairScan {
			r.failed[h] = now.Add(again)
		}
		return
	}
	delete(r.failed, h)
	r.wake()
}

// dropBad takes corrupt replicas out of a chunk's record.
func (l *Leader) dropBad(ctx context.Context, rec *meta.ChunkRecord, bad []quarry.ServerID) error {
	for _, server := range bad {
		if err := l.dropReplica(ctx, rec, server, meta.DropBad); err != nil {
			return err
		}
	}
	l.repairs.replaced(rec.Handle)
	return nil
}

// away returns the replicas of a chunk that do not count though their servers and disks are
// alive.
func (l *Leader) away(rec *meta.ChunkRecord) (list []quarry.Member) {
	for _, r := range rec.Replicas {
		if r.State == meta.ReplicaAway && l.roster.reachable(r.Server, r.Disk) {
			list = append(list, quarry.Member{Server: r.Server, Disk: r.Disk})
		}
	}
	return list
}

// restore takes replicas back that prove to hold their chunk, and has them serve, which a
// copy that was never added does not.
func (l *Leader) restore(ctx context.Context, rec *meta.ChunkRecord, replicas []quarry.Member) error {
	silent, err := l.confirm(ctx, rec, replicas)
	if err != nil {
		return err
	}
	if rec, err = l.lookup(rec.Handle); err != nil {
		return err
	}
	for _, m := range replicas {
		r := rec.Replica(m.Server)
		at, ok := l.present(m.Server)
		if r == nil || r.State != meta.ReplicaHolding || !ok {
			continue
		}
		if err := l.add(ctx, rec, at); err != nil {
			return err
		}
	}
	if silent > 0 {
		return quarry.Errorf("seal", quarry.Unavailable, rec.Handle.String(), "%d %w", silent, errUnconfirmed)
	}
	return nil
}

// badOf returns the servers that hold a corrupt replica of a chunk.
func (r *repairs) badOf(rec *meta.ChunkRecord) []quarry.ServerID {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []quarry.ServerID
	for _, replica := range rec.Replicas {
		if counts := replica.State == meta.ReplicaHolding || replica.State == meta.ReplicaPending; counts && r.bad[rec.Handle][replica.Server] {
			list = append(list, replica.Server)
		}
	}
	return list
}

// replaced forgets the corrupt replicas of a chunk.
func (r *repairs) replaced(h quarry.Handle) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.badSize -= len(r.bad[h])
	delete(r.bad, h)
}

// others counts the replicas that hold a chunk and are not among the bad ones.
func others(rec *meta.ChunkRecord, bad []quarry.ServerID) (n int) {
	for _, r := range rec.Replicas {
		if r.State == meta.ReplicaHolding && !slices.Contains(bad, r.Server) {
			n++
		}
	}
	return n
}
