package chunkserver

import (
	"context"
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

// The primary's own disk is slow and the others' are not: it reports itself. A fence is answered before
// its disk is: nothing of what is there, but that the role is over; what waits for the record is told so.
func TestPrimaryThatIsSlowAgainstTheOthers(t *testing.T) {
	inWorld(t, func(w *world) {
		armed, g := false, newGate()
		servers := []*Server{w.start(1, 0, g.slowDisk(&armed)), w.start(2, 0, disk.NewMem()), w.start(3, 0, disk.NewMem())}
		w.open(servers...)
		synctest.Wait()
		armed = true
		c := w.append(servers[0], 1, []byte("abc"))
		w.pass(slowMember)
		if r := w.reported(); len(r) != 0 {
			t.Fatalf("reported too soon: %+v", r[0])
		}
		w.pass(2 * slowLook)
		if r := w.reported(); len(r) != 1 || len(r[0].Suspects) != 1 || r[0].Suspects[0].Server != 1 || r[0].Version != 1 {
			t.Fatalf("reports %+v", r)
		}
		began := clock.Simulated().Now()
		if reply := w.fence(servers[0], 2); reply.Status != quarry.ReplicaWaiting || reply.Version != 2 || reply.DurableLength != 0 {
			t.Fatalf("%+v", reply)
		}
		if took := clock.Simulated().Now().Sub(began); took > fenceSoon {
			t.Errorf("the answer took %v", took)
		}
		w.is((<-c).err, quarry.StaleVersion)
		_, err := servers[0].End(w.t.Context(), &quarry.EndRequest{ChunkRef: w.ref(servers[0], 1)})
		w.is(err, quarry.StaleVersion)
		close(g.open)
		if reply := w.fence(servers[0], 2); reply.Status != quarry.ReplicaGood || reply.DurableLength != 3 {
			t.Fatalf("when the disk has come to: %+v", reply)
		}
	})
}

// A primary whose disk is slow for less than a second is not reported, nor one that goes on, slowly.
func TestPrimaryThatIsSlowForAWhile(t *testing.T) {
	inWorld(t, func(w *world) {
		delay := time.Duration(0)
		slow := disk.NewFaulty(disk.NewMem(), func(op disk.Op) disk.Fault {
			if op.Kind == disk.OpSync {
				_ = clock.Simulated().Sleep(context.Background(), delay)
			}
			return disk.Fault{}
		})
		servers := []*Server{w.start(1, 0, slow), w.start(2, 0, disk.NewMem()), w.start(3, 0, disk.NewMem())}
		w.open(servers...)
		synctest.Wait()
		delay = slowMember - slowLook
		for seq := range quarry.Sequence(10) {
			w.appended(w.append(servers[0], seq+1, []byte("abc")), 3*int64(seq))
		}
		if r := w.reported(); len(r) != 0 {
			t.Fatalf("reports %+v", r[0])
		}
	})
}

// cutOff is a member whose connection breaks, and to which there is none after that.
type cutOff struct {
	silent
	tries int
}

func (c *cutOff) Prepare(ctx context.Context, req *quarry.PrepareRequest, done func(*quarry.PrepareReply, error)) {
	if c.tries++; c.tries == 1 {
		go done(nil, quarry.Errorf("prepare", quarry.Unavailable, "", "the connection is broken"))
		return
	}
	c.silent.Prepare(ctx, req, done)
}

// There is no way from the primary to the next member: it names that one and, because it may be the one
// that is not heard, itself.
func TestPrimaryWithoutAWayNamesItselfAsWell(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, _ := w.three()
		w.open(servers...)
		next := &cutOff{}
		servers[0].cfg.Dial = func(m quarry.Member) quarry.ChunkServer { return next }
		w.append(servers[0], 1, []byte("abc"))
		w.pass(2*slowMember + 2*slowLook)
		r := w.reported()
		if len(r) != 1 || len(r[0].Suspects) != 2 || r[0].Suspects[0].Server != 2 || r[0].Suspects[1].Server != 1 {
			t.Fatalf("reports %+v", r)
		}
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
