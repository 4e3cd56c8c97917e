package chunks

import (
	"testing"
	"time"

	"github.com/quarryfs/quarry"
)

// spareOf returns the chunk that is made ahead for a file, or nil.
func (w *world) spareOf(file quarry.Inode) *made {
	s := &w.lead().spares
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.of[file]; e != nil {
		return e.made
	}
	return nil
}

// filling returns a file whose first chunk was ended by its writer after an age, and its tail.
func (w *world) filling(name string, age time.Duration) (quarry.Inode, quarry.Chunk) {
	w.t.Helper()
	file := w.file(name)
	first := w.roll(file, quarry.Chunk{})
	w.append(first, 100)
	w.pass(age)
	return file, w.roll(file, first)
}

// ahead is filling until the chunk behind the tail is made, too.
func (w *world) ahead(name string) (quarry.Inode, quarry.Chunk, *made) {
	w.t.Helper()
	file, tail := w.filling(name, 2*time.Second)
	if w.spareOf(file) != nil {
		w.t.Fatal("a chunk is made ahead at once")
	}
	w.until("a chunk is made ahead", 1100*time.Millisecond, func() bool { return w.spareOf(file) != nil })
	w.append(tail, 100)
	return file, tail, w.spareOf(file)
}

// gone reports whether nobody has a replica of a chunk that was given up, nor is it in hand.
func (w *world) gone(m *made) bool {
	for _, member := range m.members {
		if w.server(member).has(m.handle).Status == quarry.ReplicaGood {
			return false
		}
	}
	return !w.lead().handles.inHand()[m.handle]
}

func TestSpareIsTheNextChunk(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		file, tail, spare := w.ahead("a")
		for range 5 {
			w.pass(time.Second)
			began, made := sim.Now(), w.net.count("create")
			next := w.roll(file, tail)
			if next.Handle != spare.handle || len(next.Members) != 3 {
				t.Fatalf("the next chunk is %+v, made ahead was %+v", next, spare)
			}
			if n := w.net.count("create") - made; n != 0 {
				t.Errorf("%d replicas were made by the roll", n)
			}
			// Confirm, BeginSeal, FENCE, Seal, OpenTail, ACTIVATE, with 1 ms each, and no CREATE
			if took := sim.Now().Sub(began); took > 7*time.Millisecond {
				t.Errorf("the roll took %v", took)
			}
			w.append(next, 100)
			w.until("the seal is confirmed", time.Second, func() bool { return w.holds(tail.Handle, 3) })
			tail = next
			w.until("the next one is made ahead", 3*time.Second, func() bool { return w.spareOf(file) != nil })
			spare = w.spareOf(file)
		}
	})
}

func TestSpareThatNobodyTakes(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		file, tail, spare := w.ahead("a")
		w.until("it is given up", spareLives*2*time.Second+time.Second, func() bool { return w.spareOf(file) == nil })
		w.until("its replicas are dropped", time.Second, func() bool { return w.gone(spare) })
		if next := w.roll(file, tail); next.Handle == spare.handle {
			t.Error("a chunk that was given up is the next one")
		} else {
			w.append(next, 10)
		}
	})
}

// TestSpareWhoseServer is about servers and disks with which nobody would make a chunk at this instant.
func TestSpareWhoseServer(t *testing.T) {
	for what, happens := range map[string]func(w *world, file quarry.Inode, m quarry.Member){
		"has restarted": func(w *world, _ quarry.Inode, m quarry.Member) {
			w.server(m).kill()
			w.restart(w.server(m))
			w.pass(2 * time.Second)
		},
		"is silent": func(w *world, _ quarry.Inode, m quarry.Member) {
			w.server(m).kill()
			w.pass(usableFor + time.Second)
		},
		"has lost the disk": func(w *world, _ quarry.Inode, m quarry.Member) {
			s := w.server(m)
			s.mu.Lock()
			s.failed = "sync: I/O error"
			s.mu.Unlock()
			w.pass(time.Second)
		},
		"is complained of": func(w *world, _ quarry.Inode, m quarry.Member) {
			w.lead().suspect([]quarry.Suspect{{Server: m.Server, Incarnation: m.Incarnation, Why: "slow"}})
		},
	} {
		t.Run(what, func(t *testing.T) {
			inWorld(t, 5, func(w *world) {
				file, tail, spare := w.ahead("a")
				happens(w, file, spare.members[1])
				next := w.roll(file, tail)
				if next.Handle == spare.handle || len(next.Members) != 3 {
					t.Fatalf("the next chunk is %+v, made ahead was %+v", next, spare)
				}
				w.append(next, 10)
				if what != "is silent" { // who is hears of it by the inventory
					w.until("the other is dropped", 3*time.Second, func() bool { return w.gone(spare) })
				}
			})
		})
	}
}

func TestSpareThatIsNotWorthIt(t *testing.T) {
	t.Run("of a file that grows slowly", func(t *testing.T) {
		inWorld(t, 4, func(w *world) {
			file, _ := w.filling("a", spareAge+time.Second)
			w.pass(spareAge)
			if n := w.net.count("create"); n != 6 || w.spareOf(file) != nil {
				t.Errorf("%d replicas were made, want 6", n)
			}
		})
	})
	t.Run("on disks with little room", func(t *testing.T) {
		inWorld(t, 4, func(w *world) {
			for id := range 4 {
				s := w.net.server(quarry.ServerID(id + 1))
				s.mu.Lock()
				s.free = spareFree / 2
				s.mu.Unlock()
			}
			w.pass(time.Second)
			file, tail := w.filling("a", 2*time.Second)
			w.pass(3 * time.Second)
			if n := w.net.count("create"); n != 6 || w.spareOf(file) != nil {
				t.Errorf("%d replicas were made, want 6", n)
			}
			if hand := w.lead().handles.inHand(); len(hand) != 0 {
				t.Errorf("in hand: %v", hand)
			}
			w.append(w.roll(file, tail), 10)
		})
	})
	t.Run("of a tail with a suspect", func(t *testing.T) {
		inWorld(t, 4, func(w *world) {
			file := w.file("a")
			first := w.roll(file, quarry.Chunk{})
			w.pass(2 * time.Second)
			w.roll(file, first, first.Members[1])
			w.pass(3 * time.Second)
			if w.spareOf(file) != nil {
				t.Error("a chunk is made ahead")
			}
		})
	})
}

// TestSpareOfAnEarlierLeader: its replicas are garbage to the next one.
func TestSpareOfAnEarlierLeader(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		file, tail, spare := w.ahead("a")
		w.failover()
		w.pass(4 * time.Second)
		next := w.roll(file, tail)
		if next.Handle == spare.handle {
			t.Fatal("a leader has logged what another one made")
		}
		w.append(next, 10)
		for _, m := range spare.members {
			w.server(m).kill()
			w.restart(w.server(m))
		}
		w.until("the replicas are dropped", 10*time.Second, func() bool { return w.gone(spare) })
	})
}

// TestSparesAreBounded: there is at most one for each file, and so many in all.
func TestSparesAreBounded(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		l := w.lead()
		for i := range sparesMax + 10 {
			for range 2 {
				l.spares.order(plan{file: quarry.MakeInode(0, uint64(i+1000)), slot: 0}, time.Second)
			}
		}
		w.pass(2 * time.Second)
		if n := w.net.count("create"); n != 3*sparesMax {
			t.Errorf("%d replicas were made, want %d", n, 3*sparesMax)
		}
		w.pass(spareLeast + time.Second)
		if hand := l.handles.inHand(); len(hand) != 0 || len(l.spares.of) != 0 {
			t.Errorf("%d handles are in hand, %d chunks kept", len(hand), len(l.spares.of))
		}
	})
}

// TestSealIsToldThoughTheRollHangs: readers of the full chunk, and those who ask for fates, do not wait
// for a roll that finds no servers.
func TestSealIsToldThoughTheRollHangs(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		file := w.file("a")
		first := w.roll(file, quarry.Chunk{})
		w.append(first, 100)
		w.net.setFault(func(op string, _ *fakeServer, _ quarry.ChunkRef) error {
			if op == "create" {
				return errSilent
			}
			return nil
		})
		w.work.Go(func() { _, _ = w.tryRoll(file, first) })
		w.until("the seal is confirmed", 2*behindRoll, func() bool { return w.holds(first.Handle, 3) })
	})
}
