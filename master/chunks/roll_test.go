package chunks

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

func TestRollOpensOneChunkForAllWhoAsk(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		file := w.file("a")
		var wg sync.WaitGroup
		got := make([]quarry.Chunk, 8)
		for i := range got {
			wg.Go(func() { got[i] = w.roll(file, quarry.Chunk{}) })
		}
		wg.Wait()
		for _, c := range got {
			if c.Handle != got[0].Handle || c.Version != 1 || c.State != quarry.ChunkOpen || len(c.Members) != 3 {
				t.Fatalf("chunk %+v, the first got %v", c, got[0].Handle)
			}
			for _, m := range c.Members {
				if m.Address != addressOf(m.Server) || m.Incarnation == 0 {
					t.Fatalf("member %+v", m)
				}
			}
		}
		if n := w.net.count("create"); n != 3 {
			t.Errorf("%d replicas were made, want 3", n)
		}
		w.append(got[0], 100)
	})
}

func TestRollEndsTheTailOnce(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		file := w.file("a")
		first := w.roll(file, quarry.Chunk{})
		w.append(first, 1000)
		var wg sync.WaitGroup
		got := make([]quarry.Chunk, 8)
		for i := range got {
			wg.Go(func() { got[i] = w.roll(file, first) })
		}
		wg.Wait()
		for _, c := range got {
			if c.Handle == first.Handle || c.Handle != got[0].Handle {
				t.Fatalf("chunk %v after %v, others got %v", c.Handle, first.Handle, got[0].Handle)
			}
		}
		if rec := w.record(first.Handle); rec.State != quarry.ChunkSealed || rec.Length != 1000 {
			t.Errorf("the tail: %+v", rec)
		}
		if again := w.roll(file, first); again.Handle != got[0].Handle {
			t.Errorf("a repeated request made chunk %v", again.Handle)
		}
		w.until("the seal is confirmed", time.Second, func() bool { return w.holds(first.Handle, 3) })
		rec := w.record(first.Handle)
		if !rec.CRCKnown || rec.CRC != crcOf(first.Handle, 1000) {
			t.Errorf("checksum %x %v", rec.CRC, rec.CRCKnown)
		}
	})
}

func TestRollOfWhatIsNoFile(t *testing.T) {
	inWorld(t, 3, func(w *world) {
		if _, err := w.tryRoll(quarry.MakeInode(0, 77), quarry.Chunk{}); !errors.Is(err, quarry.NotFound) {
			t.Errorf("no file: %v", err)
		}
		_, err := w.lead().Roll(w.ctx, &quarry.RollRequest{Session: 99, File: w.file("a")})
		if !errors.Is(err, quarry.SessionExpired) {
			t.Errorf("no session: %v", err)
		}
	})
}

func TestRollAfterAFailedRound(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		var mu sync.Mutex
		var failed quarry.Handle
		w.net.setFault(func(op string, s *fakeServer, ref quarry.ChunkRef) error {
			mu.Lock()
			defer mu.Unlock()
			if op != "create" || failed != 0 && failed != ref.Handle {
				return nil
			}
			if failed == 0 {
				failed = ref.Handle // one member of the first round only
				return quarry.Errorf("create", quarry.NoSpace, "", "full")
			}
			return nil
		})
		c := w.roll(w.file("a"), quarry.Chunk{})
		if c.Handle == failed || len(c.Members) != 3 {
			t.Fatalf("chunk %+v", c)
		}
		w.append(c, 10)
		w.pass(50 * time.Millisecond)
		for id := range 4 {
			if w.net.server(quarry.ServerID(id+1)).has(failed).Status == quarry.ReplicaGood {
				t.Errorf("server %d has a replica of the round that failed", id+1)
			}
		}
	})
}

func TestRollWithServersThatFallSilentInTheRound(t *testing.T) {
	inWorld(t, 5, func(w *world) {
		w.net.server(2).kill()
		for i := range 6 { // more often than not it is among those chosen at first
			c := w.roll(w.file(string(rune('a'+i))), quarry.Chunk{})
			if len(c.Members) != 3 {
				t.Fatalf("members %v", c.Members)
			}
			w.append(c, 10)
		}
	})
}

func TestRollWithFewServers(t *testing.T) {
	for n := 1; n <= 2; n++ {
		inWorld(t, n, func(w *world) {
			c := w.roll(w.file("a"), quarry.Chunk{})
			if len(c.Members) != n {
				t.Fatalf("%d servers, members %v", n, c.Members)
			}
			w.append(c, 10)
		})
	}
	inWorld(t, 0, func(w *world) {
		if _, err := w.tryRoll(w.file("a"), quarry.Chunk{}); !errors.Is(err, quarry.Unavailable) {
			t.Errorf("no server: %v", err)
		}
	})
	inWorld(t, 3, func(w *world) {
		for id := range 3 {
			s := w.net.server(quarry.ServerID(id + 1))
			s.mu.Lock()
			s.free = quarry.ChunkBytesMax
			s.mu.Unlock()
		}
		w.pass(time.Second)
		if _, err := w.tryRoll(w.file("a"), quarry.Chunk{}); !errors.Is(err, quarry.NoSpace) {
			t.Errorf("no space: %v", err)
		}
	})
}

func TestRollWhenThePrimaryDoesNotTakeItsRole(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		var mu sync.Mutex
		var first quarry.Handle
		w.net.setFault(func(op string, s *fakeServer, ref quarry.ChunkRef) error {
			mu.Lock()
			defer mu.Unlock()
			if op == "activate" && (first == 0 || first == ref.Handle) {
				first = ref.Handle
				return errSilent
			}
			return nil
		})
		c := w.roll(w.file("a"), quarry.Chunk{})
		if c.Handle == first {
			t.Fatal("the chunk without a primary is the answer")
		}
		w.append(c, 10)
		if rec := w.record(first); rec != nil && rec.State == quarry.ChunkOpen {
			t.Errorf("the chunk without a primary is open: %+v", rec)
		}
	})
}

// Two disks may fail together; but a member that is slow again and again ends a tail only once in ten seconds.
func TestSlowMembersEndATailTwiceThenOnceInTenSeconds(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		file := w.file("a")
		c := w.roll(file, quarry.Chunk{})
		var next quarry.Chunk
		for i := range 4 {
			began := sim.Now()
			next = w.roll(file, c, c.Members[1])
			switch took := sim.Now().Sub(began); {
			case i < 2 && took > 200*time.Millisecond:
				t.Errorf("complaint %d took %v", i, took)
			case i >= 2 && (took < 9*time.Second || took > 11*time.Second):
				t.Errorf("complaint %d took %v", i, took)
			}
			if next.Handle == c.Handle {
				t.Error("the tail was not ended")
			}
			c = next
		}
		// What is not about a slow member is never held up.
		began := sim.Now()
		c = w.roll(file, next)
		w.server(c.Members[1]).kill()
		w.pass(1100 * time.Millisecond)
		w.roll(file, c, c.Members[1])
		if took := sim.Now().Sub(began); took > 2*time.Second {
			t.Errorf("full, then a dead member: %v", took)
		}
	})
}

func TestSuspectsAreNotGivenTheNextChunk(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		file := w.file("a")
		c := w.roll(file, quarry.Chunk{})
		suspect := c.Members[2]
		for _, m := range w.roll(file, c, suspect).Members {
			if m.Server == suspect.Server {
				t.Error("the suspect is a member of the next chunk")
			}
		}
	})
}

// A member that cannot reach another one names both: the next chunk has neither, if both are heard of, and
// only the silent one is passed over if one is silent.
func TestSuspectsThatCannotReachEachOther(t *testing.T) {
	for _, dead := range []bool{false, true} {
		inWorld(t, 5, func(w *world) {
			file := w.file("a")
			c := w.roll(file, quarry.Chunk{})
			if dead {
				w.server(c.Members[1]).kill()
				w.pass(1500 * time.Millisecond)
			}
			w.roll(file, c, c.Members[1], c.Members[0])
			passedOver := func(m quarry.Member) bool {
				r := w.lead().roster
				r.mu.Lock()
				defer r.mu.Unlock()
				return r.servers[m.Server].suspect > sim.Now()
			}
			if !passedOver(c.Members[1]) || passedOver(c.Members[0]) == dead {
				t.Errorf("one is dead: %v; passed over: the other one %v, itself %v", dead, passedOver(c.Members[1]), passedOver(c.Members[0]))
			}
		})
	}
}

func TestOpenTailOfUnknownOutcome(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		file := w.file("a")
		w.log.setFault(func(body meta.Body) error {
			if _, ok := body.(*meta.OpenTail); ok {
				w.log.setFault(nil)
				return errReplyLost
			}
			return nil
		})
		if _, err := w.tryRoll(file, quarry.Chunk{}); !errors.Is(err, quarry.Unknown) {
			t.Fatalf("error %v", err)
		}
		c := w.roll(file, quarry.Chunk{}) // it was logged after all
		if n := w.net.count("create"); n != 3 {
			t.Errorf("%d replicas were made, want 3", n)
		}
		w.append(c, 10)
	})
}

func TestHandlesOfUnknownOutcomeAreNotJudged(t *testing.T) {
	inWorld(t, 3, func(w *world) {
		file := w.file("a")
		w.log.setFault(func(body meta.Body) error {
			if _, ok := body.(*meta.OpenTail); ok {
				return quarry.Errorf("propose", quarry.Unknown, "", "who knows")
			}
			return nil
		})
		if _, err := w.tryRoll(file, quarry.Chunk{}); !errors.Is(err, quarry.Unknown) {
			t.Fatalf("error %v", err)
		}
		w.log.setFault(nil)
		inventory := w.net.server(1).inventory(0)
		if len(inventory.Replicas) != 1 {
			t.Fatalf("inventory %+v", inventory)
		}
		reply, err := w.lead().Inventory(w.ctx, inventory)
		if err != nil || len(reply.Drop) != 0 {
			t.Errorf("this leader drops %v, %v", reply, err)
		}
		w.failover()
		w.pass(1200 * time.Millisecond)
		reply, err = w.lead().Inventory(w.ctx, inventory)
		if err != nil || len(reply.Drop) != 1 {
			t.Errorf("the next leader drops %v, %v", reply, err)
		}
	})
}
