package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/history"
)

const (
	// wholeTime is how long a cluster may take to be whole again when all faults are over.
	wholeTime = 2 * time.Minute
	// settleTime bounds the reading of everything at the end, and replicasTime the comparison
	// of all replicas.
	settleTime   = 2 * time.Minute
	replicasTime = 2 * time.Minute
	// calmTime is how long a fault that needs a calm cluster waits for one.
	calmTime = 10 * time.Second
	// calmFor is how long nothing has been done to the cluster before such a fault.
	calmFor = 2 * time.Second
	// progressEvery is how often Progress is told.
	progressEvery = 250 * time.Millisecond
	// revivals bounds how often a process that ends by itself is started again.
	revivals = 5
)

// Config says what a run does. Program, Dir and Clock must be set.
type Config struct {
	// Program is the quarry binary that is tested.
	Program string
	// Dir is an empty folder for everything.
	Dir string
	// Clock is the machine's time.
	Clock clock.Clock
	// Seed decides the faults and what the clients do; when exactly it happens depends on the
	// machine.
	Seed uint64
	// Duration is how long clients work and faults are done. Default 1 min.
	Duration time.Duration
	// Kinds are the faults; none if empty.
	Kinds []Kind
	// Events are the faults in the place of those that Plan draws from Seed and Kinds.
	Events []Event
	// Key is the cluster's key, for addresses that are not loopback; nil: none.
	Key []byte
	// Masters, Servers and Clients are how many there are. Default 3, 4 and 2.
	Masters, Servers, Clients int
	// Network is where the processes meet. Default: NewProxies. It is closed at the end.
	Network Network
	// Workload says what the clients do. Seed, Clock and Duration are set by the run.
	Workload history.Options
	// Keep, if set, is given the history in the end.
	Keep func(*history.History)
	// Progress, if set, is told several times a second how far the run is.
	Progress func(Progress)
}

// Root is the directory below which clients work, unless Config.Workload names another one.
const Root = "/selftest"

func (c *Config) withDefaults() {
	if c.Duration <= 0 {
		c.Duration = time.Minute
	}
	if c.Masters == 0 {
		c.Masters = 3
	}
	if c.Servers == 0 {
		c.Servers = 4
	}
	if c.Clients == 0 {
		c.Clients = 2
	}
	if c.Network == nil {
		c.Network = NewProxies(c.Clock)
	}
	w := &c.Workload
	if w.Root == "" {
		w.Root = Root
	}
	if w.Mix == (history.Mix{}) {
		w.Mix = history.Mix{Append: 5, Burst: 1, ReadLog: 2, StatLog: 1, Put: 2, ReadFile: 3, RemoveFile: 1, Names: 4, Tails: 1}
	}
	if w.Workers == 0 {
		w.Workers = 6
	}
	if w.Logs == 0 {
		w.Logs = 3
	}
	if w.Pause == 0 {
		w.Pause = 4 * time.Millisecond // so that a small machine still has time for the cluster
	}
	w.Seed, w.Clock, w.Duration = c.Seed, c.Clock, c.Duration
}

// Phase is a part of a run.
type Phase string

// The phases of a run, in their order.
const (
	Starting  Phase = "starting the cluster"
	Working   Phase = "working"
	Healing   Phase = "waiting until the cluster is whole"
	Settling  Phase = "reading everything back"
	Comparing Phase = "comparing replicas"
	Checking  Phase = "checking the history"
)

// Progress is how far a run is.
type Progress struct {
	Phase      Phase
	Elapsed    time.Duration // since the clients began to work
	Operations int           // answered so far
	PerSecond  float64       // of late
	Faults     int           // done so far
	Present    []string      // the faults of this moment
	// Silence is how long nothing has been answered, Longest the longest such time so far.
	Silence, Longest time.Duration
}

// run is a run under way.
type run struct {
	cfg     Config
	clk     clock.Clock
	net     Network
	ctx     context.Context // ends when no more faults are to be done
	cluster *Cluster
	clients []client.FileSystem
	rec     *history.Recorder
	began   clock.Instant
	damaged int // index of the one chunk server whose bytes may be spoilt

	ill map[string]bool // whom a fault befalls now; used by the one goroutine that begins and ends faults

	mu         sync.Mutex
	phase      Phase
	faults     []*Fault
	present    map[*Fault]bool
	violations []history.Violation
	revived    int
	compared   int           // chunks whose replicas are the same
	replicas   int           // of them
	wholeAfter time.Duration // how long the cluster took, when the faults were over, to be whole
	longest    time.Duration
}

// Run starts a cluster, has clients work on it while faults are done, and checks what they
// saw. When ctx ends early, what has been done is healed and judged all the same. An error
// says that there is no verdict: the cluster could not be started, say.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	cfg.withDefaults()
	r := &run{
		cfg: cfg, clk: cfg.Clock, net: cfg.Network, phase: Starting, ill: map[string]bool{}, present: map[*Fault]bool{},
		damaged: int(rand.New(rand.NewPCG(cfg.Seed, 0xda3a6e)).Uint64() % uint64(cfg.Servers)),
	}
	defer r.net.Close()
	stopTelling := r.tell()
	defer stopTelling()
	var err error
	r.cluster, err = StartCluster(ctx, ClusterConfig{
		Program: cfg.Program, Dir: cfg.Dir, Network: r.net, Clock: cfg.Clock, Masters: cfg.Masters, Servers: cfg.Servers,
		Key: cfg.Key, MasterArgs: []string{"--dead-after", "5s"}, Died: r.died,
	})
	if err != nil {
		return nil, fmt.Errorf("%w; the processes' logs are %s", err, filepath.Join(cfg.Dir, "*.log"))
	}
	defer r.cluster.Close()
	defer func() {
		for _, f := range r.clients {
			_ = f.Close()
		}
	}()
	for i := range cfg.Clients {
		f, err := r.cluster.Client(ctx, fmt.Sprintf("client-%d", i+1), client.Options{})
		if err != nil {
			return nil, err
		}
		r.clients = append(r.clients, f)
	}
	interrupted := r.work(ctx)
	// What follows is short and bounded, and a verdict is worth it: it goes on after an interrupt.
	after := context.WithoutCancel(ctx)
	r.heal(after)
	return r.report(interrupted), nil
}

// work has the clients work and does the faults. It reports whether ctx has ended it early.
func (r *run) work(ctx context.Context) (interrupted bool) {
	r.rec = history.NewRecorder(r.clk, r.cfg.Seed, history.Limits{})
	r.began = r.clk.Now()
	r.enter(Working)
	working, stop := context.WithCancel(ctx)
	defer stop()
	faulty, stopFaults := r.clk.WithTimeout(ctx, r.cfg.Duration)
	defer stopFaults()
	r.ctx = faulty
	done := make(chan error, 1)
	go func() { done <- history.Run(working, r.clients, r.rec, r.cfg.Workload) }()
	r.inflictAll(faulty)
	<-faulty.Done()
	if err := <-done; err != nil {
		r.blame("the workload did not run", err.Error())
	}
	for _, f := range r.clients { // what is still on its way, if it was ended early, has then come to its end
		_ = f.Close()
	}
	return ctx.Err() != nil
}

// inflictAll does the faults of the plan one after the other, and ends each when it is over. It
// returns when all are over.
func (r *run) inflictAll(ctx context.Context) {
	type ending struct {
		at    clock.Instant
		fault *Fault
		inj   *injury
	}
	var active []ending
	finish := func(all bool) {
		active = slices.DeleteFunc(active, func(e ending) bool {
			if !all && r.clk.Now() < e.at {
				return false
			}
			r.finish(e.fault, e.inj)
			return true
		})
	}
	defer finish(true)
	late := time.Duration(0) // how much later than planned everything is
	events := r.cfg.Events
	if events == nil {
		events = Plan(r.cfg.Seed, r.cfg.Duration, r.cfg.Kinds)
	}
	for _, e := range events {
		for {
			due := r.began.Add(e.At + late)
			next := due
			for _, a := range active {
				next = min(next, a.at)
			}
			if r.clk.Sleep(ctx, next.Sub(r.clk.Now())) != nil {
				return
			}
			finish(e.Kind.info().alone && r.clk.Now() >= due)
			if r.clk.Now() >= due {
				break
			}
		}
		why := r.calm(ctx, e)
		f := &Fault{Kind: e.Kind, BeginMS: r.since()}
		inj, err := (*injury)(nil), why
		if err == nil {
			inj, err = r.inflict(ctx, e)
		}
		if ctx.Err() != nil && err != nil {
			return
		}
		late = max(late, r.clk.Now().Sub(r.began)-e.At)
		if err != nil {
			f.Text, f.Skipped, f.EndMS = string(e.Kind)+" of "+string(e.Victim), err.Error(), f.BeginMS
			r.note(f, false)
			continue
		}
		f.Text, f.Nodes, f.EndMS = inj.text, inj.nodes, -1
		for _, n := range inj.nodes {
			r.ill[n] = true
		}
		r.note(f, true)
		active = append(active, ending{r.clk.Now().Add(e.For), f, inj})
	}
	for len(active) > 0 {
		next := active[0].at
		for _, a := range active {
			next = min(next, a.at)
		}
		if r.clk.Sleep(ctx, next.Sub(r.clk.Now())) != nil {
			return
		}
		finish(false)
	}
}

// calm waits, before a fault that needs it, until the cluster has got over those before: also what
// clients had begun then has come to its end.
func (r *run) calm(ctx context.Context, e Event) error {
	if !e.Kind.info().calm {
		return nil
	}
	ctx, cancel := r.clk.WithTimeout(ctx, calmTime)
	defer cancel()
	if err := r.clk.Sleep(ctx, calmFor); err != nil {
		return err
	}
	return r.cluster.Calm(ctx)
}

// finish ends a fault.
func (r *run) finish(f *Fault, inj *injury) {
	if inj.end != nil {
		if err := inj.end(context.WithoutCancel(r.ctx)); err != nil {
			r.blame("a fault could not be ended", err.Error())
		}
	}
	for _, n := range inj.nodes {
		delete(r.ill, n)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f.EndMS = r.since()
	delete(r.present, f)
}

// note takes a fault into the list.
func (r *run) note(f *Fault, present bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, f)
	if present {
		r.present[f] = true
	}
}

// since returns the milliseconds since the clients began to work.
func (r *run) since() int64 { return r.clk.Now().Sub(r.began).Milliseconds() }

// blame notes that something happened that must not, whatever the faults.
func (r *run) blame(rule, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.violations) < 20 {
		r.violations = append(r.violations, history.Violation{Checker: checkCluster, Rule: rule, Subject: "the cluster", Text: text, Ops: []history.Op{}})
	}
}

// died is told of a process that has ended without having been told to. It is started again, so
// that the run can go on.
func (r *run) died(p *Process, how string) {
	r.blame("a process ends only when it is told to", fmt.Sprintf("%s: %s\n%s", p.Name, how, p.Log()))
	r.mu.Lock()
	r.revived++
	again := r.revived <= revivals
	r.mu.Unlock()
	if again {
		if err := p.Start(); err != nil {
			r.blame("a process starts", err.Error())
		}
	}
}

// heal waits until the cluster is whole, reads everything and compares the replicas. What
// does not come to an end is a violation: nothing is wrong with the cluster any more.
func (r *run) heal(ctx context.Context) {
	if err := r.net.Heal(); err != nil {
		r.blame("the network heals", err.Error())
	}
	for _, p := range r.cluster.processes() {
		if err := p.Start(); err != nil {
			r.blame("a process starts", err.Error())
		}
		p.thaw()
	}
	bounded := func(phase Phase, d time.Duration, rule string, do func(context.Context) error) {
		r.enter(phase)
		ctx, cancel := r.clk.WithTimeout(ctx, d)
		defer cancel()
		if err := do(ctx); err != nil {
			r.blame(rule, err.Error()+"\n"+logs(r.cluster.processes()))
		}
	}
	healed := r.clk.Now()
	bounded(Healing, wholeTime, "the cluster is whole again when the faults are over", r.cluster.Whole)
	r.mu.Lock()
	r.wholeAfter = r.clk.Now().Sub(healed)
	r.mu.Unlock()
	bounded(Settling, settleTime, "everything can be read when the faults are over", func(ctx context.Context) error {
		reader, err := r.cluster.Client(ctx, "reader", client.Options{})
		if err != nil {
			return err
		}
		defer reader.Close()
		return history.Settle(ctx, reader, r.rec, r.clk)
	})
	bounded(Comparing, replicasTime, ruleReplicas, r.compare)
	r.enter(Checking)
}

func (r *run) enter(p Phase) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.phase = p
}

// tell tells Progress until the returned function is called.
func (r *run) tell() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		var lately []int // answered operations, one for each interval
		for r.clk.Sleep(ctx, progressEvery) == nil {
			p := r.progress()
			lately = append(lately, p.Operations)
			if len(lately) > 8 {
				lately = lately[1:]
			}
			if n := len(lately) - 1; n > 0 {
				p.PerSecond = float64(lately[n]-lately[0]) / (time.Duration(n) * progressEvery).Seconds()
			}
			if r.cfg.Progress != nil {
				r.cfg.Progress(p)
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

func (r *run) progress() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := Progress{Phase: r.phase}
	if p.Phase == Starting {
		return p
	}
	now, h := r.clk.Now(), r.rec.Progress()
	p.Elapsed, p.Operations = now.Sub(r.began), h.Answered
	if p.Phase == Working {
		p.Silence = now.Sub(max(h.Last, r.began))
		r.longest = max(r.longest, p.Silence)
	}
	p.Longest = r.longest
	for _, f := range r.faults {
		if f.Skipped == "" {
			p.Faults++
		}
		if r.present[f] {
			p.Present = append(p.Present, f.Text)
		}
	}
	return p
}

// checkCluster names what is checked of the processes and of the replicas, beside the
// history.
const checkCluster = "cluster"

// ruleReplicas is the rule that replicas which differ break.
const ruleReplicas = "all replicas of a chunk are the same"
