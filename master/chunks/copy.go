package chunks

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

// errNoTarget: no server that can take a copy is without one, or all of them are busy.
var errNoTarget = errors.New("no server can take the copy")

// copyOne copies a sealed chunk from replicas that hold it to a server that has none: the
// target fetches and verifies the bytes, says that it holds them, is logged, and only then
// serves.
func (l *Leader) copyOne(ctx context.Context, rec *meta.ChunkRecord, bad []quarry.ServerID) error {
	target, sources, err := l.route(rec, bad)
	if err != nil {
		return err
	}
	defer l.repairs.leave(rec.Handle, target.Server, sources[0].Server)
	if err := l.repairs.pace(ctx, rec.Length); err != nil {
		return err
	}
	l.Logger.Info("copying", "chunk", rec.Handle, "copies", rec.Copies(), "from", sources[0].Server, "to", target.Server, "length", rec.Length)
	if err := l.copyTo(ctx, rec, target, sources); err != nil {
		return quarry.Wrap("copy", target.Address, err)
	}
	c := l.sealAt(ctx, target, rec)
	if !c.holds {
		return quarry.Errorf("copy", quarry.Corrupt, target.Address, "the copy does not hold the seal")
	}
	r, err := l.insist(ctx, &meta.AddReplica{
		Handle: rec.Handle, Version: rec.Version, Copy: meta.Holder{NewMember: newMember(target), CRC: c.crc},
	})
	if err != nil {
		if r != nil && !errors.Is(err, quarry.Busy) { // refused: nobody will ask for the copy
			l.dropAt(ctx, target, rec.Handle, rec.Version)
		}
		return err
	}
	return l.add(ctx, rec, target)
}

// copyTo has the target fetch the chunk.
func (l *Leader) copyTo(ctx context.Context, rec *meta.ChunkRecord, target quarry.Member, sources []quarry.Member) error {
	ctx, cancel := l.Clock.WithTimeout(ctx, copySlack+l.passing(rec.Length))
	defer cancel()
	ref := l.ref(rec.Handle, rec.Version, target.Incarnation)
	ref.Capability = l.Keys().Sign(l.Cluster, rec.Handle, quarry.RightControl|quarry.RightRead)
	return l.Servers.Dial(target).Copy(ctx, &quarry.CopyRequest{
		ChunkRef: ref, Disk: target.Disk, Length: rec.Length, WritableVersion: rec.WritableVersion,
		CRC: rec.CRC, CRCKnown: rec.CRCKnown, Mutable: rec.Mutable, File: rec.File, Position: rec.Position,
		Sources: sources, BytesPerSecond: l.RepairBytesPerSecond,
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

// route chooses where a copy goes and where it may come from, the first source first, and
// counts it at both.
func (l *Leader) route(rec *meta.ChunkRecord, bad []quarry.ServerID) (quarry.Member, []quarry.Member, error) {
	r := &l.repairs
	sites := l.roster.sites()
	r.mu.Lock()
	defer r.mu.Unlock()
	w := wish{handle: rec.Handle, copies: 1, not: map[quarry.ServerID]bool{}, racks: map[string]bool{}}
	for server, n := range r.targets {
		w.not[server] = n >= repairsAtServer
	}
	var sources []quarry.Member
	for _, replica := range rec.Replicas {
		w.not[replica.Server] = true
		i := slices.IndexFunc(sites, func(s site) bool { return s.Server == replica.Server })
		if i < 0 || replica.State != meta.ReplicaHolding || slices.Contains(bad, replica.Server) {
			continue
		}
		source := sites[i].Member
		source.Disk = replica.Disk
		sources = append(sources, source)
		w.racks[source.Rack] = true
	}
	slices.SortFunc(sources, func(a, b quarry.Member) int { return r.sources[a.Server] - r.sources[b.Server] })
	if len(sources) == 0 {
		return quarry.Member{}, nil, quarry.Errorf("copy", quarry.Unavailable, rec.Handle.String(), "no server that holds the chunk is alive")
	}
	targets := place(sites, w)
	if len(targets) == 0 || r.sources[sources[0].Server] >= repairsAtServer {
		return quarry.Member{}, nil, errNoTarget
	}
	r.running[rec.Handle] = targets[0].Server
	r.targets[targets[0].Server]++
	r.sources[sources[0].Server]++
	l.roster.took(targets)
	return targets[0], sources, nil
}

// leave undoes the counting of route.
func (r *repairs) leave(h quarry.Handle, target, source quarry.ServerID) {
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

// pace waits until the bytes of the copies before have passed at the configured rate.
func (r *repairs) pace(ctx context.Context, n int64) error {
	r.mu.Lock()
	now := r.l.Clock.Now()
	at := max(now, r.next)
	r.next = at.Add(r.l.passing(n))
	r.mu.Unlock()
	return r.l.Clock.Sleep(ctx, at.Sub(now))
}

// passing returns how long n bytes take at the configured rate.
func (l *Leader) passing(n int64) time.Duration {
	return time.Duration(float64(n) / float64(l.RepairBytesPerSecond) * float64(time.Second))
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
