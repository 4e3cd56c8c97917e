package cluster

import (
	"context"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// AddShard adds a shard without slots to a cluster and returns its number when it has a leader.
// Unavailable: ctx has ended first; the shard may be there, or come yet.
func AddShard(ctx context.Context, masters quarry.Master, c clock.Clock) (quarry.ShardID, error) {
	t, err := masters.Topology(ctx)
	if err != nil {
		return 0, err
	}
	next := quarry.ShardID(0)
	for _, s := range t.Shards {
		next = max(next, s.Shard+1)
	}
	if err := masters.AddShard(ctx, &quarry.AddShardRequest{Shard: next}); err != nil {
		return 0, err
	}
	for {
		t, err := masters.Topology(ctx)
		if err == nil {
			for _, s := range t.Shards {
				if s.Shard == next && s.Leader != 0 {
					return next, nil
				}
			}
		}
		if c.Sleep(ctx, 20*time.Millisecond) != nil {
			return next, quarry.Errorf("add shard", quarry.Unavailable, "", "shard %d is made, but has no leader yet: see \"quarry admin status\"", next)
		}
	}
}

// movePoll is how often the masters are asked how far moves are.
const movePoll = 100 * time.Millisecond

// MoveSlots has slots moved to a shard, from wherever they are, and returns the moves that have
// ended for that when all slots are there. progress, if any, is told now and then how far it is.
// Said again after an interruption, it goes on.
//
// Unavailable: ctx has ended first; moves that have begun go on. Busy: one of them was undone.
func MoveSlots(ctx context.Context, masters quarry.Master, c clock.Clock, to quarry.ShardID, slots []quarry.SlotRange, progress func(*quarry.MoveSlotsReply)) ([]quarry.SlotMove, error) {
	mine := map[uint64]bool{}
	var ended []quarry.SlotMove
	for {
		reply, err := masters.MoveSlots(ctx, &quarry.MoveSlotsRequest{To: to, Slots: slots})
		if err != nil {
			return ended, err
		}
		for _, m := range reply.Moves {
			mine[m.Move] = mine[m.Move] || m.To == to
		}
		for _, m := range reply.Ended {
			if !mine[m.Move] {
				continue
			}
			delete(mine, m.Move)
			if ended = append(ended, m); m.Step == quarry.MoveUndone {
				return ended, quarry.Errorf("move slots", quarry.Busy, "", "move %d was undone: the log of a master says why; try again, when less is changed in the slots", m.Move)
			}
		}
		if progress != nil {
			progress(reply)
		}
		if reply.Left == 0 {
			return ended, nil
		}
		if c.Sleep(ctx, movePoll) != nil {
			return ended, quarry.Errorf("move slots", quarry.Unavailable, "", "%d slots are not at shard %d yet: what has begun goes on, \"quarry admin slot list\" shows how far it is", reply.Left, to)
		}
	}
}
