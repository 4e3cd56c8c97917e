package chunks

import (
	"context"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

// Report notes that members of a chunk are silent or failed, or that replicas are corrupt.
// An open chunk is sealed; a corrupt replica of a sealed one is replaced. Without suspects it
// asks that the version be ended. The work goes on when Report has returned.
//
// Errors: NotFound, Busy, NotLeader. A report of a version that has ended is a success.
func (l *Leader) Report(ctx context.Context, req *quarry.ReportRequest) error {
	if len(req.Suspects) > quarry.ReplicasMax {
		return quarry.Errorf("report", quarry.TooLarge, "", "%d suspects, at most %d are allowed", len(req.Suspects), quarry.ReplicasMax)
	}
	if err := l.Log.Confirm(ctx); err != nil {
		return quarry.Wrap("report", "", err)
	}
	rec, err := l.lookup(req.Handle)
	if err != nil {
		return quarry.Wrap("report", "", err)
	}
	for _, s := range req.Suspects {
		l.Logger.Warn("report", "chunk", req.Handle, "server", s.Server, "corrupt", req.Corrupt, "why", clip(s.Why))
	}
	switch {
	case rec.State == quarry.ChunkOpen && req.Version == rec.Version:
		return l.reportOpen(rec, req)
	case req.Corrupt && rec.LengthKnown:
		return l.reportCorrupt(rec, req.Suspects)
	}
	return nil
}

// reportOpen has an open chunk sealed.
func (l *Leader) reportOpen(rec *meta.ChunkRecord, req *quarry.ReportRequest) error {
	if l.seals.under(rec.Handle) {
		return nil
	}
	_, _, err := l.reports.start(rec.Handle, func(ctx context.Context) (struct{}, error) {
		if !req.Corrupt {
			if err := l.bear(ctx, rec, req.Suspects); err != nil {
				return struct{}{}, err
			}
		}
		_, err := l.startSeal(rec.Handle, rec.WritableVersion, "report")
		return struct{}{}, err
	})
	return err
}

// reportCorrupt has corrupt replicas of a sealed chunk replaced.
func (l *Leader) reportCorrupt(rec *meta.ChunkRecord, suspects []quarry.Suspect) error {
	for _, s := range suspects {
		r := rec.Replica(s.Server)
		if r == nil || r.State == meta.ReplicaDropping || r.State == meta.ReplicaBad {
			continue
		}
		if err := l.repairs.replace(rec.Handle, s.Server); err != nil {
			return err
		}
	}
	return nil
}

// Orphans has open chunks sealed that nothing needs any more, as the results of commands
// name them. Those that are forgotten here are found with the other active chunks.
func (l *Leader) Orphans(list []quarry.Handle) {
	for _, h := range list {
		if rec, err := l.lookup(h); err == nil && rec.State == quarry.ChunkOpen {
			l.endOpen(rec, "nothing needs it")
		}
	}
}

// clip shortens what others say, for the log.
func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}
