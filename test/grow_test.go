package test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/history"
)

// TestMastersGrowAndShrink has a cluster of one master grow to three and five and shrink to three
// and one, the master that it began with among those that go, while clients that know only that
// one work. At three and at five a master is killed, and one is stopped. The history must be
// linearizable, with every acknowledged record, and the masters that were removed must say so. It
// prints the longest time that a change of names, and an append, took in each step.
func TestMastersGrowAndShrink(t *testing.T) {
	t.Parallel()
	s := newSystem(t, options{masters: 1, servers: 3})
	first := s.addresses()
	rec := history.NewRecorder(clock.System(), 1, history.Limits{})
	working, stop := context.WithCancel(s.ctx)
	defer stop()
	w := watchPauses(t, working, first)
	var work sync.WaitGroup
	work.Go(func() {
		_ = history.Run(working, s.clients(first, 2), rec, history.Options{
			Seed: 1, Workers: 2, Pause: 20 * time.Millisecond, Timeout: time.Minute, Trees: 4,
			Mix: history.Mix{Append: 4, Burst: 1, ReadLog: 1, StatLog: 1, Put: 2, ReadFile: 2, RemoveFile: 1, Names: 6, Tails: 1},
		})
	})
	step := func(what string, do func()) {
		t.Helper()
		<-time.After(time.Second) // calm before
		w.tell(t, "")
		began := time.Now()
		do()
		took := time.Since(began)
		<-time.After(2 * time.Second) // what comes after it
		w.tell(t, fmt.Sprintf("%s (%.1f s)", what, took.Seconds()))
	}
	failover := func(at string, p func() *process) {
		t.Helper()
		var victim *process
		step("SIGKILL of a leader at "+at, func() { victim = p(); victim.kill() })
		step("its return at "+at, func() { victim.start(); s.healthy() })
	}
	step("nothing", func() { <-time.After(3 * time.Second) })
	step("1 to 3", func() { s.addMasters(2, 3) })
	s.healthy()
	<-time.After(6 * time.Second) // clients ask every 5 s who the masters are
	failover("3", s.leader)
	step("planned stop of a leader at 3", func() { s.stopMaster(s.leader()) })
	s.healthy()
	step("3 to 5", func() { s.addMasters(4, 5) })
	s.healthy()
	<-time.After(6 * time.Second)
	failover("5", s.leader)
	step("planned stop of a leader at 5", func() { s.stopMaster(s.leader()) })
	s.healthy()
	gone := []int{1, s.numberOf(s.leader())}
	if gone[1] == 1 {
		gone[1] = 2
	}
	step("5 to 3, the leader among them", func() { s.removeMasters(gone...) })
	s.healthy()
	rest := s.numbers()
	step("3 to 1", func() { s.removeMasters(rest[0], rest[1]) })
	s.healthy()

	stop()
	work.Wait()
	w.work.Wait()
	settle, cancel := context.WithTimeout(s.ctx, time.Minute)
	defer cancel()
	fresh := s.clients(s.addresses(), 1)[0] // which knows none but the one that is left
	if err := history.Settle(settle, fresh, rec, clock.System()); err != nil {
		t.Fatalf("not everything can be read at the end: %v", err)
	}
	report := history.Check(rec.History())
	for i := range report.Violations {
		t.Errorf("%v", report.Violations[i].Error())
	}
	t.Logf("%d operations, %d done, %d unknown, failed %v; verdict %s", report.Operations, report.Done, report.Unknown, report.Failed, report.Verdict())
	if report.Done < 500 {
		t.Errorf("only %d operations were done", report.Done)
	}
	w.check(t, s, fresh)
}

// clients opens clients that know the masters at some addresses.
func (s *system) clients(addresses []string, n int) (out []client.FileSystem) {
	s.t.Helper()
	for range n {
		f, err := client.Open(s.ctx, addresses, client.Options{Patience: 2 * time.Minute})
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() { f.Close() })
		out = append(out, f)
	}
	return out
}

// addMasters starts masters in empty folders and adds them to the cluster.
func (s *system) addMasters(numbers ...int) {
	s.t.Helper()
	known := s.addresses()
	var by []string
	for _, n := range numbers {
		address := freeAddress(s.t)
		by = append(by, address)
		s.masters = append(s.masters, s.process(fmt.Sprintf("master-%d", n), address,
			[]string{"master", "--dir", filepath.Join(s.dir, fmt.Sprintf("m%d", n)), "--listen", address}))
	}
	s.eventually("masters that wait", 30*time.Second, func() bool {
		out, code := runBinary(s.t, strings.Join(known, ","), "", "admin", "master", "add", "--by", strings.Join(by, ","), "--wait", "60s")
		if code != 0 && !strings.Contains(out, "does not answer") {
			s.t.Fatalf("admin master add: %s", out)
		}
		return code == 0
	})
}

// removeMasters removes masters from the cluster. Their processes must say so and end, and not
// start again.
func (s *system) removeMasters(numbers ...int) {
	s.t.Helper()
	var list []string
	for _, n := range numbers {
		list = append(list, fmt.Sprint(n))
	}
	out, code := s.run("", "admin", "master", "remove", "--node", strings.Join(list, ","), "--wait", "60s")
	if code != 0 {
		s.t.Fatalf("admin master remove: %s", out)
	}
	for _, n := range numbers {
		name := fmt.Sprintf("master-%d", n)
		i := slices.IndexFunc(s.masters, func(p *process) bool { return p.name == name })
		p := s.masters[i]
		s.masters = slices.Delete(s.masters, i, i+1)
		said := fmt.Sprintf("this master was node %d of cluster", n)
		if log := p.ends(20 * time.Second); !strings.Contains(log, said) {
			s.t.Errorf("%s does not say that it was removed: %s", name, log[max(0, len(log)-1000):])
		}
		again := &process{t: s.t, name: name, args: p.args, log: p.log + "-again"}
		again.start()
		if log := again.ends(20 * time.Second); !strings.Contains(log, said) {
			s.t.Errorf("%s, started again: %s", name, log)
		}
	}
}

// stopMaster stops a master as an operator does, and starts it again.
func (s *system) stopMaster(p *process) {
	s.t.Helper()
	p.signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
	p.start()
}

// numberOf returns the number of a master's node.
func (s *system) numberOf(p *process) (n int) {
	s.t.Helper()
	if _, err := fmt.Sscanf(p.name, "master-%d", &n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *system) numbers() (out []int) {
	for _, p := range s.masters {
		out = append(out, s.numberOf(p))
	}
	return out
}

// pauseWatch has clients make directories in each shard, and append to files in each, one after the
// other, and measures the longest time that one of them takes.
type pauseWatch struct {
	work  sync.WaitGroup
	mu    sync.Mutex
	names pauseOf
	logs  pauseOf
	made  []string         // directories that were made
	sent  map[string][]int // by file: the numbers of the records that were acknowledged
}

// pauseOf is the longest time that an operation took, and how many there were.
type pauseOf struct {
	longest time.Duration
	done    int
}

const pauseShards = 4 // directories in the top of the tree are spread over as many shards

func watchPauses(t *testing.T, ctx context.Context, addresses []string) *pauseWatch {
	t.Helper()
	w := &pauseWatch{sent: map[string][]int{}}
	f, err := client.Open(ctx, addresses, client.Options{Patience: 2 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	for i := range pauseShards {
		dir := fmt.Sprintf("/pause-%d", i)
		if err := f.Mkdir(ctx, dir); err != nil {
			t.Fatal(err)
		}
		log, err := f.Create(ctx, dir+"/log")
		if err == nil {
			err = log.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		w.work.Go(func() {
			w.repeat(ctx, t, &w.names, func(n int) error {
				name := fmt.Sprintf("%s/%d", dir, n)
				err := f.Mkdir(ctx, name)
				if err == nil {
					w.mu.Lock()
					w.made = append(w.made, name)
					w.mu.Unlock()
				}
				return err
			})
		})
		w.work.Go(func() {
			w.repeat(ctx, t, &w.logs, func(n int) error {
				_, err := f.Append(ctx, dir+"/log", fmt.Appendf(nil, "%08d\n", n))
				if err == nil {
					w.mu.Lock()
					w.sent[dir+"/log"] = append(w.sent[dir+"/log"], n)
					w.mu.Unlock()
				}
				return err
			})
		})
	}
	return w
}

// repeat does an operation again and again. Each must be done, however long it takes.
func (w *pauseWatch) repeat(ctx context.Context, t *testing.T, of *pauseOf, do func(n int) error) {
	for n := 0; ctx.Err() == nil; n++ {
		began := time.Now()
		err := do(n)
		took := time.Since(began)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			t.Errorf("operation %d: %v", n, err)
			return
		}
		w.mu.Lock()
		of.longest, of.done = max(of.longest, took), of.done+1
		w.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// tell prints the longest pauses since the last call, unless what is "", and begins anew.
func (w *pauseWatch) tell(t *testing.T, what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if what != "" {
		t.Logf("%-45s longest mkdir %7.1f ms of %5d, longest append %7.1f ms of %5d", what,
			float64(w.names.longest.Microseconds())/1000, w.names.done, float64(w.logs.longest.Microseconds())/1000, w.logs.done)
	}
	w.names, w.logs = pauseOf{}, pauseOf{}
}

// check looks whether everything that was acknowledged is there, once.
func (w *pauseWatch) check(t *testing.T, s *system, f client.FileSystem) {
	t.Helper()
	there := map[string]bool{}
	for i := range pauseShards {
		dir, after := fmt.Sprintf("/pause-%d", i), ""
		for more := true; more; {
			entries, m, err := f.List(s.ctx, dir, after, 1000)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				there[dir+"/"+e.Name()], after = true, e.Name()
			}
			more = m
		}
		file, err := f.Open(s.ctx, dir+"/log")
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		_, err = file.WriteTo(&text)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		count := map[string]int{}
		for line := range strings.Lines(text.String()) {
			count[strings.TrimSpace(line)]++
		}
		for _, n := range w.sent[dir+"/log"] {
			if got := count[fmt.Sprintf("%08d", n)]; got != 1 {
				t.Errorf("%s/log has record %d %d times", dir, n, got)
			}
		}
	}
	for _, name := range w.made {
		if !there[name] {
			t.Errorf("%s was made and is not there", name)
		}
	}
}
