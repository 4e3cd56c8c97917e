package master

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/meta/move"
	"github.com/quarryfs/quarry/meta/slots"
)

// TestBalancerComesToRest lets the balancer's choices loose on shards of any weights: each move
// makes the difference smaller, and after not too many none is due, or none is possible.
func TestBalancerComesToRest(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		records := make([]int64, quarry.Slots)
		for s := range records {
			switch r.IntN(10) {
			case 0, 1, 2:
				records[s] = r.Int64N(1 << r.IntN(16))
			case 3:
				records[s] = 1 << r.IntN(18) / 3
			}
		}
		for range r.IntN(4) { // more than are counted
			records[r.IntN(quarry.Slots)] = balanceScan + r.Int64N(20*balanceScan)
		}
		own := make([][]quarry.SlotRange, 2+r.IntN(7))
		for s := range quarry.Slot(quarry.Slots) { // the last one has none, as if it were added
			i := int(s) * (len(own) - 1) / quarry.Slots
			own[i] = slots.Join(own[i], []quarry.SlotRange{{First: s, Last: s}})
		}
		weigh := func() (list []quarry.ShardWeight) {
			for i := range own {
				w := quarry.ShardWeight{Shard: quarry.ShardID(i + 1)}
				for s := range quarry.Slot(quarry.Slots) {
					if slots.Has(own[i], s) {
						w.Weight += 1 + records[s]
						w.Slots++
					}
				}
				list = append(list, w)
			}
			return list
		}
		moves, impossible := 0, false
		for ; moves < 500; moves++ {
			weights := weigh()
			from, to, room := unbalanced(weights, never)
			if room == 0 {
				break
			}
			set, weight := chooseSlots(own[from-1], room, func(s quarry.Slot, max int64) int64 { return min(max, records[s]) })
			for s := range quarry.Slot(quarry.Slots) {
				if slots.Has(set, s) && records[s] >= balanceScan {
					t.Fatalf("seed %d: slot %d with %d records leaves as if they were few", seed, s, records[s])
				}
			}
			if len(set) == 0 {
				impossible = true
				break
			}
			if weight > room || slots.Count(set) > balanceSlots || len(set) > move.RangesMax || !slots.InOrder(set) || !slots.HasAll(own[from-1], set) {
				t.Fatalf("seed %d: slots %v of weight %d, with room for %d", seed, set, weight, room)
			}
			own[from-1], own[to-1] = slots.Cut(own[from-1], set), slots.Join(own[to-1], set)
		}
		if moves == 500 {
			weights := weigh()
			t.Errorf("seed %d: it does not come to rest: %+v", seed, weights)
		}
		if weights := weigh(); !impossible {
			if _, _, room := unbalanced(weights, never); room != 0 {
				t.Errorf("seed %d: at rest with %+v", seed, weights)
			}
		}
	}
}

// TestBalancerFillsAShard adds a shard, which is filled while names are changed, unless the
// balancer is off or a master is away.
func TestBalancerFillsAShard(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		r := c.router()
		defer r.close()
		n := r.namer(quarry.RootInode, c.session(1))
		if reply, err := r.MoveSlots(t.Context(), &quarry.MoveSlotsRequest{Balance: quarry.SwitchOff}); err != nil || reply.Balance {
			t.Fatalf("%+v, %v", reply, err)
		}
		if err := r.AddShard(t.Context(), &quarry.AddShardRequest{Shard: 3}); err != nil {
			t.Fatal(err)
		}
		c.leader(3)
		count := func() (n int64) {
			topology, err := r.Topology(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range topology.Shards {
				if s.Shard == 3 {
					n = slots.Count(s.Slots)
				}
			}
			return n
		}
		c.sleep(20 * time.Second)
		if n := count(); n != 0 {
			t.Errorf("the balancer is off, and %d slots have moved", n)
		}
		away := c.follower(0)
		away.stop()
		if reply, err := r.MoveSlots(t.Context(), &quarry.MoveSlotsRequest{Balance: quarry.SwitchOn}); err != nil || !reply.Balance {
			t.Fatalf("%+v, %v", reply, err)
		}
		c.sleep(20 * time.Second)
		if n := count(); n != 0 {
			t.Errorf("a master is away, and %d slots have moved", n)
		}
		away.start()
		r.until("the shard is not filled", func() bool { return count() >= quarry.Slots/4 })
		c.sleep(30 * time.Second)
		before, err := r.Topology(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c.sleep(30 * time.Second)
		after, err := r.Topology(t.Context())
		if err != nil || after.Version != before.Version {
			t.Errorf("slots still move: the map was version %d and is %d, %v", before.Version, after.Version, err)
		}
		n.check()
	})
}

func never(from, to quarry.ShardID) bool { return false }

// TestUndonePauses has moves be undone: the pauses double up to a bound, begin anew when a move is
// done or long after the last one, and are forgotten, the oldest first, when there are too many.
func TestUndonePauses(t *testing.T) {
	var g moving
	now := clock.Instant(time.Hour)
	want := undonePause
	for range 12 {
		g.noteLocked(1, 2, false, now)
		if !g.rests(1, 2, now.Add(want-1)) || g.rests(1, 2, now.Add(want)) || g.rests(2, 1, now) || g.rests(1, 3, now) {
			t.Fatalf("it does not rest for %v", want)
		}
		now, want = now.Add(want), min(2*want, undonePauseMax)
	}
	g.noteLocked(1, 2, true, now)
	if g.rests(1, 2, now) {
		t.Error("it rests after a move that was done")
	}
	g.noteLocked(1, 2, false, now)
	g.noteLocked(1, 2, false, now)
	now = now.Add(2 * undonePauseMax)
	g.noteLocked(1, 2, false, now)
	if !g.rests(1, 2, now) || g.rests(1, 2, now.Add(undonePause)) {
		t.Error("what was undone long ago counts")
	}
	for i := range quarry.ShardID(2 * undonePairsMax) {
		g.noteLocked(3, 4+i, false, now.Add(time.Duration(i)))
	}
	if len(g.undone) != undonePairsMax || g.rests(3, 4, now) || !g.rests(3, 3+2*undonePairsMax, now) {
		t.Errorf("%d pairs are remembered", len(g.undone))
	}
	weights := []quarry.ShardWeight{{Shard: 3, Weight: 10_000}, {Shard: 3 + 2*undonePairsMax}, {Shard: 2, Weight: 100}}
	if from, to, room := unbalanced(weights, func(from, to quarry.ShardID) bool { return g.rests(from, to, now) }); from != 3 || to != 2 || room != 4950 {
		t.Errorf("a move of %d from %d to %d", room, from, to)
	}
}

// TestBalancerLeavesUndoneMovesAlone undoes whatever the balancer begins, for some minutes: it tries
// again, now and then, and fills the shard when it may.
func TestBalancerLeavesUndoneMovesAlone(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		r := c.router()
		defer r.close()
		if err := r.AddShard(t.Context(), &quarry.AddShardRequest{Shard: 3}); err != nil {
			t.Fatal(err)
		}
		c.leader(3)
		f := func(at string) {
			if at == "move copied" {
				c.sleep(2 * time.Second)
			}
		}
		for _, n := range c.nodes {
			n.failpoint.Store(&f)
		}
		begun := map[uint64]bool{}
		for range 240 {
			reply, err := r.MoveSlots(t.Context(), &quarry.MoveSlotsRequest{})
			if err != nil {
				t.Fatal(err)
			}
			for _, mv := range reply.Moves {
				begun[mv.Move] = true
				if _, err := r.MoveSlots(t.Context(), &quarry.MoveSlotsRequest{Cancel: mv.Move}); err != nil && quarry.KindOf(err) != quarry.NotFound {
					t.Fatal(err)
				}
			}
			c.sleep(time.Second)
		}
		t.Logf("%d moves were begun", len(begun))
		if n := len(begun); n < 3 || n > 15 {
			t.Errorf("%d moves were begun while they were undone", n)
		}
		for _, n := range c.nodes {
			n.failpoint.Store(nil)
		}
		c.sleep(4 * time.Minute)
		topology, err := r.Topology(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range topology.Shards {
			if n := slots.Count(s.Slots); s.Shard == 3 && n < quarry.Slots/4 {
				t.Errorf("the shard has %d slots", n)
			}
		}
	})
}
