package sim

import (
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// Changes of the masters, as an operator makes them while the cluster is in use and other things
// break. There is one at a time.

// exchange is a change of masters under way.
type exchange struct {
	before     []*Host
	gone, come []*Host
	numbers    []quarry.NodeID // of those that are gone
	undo       time.Duration   // the operator thinks better of it after so long; < 0: never
	both       bool            // and does not wait until what was said first is over
}

// mastersWanted are how many masters an operator may want.
var mastersWanted = [...]int{1, 2, 3, 3, 4, 5, 5}

// changeMasters has masters added, removed, or exchanged for others. One change of three is undone on
// the way.
func (n *nemesis) changeMasters(d time.Duration) func() {
	if !n.c.fleet.Begin() {
		return nil
	}
	x := &exchange{before: n.c.fleet.Members(), undo: -1}
	spare := n.c.fleet.Spare()
	want, have := mastersWanted[n.r.IntN(len(mastersWanted))], len(x.before)
	come, gone := max(0, want-have), max(0, have-want)
	if come == gone {
		come = 1 + n.r.IntN(2)
		gone = min(come, have)
	}
	if come > len(spare) {
		n.c.fleet.End()
		return nil
	}
	for _, i := range n.r.Perm(len(spare))[:come] {
		x.come = append(x.come, spare[i])
	}
	x.gone = n.c.fleet.MayGo(gone, n.r.Perm(have), n.c.w.Now())
	for _, h := range x.gone {
		x.numbers = append(x.numbers, n.c.fleet.Number(h))
	}
	if len(x.gone)+len(x.come) == 0 || have+come-len(x.gone) > mastersMost {
		n.c.fleet.End()
		return nil
	}
	if n.r.IntN(3) == 0 && (len(x.come) == 0 || len(x.gone) == 0) {
		x.undo, x.both = time.Duration(n.r.IntN(1500))*time.Millisecond, n.r.IntN(2) == 0
	}
	if x.undo >= 0 && len(x.come) == 0 {
		n.doubtful = true // an old request may remove again who was added again
	}
	n.aimAtExchange(d)
	n.tell("masters on %v are to come, and those on %v to go; undone after %v", names(x.come), names(x.gone), x.undo)
	n.healing.Go(func() { n.carryOut(x) })
	return func() {}
}

// replaceMaster has a master fail for good, mostly with its disks. An operator puts another one in its
// place, on the same machine or on another one. It is done only when all the others have everything.
func (n *nemesis) replaceMaster(d time.Duration) func() {
	if !n.c.fleet.Begin() {
		return nil
	}
	members, spare := n.c.fleet.Members(), n.c.fleet.Spare()
	if len(members) < 3 || n.doubtful || n.c.mastersAgree() != nil {
		n.c.fleet.End()
		return nil
	}
	h := n.take(n.c.fleet.MayGo(1, n.r.Perm(len(members)), n.c.w.Now()))
	if h == nil {
		n.c.fleet.End()
		return nil
	}
	x := &exchange{before: members, gone: []*Host{h}, come: []*Host{h}, numbers: []quarry.NodeID{n.c.fleet.Number(h)}, undo: -1}
	if len(spare) > 0 && n.r.IntN(2) == 0 {
		x.come = []*Host{n.any(spare)}
	}
	n.c.log.Count("masters lost")
	wiped := x.come[0] == h || n.r.IntN(2) == 0
	n.tell("%s fails for good, with its disks: %v; %s takes its place after %v", h.name, wiped, x.come[0].name, d)
	h.Kill()
	if wiped {
		h.Wipe()
	}
	n.aimAtExchange(d)
	return func() {
		if x.come[0] == h {
			h.Start() // it waits, with empty disks, to be given a place
			n.give(h)
		}
		n.carryOut(x)
		if x.come[0] != h {
			h.Start() // it comes back when nobody counts on it any more
			n.give(h)
		}
		n.c.log.Count("masters replaced")
	}
}

// aimAtExchange has a fault wait for a step of the change that begins, for one change of two.
func (n *nemesis) aimAtExchange(d time.Duration) {
	if n.r.IntN(2) == 0 {
		return
	}
	list := steps[2]
	n.healing.Go(n.aim(stepPrefix+list[n.r.IntN(len(list))], min(d, 5*time.Second)))
}

// carryOut makes a change, or undoes it, until it is made or undone.
func (n *nemesis) carryOut(x *exchange) {
	defer n.c.fleet.End()
	n.c.log.Count("changes of masters begun")
	for _, h := range x.come {
		n.c.fleet.Enter(h)
		h.Start()
	}
	change := func(d time.Duration) error { return n.c.change(d, x.numbers, x.come) }
	after := slices.DeleteFunc(slices.Clone(x.before), func(h *Host) bool { return slices.Contains(x.gone, h) })
	want, how := append(after, x.come...), "changes of masters done"
	first := make(chan struct{})
	switch {
	case x.undo < 0:
		n.insist(func() error { return change(sayTime) })
		close(first)
	case !x.both && change(x.undo) == nil:
		close(first) // the operator was too slow
	default:
		want, how = x.before, "changes of masters undone"
		go func() {
			if x.both {
				_ = change(sayTime)
			}
			close(first)
		}()
		n.wait(x.undo)
		n.insist(func() error { return n.c.settle(want) })
	}
	<-first
	n.insist(func() error { return n.c.settle(want) })
	n.c.log.Count(how)
	for _, h := range slices.Concat(x.gone, x.come) {
		if !slices.Contains(want, h) {
			n.healing.Go(func() { n.retire(h) })
		}
	}
}

// insist says something again and again until it is done.
func (n *nemesis) insist(say func() error) {
	end := clock.Instant(0) // when all is healed it must be possible
	for err := say(); err != nil; err = say() {
		now := n.c.w.Now()
		if n.stopping() && end == 0 {
			end = now.Add(recoverTime)
		}
		if end != 0 && now > end {
			n.c.watch.mu.Lock()
			n.c.watch.violated("stuck", "%v after everything is healed the masters cannot be changed: %v", recoverTime, err)
			n.c.watch.mu.Unlock()
			return
		}
		n.c.w.Sleep(changePause)
	}
}

// retire lets a master that was removed run on for a while, and then empties the machine, so that it can
// become another master.
func (n *nemesis) retire(h *Host) {
	n.wait(time.Duration(1+h.number%4*3) * time.Second)
	h.Kill()
	h.Wipe()
	n.c.fleet.Leave(h)
}
