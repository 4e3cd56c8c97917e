package sim

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/quarryfs/quarry"
)

// Faults that are aimed: they wait for something to happen and strike at that instant, before
// the answer is on its way or when it just is. Faults at random instants hardly ever meet the
// millisecond in which a rule matters.

// aim is a fault that waits for its instant.
type aim struct {
	what   string // what it waits for: one of aims
	skip   int    // let so many pass
	before bool   // strike before the answer is on its way
	strike func(p *process, members []quarry.Member)
}

// aims are what a fault can wait for, with the observer's names for it.
var aims = []string{
	"name changed", "chunk told", "granted", "created", "activated", "batch come", "batch durable", "acknowledged", "fenced", "sealed", "seal come", "copied", "registered",
}

// aimTime is how much longer than it is to last an aimed fault waits for its instant, and for a
// step of a transaction, of a move or of a change of masters: those are rare.
const aimTime, stepAimTime = 4 * time.Second, 20 * time.Second

// aimAt has a fault wait; the returned function ends that.
func (o *observer) aimAt(a *aim) (end func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.aimed = append(o.aimed, a)
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.aimed = slices.DeleteFunc(o.aimed, func(other *aim) bool { return other == a })
	}
}

// reached has the faults strike that wait for something that has just happened at a process.
func (o *observer) reached(what string, p *process, handle quarry.Handle) {
	if p.gone() {
		return
	}
	o.mu.Lock()
	if what == "name changed" || what == "chunk told" {
		o.leader = p.host
	}
	o.happened[what]++
	i := slices.IndexFunc(o.aimed, func(a *aim) bool { return a.what == what })
	if i < 0 {
		o.mu.Unlock()
		return
	}
	a := o.aimed[i]
	if a.skip--; a.skip >= 0 {
		o.mu.Unlock()
		return
	}
	o.aimed = slices.Delete(o.aimed, i, i+1)
	var members []quarry.Member
	if c := o.chunks[handle]; c != nil && c.versions[c.highest] != nil {
		members = c.versions[c.highest].members
	}
	o.mu.Unlock()
	if a.before {
		a.strike(p, members)
		return
	}
	w := p.host.w
	w.schedule(w.Now(), mix("aim", uint64(p.host.number)), nil, func() { a.strike(p, members) })
}

// frequent returns those things that have happened several times, so that they may again.
func (o *observer) frequent(what []string) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(what), func(w string) bool { return o.happened[w] < 3 })
}

// aimed is the fault that waits for its instant and then kills, cuts off or takes the power of
// whoever has just answered, of others who have to do with it, or of all of them.
func (n *nemesis) aimed(d time.Duration) func() {
	what := n.aimable()
	if what == "" {
		return nil
	}
	return n.aim(what, min(d, 5*time.Second))
}

// aim has a fault of length d wait for something, and returns what heals it.
func (n *nemesis) aim(what string, d time.Duration) func() {
	a := &aim{what: what, skip: n.r.IntN(4), before: n.r.IntN(2) == 0}
	whom, how, one := n.r.IntN(5), n.r.IntN(6), n.r.IntN(8)
	hit, slow := make(chan []func(), 1), []*Host(nil)
	a.strike = func(p *process, members []quarry.Member) {
		hit <- n.strike(a.what, n.victims(p, members, whom, one), how, d)
	}
	if a.what == "name changed" && one%2 == 0 { // all masters lose what they have not synced, which is slow
		whom, how, a.before = 0, 0, false
		slow = n.c.masters()
	}
	for _, h := range slow {
		h.disk.Set(DiskFaults{SyncMin: 2 * time.Millisecond, SyncMax: 200 * time.Millisecond})
	}
	patience := aimTime
	if strings.HasPrefix(what, stepPrefix) {
		patience, a.skip = stepAimTime, a.skip%2
	}
	end := n.c.watch.aimAt(a)
	return func() {
		for more := patience; more > 0 && len(hit) == 0 && n.wait(probeEvery); more -= probeEvery {
		}
		end()
		for _, h := range slow {
			h.disk.Set(healthyDisk)
		}
		select {
		case heals := <-hit:
			n.wait(d) // it may have struck just now
			for _, heal := range heals {
				heal()
			}
		default:
		}
	}
}

// victims returns those whom a fault strikes that was aimed at a process.
func (n *nemesis) victims(p *process, members []quarry.Member, whom, one int) (hosts []*Host) {
	all := n.c.masters()
	if !slices.Contains(n.c.masters(), p.host) {
		all = nil
		for _, m := range members {
			all = append(all, n.c.watch.at(m))
		}
	}
	leader := n.c.watch.leading()
	switch whom {
	case 0:
		return append(hosts, all...)
	case 1:
		if len(all) > 0 {
			return []*Host{p.host, all[one%len(all)]}
		}
	case 2:
		if leader != nil {
			return []*Host{p.host, leader}
		}
	case 3:
		return []*Host{cmp.Or(leader, p.host)}
	}
	return []*Host{p.host}
}

// leading returns the master that was last seen to lead; nil if none was.
func (o *observer) leading() *Host {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.leader
}

// strike breaks hosts and returns what heals them.
func (n *nemesis) strike(what string, hosts []*Host, how int, d time.Duration) (heals []func()) {
	for _, h := range hosts {
		if !n.claim(h) {
			continue
		}
		n.c.log.Count("fault: aimed at " + what)
		n.tell("as soon as it is %s:", what)
		switch how {
		case 0, 1, 2:
			heals = append(heals, n.crash(h, true, d))
		case 3:
			heals = append(heals, n.crash(h, false, d))
		case 4:
			n.tell("%s is cut off from the masters for %v", h.name, d)
			heals = append(heals, n.between([]*Host{h}, n.c.masters(), true, block), func() { n.give(h) })
		case 5:
			n.tell("%s stands still for %v", h.name, d)
			h.Hold(d)
			heals = append(heals, func() { n.give(h) })
		}
	}
	return heals
}

// claim takes a host if nothing is done to it yet.
func (n *nemesis) claim(h *Host) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.busy[h] {
		return false
	}
	n.busy[h] = true
	return true
}

// Cuts that leave somebody on the side of who can do nothing any more.

// leaderApart cuts a leader off from the other masters, one way or both, for longer than a lease.
// Some clients and chunk servers may be with it.
func (n *nemesis) leaderApart(time.Duration) func() {
	leader := n.c.watch.leading()
	if leader == nil {
		return nil
	}
	side, others := []*Host{leader}, slices.DeleteFunc(n.c.masters(), func(h *Host) bool { return h == leader })
	if n.r.IntN(2) == 0 { // the others do not reach those who are with it, either
		for _, h := range append(slices.Clone(n.c.Servers), n.clients...) {
			if n.r.IntN(3) == 0 {
				side = append(side, h)
			} else {
				others = append(others, h)
			}
		}
	}
	both, more := n.r.IntN(3) > 0, time.Duration(2500+n.r.IntN(6000))*time.Millisecond
	if !both && n.r.IntN(2) == 0 {
		side, others = others, side
	}
	n.tell("%v are apart from %v for %v, both ways: %v", names(side), names(others), more, both)
	heal := n.between(side, others, both, block)
	return func() {
		n.wait(more)
		heal()
	}
}

// primaryApart cuts an open chunk's primary off from some for longer than a lease, or has it hear and not be heard.
func (n *nemesis) primaryApart(time.Duration) func() {
	h := n.c.watch.aPrimary(n.r.IntN(probedMax))
	if h == nil {
		return nil
	}
	var others []*Host
	for i, side := range [][]*Host{n.c.masters(), n.c.Servers, n.clients} {
		if n.r.IntN(4) > i {
			others = append(others, side...)
		}
	}
	more := time.Duration(2500+n.r.IntN(4000)) * time.Millisecond
	n.tell("%s, the primary of an open chunk, is apart from %v for %v", h.name, names(others), more)
	heal := n.between([]*Host{h}, others, n.r.IntN(3) > 0, block)
	return func() {
		n.wait(more)
		heal()
	}
}

// aPrimary returns the primary of one of the open chunks; nil if there is none.
func (o *observer) aPrimary(which int) *Host {
	o.mu.Lock()
	defer o.mu.Unlock()
	var list []*Host
	for _, h := range o.probed {
		if c := o.chunks[h]; !c.sealed() && c.versions[c.highest] != nil {
			list = append(list, o.at(c.versions[c.highest].members[0]))
		}
	}
	if len(list) == 0 {
		return nil
	}
	return list[which%len(list)]
}
