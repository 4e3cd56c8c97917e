package chunks

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

// idle has a chunk's version end as if nobody wrote to it any more.
func (w *world) idle(c quarry.Chunk) {
	w.t.Helper()
	if err := w.lead().Report(w.ctx, &quarry.ReportRequest{Handle: c.Handle, Version: c.Version}); err != nil {
		w.t.Fatal(err)
	}
}

// closed returns a file whose one chunk is sealed with a record in it, and all replicas hold.
func (w *world) closed(name string) (quarry.Inode, quarry.Chunk) {
	w.t.Helper()
	file := w.file(name)
	c := w.roll(file, quarry.Chunk{})
	w.append(c, 100)
	w.idle(c)
	w.until("the seal is confirmed", time.Second, func() bool { return w.holds(c.Handle, len(c.Members)) })
	return file, c
}

func TestReopenManyTimes(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		file, first := w.closed("a")
		for i := range 20 {
			c := w.roll(file, first)
			if c.Handle != first.Handle || c.Version != first.Version+2 || len(c.Members) != 3 {
				t.Fatalf("round %d: chunk %+v after %+v", i, c, first)
			}
			w.append(c, 10)
			w.idle(c)
			w.until("the seal is confirmed", time.Second, func() bool { return w.holds(c.Handle, 3) })
			if rec := w.record(c.Handle); rec.Length != 110+int64(i)*10 {
				t.Fatalf("round %d: %+v", i, rec)
			}
			first = c
		}
		if n := w.net.count("create"); n != 3 {
			t.Errorf("%d replicas were made, want 3", n)
		}
	})
}

// TestReopenOfWhatIsJustBeingSealed: a writer that comes in the midst of an idle seal waits for
// the replicas to confirm it.
func TestReopenOfWhatIsJustBeingSealed(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		file := w.file("a")
		first := w.roll(file, quarry.Chunk{})
		w.append(first, 100)
		w.idle(first)
		w.until("it is being sealed", time.Second, func() bool { return w.record(first.Handle).State != quarry.ChunkOpen })
		var wg sync.WaitGroup
		got := make([]quarry.Chunk, 5)
		for i := range got {
			wg.Go(func() { got[i] = w.roll(file, first) })
		}
		wg.Wait()
		for _, c := range got {
			if c.Handle != first.Handle || c.Version != 3 {
				t.Fatalf("chunk %+v", c)
			}
		}
		w.append(got[0], 10)
	})
}

// TestReopenOnlyByAll: with a replica that is silent, or that the writer complains of, or whose
// disk is full, or after the writer itself has given the tail up, a new chunk is made.
func TestReopenOnlyByAll(t *testing.T) {
	inWorld(t, 5, func(w *world) {
		file, first := w.closed("a")
		w.server(first.Members[1]).kill()
		w.pass(3 * time.Second)
		if c := w.roll(file, quarry.Chunk{}); c.Handle == first.Handle || len(c.Members) != 3 {
			t.Errorf("with a silent server: %+v", c)
		}
		file, first = w.closed("b")
		if c := w.roll(file, first, first.Members[0]); c.Handle == first.Handle {
			t.Errorf("with a suspect: %+v", c)
		}
		w.pass(11 * time.Second) // the server that was complained of is forgiven
		file, first = w.closed("full")
		full := w.server(first.Members[2])
		full.mu.Lock()
		full.free = quarry.ChunkBytesMax
		full.mu.Unlock()
		w.pass(600 * time.Millisecond)
		if c := w.roll(file, quarry.Chunk{}); c.Handle == first.Handle {
			t.Errorf("with a full disk: %+v", c)
		}
		full.mu.Lock()
		full.free = 1 << 40
		full.mu.Unlock()
		w.pass(600 * time.Millisecond)
		file, first = w.closed("c")
		again := w.roll(file, quarry.Chunk{})
		if again.Handle != first.Handle {
			t.Fatalf("chunk %+v", again)
		}
		if c := w.roll(file, again); c.Handle == first.Handle {
			t.Errorf("after it was given up: %+v", c)
		}
		if rec := w.record(first.Handle); rec.Version != 4 || rec.Length != 100 {
			t.Errorf("the chunk given up: %+v", rec)
		}
		if n := w.net.count("reopen"); n != 3 {
			t.Errorf("%d members were asked to open again, want 3", n)
		}
	})
}

// TestReopenThatAMemberRefuses: the primary gets no role, the version is sealed where it began,
// and a new chunk is made.
func TestReopenThatAMemberRefuses(t *testing.T) {
	inWorld(t, 5, func(w *world) {
		file, first := w.closed("a")
		w.net.setFault(func(op string, s *fakeServer, ref quarry.ChunkRef) error {
			switch {
			case op == "reopen" && s.id == first.Members[2].Server:
				return quarry.Errorf("reopen", quarry.NoSpace, "", "full")
			case op == "activate" && ref.Handle == first.Handle:
				t.Errorf("the primary was activated at version %d", ref.Version)
			}
			return nil
		})
		c := w.roll(file, quarry.Chunk{})
		if c.Handle == first.Handle {
			t.Fatalf("chunk %+v", c)
		}
		w.append(c, 10)
		w.until("the seal is confirmed", 5*time.Second, func() bool { return w.holds(first.Handle, 3) })
		if rec := w.record(first.Handle); rec.Version != 4 || rec.Length != 100 || rec.CRC != crcOf(first.Handle, 100) {
			t.Errorf("the chunk: %+v", rec)
		}
	})
}

// TestReopenAcrossLeaders deposes the leader at each step of a re-open; the next one finishes
// it, or ends it, and nothing acknowledged is lost.
func TestReopenAcrossLeaders(t *testing.T) {
	steps := []struct {
		name string
		op   string // at whose n-th request the leader is deposed; "": at the log entry
		n    int
		lost bool // the request is carried out, its answer is not
	}{
		{"entry", "", 0, false}, {"first reopen", "reopen", 1, false}, {"last reopen", "reopen", 3, false},
		{"last reopen, answer lost", "reopen", 3, true}, {"activate", "activate", 1, false}, {"activate, answer lost", "activate", 1, true},
	}
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			inWorld(t, 4, func(w *world) {
				file, first := w.closed("a")
				reached := make(chan struct{})
				var mu sync.Mutex
				n, over := 0, false
				fault := func(op string) error {
					mu.Lock()
					defer mu.Unlock()
					if over || op != step.op {
						return nil
					}
					if n++; n < step.n {
						return nil
					}
					over = true
					close(reached)
					if step.lost {
						return errReplyLost
					}
					return errSilent
				}
				w.net.setFault(func(op string, _ *fakeServer, _ quarry.ChunkRef) error { return fault(op) })
				w.log.setFault(func(body meta.Body) error {
					if _, ok := body.(*meta.Reopen); ok && fault("") != nil {
						return errDeposedAfter
					}
					return nil
				})
				go func() { _, _ = w.tryRoll(file, quarry.Chunk{}) }()
				<-reached
				w.failover()
				w.pass(1200 * time.Millisecond)
				var c quarry.Chunk
				w.until("the file can be written to", 20*time.Second, func() bool {
					reply, err := w.tryRoll(file, quarry.Chunk{})
					if err == nil {
						c = reply.Chunk
					}
					return err == nil
				})
				if c.Handle != first.Handle || c.Version < 3 {
					t.Errorf("chunk %+v", c)
				}
				w.append(c, 10)
				w.idle(c)
				w.until("the seal is confirmed", 5*time.Second, func() bool { return w.holds(c.Handle, 3) })
				if rec := w.record(c.Handle); rec.Length != 110 {
					t.Errorf("the chunk: %+v", rec)
				}
			})
		})
	}
}

// TestReopenThenRestart: a member of the version that starts anew is none; nothing is lost.
func TestReopenThenRestart(t *testing.T) {
	for i := range 3 {
		t.Run(fmt.Sprint("member ", i), func(t *testing.T) {
			inWorld(t, 5, func(w *world) {
				file, first := w.closed("a")
				c := w.roll(file, quarry.Chunk{})
				w.append(c, 10)
				s := w.server(c.Members[i])
				s.kill()
				w.pass(200 * time.Millisecond)
				w.restart(s)
				w.until("the version has ended", 15*time.Second, func() bool { return w.record(first.Handle).State == quarry.ChunkSealed })
				w.until("three replicas hold", 60*time.Second, func() bool { return w.holds(first.Handle, 3) })
				if rec := w.record(first.Handle); rec.Version != 4 || rec.Length != 110 {
					t.Errorf("the chunk: %+v", rec)
				}
				if c := w.roll(file, c); c.Handle != first.Handle || c.Version != 5 {
					t.Errorf("after that: %+v", c)
				}
			})
		})
	}
}
