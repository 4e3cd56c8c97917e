package sim

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
)

// nemesis breaks a cluster as the seed says, and heals it. Each seed has a choice of the
// faults below with weights of its own: with one mixture for all, rare schedules that need
// many faults of one kind would hardly ever come about.
type nemesis struct {
	c       *Cluster
	r       *rand.Rand
	mortals []*mortal // the clients
	clients []*Host   // theirs
	calm    Link      // what the network is like when nothing is wrong with it
	choices []choice
	due     func(faults int) bool // the workload has come so far that it is time for the next fault
	over    chan struct{}
	ended   chan struct{}

	mu       sync.Mutex
	busy     map[*Host]bool // hosts whose process or disk is being broken
	faults   int
	damages  int  // faults that took data away for ever
	doubtful bool // it may be that not all groups have all masters
	healing  sync.WaitGroup
}

// choice is a sort of fault.
type choice struct {
	name   string
	weight int
	// begin breaks something for about d and returns what heals it, or nil if there is
	// nothing to break.
	begin func(n *nemesis, d time.Duration) (heal func())
}

// faultKinds are the faults of which each seed takes some. None of them takes data away that
// was acknowledged; see damageKinds.
var faultKinds = []choice{
	{"one way cut", 3, (*nemesis).cut},
	{"isolation", 4, (*nemesis).isolate},
	{"partition", 2, (*nemesis).split},
	{"connections broken", 3, (*nemesis).breakConnections},
	{"slow network", 2, (*nemesis).slowLinks},
	{"lossy network", 2, (*nemesis).lossyLinks},
	{"requests twice", 3, (*nemesis).twice},
	{"old requests", 3, (*nemesis).oldRequests},
	{"messages lost", 3, (*nemesis).loseMessages},
	{"process killed", 4, (*nemesis).kill},
	{"power failed", 4, (*nemesis).powerOff},
	{"planned stop", 2, (*nemesis).planned},
	{"leader and server killed", 2, (*nemesis).killTwo},
	{"power failed everywhere", 1, (*nemesis).blackout},
	{"process held", 4, (*nemesis).hold},
	{"time of day jumped", 2, (*nemesis).jump},
	{"slow disk", 3, (*nemesis).slowDisk},
	{"full disk", 2, (*nemesis).fullDisk},
	{"hung disk", 3, (*nemesis).hungDisk},
	{"master's sync failed", 1, (*nemesis).failMasterSync},
	{"master long away", 2, (*nemesis).longAway},
	{"leadership moved", 2, (*nemesis).moveLeadership},
	{"master replaced", 2, (*nemesis).replaceMaster},
	{"masters changed", 3, (*nemesis).changeMasters},
	{"client killed", 2, (*nemesis).killClient},
	{"leader apart", 3, (*nemesis).leaderApart},
	{"primary apart", 3, (*nemesis).primaryApart},
	{"leader held apart", 3, (*nemesis).leaderHeld},
	{"primary behind a new leader", 3, (*nemesis).primaryBehind},
	{"slots moved", 5, (*nemesis).moveSlots},
	{"chunks filled", 4, (*nemesis).fillChunks},
	{"power failed after a name", 2, (*nemesis).nameAndPower},
	{"aimed", 4, (*nemesis).aimed},
}

// damageKinds are the faults that take one replica of something away for ever. There is one
// of them at a time: the cluster must have made good what the one before took.
var damageKinds = []choice{
	{"disk emptied", 3, (*nemesis).wipe},
	{"sync failed", 3, (*nemesis).failSync},
	{"write failed", 3, (*nemesis).failWrite},
	{"bit rot", 5, (*nemesis).rot},
}

// damagesMax bounds the faults that take data away in one run: each needs a time of rest.
const damagesMax = 2

func newNemesis(c *Cluster, mortals []*mortal, due func(faults int) bool) *nemesis {
	n := &nemesis{
		c: c, r: c.w.chance("nemesis"), mortals: mortals, due: due, busy: map[*Host]bool{},
		over: make(chan struct{}), ended: make(chan struct{}),
	}
	for _, m := range mortals {
		n.clients = append(n.clients, m.host)
	}
	for _, k := range faultKinds {
		k.weight *= n.r.IntN(4) // a quarter of the kinds never comes
		n.choices = append(n.choices, k)
	}
	n.choices[n.r.IntN(len(n.choices))].weight += 4
	n.choices[len(n.choices)-1].weight += 5 // what is aimed meets what no other does
	n.calm = Link{Delay: time.Duration(20+n.r.IntN(200)) * time.Microsecond, Jitter: time.Duration(100+n.r.IntN(2000)) * time.Microsecond}
	if n.r.IntN(3) == 0 {
		n.calm.Loss = 0.02 * n.r.Float64()
	}
	if n.r.IntN(4) == 0 {
		n.calm.Reset = 0.002 * n.r.Float64()
	}
	if n.r.IntN(3) == 0 {
		n.calm.Twice = 0.05 * n.r.Float64()
	}
	if n.r.IntN(3) == 0 {
		n.calm.Old = 0.05 * n.r.Float64()
	}
	return n
}

// run breaks and heals until stop is called.
func (n *nemesis) run() {
	defer close(n.ended)
	n.c.net.SetAll(n.calm)
	pace := 300 + n.r.IntN(1500) // ms between two faults
	damages := 0
	if n.r.IntN(4) > 0 {
		damages = 1 + n.r.IntN(damagesMax)
	}
	if damages > 0 && n.r.IntN(4) > 0 && n.wait(time.Duration(300+n.r.IntN(2000))*time.Millisecond) {
		damages-- // nothing is wrong yet, so there is next to nothing to wait for
		n.damage(n.stopping)
	}
	for n.pause(time.Duration(50+n.r.IntN(2*pace)) * time.Millisecond) {
		if damages > 0 && n.r.IntN(4) == 0 {
			damages--
			n.damage(n.hurried)
			continue
		}
		n.begin(n.choices, n.length())
	}
}

// length draws how long a fault lasts: often about as long as the cluster needs to notice,
// sometimes beyond the longest lease.
func (n *nemesis) length() time.Duration {
	switch n.r.IntN(4) {
	case 0:
		return time.Duration(10+n.r.IntN(300)) * time.Millisecond
	case 1, 2:
		return time.Duration(500+n.r.IntN(3000)) * time.Millisecond
	}
	return time.Duration(2000+n.r.IntN(11000)) * time.Millisecond
}

// pause waits between two faults: for d, or until the workload has come far enough.
func (n *nemesis) pause(d time.Duration) bool {
	const step = 50 * time.Millisecond
	for ; d > step && !n.due(n.faults); d -= step {
		if !n.wait(step) {
			return false
		}
	}
	return n.wait(min(d, step))
}

// wait waits for d; false once the nemesis is to stop.
func (n *nemesis) wait(d time.Duration) bool {
	t := n.c.admin.true.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return true
	case <-n.over:
		return false
	}
}

// begin begins a fault that is drawn from some, and heals it when its time is over.
func (n *nemesis) begin(choices []choice, d time.Duration) {
	total := 0
	for _, k := range choices {
		total += k.weight
	}
	at := n.r.IntN(total)
	for _, k := range choices {
		if at -= k.weight; at >= 0 {
			continue
		}
		heal := k.begin(n, d)
		if heal == nil {
			return
		}
		n.faults++
		n.c.log.Count("fault: " + k.name)
		n.healing.Go(func() {
			n.wait(d)
			heal()
		})
		return
	}
}

// stop ends the breaking and heals everything: the network, the disks and the hosts.
func (n *nemesis) stop() {
	close(n.over)
	<-n.ended
	n.healing.Wait()
	n.c.net.SetAll(Link{Delay: 50 * time.Microsecond, Jitter: 300 * time.Microsecond})
	for _, h := range n.c.Hosts() {
		h.disk.Set(healthyDisk)
		h.Start()
	}
	n.c.log.Printf("sim  everything is healed after %d faults", n.faults)
}

func (n *nemesis) tell(format string, args ...any) { n.c.log.Printf("sim  FAULT "+format, args...) }

// take draws a host that nothing is done to yet; nil if there is none. It is given back with
// give.
func (n *nemesis) take(hosts []*Host) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	free := slices.DeleteFunc(slices.Clone(hosts), func(h *Host) bool { return n.busy[h] })
	if len(free) == 0 {
		return nil
	}
	h := free[n.r.IntN(len(free))]
	n.busy[h] = true
	return h
}

func (n *nemesis) give(h *Host) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.busy, h)
}

// all returns all hosts, those of clients too.
func (n *nemesis) all() []*Host { return append(n.c.Hosts(), n.clients...) }

func (n *nemesis) any(hosts []*Host) *Host { return hosts[n.r.IntN(len(hosts))] }

// Faults of the network.

func (n *nemesis) cut(d time.Duration) func() {
	from, to := n.any(n.all()), n.any(n.c.Hosts())
	if from == to {
		return nil
	}
	if n.r.IntN(2) == 0 {
		from, to = to, from
	}
	n.tell("nothing goes from %s to %s for %v", from.name, to.name, d)
	n.c.net.Set(from, to, func(l *Link) { l.Blocked = true })
	return func() { n.c.net.Heal(from, to) }
}

// between changes all links between two sets of hosts, in both directions or only to the
// second.
func (n *nemesis) between(side, others []*Host, both bool, change func(*Link)) (heal func()) {
	var done []direction
	for _, a := range side {
		for _, b := range others {
			if a == b {
				continue
			}
			done = append(done, direction{a, b})
			if both {
				done = append(done, direction{b, a})
			}
		}
	}
	for _, d := range done {
		n.c.net.Set(d.from, d.to, change)
	}
	return func() {
		for _, d := range done {
			n.c.net.Heal(d.from, d.to)
		}
	}
}

func block(l *Link) { l.Blocked = true }

func (n *nemesis) isolate(d time.Duration) func() {
	h := n.any(n.all())
	n.tell("%s is cut off for %v", h.name, d)
	return n.between([]*Host{h}, n.all(), true, block)
}

func (n *nemesis) split(d time.Duration) func() {
	var sides [2][]*Host
	for _, h := range n.all() {
		i := n.r.IntN(2)
		sides[i] = append(sides[i], h)
	}
	n.tell("%s are cut off from the others for %v", names(sides[0]), d)
	return n.between(sides[0], sides[1], true, block)
}

func (n *nemesis) breakConnections(time.Duration) func() {
	a := n.any(n.all())
	n.tell("connections of %s break", a.name)
	for _, b := range n.all() {
		if a != b && n.r.IntN(2) == 0 {
			n.c.net.Break(a, b)
		}
	}
	return func() {}
}

func (n *nemesis) slowLinks(d time.Duration) func() {
	h, more := n.any(n.all()), time.Duration(1+n.r.IntN(400))*time.Millisecond
	n.tell("the network of %s is up to %v slower for %v", h.name, more, d)
	return n.between([]*Host{h}, n.all(), n.r.IntN(2) == 0, func(l *Link) { l.Jitter += more })
}

func (n *nemesis) lossyLinks(d time.Duration) func() {
	h, loss := n.any(n.all()), 0.4*n.r.Float64()
	n.tell("the network of %s loses %.0f %% for %v", h.name, 100*loss, d)
	return n.between([]*Host{h}, n.all(), true, func(l *Link) { l.Loss, l.Reset = loss, l.Reset+loss/50 })
}

func (n *nemesis) twice(d time.Duration) func() {
	h, chance := n.any(n.all()), 0.5*n.r.Float64()
	n.tell("%.0f %% of the requests and messages of %s come twice for %v", 100*chance, h.name, d)
	return n.between([]*Host{h}, n.all(), true, func(l *Link) { l.Twice = chance })
}

func (n *nemesis) oldRequests(d time.Duration) func() {
	h, chance := n.any(n.all()), 0.3*n.r.Float64()
	n.tell("%.0f %% of the requests of %s come once more, seconds later, for %v", 100*chance, h.name, d)
	return n.between([]*Host{h}, n.all(), true, func(l *Link) { l.Old = chance })
}

func (n *nemesis) loseMessages(d time.Duration) func() {
	drop, late := 0.4*n.r.Float64(), 0.4*n.r.Float64()
	n.tell("%.0f %% of the messages between masters are lost and %.0f %% are late for %v", 100*drop, 100*late, d)
	return n.between(n.c.masters(), n.c.masters(), false, func(l *Link) { l.Drop, l.Late, l.Twice = drop, late, 0.1 })
}

// Faults of processes.

// crash ends a host's process, with or without its power, and starts it again later.
func (n *nemesis) crash(h *Host, power bool, d time.Duration) func() {
	if power {
		n.tell("%s loses its power for %v", h.name, d)
		h.PowerOff()
	} else {
		n.tell("%s is killed for %v", h.name, d)
		h.Kill()
	}
	return func() {
		n.c.log.Printf("sim  %s starts", h.name)
		h.Start()
		n.give(h)
	}
}

func (n *nemesis) kill(d time.Duration) func() {
	if h := n.take(n.c.Hosts()); h != nil {
		return n.crash(h, false, d)
	}
	return nil
}

func (n *nemesis) powerOff(d time.Duration) func() {
	if h := n.take(n.c.Hosts()); h != nil {
		return n.crash(h, true, d)
	}
	return nil
}

func (n *nemesis) planned(d time.Duration) func() {
	h := n.take(n.c.Hosts())
	if h == nil {
		return nil
	}
	n.tell("%s is stopped for %v", h.name, d)
	stopped := make(chan struct{})
	go func() {
		h.Stop()
		close(stopped)
	}()
	return func() {
		<-stopped
		n.c.log.Printf("sim  %s starts", h.name)
		h.Start()
		n.give(h)
	}
}

func (n *nemesis) killTwo(d time.Duration) func() {
	a, b := n.take(n.c.masters()), n.take(n.c.Servers)
	var heal []func()
	for _, h := range []*Host{a, b} {
		if h != nil {
			heal = append(heal, n.crash(h, n.r.IntN(2) == 0, d))
		}
	}
	if heal == nil {
		return nil
	}
	return func() {
		for _, f := range heal {
			f()
		}
	}
}

// longAway takes a master away for so long that the others' logs no longer hold what it has
// missed.
func (n *nemesis) longAway(d time.Duration) func() {
	h := n.take(n.c.masters())
	if h == nil {
		return nil
	}
	heal := n.crash(h, n.r.IntN(2) == 0, d)
	more := time.Duration(8+n.r.IntN(12)) * time.Second
	return func() {
		n.wait(more)
		heal()
	}
}

func (n *nemesis) blackout(d time.Duration) func() {
	var heal []func()
	for range n.c.Hosts() {
		if h := n.take(n.c.Hosts()); h != nil {
			heal = append(heal, n.crash(h, true, d))
		}
	}
	if heal == nil {
		return nil
	}
	return func() {
		for _, f := range heal {
			f()
		}
	}
}

// killClient ends a client's process. Another one begins on its host, with sessions of its own.
func (n *nemesis) killClient(d time.Duration) func() {
	m := n.mortals[n.r.IntN(len(n.mortals))]
	if !n.claim(m.host) {
		return nil
	}
	n.tell("%s is killed for %v", m.host.name, d)
	m.kill()
	return func() {
		m.restart()
		n.give(m.host)
	}
}

func (n *nemesis) hold(d time.Duration) func() {
	h := n.take(n.all())
	if h == nil {
		return nil
	}
	if slices.Contains(n.clients, h) && n.r.IntN(2) == 0 {
		d = sessionLife + time.Duration(1000+n.r.IntN(4000))*time.Millisecond // what it asks then is for a session that is over
	}
	n.tell("%s stands still for %v", h.name, d)
	n.c.watch.awake(h, h.Hold(d))
	return func() { n.give(h) }
}

func (n *nemesis) moveLeadership(time.Duration) func() {
	to, shard := n.any(n.c.fleet.Members()), quarry.ShardID(n.r.IntN(1+n.c.shards))
	n.tell("leadership of group %d is moved to %s", shard, to.name)
	go n.c.moveLeadership(shard, to)
	return func() {}
}

// whole waits until the cluster has all the replicas that it should have, twice in a row;
// false if that takes longer than d, or stop, which may be nil, says so.
func (c *Cluster) whole(stop func() bool, d time.Duration) bool {
	good := 0
	for end := c.w.Now().Add(d); c.w.Now() < end && (stop == nil || !stop()); {
		ctx, cancel := c.admin.clock.WithTimeout(context.Background(), 2*time.Second)
		why := c.ailing(ctx)
		cancel()
		good++
		if why != "" {
			good = 0
		}
		if good == 2 {
			return true
		}
		c.w.Sleep(time.Second)
	}
	return false
}

func names(hosts []*Host) []string {
	var list []string
	for _, h := range hosts {
		list = append(list, h.name)
	}
	return list
}
