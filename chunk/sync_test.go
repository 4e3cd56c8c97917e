package chunk

import (
	"fmt"
	"sync"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/disk/crashtest"
)

// restart opens a disk that a crash has left, and loses power at each operation of its
// recovery, and of the work after it. What the store shows once it is open is a promise.
func (c *crasher) restart(m *disk.Mem, what string) {
	again := map[quarry.Handle]*history{}
	for h, hist := range c.chunks {
		clone := *hist
		again[h] = &clone
	}
	var mu sync.Mutex
	looks := 0
	fs := disk.NewFaulty(m, func(op disk.Op) disk.Fault {
		mu.Lock()
		defer mu.Unlock()
		switch op.Kind {
		case disk.OpRead, disk.OpSize, disk.OpList, disk.OpOpen, disk.OpUsage:
			return disk.Fault{}
		}
		if looks++; !c.syncs.Enough(c.Lost) {
			m.Images(2, func(image *disk.Mem) {
				c.check(image, again, fmt.Sprintf("%s, and again before %v", what, op))
			})
		}
		return c.syncs.Fault(op)
	})
	opts := testOptions()
	opts.Workers = 1
	s, err := Open(fs, opts)
	c.Images++
	if err != nil {
		c.lose("%s: %v", what, err)
		return
	}
	mu.Lock()
	for h, hist := range again {
		if st, ok := s.State(h); ok {
			hist.see(&st)
		} else {
			hist.dropped = hist.dropAsked
		}
	}
	mu.Unlock()
	m.Images(3, func(image *disk.Mem) { c.check(image, again, what+", and again after recovery") })
	for h := range again {
		if _, ok := s.State(h); ok { // it need not be right when a sync was left out
			mu.Lock()
			again[h].marksAsked.corrupt = true
			mu.Unlock()
			_ = wait(func(done func(error)) {
				s.MarkCorrupt(h, func(err error) {
					mu.Lock()
					again[h].marks.corrupt = err == nil
					mu.Unlock()
					done(err)
				})
			})
			break
		}
	}
	if err := s.Close(); err != nil {
		c.lose("%s: %v", what, err)
	}
}

// see takes what a store shows of a chunk for acknowledged.
func (hist *history) see(st *State) {
	hist.promise = st.Promised
	hist.marks = marksOf(st)
	switch {
	case st.Status != quarry.ReplicaGood:
	case hist.copyAsked && st.SealVersion == 4:
		hist.copied = true
	case st.Sealed():
		hist.created, hist.sealed = true, st.Length
	default:
		hist.created, hist.acked = true, st.Length
	}
}

// TestEverySyncIsNeeded crashes disks as TestCrash does, with all syncs and without those of
// each place.
func TestEverySyncIsNeeded(t *testing.T) {
	crashtest.Table(t, map[string]string{
		"sync in chunk.(*Store).makeChunkFile by chunk.(*Store).Create.func1": "the file is empty; kept for file systems that make a name durable before the file",
		"syncdir in chunk.writeFile by chunk.makeDisk":                        "the folders that are made next sync the same folder",
	}, func(t *testing.T, syncs *crashtest.Syncs) crashtest.Result {
		var total crashtest.Result
		// What is lost without a sync is lost seldom, and goroutines choose what is on its way.
		// With all syncs TestCrash looks at more disks than this.
		for seed := range uint64(6) {
			if seed >= 2 && (total.Lost > 0 || syncs.Whole()) {
				break
			}
			r := runCrashes(t, 10+seed, *crashEvery, syncs)
			total.Images += r.Images
			if total.Lost += r.Lost; total.First == "" {
				total.First = r.First
			}
			if syncs.Enough(total.Lost) {
				break
			}
		}
		return total
	})
}
