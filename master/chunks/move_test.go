package chunks

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/meta/move"
)

// shard2 is another shard over the servers of a world, and its leader.
type shard2 struct {
	*Leader
	state   *state
	session quarry.SessionID
}

// other begins another shard, which owns all slots but 0. All servers send it heartbeats as well.
func (w *world) other() *shard2 {
	w.t.Helper()
	st := &state{kv: meta.NewMemory(), term: 1}
	log := &termLog{s: st, term: 1, began: sim.Now()}
	cfg := w.cfg
	cfg.Term, cfg.Log, cfg.Servers, cfg.Clock, cfg.Shard = 1, log, w, sim, 2
	cfg.Keys = func() quarry.Keys { return quarry.Keys{{Number: 1}} }
	st.apply(w.t, &meta.Init{Slots: []quarry.SlotRange{{First: 1, Last: quarry.Slots - 1}}})
	x := &shard2{Leader: New(cfg), state: st, session: st.apply(w.t, &meta.OpenSession{Slot: 1}).Session}
	w.work.Go(func() { x.Run(w.ctx) })
	w.work.Go(func() {
		for w.ctx.Err() == nil {
			for _, id := range w.List() {
				if s := w.net.server(id); !s.isDown() {
					_ = x.Seen(s.heartbeat())
				}
			}
			_ = sim.Sleep(w.ctx, 500*time.Millisecond)
		}
	})
	w.pass(1200 * time.Millisecond)
	return x
}

// apply has a command applied that must succeed, and that the leader is not told of.
func (s *state) apply(t *testing.T, body meta.Body) *meta.Result {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &meta.Command{Body: body}
	encoded, err := c.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := meta.DecodeResult(s.machine.Apply(s.kv, encoded))
	if err == nil {
		err = r.Err
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// slot0 is what moves in these tests.
var slot0 = []quarry.SlotRange{{First: 0, Last: 0}}

// moveSlot0 moves slot 0 from one shard to another one in their logs. No leader is told.
func moveSlot0(t *testing.T, id move.ID, from, to *state) {
	t.Helper()
	from.apply(t, &meta.BeginLeave{Move: id, To: 2, Slots: slot0})
	to.apply(t, &meta.BeginTake{Move: id, From: 1, Slots: slot0, Time: meta.Time(from.kv)})
	from.apply(t, &meta.CloseSlots{Move: id})
	from.apply(t, &meta.Release{Move: id})
	for {
		b, err := meta.NextBatch(from.kv, meta.MovingOf(to.kv).Taking, 64<<10)
		if err != nil {
			t.Fatal(err)
		}
		if b == nil {
			break
		}
		to.apply(t, &meta.Take{Batch: *b})
	}
	a, err := meta.Handover(from.kv, id, 1000)
	if err != nil {
		t.Fatal(err)
	}
	to.apply(t, a)
}

// A client that has not learnt of a move asks the wrong shard for chunks. The right one has a
// chunk open, of the handle that the wrong one would have made: nothing is sent to its members.
func TestAllocateInASlotOfAnotherShard(t *testing.T) {
	inWorld(t, 3, func(w *world) {
		_, c := w.open("a")
		w.append(c, 1000)
		x := w.other()
		creates, drops := w.net.count("create"), w.net.count("drop")
		_, err := x.Allocate(w.ctx, &quarry.AllocateRequest{
			Op: quarry.Op{Session: x.session, Sequence: 1, Oldest: 1}, Near: quarry.RootInode, Count: 1,
		})
		if slot, ok := meta.RefusedSlot(err); !errors.Is(err, quarry.WrongShard) || !ok || slot != 0 {
			t.Errorf("error %v", err)
		}
		w.pass(2 * time.Second)
		if w.net.count("create") != creates || w.net.count("drop") != drops {
			t.Errorf("%d CREATE and %d DROP were sent", w.net.count("create")-creates, w.net.count("drop")-drops)
		}
		w.append(c, 1000)
	})
}

// Numbers in hand are not used in a slot that has come since they were reserved, nor those that
// are reserved after a slot has left in that slot, even if the leader is told nothing.
func TestHandlesOfSlotsThatMove(t *testing.T) {
	inWorld(t, 3, func(w *world) {
		x, l := w.other(), w.lead()
		take := func(h *handles, slot quarry.Slot) uint64 {
			t.Helper()
			n, err := h.take(w.ctx, slot)
			if err != nil {
				t.Fatal(err)
			}
			return n.Number()
		}
		refused := func(h *handles) {
			t.Helper()
			if n, err := h.take(w.ctx, 0); !errors.Is(err, quarry.WrongShard) {
				t.Errorf("handle %v, %v", n, err)
			}
		}
		refused(&x.handles)
		take(&x.handles, 1)
		last := take(&l.handles, 0)
		moveSlot0(t, 1, w.state, x.state)
		if n := take(&x.handles, 0); n <= last || n < meta.MovingOf(x.state.kv).HandleFloor {
			t.Errorf("number %d in a slot that has come, %d was used before", n, last)
		}
		// What the former owner may yet make is numbered below what the new one reserves, whose
		// inventory drops it and is not alarmed.
		if n := take(&l.handles, 0); n >= meta.MovingOf(x.state.kv).HandleFloor {
			t.Errorf("number %d is used after the slot has left", n)
		}
		l.handles.drop() // what it reserves from here on is not for the slot that has left
		take(&l.handles, 1)
		refused(&l.handles)
	})
}

// A server is dead for long when a slot comes whose replicas the shard it comes from has not marked:
// its leader has just begun. They are copied, though nobody tells the leader that slots came.
func TestGoneServerAndSlotsThatCome(t *testing.T) {
	inWorld(t, 5, func(w *world) {
		rec := w.sealed("a")
		x := w.other()
		dead := w.net.server(rec.Replicas[1].Server)
		dead.kill()
		w.pass(20 * time.Second)
		w.failover()
		w.pass(15 * time.Second)
		if r := w.record(rec.Handle).Replica(dead.id); r.State != meta.ReplicaHolding {
			t.Fatalf("the replica is marked already: %v", r.State)
		}
		moveSlot0(t, 1, w.state, x.state)
		w.until("the chunk has three copies that count", 30*time.Second, func() bool {
			x.state.mu.Lock()
			defer x.state.mu.Unlock()
			now := recordIn(x.state.kv, rec.Handle)
			old := now.Replica(dead.id)
			return now.Count(meta.ReplicaHolding) == 3 && (old == nil || old.State != meta.ReplicaHolding)
		})
	})
}

// A copy that is refused because the slot has left stays at its target: the new owner of the slot
// may have listed it.
func TestCopyRefusedAfterItsSlotHasLeft(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		rec := w.sealed("a")
		var target atomic.Uint64
		w.log.setFault(func(b meta.Body) error {
			if a, ok := b.(*meta.AddReplica); ok && target.CompareAndSwap(0, uint64(a.Copy.Server)) {
				w.state.apply(t, &meta.BeginLeave{Move: 1, To: 2, Slots: slot0})
				w.state.apply(t, &meta.Release{Move: 1})
			}
			return nil
		})
		w.net.server(rec.Replicas[0].Server).kill()
		w.until("it is copied", 40*time.Second, func() bool { return target.Load() != 0 })
		w.pass(3 * time.Second)
		if has := w.net.server(quarry.ServerID(target.Load())).has(rec.Handle); has.SealVersion != rec.Version {
			t.Errorf("server %d has %+v", target.Load(), has)
		}
	})
}

// The leader of a shard without slots writes nothing to its log.
func TestShardWithoutSlotsIsQuiet(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		st := &state{kv: meta.NewMemory(), term: 1}
		entries := 0
		st.applied = func(meta.Body, *meta.Result) { entries++ }
		cfg := w.cfg
		cfg.Term, cfg.Log, cfg.Servers, cfg.Clock = 1, &termLog{s: st, term: 1, began: sim.Now()}, w, sim
		l := New(cfg)
		w.work.Go(func() { l.Run(w.ctx) })
		w.pass(20 * time.Second)
		st.mu.Lock()
		if entries > 0 {
			t.Errorf("%d entries", entries)
		}
		st.mu.Unlock()
		st.apply(t, &meta.Init{Slots: slot0})
		w.pass(time.Second)
		if l.handles.empty() {
			t.Error("no handles are reserved when slots have come")
		}
	})
}

// Slots that come between the reservation of numbers and the look at what the shard owns make the
// numbers worthless.
func TestHandlesReservedWhileSlotsCome(t *testing.T) {
	inWorld(t, 3, func(w *world) {
		x := w.other()
		x.handles.drop()
		first := x.state.apply(t, &meta.ReserveHandles{Term: 1, Count: 1}).Range.First
		x.state.mu.Lock()
		x.state.applied = func(b meta.Body, _ *meta.Result) {
			if _, ok := b.(*meta.ReserveHandles); ok {
				x.state.applied = nil
				x.state.mu.Unlock()
				moveSlot0(t, 1, w.state, x.state)
				x.state.mu.Lock()
			}
		}
		x.state.mu.Unlock()
		n, err := x.handles.take(context.Background(), 1)
		if err != nil || n.Number() < meta.MovingOf(x.state.kv).HandleFloor {
			t.Errorf("number %d after %d, %v", n.Number(), first, err)
		}
	})
}
