package chunkserver

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/disk"
)

// gate is a disk whose syncs wait while it is shut.
type gate struct{ open chan struct{} }

func newGate() *gate { return &gate{open: make(chan struct{})} }

// slowDisk returns a disk whose syncs wait for the gate once it is armed.
func (g *gate) slowDisk(armed *bool) disk.FS {
	return disk.NewFaulty(disk.NewMem(), func(op disk.Op) disk.Fault {
		if *armed && op.Kind == disk.OpSync {
			<-g.open
		}
		return disk.Fault{}
	})
}

func (w *world) pass(d time.Duration) {
	w.t.Helper()
	w.ok(clock.Simulated().Sleep(w.t.Context(), d))
	synctest.Wait()
}

// The last member of a chain does not answer: the one before it names it, and nobody names
// the one before.
func TestSilentMemberIsNamedByTheOneBeforeIt(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, _ := w.three()
		w.open(servers...)
		dial := servers[1].cfg.Dial
		servers[1].cfg.Dial = func(m quarry.Member) quarry.ChunkServer { return &silent{dial(m)} }
		c := w.append(servers[0], 1, []byte("abc"))
		w.pass(slowMember - slowLook)
		if r := w.reported(); len(r) != 0 {
			t.Fatalf("reported too soon: %+v", r[0])
		}
		w.pass(3 * slowLook)
		if r := w.reported(); len(r) != 1 || len(r[0].Suspects) != 1 || r[0].Suspects[0].Server != 3 || r[0].Version != 1 {
			t.Fatalf("reports %+v", r)
		}
		for _, s := range servers {
			if reply := w.fence(s, 2); s.ID() != 3 && reply.DurableLength != 3 {
				t.Fatalf("%+v", reply)
			}
		}
		w.is((<-c).err, quarry.StaleVersion)
		w.pass(prepareMax)
		if r := w.reported(); len(r) != 1 {
			t.Fatalf("a version that has ended is reported: %+v", r[1:])
		}
	})
}

// One disk is slow and the others are not: its server is reported by the one before it. When
// it comes to, the record is committed all the same.
func TestMemberThatIsSlowAgainstTheOthers(t *testing.T) {
	inWorld(t, func(w *world) {
		armed, g := false, newGate()
		servers := []*Server{w.start(1, 0, disk.NewMem()), w.start(2, 0, g.slowDisk(&armed)), w.start(3, 0, disk.NewMem())}
		w.open(servers...)
		synctest.Wait()
		armed = true
		c := w.append(servers[0], 1, []byte("abc"))
		w.pass(2*slowMember - slowLook) // it has a member behind it
		if r := w.reported(); len(r) != 0 {
			t.Fatalf("reported too soon: %+v", r[0])
		}
		w.pass(3 * slowLook)
		if r := w.reported(); len(r) != 1 || r[0].Suspects[0].Server != 2 {
			t.Fatalf("reports %+v", r)
		}
		close(g.open)
		w.appended(c, 0)
	})
}

// All disks are slow: nobody is to blame, however long it takes.
func TestNobodyIsSlowIfAllAre(t *testing.T) {
	inWorld(t, func(w *world) {
		armed, g := false, newGate()
		var servers []*Server
		for n := 1; n <= 3; n++ {
			servers = append(servers, w.start(n, 0, g.slowDisk(&armed)))
		}
		w.open(servers...)
		synctest.Wait()
		armed = true
		c := w.append(servers[0], 1, []byte("abc"))
		w.pass(prepareMax - time.Second)
		close(g.open)
		w.appended(c, 0)
		if r := w.reported(); len(r) != 0 {
			t.Fatalf("reports %+v", r[0])
		}
	})
}

// A report that does not reach the master is made again.
func TestReportThatFailedIsMadeAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, _ := w.three()
		w.open(servers...)
		w.deaf = 2
		dial := servers[0].cfg.Dial
		servers[0].cfg.Dial = func(m quarry.Member) quarry.ChunkServer { return &silent{dial(m)} }
		w.append(servers[0], 1, []byte("abc"))
		w.pass(2*slowMember + slowLook)
		if r := w.reported(); len(r) != 0 {
			t.Fatalf("reports %+v", r[0])
		}
		w.pass(3 * slowLook)
		if r := w.reported(); len(r) != 1 || r[0].Suspects[0].Server != 2 {
			t.Fatalf("reports %+v", r)
		}
	})
}

// While too many small jobs run, a commit is not told by itself; the next one is.
func TestCommitIsToldAfterTooManyJobs(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, _ := w.three()
		w.open(servers...)
		s := servers[0]
		for range backgroundMax {
			s.room <- struct{}{}
		}
		w.appended(w.append(s, 1, []byte("abc")), 0)
		w.pass(time.Second)
		for range backgroundMax {
			<-s.room
		}
		w.appended(w.append(s, 2, []byte("def")), 3)
		w.pass(time.Second)
		w.holds(servers[2], 1, []byte("abcdef"))
	})
}
