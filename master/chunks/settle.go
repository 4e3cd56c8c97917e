package chunks

import (
	"context"
	"errors"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/protocol"
)

// settleRounds is how often SEAL is sent to the replicas of a chunk before the rest is left
// to the next look at the active chunks.
const settleRounds = 3

// confirmation is what a server says of a replica when it is told the seal.
type confirmation struct {
	holds  bool
	crc    uint32
	reason meta.DropReason // why it is none; 0: it holds, or nothing is known
}

// startSettle has the replicas of a sealed chunk that have not confirmed the seal told it.
func (l *Leader) startSettle(h quarry.Handle) {
	_, _, err := l.settles.start(h, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, l.settle(ctx, h)
	})
	if err != nil {
		l.Logger.Debug("a seal is told later", "chunk", h, "error", err)
	}
}

// behindRoll is how long the replicas of a chunk wait for a roll until they are told its seal: a roll
// that takes longer waits for something else than their disks.
const behindRoll = 100 * time.Millisecond

// settleBehind is startSettle for a chunk that has just been sealed, behind the roll that had it
// sealed, if one has: telling the seal has each replica's files synced, for which writers who wait for
// the next chunk would wait, too.
func (l *Leader) settleBehind(rec *meta.ChunkRecord) {
	roll := l.rolls.find(rec.File)
	if roll == nil {
		l.startSettle(rec.Handle)
		return
	}
	l.spawn(func(ctx context.Context) {
		wait, cancel := l.Clock.WithTimeout(ctx, behindRoll)
		_, _ = roll.wait(wait) // whatever came of it
		cancel()
		l.startSettle(rec.Handle)
		if job := l.settles.find(rec.Handle); job != nil {
			_, _ = job.wait(ctx)
		}
		l.considerMerge(rec.File)
	})
}

// settle tells the replicas the seal and logs who holds it. What does not hold it is dropped,
// and copied anew by repair.
func (l *Leader) settle(ctx context.Context, h quarry.Handle) error {
	pause := newPause(l.Clock)
	for range settleRounds {
		rec, err := l.lookup(h)
		if err != nil || !rec.LengthKnown {
			return err
		}
		var pending []quarry.Member
		for _, r := range rec.Replicas {
			if r.State == meta.ReplicaPending {
				pending = append(pending, quarry.Member{Server: r.Server, Incarnation: r.Incarnation, Disk: r.Disk})
			}
		}
		if len(pending) == 0 {
			return nil
		}
		if silent, err := l.confirm(ctx, rec, pending); err != nil || silent == 0 {
			return err
		}
		if err := pause.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// confirm tells replicas the seal, at the same time, and logs what they answer. Members name
// the server and the disk of each. It returns how many did not answer.
func (l *Leader) confirm(ctx context.Context, rec *meta.ChunkRecord, replicas []quarry.Member) (silent int, err error) {
	answers := make([]confirmation, len(replicas))
	at := make([]quarry.Member, len(replicas))
	parallel(len(replicas), func(i int) error {
		at[i], _ = l.present(replicas[i].Server)
		at[i].Server, at[i].Disk = replicas[i].Server, replicas[i].Disk
		answers[i] = l.sealAt(ctx, at[i], rec)
		return nil
	})
	hold := &meta.Hold{Handle: rec.Handle, Version: rec.Version}
	for i, a := range answers {
		if a.holds {
			hold.Holders = append(hold.Holders, meta.Holder{NewMember: newMember(at[i]), CRC: a.crc})
		}
	}
	if len(hold.Holders) > 0 {
		r, err := l.insist(ctx, hold)
		if err != nil {
			return 0, err
		}
		if r.Count > 0 {
			l.Logger.Error("replicas of a sealed chunk differ", "chunk", rec.Handle, "replicas", r.Count)
		}
	}
	for i, a := range answers {
		switch {
		case a.reason != 0:
			if err := l.dropReplica(ctx, rec, at[i].Server, a.reason); err != nil {
				return 0, err
			}
		case !a.holds:
			silent++
		}
	}
	return silent, nil
}

// sealAt tells one server the seal.
func (l *Leader) sealAt(ctx context.Context, m quarry.Member, rec *meta.ChunkRecord) confirmation {
	req := protocol.NewSealRound(new(sealingOf(rec)), rec.Length, nil).Request()
	req.ChunkRef, req.Position = l.ref(rec.Handle, rec.Version, m.Incarnation), rec.Position
	ctx, cancel := l.longTimeout(ctx)
	defer cancel()
	reply, err := l.Servers.Dial(m).Seal(ctx, &req)
	switch {
	case err == nil && reply != nil && reply.Holds:
		return confirmation{holds: true, crc: reply.CRC}
	case err == nil && reply != nil, errors.Is(err, quarry.Corrupt):
		return confirmation{reason: meta.DropBad}
	case errors.Is(err, quarry.NotFound):
		return confirmation{reason: meta.DropGone}
	}
	l.Logger.Debug("no answer to a seal", "chunk", rec.Handle, "server", m.Server, "error", err)
	return confirmation{}
}

// dropReplica logs that a replica is none.
func (l *Leader) dropReplica(ctx context.Context, rec *meta.ChunkRecord, server quarry.ServerID, why meta.DropReason) error {
	_, err := l.insist(ctx, &meta.DropReplica{Handle: rec.Handle, Version: rec.Version, Server: server, Reason: why})
	switch quarry.KindOf(err) {
	case 0:
		l.Logger.Info("replica taken out", "chunk", rec.Handle, "server", server, "reason", why)
	case quarry.StaleVersion, quarry.NotFound, quarry.Busy: // it has been judged otherwise since
		return nil
	}
	return err
}
