package model

import (
	"math/rand"
)

const (
	big   = 16 << 20 // four records fill a chunk, each is a batch
	mid   = 4 << 20  // several batches are in flight
	small = 1 << 10  // several records are one batch
)

// picker draws the numbers of a schedule.
type picker struct{ *rand.Rand }

func (r picker) n(k int) int { return r.Intn(k) }

func (r picker) length() int64 { return []int64{big, mid, small}[r.Intn(3)] }

// fresh draws a schedule. Faults are swarmed: some schedules have only leases and readers,
// some only seals, some only handles and failovers, some everything; with one mixture for
// all, rare mistakes need many more schedules to show.
func fresh(rnd *rand.Rand) *world {
	r := picker{rnd}
	n := r.n
	switch n(11) {
	case 0: // leases, few servers
		if n(3) == 0 {
			return freshOld(rnd)
		}
		return newStale(budgets{seal: 1, failover: n(2), heartbeat: n(4), dup: 3, sends: 1 + n(2), reads: 3 + n(4), ticks: n(6)}, 1)
	case 1: // leases
		return newWorld(config{servers: 3 + n(2), replicas: 2 + n(2), clients: 2, length: r.length()},
			budgets{crash: n(2), seal: 1 + n(3), failover: n(2), heartbeat: 4 + n(8), dup: 8, sends: 20, reads: 16, ticks: 4 + n(12)})
	case 2: // seal, fate and re-open, few servers
		return freshReopen(rnd)
	case 3: // seal and fate with copies
		return newWorld(config{servers: 3, replicas: 2, clients: 2, length: r.length(), window: 1 + n(2)},
			budgets{crash: n(2), seal: 2 + n(3), failover: n(2), dup: 16, sends: 40, ticks: n(4), copies: 1 + n(3), doubt: n(2), reopen: n(3)})
	case 4: // replaced disks
		return newWorld(config{servers: 3, replicas: 2 + n(2), clients: 2, length: r.length()},
			budgets{seal: 2, failover: n(2), dup: 16, sends: 20, wipe: 1, copies: n(2), ticks: n(4), reopen: n(3)})
	}
	switch n(6) {
	case 0: // disks that lose their last records, restarts
		return newWorld(config{servers: 3, replicas: 2 + n(2), clients: 1 + n(2), length: r.length(), window: 1 + n(3)},
			budgets{crash: n(3), seal: 1 + n(3), failover: n(2), dup: 8, sends: 20, reads: n(6), rollback: n(3), fail: n(2), wipe: n(4) / 3, copies: n(2), ticks: n(6), gone: n(2), reopen: n(3)})
	case 1: // pipelining
		return newWorld(config{servers: 2 + n(2), replicas: 2, clients: 1 + n(2), length: r.length(), window: 2 + n(4)},
			budgets{crash: n(2), seal: 1 + n(3), dup: 10, sends: 30, copies: n(2), doubt: n(2), reopen: n(3)})
	case 2: // a server that lives on beside its successor
		return newWorld(config{servers: 3, replicas: 2 + n(2), clients: 1 + n(2), length: r.length(), window: 1 + n(2)},
			budgets{seal: 1 + n(2), failover: n(2), heartbeat: n(4), dup: 8, sends: 16, reads: 6 + n(8), ticks: 2 + n(6), zombie: 1, reopen: n(2)})
	case 3: // handles, garbage and the leader's log
		if n(2) == 0 {
			return freshHandles(rnd)
		}
		return newWorld(config{servers: 3, replicas: 2, clients: 2, length: r.length(), window: 1 + n(2)},
			budgets{seal: 3, failover: 1 + n(3), dup: 10, sends: 30, garbage: 1 + n(3), wipe: n(4) / 3, ticks: 4, reopen: n(2)})
	case 4: // sessions that expire
		return newWorld(config{servers: 3, replicas: 2, clients: 2, length: r.length(), window: 1 + n(2)},
			budgets{crash: n(2), seal: 1 + n(3), dup: 10, sends: 30, copies: n(3), forget: 1 + n(3), doubt: n(2), reopen: n(2)})
	}
	return newWorld(config{servers: 4, replicas: 3, clients: 3, length: r.length(), window: 1 + n(3), late: n(3) == 0},
		budgets{crash: n(4), seal: n(5), failover: n(3), heartbeat: n(12), dup: 12, sends: 30, reads: 8, ticks: n(12), wipe: n(4) / 3,
			copies: n(4), zombie: n(4) / 3, rollback: n(4) / 3, fail: n(4) / 3, garbage: n(2), forget: n(4) / 3, gone: n(2), doubt: n(3), reopen: n(4)})
}

// freshReopen ends versions of one chunk and opens it again.
func freshReopen(rnd *rand.Rand) *world {
	r := picker{rnd}
	n := r.n
	return newWorld(config{servers: 2 + n(2), replicas: 2, clients: 1 + n(2), length: r.length(), window: 1 + n(3)},
		budgets{crash: n(2), seal: 1 + n(4), failover: n(2), dup: 12, sends: 20, reads: n(4), copies: n(2), doubt: n(3), reopen: n(4), wipe: n(4) / 3})
}

// freshOld is the middle of a seal in which the primary lives on beside its successor, or
// the secondary's disk goes back.
func freshOld(rnd *rand.Rand) *world {
	n := rnd.Intn
	z := n(2)
	return newStale(budgets{seal: 1, sends: 2 + n(2), reads: 2 + n(4), ticks: 2 * (1 - z), zombie: z, rollback: 1 - z, dup: 3}, 1+n(2))
}

// freshHandles creates chunks while leaders change and garbage is collected.
func freshHandles(rnd *rand.Rand) *world {
	n := rnd.Intn
	return newWorld(config{servers: 2, replicas: 2, clients: 1, length: big},
		budgets{seal: 2, failover: 1 + n(2), dup: 4, sends: 8, garbage: 1 + n(2), ticks: 4})
}

// newStale is the middle of a seal: a record is durable at both members, the primary has not
// heard so and holds a lease, and the secondary's answer to the fence has arrived.
func newStale(b budgets, window int) *world {
	w := newWorld(config{servers: 2, replicas: 2, clients: 1, length: mid, window: window}, b)
	deliver := func(text string) {
		if i := w.find(text); i >= 0 {
			w.apply(act{K: aDeliver, A: uint8(i)})
		}
	}
	c := w.clients[0]
	w.start(c)
	w.tail(c)
	deliver("Append")
	if b.zombie > 0 { // right away
		defer w.apply(act{K: aZombie})
	}
	if window > 1 { // another record is on its way
		w.start(c)
	}
	w.cfg.late = b.rollback > 0
	deliver("Prepare -> s2")
	w.sync(w.own(1), 0, 0)
	w.sync(w.own(0), 0, 0)
	w.left.seal--
	w.beginSeal(0)
	deliver("Fence -> s2")
	w.sync(w.own(1), 0, 0)
	deliver("Fenced")
	w.check()
	return w
}

// stats counts acknowledged records, sealed chunks, and versions that followed a seal.
func (w *world) stats() (acked, seals, reopens int) {
	for r := range uint8(32) {
		if bit(w.g.acked, r) {
			acked++
		}
	}
	for _, k := range w.m.file {
		c := &w.m.chunks[k]
		if c.state == sealed {
			seals++
		}
		reopens += int(c.writable / 2)
	}
	return acked, seals, reopens
}
