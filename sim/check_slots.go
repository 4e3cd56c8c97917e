package sim

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/meta/slots"
)

// A slot is owned by at most one shard at any instant, and by exactly one when nothing moves. The
// slot map follows.

// shardSlots is what a shard's state says at an instant of what it owns.
type shardSlots struct {
	shard  quarry.ShardID
	slots  []quarry.SlotRange
	moved  [2]uint64 // the last moves by which slots came and left: they tell two states apart
	moving string    // what is still to be done for moves; "": nothing
}

// slotsOf returns what a shard owns, at some instant while it asks; an error if nobody can tell.
func (c *Cluster) slotsOf(ctx context.Context, id quarry.ShardID) (owns shardSlots, err error) {
	err = c.look(ctx, id, func(v meta.View) error {
		st := meta.MovingOf(v)
		owns = shardSlots{shard: id, slots: meta.Slots(v), moved: [2]uint64{uint64(st.LastTake), uint64(st.LastLeave)}}
		if st.Leaving != nil || st.Taking != nil || len(st.Remains) > 0 {
			owns.moving = fmt.Sprintf("shard %d has still to leave %v, to take %v, to remove %v", id, st.Leaving, st.Taking, st.Remains)
		}
		return nil
	})
	return owns, err
}

// look gives fn a shard's state at some instant while it asks; an error if nobody can.
func (c *Cluster) look(ctx context.Context, id quarry.ShardID, fn func(meta.View) error) error {
	err := fmt.Errorf("shard %d has no leader that is known", id)
	for _, h := range c.Masters {
		p := h.life()
		if p == nil || p.master.Load() == nil || p.gone() || h.held() {
			continue
		}
		if err = p.master.Load().LookNow(ctx, id, fn); err == nil {
			return nil
		}
	}
	return err
}

// slotsEvery is how often it is looked whether two shards own a slot.
const slotsEvery = time.Second

// watchSlots looks again and again whether two shards own a slot, until stop is called.
func (c *Cluster) watchSlots() (stop func()) {
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-over:
				return
			default:
				c.w.Sleep(slotsEvery)
				c.lookAtSlots()
			}
		}
	}()
	return func() {
		close(over)
		<-ended
	}
}

// lookAtSlots asks all shards what they own. One that owns what another one owns, both before and
// after that one was asked, without a move in between, does so at the same instant.
func (c *Cluster) lookAtSlots() {
	ctx, cancel := newNodeClock(c.w, nil).WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var all []shardSlots
	for id := quarry.ShardID(1); int(id) <= c.shards; id++ {
		owns, err := c.slotsOf(ctx, id)
		if err != nil {
			continue
		}
		for _, before := range all {
			if !slots.Meet(before.slots, owns.slots) {
				continue
			}
			after, err := c.slotsOf(ctx, before.shard)
			if err != nil || after.moved != before.moved {
				continue
			}
			if both := slots.Cut(owns.slots, slots.Cut(owns.slots, after.slots)); len(both) > 0 {
				c.watch.mu.Lock()
				c.watch.violated("a slot has one owner", "shards %d and %d own slots %v", before.shard, id, both)
				c.watch.mu.Unlock()
			}
		}
		all = append(all, owns)
	}
}

// slotsSettled returns nil when nothing moves any more, each slot is owned by one shard, and the
// slot map says so.
func (c *Cluster) slotsSettled(ctx context.Context) error {
	reply, err := c.operator.MoveSlots(ctx, &quarry.MoveSlotsRequest{})
	if err != nil {
		return err
	}
	for _, m := range reply.Moves {
		return fmt.Errorf("move %d of %v from shard %d to %d is %v", m.Move, m.Slots, m.From, m.To, m.Step)
	}
	topology, err := c.operator.Topology(ctx)
	if err != nil {
		return err
	}
	var owners [quarry.Slots]quarry.ShardID
	for id := quarry.ShardID(1); int(id) <= c.shards; id++ {
		owns, err := c.slotsOf(ctx, id)
		if err != nil {
			return err
		}
		if owns.moving != "" {
			return fmt.Errorf("%s", owns.moving)
		}
		for _, r := range owns.slots {
			for slot := int(r.First); slot <= int(r.Last); slot++ {
				if owners[slot] != 0 {
					return fmt.Errorf("slot %d is owned by shards %d and %d", slot, owners[slot], id)
				}
				owners[slot] = id
			}
		}
	}
	for _, s := range topology.Shards {
		for _, r := range s.Slots {
			for slot := int(r.First); slot <= int(r.Last); slot++ {
				if owners[slot] != s.Shard {
					return fmt.Errorf("slot %d is owned by shard %d, and the map gives it to shard %d", slot, owners[slot], s.Shard)
				}
			}
		}
	}
	if i := slices.Index(owners[:], 0); i >= 0 {
		return fmt.Errorf("slot %d has no owner", i)
	}
	return nil
}

// owner returns the shard that owns a slot, as grants have told; 0 if none has.
func (o *observer) owner(slot quarry.Slot) quarry.ShardID { return o.owners[slot] }

// owned notes the slots of a grant, and what has come to its shard with them.
func (o *observer) owned(g *quarry.Grant) {
	came := map[quarry.Slot]bool{}
	for _, r := range g.Slots {
		for slot := int(r.First); slot <= int(r.Last) && slot < quarry.Slots; slot++ {
			if o.owners[slot] != 0 && o.owners[slot] != g.Shard {
				came[quarry.Slot(slot)] = true
			}
			o.owners[slot] = g.Shard
		}
	}
	if len(came) == 0 {
		return
	}
	o.log.Count("slots come to a shard")
	for _, h := range o.probed {
		if came[h.Slot()] && !o.chunks[h].sealed() {
			o.log.Count("an open chunk comes to a shard with its slot")
		}
	}
	for id, s := range o.sessions {
		if came[id.Slot()] && s.ended == 0 && !s.closed {
			o.log.Count("a session comes to a shard with its slot")
		}
	}
}
