package root

import (
	"slices"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/meta/move"
	"github.com/quarryfs/quarry/meta/slots"
	"github.com/quarryfs/quarry/wire"
)

// Move is a move of slots from one shard to another that is not over. The slot map has the slots
// at From until it is.
type Move struct {
	Move      move.ID
	From, To  quarry.ShardID
	Slots     []quarry.SlotRange
	Cancelled bool  // it is to be undone, unless From has released the slots already
	BegunNS   int64 // wall time, to be shown
}

func moveFields(w *wire.Walk, m *Move) {
	wire.Uint(w, 1, &m.Move)
	wire.Uint(w, 2, &m.From)
	wire.Uint(w, 3, &m.To)
	wire.List(w, 4, &m.Slots, move.RangesMax, wire.SlotRangeFields)
	wire.Bool(w, 5, &m.Cancelled)
	wire.Uint(w, 6, &m.BegunNS)
}

// BeginMove begins a move of slots. One that is under way with the same shards and slots is a
// success. NotFound: a shard is not known. Invalid: From does not own the slots, or they are not
// in order. Busy: a shard has another move in the same direction, or too many are under way.
// Result: Move.
type BeginMove struct {
	From, To quarry.ShardID
	Slots    []quarry.SlotRange // at most move.RangesMax, in order
}

func (*BeginMove) kind() Kind { return KindBeginMove }

func (c *BeginMove) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.From)
	wire.Uint(w, 11, &c.To)
	wire.List(w, 12, &c.Slots, move.RangesMax, wire.SlotRangeFields)
}

func (c *BeginMove) apply(t *tx, r *Result) error {
	if t.header.Cluster.IsZero() {
		return errNotMade
	}
	var from, to Shard
	switch {
	case c.From == c.To:
		return refuse(quarry.Invalid, "shard %d cannot give slots to itself", c.From)
	case !load(&t.state, shardKey(c.From), &from, shardFields):
		return refuse(quarry.NotFound, "there is no shard %d", c.From)
	case !load(&t.state, shardKey(c.To), &to, shardFields):
		return refuse(quarry.NotFound, "there is no shard %d", c.To)
	}
	under := Moves(t.view)
	for _, m := range under {
		switch {
		case m.From == c.From && m.To == c.To && slices.Equal(m.Slots, c.Slots) && !m.Cancelled:
			r.Move = m.Move
			return nil
		case m.From == c.From || m.To == c.To:
			r.Move = m.Move
			return refuse(quarry.Busy, "move %d from shard %d to shard %d is under way", m.Move, m.From, m.To)
		}
	}
	switch {
	case len(under) >= movesMax:
		return refuse(quarry.Busy, "%d moves are under way", movesMax)
	case !slots.InOrder(c.Slots) || !slots.HasAll(from.Slots, c.Slots):
		return refuse(quarry.Invalid, "slots %v are not in order, or shard %d does not own all of them", c.Slots, c.From)
	}
	t.header.LastMove++
	r.Move = t.header.LastMove
	put(t, moveKey(r.Move), &Move{Move: r.Move, From: c.From, To: c.To, Slots: c.Slots, BegunNS: t.wallNS}, moveFields)
	return nil
}

// CancelMove says that a move is to be undone. Whether it can be is known at the shard that the
// slots leave: a move whose slots are released goes on. NotFound: it is over, or never was.
type CancelMove struct{ Move move.ID }

func (*CancelMove) kind() Kind { return KindCancelMove }

func (c *CancelMove) fields(w *wire.Walk) { wire.Uint(w, 10, &c.Move) }

func (c *CancelMove) apply(t *tx, _ *Result) error {
	var m Move
	if !load(&t.state, moveKey(c.Move), &m, moveFields) {
		return refuse(quarry.NotFound, "there is no move %d, or it is over", c.Move)
	}
	m.Cancelled = true
	put(t, moveKey(c.Move), &m, moveFields)
	return nil
}

// EndMove ends a move. Done changes the slot map, in the same entry: To owns the slots, as it says
// itself. Otherwise the map stays: From owns them, and both shards have cancelled. A move that is
// not known (any more) is a success.
type EndMove struct {
	Move move.ID
	Done bool
}

func (*EndMove) kind() Kind { return KindEndMove }

func (c *EndMove) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Move)
	wire.Bool(w, 11, &c.Done)
}

func (c *EndMove) apply(t *tx, _ *Result) error {
	var m Move
	if !load(&t.state, moveKey(c.Move), &m, moveFields) {
		return nil
	}
	t.kv.Delete(moveKey(c.Move))
	if !c.Done {
		return nil
	}
	var from, to Shard
	load(&t.state, shardKey(m.From), &from, shardFields)
	load(&t.state, shardKey(m.To), &to, shardFields)
	from.Slots, to.Slots = slots.Cut(from.Slots, m.Slots), slots.Join(to.Slots, m.Slots)
	put(t, shardKey(m.From), &from, shardFields)
	put(t, shardKey(m.To), &to, shardFields)
	t.header.MapVersion++
	return nil
}

// Moves returns the moves of slots that are not over, in the order of their numbers.
func Moves(v meta.View) []Move {
	return all(&state{view: v}, tableMove, moveFields)
}

// SetBalancer says whether slots are moved without being asked for, so that shards are equally
// full. They are, at first.
type SetBalancer struct{ On bool }

func (*SetBalancer) kind() Kind { return KindSetBalancer }

func (c *SetBalancer) fields(w *wire.Walk) { wire.Bool(w, 10, &c.On) }

func (c *SetBalancer) apply(t *tx, _ *Result) error {
	if t.header.Cluster.IsZero() {
		return errNotMade
	}
	t.header.BalancerOff = !c.On
	return nil
}

// Balancer returns whether slots are moved without being asked for.
func Balancer(v meta.View) bool {
	s := state{view: v}
	return !s.loadHeader().BalancerOff
}
