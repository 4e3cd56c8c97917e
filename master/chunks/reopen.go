package chunks

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

// confirmWait is how long a roll waits for the replicas of a chunk that has just been sealed to
// confirm that, so that it can be opened again.
const confirmWait = 300 * time.Millisecond

// reopenTail logs a further version of the sealed chunk at the end of a file and returns the
// file's end: if another chunk has come there, that one. nil: the chunk is not to be opened
// again, a new one is to be made.
//
// Every replica that the record lists must have confirmed the seal and be alive. Where that is
// not so, a new chunk on other servers is better than one that waits, or that has fewer copies.
func (l *Leader) reopenTail(ctx context.Context, p *plan, tail *meta.Result) (*meta.Result, error) {
	rec := tail.Chunk
	if rec == nil || rec.State != quarry.ChunkSealed || !rec.Appended || rec.Length > meta.ReopenBytesMax {
		return nil, nil
	}
	if rec.Count(meta.ReplicaPending) > 0 {
		rec = l.confirmed(ctx, rec)
	}
	members := l.reopeners(rec, p.host)
	if members == nil {
		return nil, nil
	}
	l.roster.took(members)
	body := &meta.Reopen{File: p.file, Handle: rec.Handle, Version: rec.Version}
	for _, m := range members {
		body.Members = append(body.Members, newMember(m))
	}
	r, err := l.apply(ctx, quarry.Op{}, body)
	switch {
	case quarry.KindOf(err) == quarry.Unsupported: // by a master that is still of the release before
		return nil, nil
	case err != nil:
		return nil, err // it may be applied yet; then that is the tail
	case r.Err == nil:
		l.Logger.Debug("chunk opened again", "chunk", rec.Handle, "version", r.Chunk.Version, "base", r.Chunk.Base)
		return r, nil
	case errors.Is(r.Err, quarry.Exists), errors.Is(r.Err, quarry.StaleVersion):
		r.Err = nil
		return r, nil
	case errors.Is(r.Err, quarry.Full), errors.Is(r.Err, quarry.Invalid), errors.Is(r.Err, quarry.Busy):
		return nil, nil
	}
	return nil, r.Err
}

// confirmed returns the record of a chunk that has just been sealed when all of its replicas
// have confirmed that, or soon. It does not wait for one that is silent.
func (l *Leader) confirmed(ctx context.Context, rec *meta.ChunkRecord) *meta.ChunkRecord {
	for _, r := range rec.Replicas {
		if r.State != meta.ReplicaPending && r.State != meta.ReplicaHolding || l.roster.silence(r.Server) > replySilence {
			return rec
		}
	}
	job, _, err := l.settles.start(rec.Handle, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, l.settle(ctx, rec.Handle)
	})
	if err != nil {
		return rec
	}
	wait, cancel := l.Clock.WithTimeout(ctx, confirmWait)
	defer cancel()
	_, _ = job.wait(wait)
	if now, err := l.lookup(rec.Handle); err == nil && now.Version == rec.Version {
		return now
	}
	return rec
}

// reopeners returns the members of the next version of a sealed chunk, as they run at present:
// a replica on the writer's host first, if there is one. nil if a replica will not do: its
// server would not be given a new chunk either, or its disk has no room for one.
func (l *Leader) reopeners(rec *meta.ChunkRecord, host string) []quarry.Member {
	sites := l.roster.sites()
	var members []quarry.Member
	for _, r := range rec.Replicas {
		i := slices.IndexFunc(sites, func(s site) bool {
			return s.Server == r.Server && s.suspected == 0 && slices.ContainsFunc(s.disks, func(d diskRoom) bool { return d.disk == r.Disk })
		})
		if i < 0 || r.State != meta.ReplicaHolding || sites[i].Incarnation < r.Incarnation {
			return nil
		}
		m := sites[i].Member
		m.Disk = r.Disk
		members = append(members, m)
		if last := len(members) - 1; host != "" && hostOf(m.Address) == host {
			members[0], members[last] = members[last], members[0]
		}
	}
	if len(members) < max(2, min(int(rec.Wanted), l.Copies)) || len(members) > quarry.ReplicasMax {
		return nil
	}
	return members
}

// reopenAll sends REOPEN to all members of a version that follows a seal, and returns an error
// unless all have acknowledged it. Only then may the primary have its role: every leader asks
// again, because an answer to another one is not known here.
func (l *Leader) reopenAll(ctx context.Context, rec *meta.ChunkRecord, members []quarry.Member) error {
	errs := parallel(len(members), func(i int) error { return l.reopenAt(ctx, rec, members[i]) })
	for i, err := range errs {
		if err != nil && !off(ActivatedEarly) {
			return quarry.Wrap("reopen", members[i].Address, err)
		}
	}
	return nil
}

// reopenAt asks one member until it answers or ctx ends.
func (l *Leader) reopenAt(ctx context.Context, rec *meta.ChunkRecord, m quarry.Member) error {
	req := &quarry.ReopenRequest{
		ChunkRef: l.ref(rec.Handle, rec.WritableVersion, m.Incarnation), Base: rec.Base, PrevWritableVersion: rec.PrevWritableVersion,
	}
	for pause := newPause(l.Clock); ; {
		if now, ok := l.present(m.Server); ok && now.Incarnation != m.Incarnation {
			return quarry.Errorf("reopen", quarry.StaleVersion, rec.Handle.String(), "server %d has restarted", m.Server)
		}
		err := l.Servers.Dial(m).Reopen(ctx, req)
		if err == nil {
			return nil
		}
		switch quarry.KindOf(err) {
		case quarry.Busy, quarry.Unavailable, quarry.Internal:
			if pause.wait(ctx) == nil {
				continue
			}
		}
		return err
	}
}
