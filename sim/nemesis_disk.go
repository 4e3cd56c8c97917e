package sim

import (
	"time"

	"github.com/quarryfs/quarry/sim/image"
)

// Faults of disks.

func (n *nemesis) slowDisk(d time.Duration) func() {
	h := n.take(n.c.Hosts())
	if h == nil {
		return nil
	}
	most := time.Duration(5+n.r.IntN(1500)) * time.Millisecond
	n.tell("the disk of %s takes up to %v for %v", h.name, most, d)
	return n.ails(h, func(f *DiskFaults) { f.SyncMax, f.ReadMax = most, most })
}

// ails has a host's disk fail in some way, and returns what heals it.
func (n *nemesis) ails(h *Host, change func(*DiskFaults)) (heal func()) {
	f := healthyDisk
	change(&f)
	h.disk.Set(f)
	return func() {
		h.disk.Set(healthyDisk)
		n.give(h)
	}
}

// hungDisk has the disk of an open chunk's primary hang, for less time than it takes to be given up.
func (n *nemesis) hungDisk(d time.Duration) func() {
	h := n.c.watch.aPrimary(n.r.IntN(probedMax))
	if h == nil || !n.claim(h) {
		return nil
	}
	n.tell("the disk of %s hangs for %v", h.name, d)
	return n.ails(h, func(f *DiskFaults) { f.Hangs = true })
}

func (n *nemesis) fullDisk(d time.Duration) func() {
	h := n.take(n.c.Servers)
	if h == nil {
		return nil
	}
	n.tell("the disk of %s is full for %v", h.name, d)
	return n.ails(h, func(f *DiskFaults) { f.Full = true })
}

func (n *nemesis) failMasterSync(d time.Duration) func() {
	h := n.take(n.c.masters())
	if h == nil {
		return nil
	}
	n.tell("a sync of %s fails", h.name)
	return n.ails(h, func(f *DiskFaults) { f.FailSync = 1 })
}

// Faults that take data away.

// restTime is how long the nemesis waits for the cluster to be whole.
const restTime = 40 * time.Second

// hurried reports whether there is no time to rest: the workload has come so far that other
// faults are due, or it is over.
func (n *nemesis) hurried() bool { return n.stopping() || n.due(n.faults) }

// stopping reports whether the workload is over.
func (n *nemesis) stopping() bool {
	select {
	case <-n.over:
		return true
	default:
		return false
	}
}

// damage takes one replica of something away, once the cluster has all that it should have,
// unless stop says that there is no time to wait for that.
func (n *nemesis) damage(stop func() bool) {
	rested := make(chan struct{})
	go func() {
		n.healing.Wait()
		close(rested)
	}()
	for waiting := true; waiting; {
		select {
		case <-rested:
			waiting = false
		default:
			if stop() || !n.wait(50*time.Millisecond) {
				return
			}
		}
	}
	if !n.c.whole(stop, restTime) {
		n.c.log.Count("sim: no damage because the cluster is not whole in time")
		return
	}
	n.damages++
	n.begin(damageKinds, n.length())
}

// victim draws a server whose disk may be lost: no chunk has only the replica there.
func (n *nemesis) victim() *Host {
	h := n.take(n.c.Servers)
	if h != nil && n.c.watch.alone(h) {
		n.give(h)
		return nil
	}
	return h
}

func (n *nemesis) wipe(d time.Duration) func() {
	h := n.victim()
	if h == nil {
		return nil
	}
	n.tell("%s loses its disk, and comes back with an empty one after %v", h.name, d)
	h.Kill()
	h.Wipe()
	return func() {
		h.Start()
		n.give(h)
	}
}

// breakDisk has operations of a server's disk fail until it is replaced by an empty one.
func (n *nemesis) breakDisk(what string, d time.Duration, change func(*DiskFaults)) func() {
	h := n.victim()
	if h == nil {
		return nil
	}
	n.tell("%s of %s fail; it gets an empty disk after %v", what, h.name, d)
	heal := n.ails(h, change)
	return func() {
		h.Kill()
		h.Wipe()
		heal()
		h.Start()
	}
}

func (n *nemesis) failSync(d time.Duration) func() {
	return n.breakDisk("syncs", d, func(f *DiskFaults) { f.FailSync = 1 })
}

func (n *nemesis) failWrite(d time.Duration) func() {
	return n.breakDisk("writes", d, func(f *DiskFaults) { f.FailWrite = 1 })
}

func (n *nemesis) rot(time.Duration) func() {
	h := n.victim()
	if h == nil {
		return nil
	}
	defer n.give(h)
	turned := 0
	for range 1 + n.r.IntN(3) {
		if name, bit := image.Rot(h.disk.files(), n.r); name != "" {
			n.tell("bit %d of %s on %s is turned over", bit, name, h.name)
			n.c.log.Count("bits turned over")
			turned++
		}
	}
	if turned == 0 {
		return nil
	}
	return func() {}
}
