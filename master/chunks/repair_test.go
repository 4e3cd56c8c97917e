package chunks

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

// sealed returns a sealed chunk whose replicas all hold the seal.
func (w *world) sealed(name string) *meta.ChunkRecord {
	w.t.Helper()
	file, c := w.open(name)
	w.roll(file, c)
	w.until("the seal is confirmed", time.Second, func() bool { return w.holds(c.Handle, 3) })
	return w.record(c.Handle)
}

func TestRepairAfterAServerIsSilent(t *testing.T) {
	inWorld(t, 5, func(w *world) {
		rec := w.sealed("a")
		dead := w.net.server(rec.Replicas[1].Server)
		dead.kill()
		w.pass(28 * time.Second)
		if w.net.count("copy") != 0 {
			t.Fatal("it is copied before the server counts as dead")
		}
		w.until("three others hold", 10*time.Second, func() bool {
			rec := w.record(rec.Handle)
			return rec.Count(meta.ReplicaHolding) == 3 && rec.Replica(dead.id).State == meta.ReplicaAway
		})
		if w.net.count("copy") != 1 {
			t.Errorf("%d copies", w.net.count("copy"))
		}
		for _, r := range w.record(rec.Handle).Replicas {
			if info := w.net.server(r.Server).has(rec.Handle); r.State == meta.ReplicaHolding && !info.Serving {
				t.Errorf("server %d holds and does not serve: %+v", r.Server, info)
			}
		}
		// It comes back without a restart, and is one too many.
		dead.plug()
		w.until("the surplus replica is dropped", 5*time.Second, func() bool {
			return w.record(rec.Handle).Replica(dead.id) == nil && dead.has(rec.Handle).Status == quarry.ReplicaMissing
		})
		if !w.holds(rec.Handle, 3) {
			t.Errorf("%+v", w.record(rec.Handle))
		}
	})
}

func TestReplicasOfAServerThatComesBackAreTakenBack(t *testing.T) {
	inWorld(t, 3, func(w *world) { // nowhere to copy to
		rec := w.sealed("a")
		dead := w.net.server(rec.Replicas[1].Server)
		dead.unplug()
		w.pass(40 * time.Second)
		if got := w.record(rec.Handle); got.Copies() != 2 {
			t.Fatalf("%+v", got)
		}
		dead.plug()
		w.until("it is taken back", 5*time.Second, func() bool { return w.holds(rec.Handle, 3) })
		if w.net.count("copy") != 0 {
			t.Errorf("%d copies", w.net.count("copy"))
		}
	})
}

func TestCopyWaitsForAServerThatMayReturn(t *testing.T) {
	inWorld(t, 5, func(w *world) {
		file, c := w.open("a")
		away := w.server(c.Members[1])
		away.unplug()
		w.roll(file, c, c.Members[1])
		w.pass(20 * time.Second)
		if n := w.net.count("copy"); n != 0 {
			t.Fatalf("%d copies", n)
		}
		away.plug()
		w.until("it is taken back", 5*time.Second, func() bool { return w.holds(c.Handle, 3) })
		if n := w.net.count("copy"); n != 0 || w.record(c.Handle).Replica(away.id) == nil {
			t.Errorf("%d copies, %+v", n, w.record(c.Handle))
		}
	})
}

// A member that lives and does not confirm the seal has its replica made elsewhere, at once.
func TestReplicaThatIsNotConfirmedIsCopied(t *testing.T) {
	inWorld(t, 5, func(w *world) {
		file, c := w.open("a")
		slow := c.Members[1]
		w.net.setFault(func(op string, s *fakeServer, ref quarry.ChunkRef) error {
			if s.id == slow.Server && (op == "fence" || op == "seal") && ref.Handle == c.Handle {
				return errSilent
			}
			return nil
		})
		w.roll(file, c, slow)
		took := w.until("three others hold", 20*time.Second, func() bool { return w.holds(c.Handle, 3) })
		if took > 5*time.Second || w.net.count("copy") != 1 {
			t.Errorf("it took %v and %d copies", took, w.net.count("copy"))
		}
	})
}

func TestDescribeNamesTheIncarnationsThatCount(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		_, c := w.open("a")
		rec, s := w.record(c.Handle), w.server(c.Members[1])
		s.kill()
		s.start(s.inc + 1)
		w.pass(510 * time.Millisecond)
		if got := w.lead().Describe(rec, quarry.RightRead); got.Members[1].Incarnation != s.inc-1 {
			t.Errorf("an open chunk names %+v", got.Members[1])
		}
		w.until("all hold", 2*time.Second, func() bool { return w.holds(c.Handle, 3) })
		w.server(c.Members[0]).kill()
		w.pass(3 * time.Second)
		got := w.lead().Describe(w.record(c.Handle), quarry.RightRead)
		if last := got.Members[2]; last.Server != c.Members[0].Server {
			t.Errorf("the silent server is not the last: %+v", got.Members)
		}
		for _, m := range got.Members {
			if m.Incarnation != w.server(m).inc || m.Address == "" {
				t.Errorf("a sealed chunk names %+v", m)
			}
		}
	})
}

func TestTheMostEndangeredChunkIsRepairedFirst(t *testing.T) {
	cfg := Config{RepairBytesPerSecond: 1000} // one record a second, so that the order shows
	inWorldOf(t, 6, cfg, func(w *world) {
		for i := range 8 {
			w.sealed(fmt.Sprint(i))
		}
		heard := func(id quarry.ServerID) time.Duration { return w.lead().roster.silence(id) }
		w.until("both have just been heard of", time.Second, func() bool {
			return heard(1) < 100*time.Millisecond && heard(2) < 100*time.Millisecond
		})
		w.net.server(1).kill()
		w.net.server(2).kill()
		w.pass(29 * time.Second)
		copies := map[quarry.Handle]int{}
		var order []int
		var mu sync.Mutex
		w.net.setFault(func(op string, s *fakeServer, ref quarry.ChunkRef) error {
			if op == "copy" {
				rec := w.record(ref.Handle)
				mu.Lock()
				defer mu.Unlock()
				copies[ref.Handle]++
				order = append(order, rec.Copies())
			}
			return nil
		})
		w.until("all have three copies", 90*time.Second, func() bool {
			w.state.mu.Lock()
			defer w.state.mu.Unlock()
			return meta.Totals(w.state.kv).UnderCopied == 0 && len(order) > 0
		})
		late := false
		for _, n := range order {
			late = late || n == 2
			if n == 1 && late {
				t.Fatalf("the chunks had so many copies when they were copied: %v", order)
			}
		}
		if order[0] != 1 {
			t.Errorf("no chunk had one copy: %v", order)
		}
	})
}

// TestTheLastCopyDoesNotYield: the copy of a chunk that one server holds is as fast as repair may be,
// whatever clients do; others yield, down to a rate.
func TestTheLastCopyDoesNotYield(t *testing.T) {
	const fast, slow = 100 << 20, 1 << 20
	for _, c := range []struct{ configured, holders, want int64 }{
		{fast, 1, fast}, {fast, 2, repairLeast}, {fast, 3, repairLeast}, {slow, 1, slow}, {slow, 2, slow},
	} {
		l := &Leader{Config: Config{RepairBytesPerSecond: c.configured}}
		if got := l.leastRate(int(c.holders)); got != c.want {
			t.Errorf("with %d holders, at most %d bytes a second: at least %d, want %d", c.holders, c.configured, got, c.want)
		}
	}
}

func TestRepairKeepsToItsRate(t *testing.T) {
	inWorldOf(t, 4, Config{RepairBytesPerSecond: 500}, func(w *world) { // 2 s for a record
		var list []*meta.ChunkRecord
		for i := range 10 {
			list = append(list, w.sealed(fmt.Sprint(i)))
		}
		dead := list[0].Replicas[0].Server
		w.net.server(dead).kill()
		w.until("the first copy", 35*time.Second, func() bool { return w.net.count("copy") == 1 })
		n := 0
		for _, rec := range list {
			if rec.Replica(dead) != nil {
				n++
			}
		}
		took := w.until("all copies", time.Minute, func() bool { return w.net.count("copy") == n })
		if want := time.Duration(n-1) * 2 * time.Second; took < want-100*time.Millisecond || took > want+5*time.Second {
			t.Errorf("%d copies took %v, at the rate it is %v", n, took, want)
		}
	})
}

func TestCorruptReplicaIsReplaced(t *testing.T) {
	for _, servers := range []int{5, 3} {
		inWorld(t, servers, func(w *world) {
			rec := w.sealed("a")
			bad := w.net.server(rec.Replicas[0].Server)
			bad.mu.Lock()
			bad.members[rec.Handle].Corrupt()
			bad.mu.Unlock()
			least := 3
			w.net.setFault(func(op string, s *fakeServer, ref quarry.ChunkRef) error {
				if op == "drop" || op == "copy" {
					least = min(least, w.record(rec.Handle).Count(meta.ReplicaHolding))
				}
				return nil
			})
			err := w.lead().Report(w.ctx, &quarry.ReportRequest{
				Handle: rec.Handle, Version: rec.Version, Corrupt: true,
				Suspects: []quarry.Suspect{{Server: bad.id, Incarnation: bad.inc, Why: "checksum"}},
			})
			if err != nil {
				t.Fatal(err)
			}
			w.until("three good ones hold", 20*time.Second, func() bool {
				got := w.record(rec.Handle)
				return w.holds(rec.Handle, 3) && len(got.Replicas) == 3 && (servers == 3 || got.Replica(bad.id) == nil) &&
					(servers == 5 || bad.has(rec.Handle).Status == quarry.ReplicaGood)
			})
			if servers == 5 && least < 3 || least < 2 {
				t.Errorf("while it was replaced %d replicas were listed as good", least)
			}
		})
	}
}

func TestFailedDiskIsRepaired(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		rec := w.sealed("a")
		bad := w.net.server(rec.Replicas[0].Server)
		bad.mu.Lock()
		bad.failed = "input/output error"
		bad.mu.Unlock()
		took := w.until("three others hold", 10*time.Second, func() bool {
			got := w.record(rec.Handle)
			return got.Count(meta.ReplicaHolding) == 3 && got.Replica(bad.id).State != meta.ReplicaHolding
		})
		if took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestCopyThatNobodyNeedsIsDropped(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		rec := w.sealed("a")
		w.log.setFault(func(b meta.Body) error { // it is garbage when the copy is there
			if _, ok := b.(*meta.AddReplica); ok {
				w.log.setFault(nil)
				w.propose(&meta.Remove{Parent: quarry.RootInode, Name: "a"})
				w.pass(6 * time.Second) // its open tail is sealed
				w.propose(&meta.Collect{KeepMS: 0, Max: 100})
			}
			return nil
		})
		w.net.server(rec.Replicas[0].Server).kill()
		w.until("it is copied", 40*time.Second, func() bool { return w.net.count("copy") == 1 })
		w.pass(10 * time.Second)
		for id := range 4 {
			if s := w.net.server(quarry.ServerID(id + 1)); !s.isDown() && s.has(rec.Handle).Status != quarry.ReplicaMissing {
				t.Errorf("server %d has a replica of what nobody needs", id+1)
			}
		}
	})
}

func TestNobodyIsDeclaredDeadByALeaderThatHearsNobody(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		rec := w.sealed("a")
		for id := range 4 {
			w.net.server(quarry.ServerID(id + 1)).unplug()
		}
		w.pass(2 * time.Minute)
		if !w.holds(rec.Handle, 3) {
			t.Errorf("%+v", w.record(rec.Handle))
		}
	})
}

func TestUnderCopiedChunkGetsItsCopiesWhenServersCome(t *testing.T) {
	inWorld(t, 2, func(w *world) {
		file, c := w.open("a")
		w.roll(file, c)
		w.until("two hold", time.Second, func() bool { return w.holds(c.Handle, 2) })
		w.join(3)
		w.until("three hold", 10*time.Second, func() bool { return w.holds(c.Handle, 3) })
	})
}
