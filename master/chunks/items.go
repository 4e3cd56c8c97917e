package chunks

import (
	"context"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

// settleWorkers is how many heartbeats' settled items are logged at the same time.
const settleWorkers = 4

// settled is what a server says it has made durable.
type settled struct {
	server quarry.ServerID
	items  []quarry.Item
}

// noteSettled has what a heartbeat settles logged. If it cannot be taken now, nothing is
// lost: the items are still owed, stand in a later grant, and are settled again.
func (l *Leader) noteSettled(req *quarry.HeartbeatRequest) {
	if len(req.Settled) == 0 {
		return
	}
	select {
	case l.settled <- settled{req.Server, req.Settled}:
	default:
	}
}

// settleLoop logs settled items, one entry for each heartbeat that has any.
func (l *Leader) settleLoop(ctx context.Context) {
	for {
		var s settled
		select {
		case s = <-l.settled:
		case <-ctx.Done():
			return
		}
		if s.items = l.stillOwed(s); len(s.items) == 0 {
			continue // of other shards, or logged already
		}
		if _, err := l.propose(ctx, &meta.SettleItems{Server: s.server, Items: s.items}); err != nil {
			l.Logger.Debug("settled items are not logged", "server", s.server, "items", len(s.items), "error", err)
		}
	}
}

// stillOwed returns those of the items that the server owes this shard.
func (l *Leader) stillOwed(s settled) []quarry.Item {
	done := make(map[quarry.Item]bool, len(s.items))
	for _, item := range s.items {
		done[item] = true
	}
	var items []quarry.Item
	_ = l.Log.View(func(v meta.View) error {
		owed, _ := meta.Unsettled(v, s.server, 2*quarry.ItemsMax)
		for _, item := range owed {
			if done[item] && len(items) < quarry.ItemsMax {
				items = append(items, item)
			}
		}
		return nil
	})
	return items
}
