package sim

import (
	"context"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
)

// moveSlots has slots move to another shard, mostly those around one that is in use, and has some
// of the moves undone.
func (n *nemesis) moveSlots(d time.Duration) func() {
	if n.c.shards < 2 {
		return nil
	}
	middle, used := n.c.watch.usedSlot(n.r.IntN(probedMax))
	if !used || n.r.IntN(4) == 0 {
		middle = n.r.IntN(quarry.Slots)
	}
	around := n.r.IntN(1 + n.r.IntN(quarry.Slots/4))
	req := &quarry.MoveSlotsRequest{To: quarry.ShardID(1 + n.r.IntN(n.c.shards)), Slots: []quarry.SlotRange{{
		First: quarry.Slot(max(0, middle-around)), Last: quarry.Slot(min(quarry.Slots-1, middle+around)),
	}}}
	undo := time.Duration(n.r.IntN(25)) * time.Millisecond // most moves of an idle cluster take as long
	if n.r.IntN(4) > 0 {
		undo = -1
	}
	n.tell("slots %v are to move to shard %d, and that is undone after %v", req.Slots, req.To, undo)
	n.healing.Go(func() {
		reply := n.c.moveSlots(req)
		if undo < 0 || reply == nil || !n.wait(undo) {
			return
		}
		for _, m := range reply.Moves {
			if m.To == req.To {
				n.c.moveSlots(&quarry.MoveSlotsRequest{Cancel: m.Move})
			}
		}
	})
	return func() {}
}

// moveSlots asks for moves, or for one to be undone; nil if nobody says that it is logged.
func (c *Cluster) moveSlots(req *quarry.MoveSlotsRequest) *quarry.MoveSlotsReply {
	ctx, cancel := c.admin.clock.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	reply, err := c.operator.MoveSlots(ctx, req)
	c.log.Printf("sim  moves of slots: %v", err)
	if err != nil {
		return nil
	}
	return reply
}

// usedSlot returns the slot of one of the chunks that are open or were lately; false if there is
// none.
func (o *observer) usedSlot(which int) (slot int, used bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.probed) == 0 {
		return 0, false
	}
	return int(o.probed[which%len(o.probed)].Slot()), true
}

// stepPrefix is before the names of what a fault can wait for when these are steps of masters.
const stepPrefix = "step: "

// steps are those of transactions, of moves of slots, and of changes of masters, with their observer's names.
var steps = [3][]string{
	{"begun", "ordered", "part", "part applied", "prepared", "decide", "decided", "told", "finished", "forgotten"},
	{"move begins", "leaving", "expecting", "taking", "batch", "move copied", "closed", "released", "move activates", "activated", "move ended", "left", "move undone here", "move undone there"},
	{"master numbered", "master invited", "member learns", "snapshot installed", "members joint", "members changed", "masters out of shards", "master forgotten", "master leaves"},
}

// aimable draws what a fault is to wait for: what servers answer, or a step of a transaction, of
// a move or of a change of masters; "" if nothing of the sort has happened yet.
func (n *nemesis) aimable() string {
	list := n.c.watch.frequent(aims)
	if which := n.r.IntN(5); which < len(steps) {
		var reached []string
		for _, s := range n.c.watch.reachedSteps() {
			if slices.Contains(steps[which], s) {
				reached = append(reached, stepPrefix+s)
			}
		}
		if len(reached) > 0 {
			list = reached
		}
	}
	if len(list) == 0 {
		return ""
	}
	return list[n.r.IntN(len(list))]
}

// reachedSteps returns the steps that have been reached, in their order.
func (o *observer) reachedSteps() (list []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range slices.Concat(steps[:]...) {
		if o.happened[stepPrefix+s] > 0 {
			list = append(list, s)
		}
	}
	return list
}
