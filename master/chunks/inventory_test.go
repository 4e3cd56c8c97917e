package chunks

import (
	"errors"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

func TestInventoryOfWhatIsAsItShouldBe(t *testing.T) {
	inWorld(t, 3, func(w *world) {
		rec := w.sealed("a")
		w.open("b")
		reply, err := w.lead().Inventory(w.ctx, w.net.server(rec.Replicas[0].Server).inventory(0))
		if err != nil || len(reply.Drop) != 0 {
			t.Errorf("%+v, %v", reply, err)
		}
		w.pass(time.Second)
		if !w.holds(rec.Handle, 3) {
			t.Errorf("%+v", w.record(rec.Handle))
		}
	})
}

func TestInventoryOfAnotherIncarnation(t *testing.T) {
	inWorld(t, 3, func(w *world) {
		req := w.net.server(1).inventory(0)
		req.Incarnation--
		if _, err := w.lead().Inventory(w.ctx, req); !errors.Is(err, quarry.StaleVersion) {
			t.Errorf("error %v", err)
		}
	})
}

func TestReplicasOfARoundThatFailedAreGarbage(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		w.net.setFault(func(op string, s *fakeServer, ref quarry.ChunkRef) error {
			if op == "drop" || op == "create" && s.id == 2 {
				return quarry.Errorf(op, quarry.Unavailable, "", "no way")
			}
			return nil
		})
		for i := range 4 {
			w.open(string(rune('a' + i)))
		}
		w.net.setFault(nil)
		w.pass(100 * time.Millisecond)
		garbage := 0
		for id := range 4 {
			s := w.net.server(quarry.ServerID(id + 1))
			inventory := s.inventory(0)
			reply, err := w.lead().Inventory(w.ctx, inventory)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range inventory.Replicas {
				dropped := false
				for _, d := range reply.Drop {
					dropped = dropped || d.Handle == r.Handle
				}
				if logged := w.record(r.Handle) != nil; logged == dropped {
					t.Errorf("chunk %v: logged %v, dropped %v", r.Handle, logged, dropped)
				}
			}
			garbage += len(reply.Drop)
		}
		if garbage == 0 {
			t.Error("no round has failed")
		}
	})
}

func TestInventoryFindsMissingReplicas(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		rec := w.sealed("a")
		s := w.net.server(rec.Replicas[0].Server)
		s.mu.Lock()
		delete(s.members, rec.Handle)
		s.mu.Unlock()
		s.kill()
		w.restart(s)
		w.until("three hold, and it was copied", 10*time.Second, func() bool {
			return w.holds(rec.Handle, 3) && w.net.count("copy") == 1
		})
	})
}

func TestInventoryOfAServerThatMissedTheSeal(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		file, c := w.open("a")
		s := w.server(c.Members[2])
		s.kill()
		w.roll(file, c, c.Members[2])
		w.restart(s)
		w.until("all three hold", 3*time.Second, func() bool { return w.holds(c.Handle, 3) })
		if info := s.has(c.Handle); info.SealVersion != 2 || w.net.count("copy") != 0 {
			t.Errorf("%+v, %d copies", info, w.net.count("copy"))
		}
	})
}

func TestInventoryThatKnowsMoreThanTheLogDropsNothing(t *testing.T) {
	inWorld(t, 3, func(w *world) {
		s := w.net.server(1)
		req := s.inventory(0)
		req.Replicas = append(req.Replicas, quarry.ReplicaInfo{Handle: quarry.MakeHandle(3, 1<<40), Disk: s.disk, Promised: 1, LogVersion: 1, Status: quarry.ReplicaGood})
		reply, err := w.lead().Inventory(w.ctx, req)
		if err != nil || len(reply.Drop) != 0 {
			t.Errorf("%+v, %v", reply, err)
		}
	})
}

func TestInventoryWithALostMemberSealsTheOpenChunk(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		_, c := w.open("a")
		s := w.server(c.Members[1])
		req := s.inventory(0)
		for i := range req.Replicas {
			req.Replicas[i].Status = quarry.ReplicaLost
		}
		if _, err := w.lead().Inventory(w.ctx, req); err != nil {
			t.Fatal(err)
		}
		w.until("it is sealed", 2*time.Second, func() bool { return w.record(c.Handle).State == quarry.ChunkSealed })
	})
}

func TestInventoryHasACopyServeThatMissedTheWord(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		rec := w.sealed("a")
		w.net.setFault(func(op string, _ *fakeServer, _ quarry.ChunkRef) error {
			if op == "add" {
				return errSilent
			}
			return nil
		})
		w.net.server(rec.Replicas[0].Server).kill()
		var target *fakeServer
		w.until("it is copied and logged", 40*time.Second, func() bool {
			for _, r := range w.record(rec.Handle).Replicas {
				if rec.Replica(r.Server) == nil && r.State == meta.ReplicaHolding {
					target = w.net.server(r.Server)
				}
			}
			return target != nil
		})
		w.pass(20 * time.Second)
		if target.has(rec.Handle).Serving {
			t.Fatal("it serves already")
		}
		w.net.setFault(nil)
		if _, err := w.lead().Inventory(w.ctx, target.inventory(0)); err != nil {
			t.Fatal(err)
		}
		w.until("it serves", time.Second, func() bool { return target.has(rec.Handle).Serving })
	})
}
