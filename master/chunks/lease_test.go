package chunks

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/protocol"
)

// owes returns what a server owes the shard.
func (w *world) owes(id quarry.ServerID) []quarry.Item {
	w.state.mu.Lock()
	defer w.state.mu.Unlock()
	items, _ := meta.Unsettled(w.state.kv, id, 2*quarry.ItemsMax)
	return items
}

func TestHeartbeatGrantsBothRights(t *testing.T) {
	inWorld(t, 3, func(w *world) {
		req := w.net.server(1).heartbeat()
		g, err := w.lead().Heartbeat(w.ctx, req, true)
		if err != nil || g.EndMS != 2000 || g.ReadMS != 10000 || g.Term != 1 || g.More || len(g.Items) != 0 || !slices.Equal(g.Slots, []quarry.SlotRange{{Last: quarry.Slots - 1}}) {
			t.Errorf("grant %+v, %v", g, err)
		}
	})
}

// A server whose clock cannot be relied upon gets no lease, and nobody waits for one.
func TestHeartbeatWithoutALease(t *testing.T) {
	inWorld(t, 3, func(w *world) {
		l, s := w.lead(), w.net.server(1)
		before := l.roster.leases.Until(0, 1, s.incarnation(), protocol.RightRead)
		for range 3 {
			g, err := l.Heartbeat(w.ctx, s.heartbeat(), false)
			if err != nil || g.EndMS != 0 || g.ReadMS != 0 || g.Term != 1 {
				t.Errorf("grant %+v, %v", g, err)
			}
		}
		if after := l.roster.leases.Until(0, 1, s.incarnation(), protocol.RightRead); after != before {
			t.Errorf("a lease that was not granted is waited for: %v, before %v", after, before)
		}
	})
}

func TestHeartbeatOfAnEarlierIncarnationIsRefused(t *testing.T) {
	inWorld(t, 3, func(w *world) {
		s := w.net.server(1)
		old := s.heartbeat()
		s.kill()
		w.restart(s)
		w.pass(700 * time.Millisecond)
		if _, err := w.lead().Heartbeat(w.ctx, old, true); !errors.Is(err, quarry.StaleVersion) {
			t.Errorf("error %v", err)
		}
		if _, err := w.lead().Heartbeat(w.ctx, &quarry.HeartbeatRequest{}, true); !errors.Is(err, quarry.Invalid) {
			t.Errorf("nobody's heartbeat: %v", err)
		}
		many := s.heartbeat()
		many.Settled = make([]quarry.Item, quarry.ItemsMax+1)
		if _, err := w.lead().Heartbeat(w.ctx, many, true); !errors.Is(err, quarry.TooLarge) {
			t.Errorf("too many items: %v", err)
		}
	})
}

func TestStoppedLeaderGrantsNothing(t *testing.T) {
	inWorld(t, 3, func(w *world) {
		l := w.lead()
		req := w.net.server(1).heartbeat()
		l.Stop()
		l.Stop()
		if g, err := l.Heartbeat(w.ctx, req, true); err == nil {
			t.Errorf("grant %+v", g)
		}
		if _, err := l.Roll(w.ctx, &quarry.RollRequest{File: w.file("a")}); !errors.Is(err, quarry.NotLeader) {
			t.Errorf("roll: %v", err)
		}
	})
}

func TestDeposedLeaderGrantsNothing(t *testing.T) {
	inWorld(t, 3, func(w *world) {
		w.state.mu.Lock()
		w.state.term++
		w.state.mu.Unlock()
		if g, err := w.lead().Heartbeat(w.ctx, w.net.server(1).heartbeat(), true); !errors.Is(err, quarry.NotLeader) {
			t.Errorf("grant %+v, %v", g, err)
		}
	})
}

func TestFenceReachesAServerWithItsNextGrant(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		file, c := w.open("a")
		away := w.server(c.Primary())
		away.unplug()
		w.roll(file, c, c.Primary())
		fence := quarry.Item{Kind: quarry.ItemFence, Handle: c.Handle, Version: 2}
		if !slices.Contains(w.owes(away.id), fence) {
			t.Fatalf("it owes %v", w.owes(away.id))
		}
		// What the server says after its return, it says as one that is fenced.
		g, err := w.lead().Heartbeat(w.ctx, away.heartbeat(), true)
		if err != nil || !slices.Contains(g.Items, fence) {
			t.Fatalf("grant %+v, %v", g, err)
		}
		away.plug()
		w.until("the fence is settled", 2*time.Second, func() bool { return len(w.owes(away.id)) == 0 })
		if info := away.has(c.Handle); info.Promised < 2 {
			t.Errorf("replica %+v", info)
		}
		w.until("all three hold", 2*time.Second, func() bool { return w.holds(c.Handle, 3) })
	})
}

// A heartbeat is under way, unconfirmed, while the chunk of its server is sealed without
// it. Its grant has the fence: a server that is granted a lease knows of every seal that did
// not wait for that lease.
func TestGrantHasTheSealsThatDidNotWaitForIt(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		file, c := w.open("a")
		away := w.server(c.Primary())
		away.unplug()
		w.pass(3 * time.Second) // its lease is over
		held := make(chan struct{})
		granted := make(chan *quarry.Grant, 1)
		l, req := w.lead(), away.heartbeat()
		w.work.Go(func() {
			g, err := l.Heartbeat(context.WithValue(w.ctx, heldConfirm{}, held), req, true)
			if err != nil {
				t.Error(err)
			}
			granted <- g
		})
		w.pass(time.Millisecond)
		w.roll(file, c, c.Primary())
		close(held)
		if g := <-granted; g != nil && !slices.Contains(g.Items, quarry.Item{Kind: quarry.ItemFence, Handle: c.Handle, Version: 2}) {
			t.Errorf("grant %+v", g)
		}
		away.plug()
	})
}

func TestGrantLeavesOutWhatTheHeartbeatSettles(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		file, c := w.open("a")
		away := w.server(c.Primary())
		away.unplug()
		w.roll(file, c, c.Primary())
		req := away.heartbeat()
		req.Settled = append(req.Settled, w.owes(away.id)...)
		w.log.setFault(func(b meta.Body) error {
			if _, ok := b.(*meta.SettleItems); ok {
				w.pass(time.Second)
			}
			return nil
		})
		g, err := w.lead().Heartbeat(w.ctx, req, true)
		if err != nil || len(g.Items) != 0 || g.More {
			t.Errorf("grant %+v, %v", g, err)
		}
		if len(w.owes(away.id)) == 0 {
			t.Error("the log has it settled already")
		}
		w.pass(time.Second)
		w.pass(100 * time.Millisecond)
		if owed := w.owes(away.id); len(owed) != 0 {
			t.Errorf("it still owes %v", owed)
		}
	})
}

// A grant whose items were read before a seal was begun must not extend a lease which that
// seal does not wait for.
func TestGrantAndSealNeverCross(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		for i := range 40 {
			file, c := w.open(string(rune('a' + i)))
			primary := w.server(c.Primary())
			primary.unplug()
			w.pass(time.Duration(1900+10*i) * time.Millisecond)
			go w.tryRoll(file, c, c.Primary())
			w.pass(time.Duration(i) * 100 * time.Microsecond)
			req := primary.heartbeat()
			if g, err := w.lead().Heartbeat(w.ctx, req, true); err == nil {
				primary.plug()
				primary.granted(req, *g) // saysEnd is checked when the seal is logged
			}
			primary.plug()
			w.until("it is sealed", 5*time.Second, func() bool { return w.record(c.Handle).State == quarry.ChunkSealed })
			w.pass(time.Second)
		}
	})
}

// Leases that another shard may have granted for slots that come are waited out, for these slots
// only, and handles in hand are given up.
func TestSlotsThatCome(t *testing.T) {
	inWorld(t, 3, func(w *world) {
		w.pass(5 * time.Second)
		l := w.lead()
		l.Expect([]quarry.SlotRange{{First: 7, Last: 8}})
		now := protocol.Instant(sim.Now())
		if !l.roster.leases.Over(6, 9, 1, protocol.RightEnd, now) || l.roster.leases.Over(7, 9, 1, protocol.RightEnd, now+2*1e9) {
			t.Error("the leases of a server that this leader has not heard of")
		}
		first, err := l.handles.take(w.ctx, 7)
		if err != nil {
			t.Fatal(err)
		}
		l.Came()
		if next, err := l.handles.take(w.ctx, 7); err != nil || next.Number() < first.Number()+handlesStep {
			t.Errorf("handle %v after %v, %v", next, first, err)
		}
	})
}
