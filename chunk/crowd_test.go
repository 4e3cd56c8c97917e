package chunk

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
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

var (
	crowdSeed  = flag.Uint64("crowdseed", 1, "first seed of TestEveryRequestIsAnswered")
	crowdSeeds = flag.Uint64("crowdseeds", 60, "how many seeds it tries")
)

// TestEveryRequestIsAnswered has many goroutines ask a store for everything at once, of few chunks, with bounds
// that are met, on disks that are sound, or full now and then, or fail, and on some that are closed meanwhile. Every
// request must be answered, once, and in the end nothing be counted that is not there. A seed decides what is
// asked, not in which order it is done: to try one many times is no waste.
func TestEveryRequestIsAnswered(t *testing.T) {
	for seed := *crowdSeed; seed < *crowdSeed+*crowdSeeds && !t.Failed(); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("once more: go test ./chunk -race -run EveryRequestIsAnswered -crowdseed %d -crowdseeds 1 -count 100", seed)
				}
			}()
			bubble(t, func(t *testing.T) { newCrowd(t, seed).run() })
		})
	}
}

const (
	crowdSize  = 6  // goroutines that ask
	crowdAsks  = 40 // requests of each
	crowdFiles = 3  // chunks
)

// crowd is many that ask one store.
type crowd struct {
	t       *testing.T
	m       *disk.Mem
	s       *Store
	opts    Options
	seed    uint64
	version atomic.Uint64 // the last one used
	answers sync.WaitGroup

	// What the disk does.
	full    uint64 // of a thousand operations that take room, so many find none
	failAt  int64  // this operation fails; 0: none does
	ops     atomic.Int64
	closing bool // the store is closed while others ask
}

func newCrowd(t *testing.T, seed uint64) *crowd {
	r := rand.New(rand.NewPCG(seed, 0))
	c := &crowd{t: t, m: disk.NewMem(), seed: seed, opts: testOptions()}
	c.version.Store(1)
	c.opts.UnsyncedBytesMax = 1 << (14 + r.IntN(8))
	c.opts.FilesMax = 1 + r.IntN(4)
	c.opts.Workers = 1 + r.IntN(3)
	c.opts.IndexBytes = 1 + r.Int64N(4096)
	c.opts.JournalBytes = 16 << 10
	c.opts.inlineBytes = 1 + r.Int64N(inlineBytesMax)
	switch r.IntN(4) {
	case 0:
		c.full = 30
	case 1:
		c.failAt = 50 + r.Int64N(1500)
	case 2:
		c.closing = true
	}
	return c
}

// policy is the disk: slow, each operation as it likes.
func (c *crowd) policy(op disk.Op) disk.Fault {
	for range rand.IntN(20) {
		runtime.Gosched()
	}
	switch n := c.ops.Add(1); {
	case n == c.failAt:
		return disk.Fault{Err: syscall.EIO}
	case op.Kind != disk.OpWrite && op.Kind != disk.OpCreate || strings.HasPrefix(op.Name, journalName):
	case rand.Uint64N(1000) < c.full:
		return disk.Fault{Err: syscall.ENOSPC, Part: rand.IntN(int(op.N) + 1)}
	}
	return disk.Fault{}
}

func (c *crowd) run() {
	failAt, full := c.failAt, c.full
	c.failAt, c.full = 0, 0
	c.s = open(c.t, disk.NewFaulty(c.m, c.policy), c.opts)
	c.failAt, c.full = failAt, full
	c.ops.Store(0)
	var askers sync.WaitGroup
	for i := range uint64(crowdSize) {
		askers.Go(func() {
			r := rand.New(rand.NewPCG(c.seed, i+1))
			for range crowdAsks {
				c.ask(r, quarry.Handle(1+r.IntN(crowdFiles)))
			}
		})
	}
	if c.closing {
		askers.Go(func() {
			for range rand.IntN(10_000) {
				runtime.Gosched()
			}
			c.s.Close()
		})
	}
	askers.Wait()
	synctest.Wait()
	c.wantLazy()
	c.s.SyncAll()
	c.answers.Wait()
	synctest.Wait()
	c.wantIdle()
	failed := c.s.Err()
	if failed == nil && !c.closing {
		c.wantCounts()
	}
	err := c.s.Close()
	if err == nil && failed != nil && !c.closing || err != nil && c.failAt == 0 {
		c.t.Errorf("Close: %v, though the disk's error is %v", err, failed)
	}
	var last answer
	c.s.Promise(1, 1<<40, last.done)
	if last.once(c.t, "a change of a closed store") == nil {
		c.t.Error("a closed store takes changes")
	}
	c.failAt, c.full = 0, 0
	again := open(c.t, disk.NewFaulty(c.m, c.policy), c.opts)
	if failed != nil || err != nil {
		return
	}
	want := c.s.Inventory(0, 1<<63, 100)
	if got := again.Inventory(0, 1<<63, 100); len(got) != len(want) {
		c.t.Errorf("%d chunks are there when the store is opened again, %d were", len(got), len(want))
	}
	for _, st := range want {
		if got, _ := again.State(st.Handle); got.Length != st.Length || got.SealVersion != st.SealVersion || got.Status != st.Status {
			c.t.Errorf("chunk %v was %+v, and is %+v when the store is opened again", st.Handle, st, got)
		}
	}
}

// request returns what a change is answered with; it counts as unanswered until then. If the
// asker waits for the answer, it calls wait.
func (c *crowd) request(what string) (done func(error), wait func()) {
	answered, times := make(chan struct{}), 0
	var mu sync.Mutex
	c.answers.Add(1)
	return func(error) {
		mu.Lock()
		defer mu.Unlock()
		if times++; times > 1 {
			c.t.Errorf("%s was answered %d times", what, times)
			return
		}
		close(answered)
		c.answers.Done()
	}, func() { <-answered }
}

// ask asks for something, and waits for the answer or not.
func (c *crowd) ask(r *rand.Rand, h quarry.Handle) {
	s, st := c.s, c.s.replicaState(h)
	v := quarry.Version(c.version.Add(1))
	lazy := false
	changes := []struct {
		name   string
		change func(done func(error))
	}{
		{"Create", func(done func(error)) {
			s.Create(&quarry.CreateRequest{ChunkRef: quarry.ChunkRef{Handle: h, Version: v}, Hint: "/a"}, done)
		}},
		{"Create", func(done func(error)) {
			s.Create(&quarry.CreateRequest{ChunkRef: quarry.ChunkRef{Handle: h, Version: v}, Hint: "/a"}, done)
		}},
		{"Sync", func(done func(error)) { s.Sync(h, done) }},
		{"SyncLater", func(done func(error)) { lazy = true; s.SyncLater(h, done) }},
		{"SyncLater", func(done func(error)) { lazy = true; s.SyncLater(h, done) }},
		{"Seal", func(done func(error)) { c.seal(h, st, v, st.Length, done) }},
		{"Seal", func(done func(error)) { c.seal(h, st, v, c.boundary(r, h), done) }},
		{"Reopen", func(done func(error)) { s.Reopen(h, v, st.Length, done) }},
		{"Reopen", func(done func(error)) { s.Reopen(h, v, st.Length, done) }},
		{"Drop", func(done func(error)) { s.Drop(h, v-quarry.Version(r.IntN(3)), testNow, done) }},
		{"Promise", func(done func(error)) { s.Promise(h, max(st.Promised, 1), done) }},
		{"Adopt", func(done func(error)) { s.Adopt(h, st.Promised, done) }},
		{"Forget", func(done func(error)) { s.Forget(h, quarry.SessionID(1+r.IntN(50)), done) }},
		{"Add", func(done func(error)) { s.Add(h, st.SealVersion, false, done) }},
		{"Commit", func(done func(error)) { c.receive(r, h, v, done) }},
	}
	k := r.IntN(3 * len(changes))
	if !st.Exists() && r.IntN(2) == 0 {
		k = 0 // or else most find nothing
	}
	switch {
	case k < len(changes):
		done, wait := c.request(changes[k].name)
		changes[k].change(done)
		if !lazy && r.IntN(2) == 0 {
			wait()
		}
	case k < 2*len(changes):
		for range 1 + r.IntN(4) {
			c.write(r, h)
		}
	default:
		c.look(r, h)
	}
}

// look asks what is answered at once.
func (c *crowd) look(r *rand.Rand, h quarry.Handle) {
	s := c.s
	switch r.IntN(9) {
	case 0, 1:
		_, err := s.Read(h, r.Int64N(20_000), 1+r.Int64N(50_000), nil)
		c.sound("read", err)
	case 2:
		_, _, err := s.Verify(h, 0, 1<<20)
		c.sound("verify", err)
	case 3:
		s.SyncAll()
	case 4:
		s.Purge(testNow.Add(time.Hour), 1+r.IntN(3))
	case 5:
		s.MakeRoom(context.Background(), 1<<60)
	case 6:
		s.Records(h)
	case 7:
		s.Usage()
		s.Inventory(0, 1<<63, 10)
	case 8:
		if done, _ := c.request("MarkCorrupt"); r.IntN(4) == 0 {
			s.MarkCorrupt(h, done)
		} else {
			s.Mark(h, done)
		}
	}
}

// sound wants what was read not to be broken, unless the disk could not read it, or the files were closed.
func (c *crowd) sound(what string, err error) {
	if errors.Is(err, quarry.Corrupt) && c.failAt == 0 && !c.closing {
		c.t.Errorf("%s: %v", what, err)
	}
}

// write adds records where the chunk ends, or ended a moment ago.
func (c *crowd) write(r *rand.Rand, h quarry.Handle) {
	var off int64
	c.s.mu.Lock()
	if rep := c.s.replica(h); rep.growth != nil {
		off = rep.growth.sums.length
	}
	c.s.mu.Unlock()
	data := pattern(r.Uint64(), 1+r.IntN(1<<(4+r.IntN(13))))
	seq := quarry.Sequence(1 + off)
	c.s.Write(h, off, []quarry.RecordHeader{header(9, seq, data)}, data)
	switch r.IntN(3) {
	case 0:
		done, wait := c.request("Sync")
		c.s.Sync(h, done)
		wait()
	case 1:
		done, _ := c.request("SyncLater")
		c.s.SyncLater(h, done)
	}
}

// boundary returns a length to which a chunk may be sealed.
func (c *crowd) boundary(r *rand.Rand, h quarry.Handle) int64 {
	runs, _, err := c.s.Records(h)
	if err != nil || len(runs) == 0 {
		return 0
	}
	return runs[r.IntN(len(runs))].Offset
}

func (c *crowd) seal(h quarry.Handle, st State, v quarry.Version, length int64, done func(error)) {
	c.s.Seal(&quarry.SealRequest{ChunkRef: quarry.ChunkRef{Handle: h, Version: v}, Length: length, WritableVersion: st.LogVersion}, done)
}

// receive copies a chunk, or gives that up.
func (c *crowd) receive(r *rand.Rand, h quarry.Handle, v quarry.Version, done func(error)) {
	data := pattern(r.Uint64(), 1+r.IntN(100_000))
	in, err := c.s.Receive(&quarry.CopyRequest{
		ChunkRef: quarry.ChunkRef{Handle: h, Version: v}, Length: int64(len(data)), WritableVersion: v - 1,
	})
	if err != nil {
		done(err)
		return
	}
	if err = in.Write(data, parts(data)); err != nil || r.IntN(4) == 0 {
		in.Abort()
		done(err)
		return
	}
	in.Commit([]quarry.RecordRun{{Session: 4, Sequence: 9, Count: 1, Length: int64(len(data))}}, nil, done)
}

// replicaState returns the state of a replica, whether it exists or not.
func (s *Store) replicaState(h quarry.Handle) State {
	st, _ := s.State(h)
	return st
}

// wantLazy wants nothing to wait any more but what may, until somebody asks for a sync.
func (c *crowd) wantLazy() {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replicas.Scan(func(h quarry.Handle, r *replica) bool {
		if r.busy && !s.closed || r.eager > 0 || len(r.queue) > 0 && (s.failed != nil || r.growth == nil || r.queue[0].upTo <= r.state.Length) {
			c.t.Errorf("chunk %v: busy %v, %d of %d ops are urgent: %+v", h, r.busy, r.eager, len(r.queue), r.state)
		}
		return true
	})
}

// wantIdle wants nothing to be under way.
func (c *crowd) wantIdle() {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	rounds := len(s.ready) + len(s.work)
	if s.closed {
		rounds = 0 // those that nobody asked for may be left
	}
	if s.asked != 0 || s.writing != 0 || s.crowd != 0 || rounds != 0 {
		c.t.Errorf("%d ops and %d calls are under way, %d wait for room; %d rounds", s.asked, s.writing, s.crowd, rounds)
	}
	s.replicas.Scan(func(h quarry.Handle, r *replica) bool {
		if r.busy && !s.closed || r.copying || r.ending != 0 || r.eager != 0 || len(r.queue) != 0 {
			c.t.Errorf("chunk %v: busy %v, copying %v, ending %d, eager %d, %d ops", h, r.busy, r.copying, r.ending, r.eager, len(r.queue))
		}
		return true
	})
}

// wantCounts wants the counters of a store whose disk has not failed to be what can be counted.
func (c *crowd) wantCounts() {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	var reserved, unsynced, trash int64
	pinned, images := 0, 0
	s.replicas.Scan(func(h quarry.Handle, r *replica) bool {
		if !r.state.Exists() {
			c.t.Errorf("chunk %v is kept, and is none", h)
		}
		if r.image {
			images++
		}
		if r.growth == nil != !r.state.growing() {
			c.t.Errorf("chunk %v: %+v", h, r.state)
		}
		if g := r.growth; g != nil {
			reserved += quarry.ChunkBytesMax - g.sums.length
			unsynced += g.sums.length - r.state.Length
			if g.file != nil {
				pinned++
			}
			if (g.file != nil) != (g.sums.length > r.state.flushed) || r.urgent {
				c.t.Errorf("chunk %v: open %v, urgent %v, %d bytes, %+v", h, g.file != nil, r.urgent, g.sums.length, r.state)
			}
		}
		return true
	})
	s.trash.Scan(func(_ string, x trashed) bool { trash += x.sizes[0] + x.sizes[1]; return true })
	if s.reserved != reserved || s.unsynced != 0 || unsynced != 0 || s.pinned != pinned || s.trashBytes != trash || len(s.dirty) != 0 {
		c.t.Errorf("reserved %d of %d, unsynced %d of %d, pinned %d of %d, trash %d of %d, dirty %d",
			s.reserved, reserved, s.unsynced, unsynced, s.pinned, pinned, s.trashBytes, trash, len(s.dirty))
	}
	if s.check.left != images || images > 0 && !s.check.active || s.check.scanning() {
		c.t.Errorf("checkpoint %+v, %d images", s.check, images)
	}
	used := 0
	for _, f := range s.files.files {
		used += f.users
	}
	if used != pinned || s.files.idle.Len() != len(s.files.files)-pinned {
		c.t.Errorf("%d uses of %d files, %d pinned, %d idle", used, len(s.files.files), pinned, s.files.idle.Len())
	}
}
