package chunk

import (
	"bytes"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// bubble runs a test in a bubble of package synctest, in which a request that nobody will answer is
// seen at once: all goroutines wait for each other. A goroutine that turns without waiting for
// anything is not, so there is a limit of (real) time.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	name := t.Name()
	limit := time.AfterFunc(2*time.Minute, func() { panic(name + ": a goroutine turns without end") })
	defer limit.Stop()
	synctest.Test(t, f)
}

// gate is a policy that holds operations that match, once closed, until it is opened. For bubbles.
type gate struct {
	match func(disk.Op) bool
	hold  atomic.Pointer[chan struct{}]
}

func (g *gate) close() { c := make(chan struct{}); g.hold.Store(&c) }
func (g *gate) open()  { close(*g.hold.Swap(nil)) }

func (g *gate) policy(op disk.Op) disk.Fault {
	if c := g.hold.Load(); c != nil && g.match(op) {
		<-*c
	}
	return disk.Fault{}
}

// answer is what a request is answered with.
type answer struct {
	mu    sync.Mutex
	times int
	err   error
}

func (a *answer) done(err error) {
	a.mu.Lock()
	a.times, a.err = a.times+1, err
	a.mu.Unlock()
}

// once returns the answer; the test fails if there is none, or more than one, when nothing goes on any more.
func (a *answer) once(t *testing.T, what string) error {
	t.Helper()
	synctest.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.times != 1 {
		t.Fatalf("%s was answered %d times", what, a.times)
	}
	return a.err
}

// TestSyncLaterWhileBytesBecomeDurable: whoever asks when the journal is just writing of the bytes is answered
// with them, though there is nothing left to be synced.
func TestSyncLaterWhileBytesBecomeDurable(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := gate{match: func(op disk.Op) bool { return op.Kind == disk.OpSync && strings.HasPrefix(op.Name, journalName) }}
		s := open(t, disk.NewFaulty(disk.NewMem(), g.policy), testOptions())
		create(t, s, 1)
		write(t, s, 1, 0, 1, pattern(1, 1000))
		g.close()
		var first, later answer
		s.Sync(1, first.done)
		synctest.Wait()
		s.SyncLater(1, later.done)
		g.open()
		for what, a := range map[string]*answer{"Sync": &first, "SyncLater": &later} {
			if err := a.once(t, what); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestRoomTakenByAWriteUnderWay: a writer waits for room which bytes have that are just being written, and of which nobody
// asks that they be synced soon, or which then find no room on the disk.
func TestRoomTakenByAWriteUnderWay(t *testing.T) {
	for _, first := range []quarry.Kind{0, quarry.NoSpace} {
		bubble(t, func(t *testing.T) {
			g := gate{match: func(op disk.Op) bool { return op.Kind == disk.OpWrite && op.Name == chunkName(1) }}
			opts := testOptions()
			opts.UnsyncedBytesMax = 1 << 20
			s := open(t, disk.NewFaulty(disk.NewMem(), func(op disk.Op) disk.Fault {
				fault := g.policy(op)
				if first == quarry.NoSpace && g.match(op) {
					fault.Err = syscall.ENOSPC
				}
				return fault
			}), opts)
			create(t, s, 1)
			create(t, s, 2)
			g.close()
			data := pattern(1, 1<<20)
			var writes [2]answer
			for i := range writes {
				go func() {
					writes[i].done(s.Write(quarry.Handle(i+1), 0, []quarry.RecordHeader{header(9, 1, data)}, data))
				}()
				synctest.Wait()
			}
			g.open()
			for i, want := range []quarry.Kind{first, 0} {
				if err := writes[i].once(t, "Write"); quarry.KindOf(err) != want {
					t.Error(err)
				}
			}
		})
	}
}

// TestCloseWaits: Close answers what was asked for before, and then itself.
func TestCloseWaits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := gate{match: func(op disk.Op) bool { return op.Kind == disk.OpSync && strings.HasPrefix(op.Name, journalName) }}
		s := open(t, disk.NewFaulty(disk.NewMem(), g.policy), testOptions())
		create(t, s, 1)
		write(t, s, 1, 0, 1, pattern(1, 1000))
		g.close()
		var later, promise, closed answer
		s.SyncLater(1, later.done)
		s.Promise(1, 2, promise.done)
		synctest.Wait()
		go func() { closed.done(s.Close()) }()
		synctest.Wait()
		if closed.times+promise.times != 0 {
			t.Error("the disk is not waited for")
		}
		g.open()
		for what, a := range map[string]*answer{"SyncLater": &later, "Promise": &promise, "Close": &closed} {
			if err := a.once(t, what); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestFewerFilesThanGrowingChunks: a disk on which more chunks have bytes in the journal only than
// files may be open, because more might when it was open last, takes writes.
func TestFewerFilesThanGrowingChunks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := disk.NewMem()
		opts := testOptions()
		opts.FilesMax = 16
		s := open(t, m, opts)
		data := pattern(1, 1000)
		for h := range quarry.Handle(9) {
			create(t, s, h+1)
			if h < 8 {
				write(t, s, h+1, 0, 1, data)
				syncChunk(t, s, h+1)
			}
		}
		if s.pinned != 8 {
			t.Fatalf("%d chunks have bytes in the journal only", s.pinned)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		opts.FilesMax = 4
		s = open(t, m, opts)
		m.Images(10, func(image *disk.Mem) {
			s := open(t, image, opts)
			for h := range quarry.Handle(8) {
				wantBytes(t, s, h+1, data)
			}
			s.Close()
		})
		var a answer
		go func() { a.done(s.Write(9, 0, []quarry.RecordHeader{header(9, 1, data)}, data)) }()
		if err := a.once(t, "Write"); err != nil {
			t.Fatal(err)
		}
		syncChunk(t, s, 9)
		for h := range quarry.Handle(9) { // then the others' bytes go to the journal again
			if r, _ := s.replicas.Get(h + 1); r.growth.file != nil {
				seal(t, s, h+1, 1000)
			}
		}
		want := map[quarry.Handle][]byte{}
		for h := range quarry.Handle(9) {
			want[h+1] = data
			if st := state(t, s, h+1); !st.Sealed() {
				write(t, s, h+1, 1000, 2, data)
				syncChunk(t, s, h+1)
				want[h+1] = append(bytes.Clone(data), data...)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, m, opts)
		for h, b := range want {
			wantBytes(t, s, h, b)
		}
	})
}

// TestWriteThatIsLate: a write whose replica is dropped, and made or copied anew, while it opens the file is refused,
// and leaves the bytes of the other chunk of that name alone.
func TestWriteThatIsLate(t *testing.T) {
	data := pattern(2, 5000)
	for name, change := range map[string]func(*testing.T, *Store){
		"made": func(t *testing.T, s *Store) {
			create(t, s, 1)
			write(t, s, 1, 0, 1, data)
			seal(t, s, 1, 5000)
		},
		"copied": func(t *testing.T, s *Store) {
			if err := receive(t, s, copyRequest(1, data), data); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				g := gate{match: func(op disk.Op) bool { return op.Kind == disk.OpOpen && op.Name == chunkName(1) }}
				opts := testOptions()
				opts.FilesMax = 1
				s := open(t, disk.NewFaulty(disk.NewMem(), g.policy), opts)
				create(t, s, 1)
				create(t, s, 2) // the file of chunk 1 is closed
				g.close()
				var late answer
				go func() {
					other := pattern(3, 4000)
					late.done(s.Write(1, 0, []quarry.RecordHeader{header(9, 1, other)}, other))
				}()
				synctest.Wait()
				must(t, func(done func(error)) { s.Drop(1, 1, testNow, done) })
				change(t, s)
				g.open()
				wantKind(t, late.once(t, "Write"), quarry.StaleVersion)
				wantBytes(t, s, 1, data)
			})
		})
	}
}

// TestDiskFailsDuringACheckpoint: the committer rests when there is nothing more to be done.
func TestDiskFailsDuringACheckpoint(t *testing.T) {
	bubble(t, func(t *testing.T) {
		opts := testOptions()
		opts.JournalBytes = 16 << 10
		var on atomic.Bool
		s := open(t, disk.NewFaulty(disk.NewMem(), failing(&on, disk.OpWrite, journalName, disk.Fault{Err: syscall.EIO})), opts)
		const chunks = 2 * checkpointStep // more than a commit takes
		s.opts.ReserveBytes -= chunks * quarry.ChunkBytesMax
		s.check.due = 1 << 40
		for h := range quarry.Handle(chunks) {
			s.Create(createRequest(h+1), nil)
		}
		synctest.Wait()
		s.mu.Lock()
		s.check.due = 0
		s.mu.Unlock()
		on.Store(true)
		var a answer
		s.Promise(1, 2, a.done)
		wantKind(t, a.once(t, "Promise"), quarry.Unavailable)
		if !s.check.scanning() {
			t.Fatal("no checkpoint was under way")
		}
	})
}

// TestStreamOnADiskThatFails: whoever is in no hurry is told as well when the disk fails with something else.
func TestStreamOnADiskThatFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var on atomic.Bool
		s := open(t, disk.NewFaulty(disk.NewMem(), failing(&on, disk.OpSync, journalName, disk.Fault{Err: syscall.EIO})), testOptions())
		create(t, s, 1)
		create(t, s, 2)
		write(t, s, 1, 0, 1, pattern(1, 1000))
		var later, promise answer
		s.SyncLater(1, later.done)
		on.Store(true)
		s.Promise(2, 2, promise.done)
		for what, a := range map[string]*answer{"SyncLater": &later, "Promise": &promise} {
			wantKind(t, a.once(t, what), quarry.Unavailable)
		}
	})
}

// TestAskedAfterTheEnd: a store that is closed refuses everything, and so does one whose disk hangs, at once.
func TestAskedAfterTheEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := gate{match: func(op disk.Op) bool { return op.Kind == disk.OpSync && strings.HasPrefix(op.Name, journalName) }}
		for _, end := range []string{"closed", "failed and closed", "hangs", "failed and hangs"} {
			s := open(t, disk.NewFaulty(disk.NewMem(), g.policy), testOptions())
			create(t, s, 1)
			var before answer
			if strings.HasSuffix(end, "hangs") {
				g.close()
				s.Promise(1, 2, before.done)
				synctest.Wait()
			}
			if strings.HasPrefix(end, "failed") {
				s.fail(syscall.EIO)
			}
			if strings.HasSuffix(end, "hangs") {
				s.Retire(syscall.ETIMEDOUT)
			} else {
				s.Close()
			}
			var changed answer
			s.Promise(1, 3, changed.done)
			wantKind(t, changed.once(t, "Promise of a disk that is "+end), quarry.Unavailable)
			if strings.HasSuffix(end, "hangs") {
				var closed answer
				go func() { closed.done(s.Close()) }()
				wantKind(t, closed.once(t, "Close of a disk that "+end), quarry.Unavailable)
				g.open()
				before.once(t, "Promise before")
			}
		}
	})
}
