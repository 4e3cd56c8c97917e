package chunks

import (
	"context"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

// findingsAtOnce bounds the findings of an inventory that are followed at the same time.
const findingsAtOnce = 16

// Inventory compares a page of a server's replicas with the shard's records. The reply says
// what to drop at once; what else follows is done when Inventory has returned.
//
// Errors: Invalid; WrongShard: the page is about a slot that is not the shard's, and nothing of it
// was judged; StaleVersion: another incarnation of the server has begun; Busy: what
// followed from a page before is not done; NotLeader.
func (l *Leader) Inventory(ctx context.Context, req *quarry.InventoryRequest) (*quarry.InventoryReply, error) {
	at, ok := l.present(req.Server)
	if !ok || at.Incarnation != req.Incarnation {
		return nil, quarry.Errorf("inventory", quarry.StaleVersion, "", "server %d has incarnation %d, not %d", req.Server, at.Incarnation, req.Incarnation)
	}
	if l.visits.under(req.Server) {
		return nil, quarry.Errorf("inventory", quarry.Busy, "", "server %d is being gone through", req.Server)
	}
	if err := l.Log.Confirm(ctx); err != nil {
		return nil, quarry.Wrap("inventory", "", err)
	}
	// What is in hand is noted before the view is taken: what was logged in between has a
	// record in the view, and what was given up in between is judged by the next inventory.
	making, copying := l.handles.inHand(), l.repairs.copying(req.Server)
	if off(OwnRangeJudged) {
		making = nil
	}
	var findings []meta.Finding
	err := l.Log.View(func(v meta.View) (err error) {
		if err := meta.Owned(v, req.From.Slot(), req.To.Slot()); err != nil {
			return err
		}
		findings, err = meta.Reconcile(v, req, l.Term, func(h quarry.Handle) bool { return making[h] || copying[h] })
		return err
	})
	if err != nil {
		return nil, quarry.Wrap("inventory", "", err)
	}
	reply := &quarry.InventoryReply{}
	var rest []meta.Finding
	for _, f := range findings {
		switch f.Action {
		case meta.ActionDrop:
			reply.Drop = append(reply.Drop, quarry.Item{Kind: quarry.ItemDrop, Handle: f.Handle, Version: f.Version})
		case meta.ActionAlarm:
			l.Logger.Error("a replica's handle was never given out: the masters are older than the servers, as after a restore; nothing is dropped",
				"chunk", f.Handle, "server", req.Server)
		default:
			rest = append(rest, f)
		}
	}
	if len(findings) > 0 {
		l.Logger.Info("inventory", "server", req.Server, "replicas", len(req.Replicas), "drop", len(reply.Drop), "findings", len(findings))
	}
	return reply, l.follow(at, rest)
}

// follow does what follows from findings.
func (l *Leader) follow(at quarry.Member, findings []meta.Finding) error {
	if len(findings) == 0 {
		return nil
	}
	_, fresh, err := l.visits.start(at.Server, func(ctx context.Context) (struct{}, error) {
		for len(findings) > 0 && ctx.Err() == nil {
			n := min(findingsAtOnce, len(findings))
			errs := parallel(n, func(i int) error { return l.followOne(ctx, at, &findings[i]) })
			for i, err := range errs {
				if err != nil {
					l.Logger.Debug("a finding is left to the next inventory", "chunk", findings[i].Handle, "error", err)
				}
			}
			findings = findings[n:]
		}
		return struct{}{}, nil
	})
	if err == nil && !fresh {
		err = quarry.Errorf("inventory", quarry.Busy, "", "server %d is being gone through", at.Server)
	}
	return err
}

func (l *Leader) followOne(ctx context.Context, at quarry.Member, f *meta.Finding) error {
	switch f.Action {
	case meta.ActionSurplus:
		return l.dropReplica(ctx, f.Chunk, at.Server, meta.DropSurplus)
	case meta.ActionBad:
		return l.dropReplica(ctx, f.Chunk, at.Server, meta.DropBad)
	case meta.ActionMissing:
		return l.followMissing(ctx, at, f)
	case meta.ActionSuspect:
		_, err := l.seal(ctx, f.Handle, f.Chunk.WritableVersion, "inventory")
		return err
	case meta.ActionSeal:
		at.Disk = f.Replica.Disk
		return l.restore(ctx, f.Chunk, []quarry.Member{at})
	}
	return nil
}

// followMissing asks a server about a replica that it did not report, which it may have made
// after it had looked, and logs that it is not there.
func (l *Leader) followMissing(ctx context.Context, at quarry.Member, f *meta.Finding) error {
	reply, err := l.fenceAt(ctx, at, l.ref(f.Handle, f.Version, at.Incarnation))
	switch {
	case err != nil:
		return err
	case reply.Status == quarry.ReplicaMissing:
		return l.dropReplica(ctx, f.Chunk, at.Server, meta.DropGone)
	case reply.Status != quarry.ReplicaGood:
		return l.dropReplica(ctx, f.Chunk, at.Server, meta.DropBad)
	}
	return nil
}
