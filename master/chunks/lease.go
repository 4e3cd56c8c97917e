package chunks

import (
	"context"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/protocol"
)

// Seen notes a heartbeat that came to this node before it led the shard, not long ago, so
// that chunks can be placed at once. It grants nothing.
func (l *Leader) Seen(req *quarry.HeartbeatRequest) error { return l.hear(req) }

// Heartbeat renews a server's leases at this shard. The grant carries what the server owes
// the shard and does not say it has settled; its leases are valid only when that is durable
// there, and not at all if there is more. Without lease, because the server's clock cannot be
// relied upon, the grant has only what the server owes.
//
// StaleVersion: a later incarnation of the server has begun. NotLeader. Busy.
func (l *Leader) Heartbeat(ctx context.Context, req *quarry.HeartbeatRequest, lease bool) (*quarry.Grant, error) {
	if len(req.Settled) > quarry.ItemsMax {
		return nil, quarry.Errorf("heartbeat", quarry.TooLarge, "", "%d items, at most %d are allowed", len(req.Settled), quarry.ItemsMax)
	}
	if err := l.hear(req); err != nil {
		return nil, err
	}
	l.noteSettled(req)
	var early []quarry.Item
	if off(ItemsBeforeLease) {
		_ = l.Log.View(func(v meta.View) error {
			early, _ = owed(v, req)
			return nil
		})
	}
	if !off(GrantUnconfirmed) {
		if err := l.Log.Confirm(ctx); err != nil {
			return nil, quarry.Wrap("heartbeat", "", err)
		}
	}
	// First the lease, then the items. A seal waits for the leases as they are after its fences
	// were logged; so either it sees this extension, or the items below have its fence. The slots
	// are those of the same view: when a slot's release was logged before the heartbeat was sent,
	// the view has it, and the grant does not have the slot. So the shard that takes a slot waits
	// out leases of heartbeats that were sent before the release, and of no others.
	grant := &quarry.Grant{Shard: l.Shard, Term: l.Term}
	if lease {
		if !l.roster.grant(req.Server, req.Incarnation) {
			return nil, quarry.Errorf("heartbeat", quarry.StaleVersion, "", "another incarnation of server %d has begun", req.Server)
		}
		grant.EndMS = int64(time.Duration(protocol.EndLease) / time.Millisecond)
		grant.ReadMS = int64(time.Duration(protocol.ReadLease) / time.Millisecond)
	}
	err := l.Log.View(func(v meta.View) error {
		grant.Items, grant.More = owed(v, req)
		grant.Slots = meta.Slots(v)
		return nil
	})
	switch {
	case off(ItemsBeforeLease):
		grant.Items = early
	case off(GrantWithoutItems):
		grant.Items = nil
	}
	return grant, quarry.Wrap("heartbeat", "", err)
}

// hear notes a heartbeat, and has looked at what a start or a return of the server changes.
func (l *Leader) hear(req *quarry.HeartbeatRequest) error {
	silence := l.roster.silence(req.Server)
	fresh, err := l.roster.hear(req)
	if err != nil {
		return err
	}
	if fresh {
		l.Logger.Info("chunk server has begun", "server", req.Server, "incarnation", req.Incarnation, "address", req.Address)
		l.kick()
	}
	if silence >= l.DeadAfter {
		l.welcome(req.Server)
	}
	return nil
}

// owed returns what a server owes and does not say it has settled with this heartbeat.
func owed(v meta.View, req *quarry.HeartbeatRequest) (items []quarry.Item, more bool) {
	list, more := meta.Unsettled(v, req.Server, quarry.ItemsMax+len(req.Settled))
	done := make(map[quarry.Item]bool, len(req.Settled))
	for _, item := range req.Settled {
		done[item] = true
	}
	for _, item := range list {
		switch {
		case done[item]:
		case len(items) == quarry.ItemsMax:
			return items, true
		default:
			items = append(items, item)
		}
	}
	return items, more
}
