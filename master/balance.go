package master

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/meta/move"
	"github.com/quarryfs/quarry/meta/root"
	"github.com/quarryfs/quarry/meta/slots"
	"github.com/quarryfs/quarry/raft"
)

const (
	// balanceEvery is how often the root group's leader looks how full the shards are.
	balanceEvery = time.Second
	// balanceRest is how long it rests when there is nothing that could be moved.
	balanceRest = time.Minute
	// balanceSlots is the most slots that the balancer moves at a time.
	balanceSlots = 64
	// balanceSlack is what shards may differ by, besides a fifth, before slots are moved.
	balanceSlack = 64
	// balanceScan bounds the records that are counted to choose the slots of one move.
	balanceScan = 200_000
	// balanceStride is how much further down the next choice begins when one came to nothing: a
	// slot with very many records may have used up the scan before it came to others. It is odd,
	// so that each slot has its turn.
	balanceStride = 1009
	// undonePause is for how long the balancer leaves alone what a move was undone between, at
	// first; the pause doubles with each one that is undone, up to undonePauseMax.
	undonePause    = 10 * time.Second
	undonePauseMax = time.Hour
	// undonePairsMax is for how many pairs of shards that is remembered.
	undonePairsMax = 256
)

// A shard's weight is its files, directories and chunks, and one for each of its slots: so the
// slots are spread before there is anything in them.

// balance moves slots from the heaviest shard to the lightest one, a few at a time, as long as
// this node leads the root group in a term.
func (g *rootGroup) balance(ctx context.Context, term uint64) {
	m := g.master
	from := quarry.Slot(quarry.Slots - 1)
	for wait := balanceEvery; m.cfg.Clock.Sleep(ctx, wait) == nil; {
		wait = balanceEvery
		if st, err := m.host.Status(quarry.RootShard); err != nil || !st.Leading || st.Term != term {
			return
		}
		began, err := g.balanceOnce(ctx, from)
		switch {
		case err != nil:
			m.cfg.Logger.Debug("slots are not balanced", "error", err)
			wait = 5 * balanceEvery
		case began == nil:
		case len(began.Slots) == 0:
			m.cfg.Logger.Info("a shard is too heavy, but the slots that were looked at are heavier than what should leave it", "shard", uint64(began.From))
			from = (from + quarry.Slots - balanceStride) % quarry.Slots
			wait = balanceRest
		default:
			m.cfg.Logger.Info("slots are moved to a lighter shard", "from", uint64(began.From), "to", uint64(began.To), "slots", began.Slots)
		}
	}
}

// balanceOnce begins a move if one is due, of slots up to one. nil: none is, or now is not the time.
func (g *rootGroup) balanceOnce(ctx context.Context, upto quarry.Slot) (*root.BeginMove, error) {
	m := g.master
	known := g.known.Load()
	on, under := false, 0
	err := m.host.View(quarry.RootShard, func(v raft.Reader) error {
		on, under = root.Balancer(v), len(root.Moves(v))
		return nil
	})
	if err != nil || !on || under > 0 || known == nil || len(known.shards) < 2 || g.speak(quarry.FeatureLevel) != nil {
		return nil, err
	}
	for _, s := range m.masterStatus(ctx, known.topology.Masters) {
		if !s.Alive {
			return nil, nil // a master that is away has enough to fetch when it comes back
		}
	}
	weights, err := g.weigh(ctx, known.shards)
	if err != nil || weights == nil {
		return nil, err
	}
	from, to, room := unbalanced(weights, func(from, to quarry.ShardID) bool { return g.moving.rests(from, to, m.cfg.Clock.Now()) })
	if room == 0 {
		return nil, nil
	}
	asking, cancel := m.cfg.Clock.WithTimeout(ctx, askSilence)
	defer cancel()
	a, err := m.ask(asking, &question{Verb: askHeavy, Shard: from, Weight: room, Slot: upto})
	if err != nil {
		return nil, err
	}
	begin := &root.BeginMove{From: from, To: to, Slots: a.Slots}
	if len(begin.Slots) > 0 {
		_, err = g.propose(ctx, begin)
	}
	return begin, err
}

// weigh asks the leader of each shard what it weighs. nil: a move is not cleaned up yet.
func (g *rootGroup) weigh(ctx context.Context, shards []root.Shard) ([]quarry.ShardWeight, error) {
	m := g.master
	ctx, cancel := m.cfg.Clock.WithTimeout(ctx, askSilence)
	defer cancel()
	weights := make([]quarry.ShardWeight, 0, len(shards))
	busy := false
	for _, s := range shards {
		a, err := m.ask(ctx, &question{Verb: askMoving, Shard: s.Shard})
		if err != nil {
			return nil, err
		}
		st, err := move.DecodeState(a.Moving)
		if err != nil {
			return nil, err
		}
		busy = busy || st.Leaving != nil || st.Taking != nil || len(st.Remains) > 0
		n := slots.Count(s.Slots)
		weights = append(weights, quarry.ShardWeight{Shard: s.Shard, Weight: a.Weight + n, Slots: n})
	}
	g.moving.mu.Lock()
	g.moving.weights = weights
	g.moving.mu.Unlock()
	if busy {
		return nil, nil
	}
	return weights, nil
}

// unbalanced returns from which shard to which one slots should go, and what they may weigh at
// most: half of the difference, so that it never turns round. Shards between which it rests are passed
// over. 0: the shards are balanced.
func unbalanced(weights []quarry.ShardWeight, rests func(from, to quarry.ShardID) bool) (from, to quarry.ShardID, room int64) {
	var heavy, light *quarry.ShardWeight
	for i := range weights {
		if w := &weights[i]; heavy == nil || w.Weight > heavy.Weight {
			heavy = w
		}
	}
	for i := range weights {
		if w := &weights[i]; (light == nil || w.Weight < light.Weight) && !rests(heavy.Shard, w.Shard) {
			light = w
		}
	}
	if light == nil || heavy.Weight <= light.Weight+light.Weight/5+balanceSlack {
		return 0, 0, 0
	}
	return heavy.Shard, light.Shard, (heavy.Weight - light.Weight) / 2
}

// undone is what the balancer remembers of moves between two shards that were undone.
type undone struct {
	pause time.Duration
	until clock.Instant
}

// noteLocked remembers how a move has ended: what made it be undone may well go on, and the next one
// closes slots again.
func (g *moving) noteLocked(from, to quarry.ShardID, done bool, now clock.Instant) {
	pair := [2]quarry.ShardID{from, to}
	if done {
		delete(g.undone, pair)
		return
	}
	if g.undone == nil {
		g.undone = map[[2]quarry.ShardID]undone{}
	}
	u, known := g.undone[pair]
	if !known && len(g.undone) == undonePairsMax {
		delete(g.undone, slices.MinFunc(slices.Collect(maps.Keys(g.undone)), func(a, b [2]quarry.ShardID) int {
			return cmp.Compare(g.undone[a].until, g.undone[b].until)
		}))
	}
	if now.Sub(u.until) > undonePauseMax {
		u.pause = 0
	}
	u.pause = min(max(2*u.pause, undonePause), undonePauseMax)
	u.until = now.Add(u.pause)
	g.undone[pair] = u
}

// rests reports whether nothing should be moved from one shard to another one, because moves between
// them were undone.
func (g *moving) rests(from, to quarry.ShardID, now clock.Instant) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	u, known := g.undone[[2]quarry.ShardID{from, to}]
	return known && now < u.until
}

// answerHeavy chooses slots of a shard, up to the question's, that together weigh at most as much as
// it says: the last ones first, so that the slots of a shard stay together; slots that are too heavy by
// themselves are passed over.
func (m *Master) answerHeavy(ctx context.Context, q *question) (*answer, error) {
	sh, _, err := m.leading("ask", q.Shard)
	if err != nil {
		return nil, err
	}
	a := new(answer)
	err = sh.read(ctx, func(v meta.View) error {
		upto := slots.Cut(meta.Slots(v), []quarry.SlotRange{{First: q.Slot + 1, Last: quarry.Slots - 1}})
		a.Slots, a.Weight = chooseSlots(upto, q.Weight, func(s quarry.Slot, max int64) int64 { return meta.SlotWeight(v, s, max) })
		return nil
	})
	return a, err
}

// chooseSlots is answerHeavy with the weight of a slot as a function, which counts to max at most.
// A slot whose count ends with the scan may have any weight: it is passed over like one that is
// too heavy.
func chooseSlots(own []quarry.SlotRange, room int64, weigh func(s quarry.Slot, max int64) int64) (set []quarry.SlotRange, weight int64) {
	count, scan := 0, int64(balanceScan)
	for i := len(own) - 1; i >= 0; i-- {
		for s := int(own[i].Last); s >= int(own[i].First) && count < balanceSlots && scan > 0; s-- {
			w := 1 + weigh(quarry.Slot(s), min(room-weight, scan))
			scan -= w
			if weight+w > room || scan < 0 {
				continue
			}
			weight += w
			count++
			if n := len(set); n > 0 && int(set[n-1].First) == s+1 {
				set[n-1].First = quarry.Slot(s)
				continue
			}
			if len(set) == move.RangesMax {
				break
			}
			set = append(set, quarry.SlotRange{First: quarry.Slot(s), Last: quarry.Slot(s)})
		}
	}
	slices.Reverse(set)
	return set, weight
}
