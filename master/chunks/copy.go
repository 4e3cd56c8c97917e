package chunks

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/meta"
)

var (
	// errNoTarget: every server that could take a copy has a replica.
	errNoTarget = errors.New("no server can take the copy")
	// errBusy: the servers that could take or give a copy are at their bound of copies.
	errBusy = errors.New("the servers are busy with other copies")
)

// way is where a copy goes, where it may come from, the first source first, and when it may
// begin.
type way struct {
	target  quarry.Member
	sources []quarry.Member
	start   clock.Instant
}

// copyOne copies a sealed chunk from replicas that hold it to a server that has none: the
// target fetches and verifies the bytes, says that it holds them, is logged, and only then
// serves.
func (l *Leader) copyOne(ctx context.Context, rec *meta.ChunkRecord, w *way) error {
	target, sources := w.target, w.sources
	defer l.repairs.leave(rec.Handle, w)
	if err := l.Clock.Sleep(ctx, w.start.Sub(l.Clock.Now())); err != nil {
		return err
	}
	l.Logger.Info("copying", "chunk", rec.Handle, "copies", rec.Copies(), "from", sources[0].Server, "to", target.Server, "length", rec.Length)
	if err := l.copyTo(ctx, rec, target, sources); err != nil {
		return quarry.Wrap("copy", target.Address, err)
	}
	if off(ServesBeforeAdded) {
		_ = l.addAt(ctx, rec, target)
	}
	c := l.sealAt(ctx, target, rec)
	if !c.holds {
		return quarry.Errorf("copy", quarry.Corrupt, target.Address, "the copy does not hold the seal")
	}
	r, err := l.insist(ctx, &meta.AddReplica{
		Handle: rec.Handle, Version: rec.Version, Copy: meta.Holder{NewMember: newMember(target), CRC: c.crc},
	})
	if err != nil {
		// Refused: nobody will ask for the copy. If the slot has moved, its new owner judges it,
		// who may have found it here and logged it.
		if r != nil && !errors.Is(err, quarry.Busy) && !errors.Is(err, quarry.WrongShard) {
			l.dropAt(ctx, target, rec.Handle, rec.Version)
		}
		return err
	}
	return l.add(ctx, rec, target)
}

// copyTo has the target fetch the chunk.
func (l *Leader) copyTo(ctx context.Context, rec *meta.ChunkRecord, target quarry.Member, sources []quarry.Member) error {
	ctx, cancel := l.Clock.WithTimeout(ctx, copySlack+passing(rec.Length, l.leastRate(len(sources))))
	defer cancel()
	ref := l.ref(rec.Handle, rec.Version, target.Incarnation)
	ref.Capability = l.Keys().Sign(l.Cluster, rec.Handle, quarry.RightControl|quarry.RightRead)
	return l.Servers.Dial(target).Copy(ctx, &quarry.CopyRequest{
		ChunkRef: ref, Disk: target.Disk, Length: rec.Length, WritableVersion: rec.WritableVersion,
		CRC: rec.CRC, CRCKnown: rec.CRCKnown, Mutable: rec.Mutable, File: rec.File, Position: rec.Position,
		Sources: sources, BytesPerSecond: l.RepairBytesPerSecond, BytesPerSecondLeast: l.leastRate(len(sources)),
	})
}

// add lets a logged copy serve. If the word does not reach it, an inventory finds it.
func (l *Leader) add(ctx context.Context, rec *meta.ChunkRecord, at quarry.Member) error {
	var err error
	pause := newPause(l.Clock)
	for range addTries {
		if err = l.addAt(ctx, rec, at); err == nil {
			return nil
		}
		if pause.wait(ctx) != nil {
			break
		}
	}
	return quarry.Wrap("add", at.Address, err)
}

func (l *Leader) addAt(ctx context.Context, rec *meta.ChunkRecord, at quarry.Member) error {
	ctx, cancel := l.timeout(ctx)
	defer cancel()
	return l.Servers.Dial(at).Add(ctx, &quarry.AddRequest{ChunkRef: l.ref(rec.Handle, rec.Version, at.Incarnation), Mutable: rec.Mutable})
}

// route chooses the way of a copy and counts it at both ends.
func (l *Leader) route(rec *meta.ChunkRecord, bad []quarry.ServerID) (*way, error) {
	r := &l.repairs
	sites := l.roster.sites()
	r.mu.Lock()
	defer r.mu.Unlock()
	ask := wish{handle: rec.Handle, copies: 1, not: map[quarry.ServerID]bool{}, racks: map[string]bool{}}
	w := &way{}
	for _, replica := range rec.Replicas {
		ask.not[replica.Server] = true
		i := slices.IndexFunc(sites, func(s site) bool { return s.Server == replica.Server })
		if i < 0 || replica.State != meta.ReplicaHolding || slices.Contains(bad, replica.Server) {
			continue
		}
		source := sites[i].Member
		source.Disk = replica.Disk
		w.sources = append(w.sources, source)
		ask.racks[source.Rack] = true
	}
	slices.SortStableFunc(w.sources, func(a, b quarry.Member) int { return r.sources[a.Server] - r.sources[b.Server] })
	if len(w.sources) == 0 {
		return nil, quarry.Errorf("copy", quarry.Unavailable, rec.Handle.String(), "no server that holds the chunk is alive")
	}
	if len(place(sites, ask)) == 0 {
		return nil, errNoTarget
	}
	for server, n := range r.targets {
		ask.not[server] = ask.not[server] || n >= repairsAtServer
	}
	targets := place(sites, ask)
	if len(targets) == 0 || r.sources[w.sources[0].Server] >= repairsAtServer {
		return nil, errBusy
	}
	w.target = targets[0]
	// It begins when the bytes of the copies before have passed at the configured rate.
	w.start = max(l.Clock.Now(), r.next)
	r.next = w.start.Add(passing(rec.Length, l.RepairBytesPerSecond))
	r.running[rec.Handle] = w.target.Server
	r.targets[w.target.Server]++
	r.sources[w.sources[0].Server]++
	l.roster.took(targets)
	return w, nil
}

// leave undoes the counting of route.
func (r *repairs) leave(h quarry.Handle, w *way) {
	target, source := w.target.Server, w.sources[0].Server
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running[h] = 0
	if r.targets[target]--; r.targets[target] == 0 {
		delete(r.targets, target)
	}
	if r.sources[source]--; r.sources[source] == 0 {
		delete(r.sources, source)
	}
}

// leastRate is how fast a copy is to be whatever clients do, when so many servers that are alive hold
// the chunk: the last one is copied as fast as repair may be, of others the copies yield to clients.
func (l *Leader) leastRate(holders int) int64 {
	if holders <= 1 {
		return l.RepairBytesPerSecond
	}
	return min(repairLeast, l.RepairBytesPerSecond)
}

// passing returns how long n bytes take at a rate.
func passing(n, rate int64) time.Duration {
	return time.Duration(float64(n) / float64(rate) * float64(time.Second))
}

// copying returns the chunks that are being copied to a server.
func (r *repairs) copying(to quarry.ServerID) map[quarry.Handle]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := map[quarry.Handle]bool{}
	for h, target := range r.running {
		if target == to {
			list[h] = true
		}
	}
	return list
}
