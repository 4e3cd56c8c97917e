package chunks

import (
	"errors"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

// open opens a chunk with one acknowledged record of 1,000 bytes.
func (w *world) open(name string) (quarry.Inode, quarry.Chunk) {
	w.t.Helper()
	file := w.file(name)
	c := w.roll(file, quarry.Chunk{})
	w.append(c, 1000)
	return file, c
}

// timed returns how long f takes.
func (w *world) timed(f func()) time.Duration {
	began := sim.Now()
	f()
	return sim.Now().Sub(began)
}

func TestSealWithADeadSecondaryWaitsForNoLease(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		file, c := w.open("a")
		dead := c.Members[1]
		w.server(dead).kill()
		took := w.timed(func() { w.append(w.roll(file, c, dead), 10) })
		if took > 500*time.Millisecond {
			t.Errorf("the roll took %v", took)
		}
		rec := w.record(c.Handle)
		if rec.State != quarry.ChunkSealed || rec.Length != 1000 || rec.Replica(dead.Server).State != meta.ReplicaAway {
			t.Errorf("sealed: %+v", rec)
		}
	})
}

func TestSealWithADeadPrimaryWaitsForItsLease(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		file, c := w.open("a")
		w.server(c.Primary()).kill()
		heard := w.lead().roster.servers[c.Primary().Server].heard
		w.append(w.roll(file, c, c.Primary()), 10)
		if since := sim.Now().Sub(heard); since < 2*time.Second || since > 2500*time.Millisecond {
			t.Errorf("the next chunk is open %v after the primary's last heartbeat", since)
		}
		if rec := w.record(c.Handle); rec.Length != 1000 || rec.Copies() != 2 {
			t.Errorf("sealed: %+v", rec)
		}
	})
}

// A primary whose disk hangs says that its role is over: its lease, which it goes on renewing, is not
// waited for. It is not taken for gone, and when it does not confirm the seal, the chunk is copied.
func TestSealWithAPrimaryWhoseDiskHangs(t *testing.T) {
	inWorld(t, 5, func(w *world) {
		file, c := w.open("a")
		primary := w.server(c.Primary())
		primary.hang()
		took := w.timed(func() { w.append(w.roll(file, c, c.Primary()), 10) })
		if took > 500*time.Millisecond {
			t.Errorf("the roll took %v", took)
		}
		rec := w.record(c.Handle)
		if rec.State != quarry.ChunkSealed || rec.Length != 1000 || rec.Replica(primary.id).State != meta.ReplicaAway {
			t.Errorf("sealed: %+v", rec)
		}
		took = w.until("three others hold", 20*time.Second, func() bool { return w.holds(c.Handle, 3) })
		if took > 5*time.Second || w.net.count("copy") != 1 {
			t.Errorf("there were three copies after %v", took)
		}
	})
}

func TestSealWithARestartedPrimaryOfTheSameBoot(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		_, c := w.open("a")
		s := w.server(c.Primary())
		s.kill()
		w.restart(s)
		took := w.until("the restart is noticed and the chunk sealed", 2*time.Second, func() bool {
			return w.record(c.Handle).State == quarry.ChunkSealed
		})
		if took > 1200*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		w.until("all three hold", time.Second, func() bool { return w.holds(c.Handle, 3) })
	})
}

func TestSealWithARestartedPrimaryOfAnotherBootWaitsForTheLease(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		_, c := w.open("a")
		s := w.server(c.Primary())
		heard := w.lead().roster.servers[s.id].heard
		s.kill()
		s.boot = "another"
		w.restart(s)
		w.until("the chunk is sealed", 4*time.Second, func() bool { return w.record(c.Handle).State == quarry.ChunkSealed })
		if since := sim.Now().Sub(heard); since < 2*time.Second {
			t.Errorf("sealed %v after the last heartbeat of the incarnation before", since)
		}
	})
}

func TestSealWithOneFirmReplyWaitsForTheOthers(t *testing.T) {
	inWorld(t, 5, func(w *world) {
		file, c := w.open("a")
		w.server(c.Members[1]).kill()
		w.server(c.Members[2]).kill()
		took := w.timed(func() { w.roll(file, c) })
		if took < 9*time.Second || took > 12*time.Second {
			t.Errorf("it took %v; the others are declared dead after 10 s", took)
		}
	})
}

func TestSealWhenAllMembersHaveRestarted(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		_, c := w.open("a")
		for _, m := range c.Members {
			w.server(m).kill()
		}
		for _, m := range c.Members {
			w.restart(w.server(m))
		}
		w.until("all three hold", 5*time.Second, func() bool { return w.holds(c.Handle, 3) })
		if rec := w.record(c.Handle); rec.Length != 1000 || rec.Suspect {
			t.Errorf("sealed: %+v", rec)
		}
	})
}

func TestSealWhenEveryReplicaIsLost(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		file, c := w.open("a")
		for _, m := range c.Members {
			s := w.server(m)
			s.mu.Lock()
			s.members[c.Handle].Fail()
			s.mu.Unlock()
		}
		if _, err := w.tryRoll(file, c); !errors.Is(err, quarry.Corrupt) {
			t.Errorf("roll: %v", err)
		}
		if rec := w.record(c.Handle); rec.State != quarry.ChunkLost || rec.LengthKnown {
			t.Errorf("%+v", rec)
		}
		if _, err := w.tryRoll(file, c); !errors.Is(err, quarry.Corrupt) {
			t.Errorf("roll again: %v", err)
		}
	})
}

func TestSealOfSilentMembersWaitsForOneToComeBack(t *testing.T) {
	inWorld(t, 6, func(w *world) {
		_, c := w.open("a")
		for _, m := range c.Members {
			w.server(m).unplug()
		}
		w.pass(40 * time.Second)
		if rec := w.record(c.Handle); rec.State != quarry.ChunkSealing {
			t.Fatalf("nobody answered, and yet %+v", rec)
		}
		w.server(c.Members[2]).plug()
		w.until("it is sealed", 5*time.Second, func() bool { return w.record(c.Handle).State == quarry.ChunkSealed })
		if rec := w.record(c.Handle); rec.Length != 1000 {
			t.Errorf("%+v", rec)
		}
	})
}

func TestSealedReplicaThatCannotHoldIsReplaced(t *testing.T) {
	inWorld(t, 5, func(w *world) {
		file, c := w.open("a")
		bad := w.server(c.Members[2])
		w.net.setFault(func(op string, s *fakeServer, ref quarry.ChunkRef) error {
			if op == "seal" && s == bad && ref.Handle == c.Handle {
				return quarry.Errorf("seal", quarry.Corrupt, "", "a bit has flipped")
			}
			return nil
		})
		w.roll(file, c)
		w.until("three others hold", 5*time.Second, func() bool { return w.holds(c.Handle, 3) && w.record(c.Handle).Replica(bad.id) == nil })
		if bad.has(c.Handle).Status != quarry.ReplicaMissing {
			t.Error("the replica that does not hold is still there")
		}
	})
}

func TestReportSealsAnOpenChunk(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		_, c := w.open("a")
		if err := w.lead().Report(w.ctx, &quarry.ReportRequest{Handle: c.Handle, Version: c.Version}); err != nil {
			t.Fatal(err)
		}
		w.until("it is sealed", time.Second, func() bool { return w.record(c.Handle).State == quarry.ChunkSealed })
		err := w.lead().Report(w.ctx, &quarry.ReportRequest{Handle: c.Handle, Version: c.Version})
		if err != nil {
			t.Errorf("a report of a version that has ended: %v", err)
		}
		if err := w.lead().Report(w.ctx, &quarry.ReportRequest{Handle: 77, Version: 1}); !errors.Is(err, quarry.NotFound) {
			t.Errorf("a report of no chunk: %v", err)
		}
	})
}

func TestIdleChunkOfADeadMemberIsSealed(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		_, c := w.open("a")
		w.server(c.Members[1]).kill()
		w.pass(25 * time.Second)
		if w.record(c.Handle).State != quarry.ChunkOpen {
			t.Fatal("it is sealed before its member counts as dead")
		}
		w.until("it is sealed and has three copies", 20*time.Second, func() bool { return w.holds(c.Handle, 3) })
	})
}

// A failover at each step of a seal and of an open: the next leader finishes what the log
// says was begun.
func TestFailover(t *testing.T) {
	for _, step := range []struct {
		name string
		at   func(meta.Body) bool
	}{
		{"BeginSeal", func(b meta.Body) bool { _, ok := b.(*meta.BeginSeal); return ok }},
		{"Seal", func(b meta.Body) bool { _, ok := b.(*meta.Seal); return ok }},
		{"Hold", func(b meta.Body) bool { _, ok := b.(*meta.Hold); return ok }},
		{"OpenTail", func(b meta.Body) bool { _, ok := b.(*meta.OpenTail); return ok }},
	} {
		for _, applied := range []bool{false, true} {
			inWorld(t, 4, func(w *world) {
				file, c := w.open("a")
				fault := error(quarry.Errorf("propose", quarry.NotLeader, "", "deposed"))
				if applied {
					fault = errDeposedAfter
				}
				w.log.setFault(func(b meta.Body) error {
					if step.at(b) {
						return fault
					}
					return nil
				})
				_, err := w.tryRoll(file, c)
				if step.name != "Hold" && err == nil {
					t.Fatalf("%s: the roll succeeded", step.name)
				}
				w.failover()
				next := w.roll(file, c)
				if next.Handle == c.Handle {
					t.Fatalf("%s: the tail was not ended", step.name)
				}
				w.append(next, 10)
				w.until(step.name+": the seal is confirmed", 10*time.Second, func() bool { return w.holds(c.Handle, 3) })
				if rec := w.record(c.Handle); rec.Length != 1000 {
					t.Errorf("%s: %+v", step.name, rec)
				}
			})
		}
	}
}

func TestFailoverActivatesOpenChunks(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		file := w.file("a")
		w.log.setFault(func(b meta.Body) error {
			if _, ok := b.(*meta.OpenTail); ok {
				return errDeposedAfter
			}
			return nil
		})
		if _, err := w.tryRoll(file, quarry.Chunk{}); err == nil {
			t.Fatal("the roll succeeded")
		}
		w.failover()
		w.pass(time.Second)
		if n := w.net.count("activate"); n != 1 {
			t.Fatalf("%d ACTIVATE", n)
		}
		w.append(w.roll(file, quarry.Chunk{}), 10)
		if n := w.net.count("create"); n != 3 {
			t.Errorf("%d CREATE", n)
		}
	})
}

func TestFailoverWaitsForLeasesOfTheLeaderBefore(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		file, c := w.open("a")
		primary := w.server(c.Primary())
		w.pass(10 * time.Millisecond)
		w.depose()
		primary.unplug() // it holds the lease of the leader before
		w.elect()
		began := sim.Now()
		w.roll(file, c, c.Primary())
		if took := sim.Now().Sub(began); took < 2040*time.Millisecond || took > 2600*time.Millisecond {
			t.Errorf("the roll took %v", took)
		}
	})
}
