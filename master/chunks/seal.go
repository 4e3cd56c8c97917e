package chunks

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/protocol"
)

const (
	// goneAfter is how long a server is silent before a seal goes on without it, where one
	// more answer would matter.
	goneAfter = 10 * time.Second
	// fencePoll is how often a seal looks at the servers' silence.
	fencePoll = 500 * time.Millisecond
)

// seal ends writable version v of a chunk, and returns its record when it is sealed. One
// attempt serves all who ask. It goes on when ctx has ended.
func (l *Leader) seal(ctx context.Context, h quarry.Handle, v quarry.Version, why string) (*meta.ChunkRecord, error) {
	job, err := l.startSeal(h, v, why)
	if err != nil {
		return nil, err
	}
	return job.wait(ctx)
}

func (l *Leader) startSeal(h quarry.Handle, v quarry.Version, why string) (*flight[*meta.ChunkRecord], error) {
	job, fresh, err := l.seals.start(h, func(ctx context.Context) (*meta.ChunkRecord, error) {
		rec, err := l.runSeal(ctx, h, v)
		if err != nil {
			l.Logger.Warn("a chunk could not be sealed", "chunk", h, "error", err)
		}
		return rec, err
	})
	if fresh {
		l.Logger.Info("sealing", "chunk", h, "version", v, "why", why)
	}
	return job, err
}

// runSeal takes a chunk from OPEN, SEALING or LOST to SEALED: it logs that the version ends,
// fences the members, has the length decided, and logs that.
func (l *Leader) runSeal(ctx context.Context, h quarry.Handle, v quarry.Version) (*meta.ChunkRecord, error) {
	r, err := l.insist(ctx, &meta.BeginSeal{Handle: h, Version: v})
	if err != nil {
		return nil, err
	}
	rec := r.Chunk
	if rec.LengthKnown {
		return rec, nil
	}
	entry, err := l.decide(ctx, rec)
	if err != nil {
		return nil, err
	}
	r, err = l.insist(ctx, entry)
	switch {
	case errors.Is(err, quarry.StaleVersion) && r != nil && r.Chunk.LengthKnown:
		rec = r.Chunk // an attempt of another leader was logged first
	case err != nil:
		return nil, err
	default:
		rec = r.Chunk
	}
	l.mu.Lock()
	delete(l.active, h)
	l.mu.Unlock()
	if rec.State == quarry.ChunkLost {
		return nil, quarry.Errorf("seal", quarry.Corrupt, h.String(), "every replica is lost")
	}
	l.Logger.Info("sealed", "chunk", h, "version", rec.Version, "length", rec.Length, "copies", rec.Copies())
	l.settleBehind(rec)
	return rec, nil
}

// fencing is one attempt to find the length of a chunk.
type fencing struct {
	l       *Leader
	rec     *meta.ChunkRecord
	sealer  *protocol.Sealer
	answers chan fenced
	replies map[quarry.ServerID]*quarry.FenceReply
}

// fenced is an answer to the fence of a member.
type fenced struct {
	member quarry.Member // as logged
	reply  *quarry.FenceReply
}

// decide fences the members of a chunk until its length can be told, and returns the entry
// that tells it.
func (l *Leader) decide(ctx context.Context, rec *meta.ChunkRecord) (*meta.Seal, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	entry := sealingOf(rec)
	if len(entry.Members) == 0 {
		return nil, quarry.Errorf("seal", quarry.Corrupt, rec.Handle.String(), "every replica is lost")
	}
	f := &fencing{
		l: l, rec: rec, sealer: protocol.NewSealer(entry),
		answers: make(chan fenced, len(entry.Members)), replies: map[quarry.ServerID]*quarry.FenceReply{},
	}
	for _, m := range entry.Members {
		if !l.spawn(func(context.Context) { f.fence(ctx, m) }) {
			return nil, over()
		}
	}
	alarmed := false
	for {
		if _, err := l.lookup(rec.Handle); errors.Is(err, quarry.WrongShard) {
			return nil, err // the slot has moved, and with it the decision
		}
		for _, server := range f.sealer.Unanswered() {
			if l.roster.silence(server) >= goneAfter {
				f.sealer.Gone(server)
			}
		}
		d := l.roster.decide(f.sealer)
		if len(d.Short) > 0 && !alarmed {
			alarmed = true
			l.Logger.Error("servers have lost bytes that were acknowledged", "chunk", rec.Handle, "servers", d.Short)
		}
		switch {
		case d.Verdict == protocol.Decided:
			return f.entry(d), nil
		case d.Verdict == protocol.Lost && len(f.sealer.Unanswered()) == 0:
			l.Logger.Error("every replica of an open chunk is lost", "chunk", rec.Handle)
			return f.entry(d), nil
		case d.Verdict == protocol.Lost && !alarmed:
			alarmed = true
			l.Logger.Error("no replica of an open chunk is left but at servers that are silent", "chunk", rec.Handle)
		}
		if err := f.next(ctx, d); err != nil {
			return nil, err
		}
	}
}

// next waits for something that may change the decision.
func (f *fencing) next(ctx context.Context, d protocol.Decision) error {
	wait := fencePoll
	if d.Again != 0 {
		wait = min(wait, time.Duration(d.Again)-time.Duration(f.l.Clock.Now()))
	}
	timer := f.l.Clock.NewTimer(wait)
	defer timer.Stop()
	select {
	case a := <-f.answers:
		f.take(a)
	case <-f.l.roster.wait(): // a restart may prove that a lease is over
	case <-timer.C():
	case <-ctx.Done():
		return over()
	}
	return nil
}

// take gives an answer to the sealer, and keeps it for the verdict about the member if the
// sealer does: what a restarted server says does not replace what the member itself said, and
// what an incarnation says that has a successor tells nothing of the disk that counts.
func (f *fencing) take(a fenced) {
	current, _ := f.l.present(a.member.Server)
	f.sealer.Replied(a.member.Server, a.reply, current.Incarnation, protocol.Instant(f.l.Clock.Now()))
	if a.reply.Status == quarry.ReplicaWaiting {
		return // as if it were silent
	}
	firm := a.reply.Incarnation == a.member.Incarnation
	before := f.replies[a.member.Server]
	if a.reply.Incarnation >= current.Incarnation && (firm || before == nil || before.Incarnation != a.member.Incarnation) {
		f.replies[a.member.Server] = a.reply
	}
}

// fence sends FENCE to a member's server until it answers: to the incarnation that runs, of
// which the answer says whether it is the member.
func (f *fencing) fence(ctx context.Context, m quarry.Member) {
	for pause := newPause(f.l.Clock); ; {
		if p, ok := f.l.present(m.Server); ok {
			target := max(p.Incarnation, m.Incarnation)
			reply, err := f.l.fenceAt(ctx, p, f.l.ref(f.rec.Handle, f.rec.Version, target))
			if err == nil {
				select {
				case f.answers <- fenced{m, reply}:
				case <-ctx.Done():
				}
				waiting := reply.Status == quarry.ReplicaWaiting
				if last, _ := f.l.present(m.Server); !waiting && last.Incarnation <= reply.Incarnation {
					return
				}
			}
			f.l.Logger.Debug("no answer to a fence", "chunk", f.rec.Handle, "server", m.Server, "error", err)
		}
		if pause.wait(ctx) != nil {
			return
		}
	}
}

func (l *Leader) fenceAt(ctx context.Context, at quarry.Member, ref quarry.ChunkRef) (*quarry.FenceReply, error) {
	ctx, cancel := l.timeout(ctx)
	defer cancel()
	reply, err := l.Servers.Dial(at).Fence(ctx, &quarry.FenceRequest{ChunkRef: ref})
	if err == nil && reply == nil {
		err = quarry.Errorf("fence", quarry.Internal, at.Address, "an empty answer")
	}
	return reply, err
}

// sealingOf returns what the log says of a chunk that is being sealed, or was.
func sealingOf(rec *meta.ChunkRecord) protocol.Sealing {
	s := protocol.Sealing{
		Handle: rec.Handle, Version: rec.Version, WritableVersion: rec.WritableVersion,
		PrevWritableVersion: rec.PrevWritableVersion, Base: rec.Base,
	}
	for _, r := range rec.Replicas {
		s.Members = append(s.Members, quarry.Member{Server: r.Server, Incarnation: r.Incarnation, Disk: r.Disk})
	}
	return s
}

// entry returns the command that logs a decision.
func (f *fencing) entry(d protocol.Decision) *meta.Seal {
	e := &meta.Seal{
		Handle: f.rec.Handle, Version: f.rec.Version, Length: d.Length, Suspect: d.Suspect,
		Lost: d.Verdict == protocol.Lost,
	}
	if d.Suspect {
		f.l.Logger.Error("a chunk is sealed on the word of restarted servers alone: acknowledged bytes may be missing",
			"chunk", f.rec.Handle, "length", d.Length)
	}
	for _, server := range slices.Sorted(maps.Keys(f.replies)) {
		reply := f.replies[server]
		e.Members = append(e.Members, meta.MemberVerdict{Server: server, Verdict: f.judge(server, reply, d)})
	}
	return e
}

// judge returns the verdict about a member that has answered.
func (f *fencing) judge(server quarry.ServerID, r *quarry.FenceReply, d protocol.Decision) meta.Verdict {
	rec := f.rec
	for _, short := range d.Short {
		if short == server {
			return meta.VerdictBad
		}
	}
	switch {
	case r.Status == quarry.ReplicaMissing:
		return meta.VerdictGone
	case r.Status != quarry.ReplicaGood || d.Verdict == protocol.Lost || r.DurableLength < d.Length:
		return meta.VerdictBad
	case r.LogVersion == rec.WritableVersion:
		return meta.VerdictGood
	case rec.PrevWritableVersion != 0 && r.LogVersion == rec.PrevWritableVersion && d.Length == rec.Base:
		return meta.VerdictGood
	}
	return meta.VerdictBad
}
