package model

import (
	"slices"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/protocol"
)

const (
	maxServers = 4
	maxChunks  = 5
	maxClients = 3
	maxSeq     = 5 // records of a session

	first   = quarry.Version(1) // the first writable version of every chunk
	maxSeal = 16                // seals of a chunk whose lengths are remembered

	second = protocol.Instant(1e9)
)

// config is what does not change in a schedule.
type config struct {
	servers, replicas, clients int
	length                     int64 // of each record; 16 MiB makes a chunk hold four
	window                     int   // records in flight per session
	late                       bool  // random runs: fences travel slowly
}

// budgets bound the faults and the work of a schedule.
type budgets struct {
	crash, seal, failover, heartbeat, dup, sends, reads, ticks  int
	wipe, copies, rollback, fail, zombie, forget, garbage, gone int
	doubt, reopen                                               int
}

// recID names a record: client<<3 | sequence, below 32.
type recID = uint8

// state is all that decides the future, but for processes and the net.
type state struct {
	cfg     config
	left    budgets
	now     protocol.Instant
	m       master
	clients [maxClients]*client
	rd      reader
	g       ghost
	stop    bool // data was lost with an alarm: nothing more to check
}

// world is a state with its processes and its net.
type world struct {
	state
	servers [maxServers]*process
	zombie  *process // an old incarnation that runs beside its successor, with a copy of the disk
	owned   [maxServers + 1]bool
	net     []packet

	dirty []place      // replicas that the last act touched
	path  string       // of a search
	log   func(string) // of a script
}

// place is a replica: of a server, or of the zombie.
type place struct {
	p *process
	k uint8
}

// ghost is what the checks remember.
type ghost struct {
	truth    [maxChunks][]recID        // longest content that any replica could show
	acked    uint32                    // records acknowledged
	pos      [32]uint8                 // place of an acknowledged record: chunk*32 + index + 1
	absent   [maxChunks][32]uint8      // of records told absent from a chunk: below which index + 1
	lengths  [maxChunks][maxSeal]int64 // of each seal: its length + 1
	promised [maxServers][maxChunks]quarry.Version
	long     []recID // longest read
	wiped    uint8   // servers that got a new disk
	fault    uint8   // servers whose disk lost records, failed, or was copied
	lossy    bool    // of these, one that lost or failed; or a disk replaced, a server declared dead
	gone     uint8   // servers declared dead
}

func newWorld(cfg config, b budgets) *world {
	w := &world{state: state{cfg: cfg, left: b, now: 100 * second}}
	if w.cfg.window == 0 {
		w.cfg.window = 1
	}
	w.m.leases = protocol.NewLeases(0)
	for i := range cfg.servers {
		w.servers[i] = &process{id: quarry.ServerID(i + 1), inc: 1}
		w.m.incs[i] = 1
		w.m.leases.Registered(w.servers[i].id, 1)
	}
	for i := range cfg.clients {
		w.clients[i] = &client{id: uint8(i), app: protocol.NewAppender(quarry.SessionID(i + 1))}
	}
	w.begin()
	return w
}

// begin makes the first chunk, with its primary active and every lease held.
func (w *world) begin() {
	var ids []uint8
	for i := range w.cfg.replicas {
		ids = append(ids, uint8(i))
	}
	w.create(ids)
	w.settle(func(p *packet) bool { return true })
	if w.m.chunks[0].state == logging {
		w.logged(0)
	}
	w.activate()
	for i := range w.cfg.servers {
		w.heartbeat(w.own(uint8(i)))
	}
	w.settle(func(p *packet) bool { return true })
	w.rd.chunks, w.rd.version = 1, first
	w.dirty = nil
}

// settle delivers every packet that is wanted, and syncs every disk, until nothing is left.
func (w *world) settle(want func(*packet) bool) {
	for busy := true; busy; {
		busy = false
		for i := 0; i < len(w.net); i++ {
			if want(&w.net[i]) {
				w.deliver(w.take(i))
				busy, i = true, -1
			}
		}
		for i := range w.cfg.servers {
			for k := range uint8(maxChunks) {
				if len(w.servers[i].disk[k].queue) > 0 {
					w.sync(w.own(uint8(i)), k, 0)
					busy = true
				}
			}
		}
	}
}

// clone copies a world. Processes, the bulk of it, are shared until one is owned again.
func (w *world) clone() *world {
	w.owned = [maxServers + 1]bool{}
	c := &world{state: w.state, servers: w.servers, zombie: w.zombie, log: w.log}
	c.net = slices.Clone(w.net)
	c.m.clone()
	for i := range c.clients {
		c.clients[i] = w.clients[i].clone()
	}
	c.rd.prefix, c.rd.floor = slices.Clone(w.rd.prefix), slices.Clone(w.rd.floor)
	for k := range c.g.truth {
		c.g.truth[k] = slices.Clone(w.g.truth[k])
	}
	c.g.long = slices.Clone(w.g.long)
	return c
}

// own returns the process of server i, or the zombie if i is maxServers, to be changed.
func (w *world) own(i uint8) *process {
	p := &w.zombie
	if i < maxServers {
		p = &w.servers[i]
	}
	if !w.owned[i] {
		*p, w.owned[i] = (*p).clone(), true
	}
	(*p).key = 0
	return *p
}

// key hashes everything that decides the future and the checks; the net is a set.
func (w *world) key() uint64 {
	var sum uint64
	for i := range w.net {
		sum += w.net[i].key
	}
	h := hasher(sum)
	for i := range uint8(maxServers + 1) {
		if p := w.at(i); p != nil {
			if p.key == 0 {
				p.key = hash(p)
			}
			h.word(p.key)
		} else {
			h.word(0)
		}
	}
	h.value(refl(&w.state))
	return uint64(h)
}

// masterNow is the instant by the master's clock, which runs 1 % fast.
func (w *world) masterNow() protocol.Instant { return w.now / 100 * 101 }

// serverNow is the instant by a server's clock, which runs 1 % slow: the worst for a lease.
func (w *world) serverNow() protocol.Instant { return w.now / 100 * 99 }

func (w *world) touch(p *process, k uint8) { w.dirty = append(w.dirty, place{p, k}) }

func handleOf(k uint8) quarry.Handle          { return quarry.Handle(k) + 1 }
func chunkOf(h quarry.Handle) uint8           { return uint8(h) - 1 }
func bit[T uint8 | uint32](m T, i uint8) bool { return m>>i&1 == 1 }

func record(s quarry.SessionID, q quarry.Sequence) recID { return uint8(s-1)<<3 | uint8(q) }
