package sim

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/history"
	"github.com/quarryfs/quarry/sim/lives"
)

// Options say what one run is like.
type Options struct {
	// Seed decides everything.
	Seed uint64
	// Operations is how many operations the clients do, Faults how many faults there are at
	// least. Defaults 600 and 12.
	Operations, Faults int
	// Out gets every line of the log; nil: nobody does.
	Out io.Writer
	// Trace has every event logged, to see where two runs part.
	Trace bool
}

// Result is what a run has shown. The history is still to be judged: that may take long, and
// is done outside of the bubble.
type Result struct {
	Seed       uint64
	Hash       uint64           // of all events: equal for runs that went alike
	Events     int64            // how many
	Simulated  time.Duration    // how long it took on the cluster's clocks
	Operations int              // of the clients
	Faults     int              // that were begun
	Counts     map[string]int64 // of what is rare, and of the servers' log lines
	Violations []string
	Last       []string         // the last lines of the log
	History    *history.History `json:"-"` // nil if the run was stuck
}

const (
	// recoverTime is how long the workload may go on when all is healed, and then the repairs.
	recoverTime = 3 * time.Minute
	clients     = 3
)

// Run runs one seed. It must be called in a testing/synctest bubble.
func Run(o Options) *Result {
	if o.Operations == 0 {
		o.Operations = 600
	}
	if o.Faults == 0 {
		o.Faults = 12
	}
	w := NewWorld(o.Seed)
	r := &run{o: o, w: w, log: NewLog(w, o.Out)}
	if o.Trace {
		w.trace = func(e *event) { r.log.Printf("event %016x %s", e.key, e.what()) }
	}
	r.c = NewCluster(w, 3, 5, r.log)
	r.result.Seed = o.Seed
	start := w.Now()
	r.all()
	r.result.Simulated = w.Now().Sub(start)
	r.c.Close()
	w.Close()
	r.result.Violations = append(r.result.Violations, r.c.watch.violations()...)
	r.result.Events, r.result.Hash = w.count, w.hash
	r.result.Counts, r.result.Last = r.log.counts, r.log.Last()
	return &r.result
}

// run is a run under way.
type run struct {
	o      Options
	w      *World
	log    *Log
	c      *Cluster
	rec    *history.Recorder
	result Result
}

func (r *run) violation(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.log.Printf("sim  VIOLATION %s", text)
	r.result.Violations = append(r.result.Violations, text)
}

// all is the whole run.
func (r *run) all() {
	ctx, cancel := newNodeClock(r.w, nil).WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := r.c.Start(ctx); err != nil {
		r.violation("stuck: the cluster does not start: %v", err)
		return
	}
	var files []client.FileSystem
	var mortals []*mortal
	for i := range clients {
		m, err := r.c.Client(ctx, i+1, client.Options{Patience: 20 * time.Second})
		if err != nil {
			r.violation("stuck: no client can be opened: %v", err)
			return
		}
		files, mortals = append(files, lives.Placing{FileSystem: &m.FileSystem, Seed: r.o.Seed}), append(mortals, m)
	}
	if !r.c.whole(nil, time.Minute) {
		r.violation("stuck: the cluster is not whole before any fault")
		return
	}
	r.work(files, mortals)
	for _, f := range files {
		_ = f.Close()
	}
}

// work has the clients work while the nemesis does, lets everything heal, and looks at what is
// left.
func (r *run) work(files []client.FileSystem, mortals []*mortal) {
	clk := newNodeClock(r.w, nil)
	r.rec = history.NewRecorder(clk, r.o.Seed, history.Limits{})
	n := newNemesis(r.c, mortals, func(faults int) bool {
		return r.rec.Progress().Begun > (faults+1)*r.o.Operations/(r.o.Faults+4)
	})
	go n.run()
	defer r.c.watch.probe(r.w, r.c.Masters, r.c.shards)()
	defer r.c.watchSlots()()
	life, stop := context.WithCancel(context.Background())
	defer stop()
	worked := make(chan struct{})
	go func() {
		defer close(worked)
		err := history.Run(life, files, r.rec, history.Options{
			Seed: r.o.Seed, Clock: clk, Operations: r.o.Operations, Workers: 3, Pause: 400 * time.Millisecond, Timeout: 15 * time.Second,
		})
		if err != nil {
			r.violation("the workload does not run: %v", err)
		}
	}()
	r.breakFor(n, worked)
	n.stop()
	r.result.Faults = n.faults
	if !r.within(recoverTime, worked) {
		r.violation("stuck: %v after everything is healed clients still wait", recoverTime)
		stop()
		<-worked
		return
	}
	settle, cancel := clk.WithTimeout(context.Background(), recoverTime)
	defer cancel()
	if err := history.Settle(settle, files[0], r.rec, clk); err != nil {
		r.violation("stuck: %v after everything is healed the files cannot be read: %v", recoverTime, err)
	}
	if !r.c.whole(nil, recoverTime) {
		r.violation("stuck: %v after everything is healed: %s", recoverTime, r.c.ailing(settle))
	}
	r.clean(files[0])
	r.c.watch.mastersJudged()
	r.compare()
	r.result.History = r.rec.History()
	r.result.Operations = len(r.result.History.Ops)
}

// compare looks at what is left when all is healed and nobody works.
func (r *run) compare() {
	ctx, cancel := newNodeClock(r.w, nil).WithTimeout(context.Background(), recoverTime)
	defer cancel()
	err := r.c.compareReplicas(ctx)
	for why := err; err != nil; { // a replica may have been repaired since it was looked up
		r.w.Sleep(time.Second)
		if err = r.c.compareReplicas(ctx); err != nil && ctx.Err() != nil {
			r.violation("stuck: %v after everything is healed not all replicas can be read: %v", recoverTime, why)
			break
		}
		why = err
	}
	for range 40 {
		compared, err := r.c.compareStates()
		if err != nil {
			r.violation("%v", err)
		}
		if compared {
			r.log.Count("masters' states compared at the end")
			return
		}
		r.w.Sleep(173 * time.Millisecond)
	}
	r.log.Count("masters' states never at one index")
}

// breakFor returns when the workload is over, or has gone on for so long that the faults must
// be what it waits for.
func (r *run) breakFor(n *nemesis, worked <-chan struct{}) {
	end := r.w.Now().Add(2 * time.Minute)
	for r.w.Now() < end && !r.within(time.Second, worked) {
	}
}

// within waits for something, at most for d.
func (r *run) within(d time.Duration, what <-chan struct{}) bool {
	t := newNodeClock(r.w, nil).NewTimer(d)
	defer t.Stop()
	select {
	case <-what:
		return true
	case <-t.C():
		return false
	}
}
