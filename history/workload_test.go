package history_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/history"
)

// record runs a workload on a cluster in memory, in simulated time, and returns what happened.
func record(t *testing.T, opts history.Options, clients int, meanwhile func(c *clienttest.Cluster, over <-chan struct{})) (h *history.History) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := clienttest.New(clienttest.Config{Delay: time.Millisecond})
		var files []client.FileSystem
		for range clients {
			files = append(files, c.Client(client.Options{}))
		}
		opts.Clock = c.Clock()
		rec := history.NewRecorder(opts.Clock, opts.Seed, history.Limits{})
		over := make(chan struct{})
		var faults sync.WaitGroup
		if meanwhile != nil {
			faults.Go(func() { meanwhile(c, over) })
		}
		if err := history.Run(t.Context(), files, rec, opts); err != nil {
			t.Fatal(err)
		}
		close(over)
		faults.Wait()
		// Appends whose callers have given up may be acknowledged yet: the end is read behind them.
		_ = opts.Clock.Sleep(t.Context(), time.Minute)
		if err := history.Settle(t.Context(), files[0], rec, opts.Clock); err != nil {
			t.Error(err)
		}
		for _, f := range files {
			_ = f.Close()
		}
		c.Close()
		h = rec.History()
	})
	return h
}

// expectPassed fails unless a history is without fault and says enough.
func expectPassed(t *testing.T, h *history.History) *history.Report {
	t.Helper()
	r := history.Check(h)
	for _, v := range r.Violations {
		t.Errorf("seed %d: %v", h.Seed, &v)
	}
	for _, j := range r.Judgements {
		if j.Verdict != history.Passed {
			t.Errorf("seed %d: %s is %s: %v", h.Seed, j.Checker, j.Verdict, j.Reasons)
		}
	}
	return r
}

// A cluster without faults answers everything, and everything is right.
func TestWorkload(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			h := record(t, history.Options{Seed: seed, Operations: 600, Pause: 5 * time.Millisecond}, 2, nil)
			r := expectPassed(t, h)
			if r.Operations < 600 || r.Unknown > 0 {
				t.Errorf("%d operations, %d unknown, failed %v", r.Operations, r.Unknown, r.Failed)
			}
		})
	}
}

// Servers die, hang, restart and lose answers, chunks are sealed and the master goes away.
func TestWorkloadWithFaults(t *testing.T) {
	unknown := 0
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			h := record(t, history.Options{Seed: seed, Operations: 600, Pause: 50 * time.Millisecond, Timeout: time.Second}, 3,
				func(c *clienttest.Cluster, over <-chan struct{}) { chaos(c, rand.New(rand.NewPCG(seed, 7)), over) })
			unknown += expectPassed(t, h).Unknown
		})
	}
	if unknown == 0 {
		t.Error("nothing had an unknown outcome: the faults do nothing")
	}
}

// Histories in which many changes have an unknown outcome are judged too, not only given up.
func TestManyUnknown(t *testing.T) {
	unknown := 0
	for seed := range uint64(3) {
		opts := history.Options{
			Seed: seed, Operations: 2000, Workers: 6, Pause: 10 * time.Millisecond, Timeout: 300 * time.Millisecond,
			Mix: history.Mix{Names: 4, Put: 1, ReadFile: 1, RemoveFile: 1},
		}
		h := record(t, opts, 3, func(c *clienttest.Cluster, over <-chan struct{}) {
			loseAnswers(c, rand.New(rand.NewPCG(seed, 9)), over)
		})
		unknown += expectPassed(t, h).Unknown
	}
	if unknown < 20 {
		t.Errorf("only %d operations had an unknown outcome", unknown)
	}
}

// loseAnswers has the master do what it is asked, and its answers never come.
func loseAnswers(c *clienttest.Cluster, r *rand.Rand, over <-chan struct{}) {
	sleep := func(d time.Duration) { _ = clock.Simulated().Sleep(context.Background(), d) }
	for {
		for _, op := range []string{"link", "make", "rename", "remove"} {
			c.LoseAnswers(op, 4)
		}
		if r.IntN(3) == 0 {
			c.SetDown(true)
			sleep(600 * time.Millisecond)
			c.SetDown(false)
		}
		select {
		case <-over:
			return
		default:
			sleep(time.Duration(r.IntN(300)) * time.Millisecond)
		}
	}
}

// chaos breaks one thing after the other until over; at most one server is away at a time.
func chaos(c *clienttest.Cluster, r *rand.Rand, over <-chan struct{}) {
	sleep := func(d time.Duration) { _ = clock.Simulated().Sleep(context.Background(), d) }
	for {
		s := c.Servers()[r.IntN(len(c.Servers()))]
		long := time.Duration(r.IntN(5000)) * time.Millisecond
		switch r.IntN(6) {
		case 0:
			s.Kill()
			sleep(long)
			s.Restart()
		case 1:
			s.Hang()
			sleep(long)
			s.Resume()
		case 2:
			s.SetFaults(clienttest.Faults{LoseAcks: r.IntN(20), Busy: r.IntN(3), DropReads: r.IntN(3)})
		case 3:
			s.SetFaults(clienttest.Faults{Slow: 300 * time.Millisecond, Corrupt: r.IntN(2) == 0, NoLease: r.IntN(2) == 0})
			sleep(long)
			s.SetFaults(clienttest.Faults{})
		case 4:
			for _, op := range []string{"roll", "rolled", "chunk", "allocate", "finish", "link", "make", "rename", "remove", "session"} {
				c.LoseAnswers(op, r.IntN(3))
			}
		case 5:
			c.SetDown(true)
			sleep(long)
			c.SetDown(false)
		}
		select {
		case <-over:
			return
		case <-time.After(time.Duration(r.IntN(500)) * time.Millisecond):
		}
	}
}
