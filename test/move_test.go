package test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/history"
)

// slotList is what "admin slot list --json" says.
type slotList struct {
	Shards []struct {
		Shard int
		Count int
		Slots string
	}
	Moves, Ended []slotMove
	Balance      bool
}

type slotMove struct {
	Move    int
	Step    string
	PauseUS int64 `json:"pause_us"`
}

// slots asks for the slots of all shards.
func (s *system) slots() (list slotList) {
	s.t.Helper()
	s.eventually("a list of slots", time.Minute, func() bool {
		out, code := s.run("", "admin", "slot", "list", "--json")
		return code == 0 && json.Unmarshal([]byte(out), &list) == nil
	})
	return list
}

// TestSlotsMoveUnderKills moves random slots to random shards, over and over, while masters are
// killed with SIGKILL at random instants and clients work. Then a shard is added, which the masters
// fill by themselves. The history must be linearizable, every slot at one shard, and nothing
// missing.
func TestSlotsMoveUnderKills(t *testing.T) {
	t.Parallel()
	s := newSystem(t, options{})
	if out, code := s.run("", "admin", "slot", "balance", "off"); code != 0 {
		t.Fatal(out)
	}
	rec := history.NewRecorder(clock.System(), 1, history.Limits{})
	working, stop := context.WithCancel(s.ctx)
	defer stop()
	var work sync.WaitGroup
	work.Go(func() {
		_ = history.Run(working, s.clients(s.addresses(), 2), rec, history.Options{
			Seed: 1, Workers: 2, Pause: 20 * time.Millisecond, Timeout: time.Minute, Trees: 4,
			Mix: history.Mix{Append: 4, Burst: 1, ReadLog: 1, StatLog: 1, Put: 2, ReadFile: 2, RemoveFile: 1, Names: 6, Tails: 1},
		})
	})
	moving, halt := context.WithCancel(s.ctx)
	defer halt()
	moves := 0
	work.Go(func() {
		r := rand.New(rand.NewPCG(1, 2))
		for moving.Err() == nil {
			first := r.IntN(quarry.Slots)
			if r.IntN(2) == 0 {
				first = 0 // where the root directory is, and sessions are
			}
			last := min(quarry.Slots-1, first+r.IntN(1+1<<r.IntN(12)))
			out, code := runBinary(t, strings.Join(s.addresses(), ","), "", "admin", "slot", "move",
				"--slots", fmt.Sprintf("%d-%d", first, last), "--to", fmt.Sprint(1+r.IntN(4)), "--wait", "60s")
			if code != 0 {
				t.Logf("slots %d-%d: %s", first, last, out) // it may have been undone, or a master was away for long
				continue
			}
			moves++
		}
	})
	r := rand.New(rand.NewPCG(3, 4))
	for range 6 {
		<-time.After(time.Duration(500+r.IntN(2500)) * time.Millisecond)
		victim := s.masters[r.IntN(len(s.masters))]
		if r.IntN(2) == 0 {
			victim = s.leader()
		}
		victim.kill()
		<-time.After(time.Duration(r.IntN(2000)) * time.Millisecond)
		victim.start()
		<-time.After(2 * time.Second)
	}
	halt()
	s.eventually("the end of all moves", time.Minute, func() bool { return len(s.slots().Moves) == 0 })

	if out, code := s.run("", "admin", "slot", "balance", "on"); code != 0 {
		t.Fatal(out)
	}
	if out, code := s.run("", "admin", "shard", "add"); code != 0 {
		t.Fatal(out)
	}
	began := time.Now()
	var list slotList
	s.eventually("slots at the shard that was added", 2*time.Minute, func() bool {
		list = s.slots()
		for _, shard := range list.Shards {
			if shard.Shard == 5 && shard.Count > 300 {
				return true
			}
		}
		return false
	})
	t.Logf("%d moves by hand; 300 slots were at the new shard after %v", moves, time.Since(began).Round(100*time.Millisecond))
	stop()
	work.Wait()
	s.healthy()
	list = s.slots()
	count := 0
	for _, shard := range list.Shards {
		count += shard.Count
	}
	if count != quarry.Slots {
		t.Errorf("%d slots are at shards: %+v", count, list.Shards)
	}
	for _, m := range list.Ended {
		t.Logf("move %d: %s, nobody answered for %.1f ms", m.Move, m.Step, float64(m.PauseUS)/1000)
	}
	if moves < 5 {
		t.Errorf("only %d moves were done", moves)
	}
	settle, cancel := context.WithTimeout(s.ctx, time.Minute)
	defer cancel()
	if err := history.Settle(settle, s.clients(s.addresses(), 1)[0], rec, clock.System()); err != nil {
		t.Fatalf("not everything can be read at the end: %v", err)
	}
	report := history.Check(rec.History())
	for i := range report.Violations {
		t.Errorf("%v", report.Violations[i].Error())
	}
	t.Logf("%d operations, %d done, %d unknown, failed %v; verdict %s", report.Operations, report.Done, report.Unknown, report.Failed, report.Verdict())
	if report.Done < 200 {
		t.Errorf("only %d operations were done", report.Done)
	}
}
