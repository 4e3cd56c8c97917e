package model

import (
	"slices"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/protocol"
)

// The states of a chunk at the master. Only those from open on are logged.
type chunkState uint8

const (
	none     chunkState = iota
	creating            // its CREATE round is under way
	logging             // every member has it, the entry is proposed
	limbo               // proposed by the leader before this one: the barrier tells whether it is committed
	dead                // never to be logged
	open
	sealing
	sealed
)

func (s chunkState) pending() bool { return s == creating || s == logging || s == limbo }

// chunk is the master's record of a chunk. Handles are indexes; each is of the range of the
// leader that took it.
type chunk struct {
	state    chunkState
	writable quarry.Version  // the last one
	prev     quarry.Version  // the one before, of a chunk that was opened again
	base     int64           // length at which writable began
	members  []quarry.Member // as logged when it was opened; the primary first
	length   int64           // of the last seal
	suspect  bool
	holders  uint8 // servers known to be complete at the seal
}

func (c *chunk) version() quarry.Version {
	if c.state >= sealing {
		return c.writable + 1
	}
	return c.writable
}

// entry is what the log says of the seal of the present or last writable version.
func (c *chunk) entry(k uint8) protocol.Sealing {
	return protocol.Sealing{
		Handle: handleOf(k), Version: c.writable + 1, WritableVersion: c.writable,
		PrevWritableVersion: c.prev, Base: c.base, Members: c.members,
	}
}

func (c *chunk) has(i uint8) bool {
	return slices.ContainsFunc(c.members, func(m quarry.Member) bool { return uint8(m.Server-1) == i })
}

// master is one shard for one file: its log, and what its leader knows besides.
type master struct {
	// The log.
	chunks    [maxChunks]chunk
	count     uint8 // handles taken
	file      []uint8
	incs      [maxServers]quarry.Incarnation // registered
	unsettled [maxServers][]quarry.Item
	// The leader.
	created  uint8 // answers to the CREATE round under way
	reopened uint8 // members of the tail that have answered REOPEN
	sealer   *protocol.Sealer
	leases   protocol.Leases
	barrier  bool  // its first entry is not committed yet
	unlogged uint8 // only without a rule: chunk+1 that is used before its entry is committed
}

func (m *master) clone() {
	m.file = slices.Clone(m.file)
	for i := range m.unsettled {
		m.unsettled[i] = slices.Clone(m.unsettled[i])
	}
	if m.sealer != nil {
		m.sealer = m.sealer.Clone()
	}
	m.leases = m.leases.Clone()
}

// tail is the file's last chunk.
func (m *master) tail() (uint8, *chunk) {
	k := m.file[len(m.file)-1]
	return k, &m.chunks[k]
}

// last is the handle taken last, if its chunk is not logged yet.
func (m *master) last() (uint8, *chunk) {
	if m.count == 0 {
		return 0, &chunk{}
	}
	return m.count - 1, &m.chunks[m.count-1]
}

func (w *world) target(i uint8, h quarry.Handle, v quarry.Version) (node, quarry.ChunkRef) {
	inc := w.m.incs[i]
	return node{atServer, i, inc}, quarry.ChunkRef{Handle: h, Version: v, Target: inc}
}

// create begins a CREATE round on servers, the first of which is to be the primary.
func (w *world) create(servers []uint8) {
	k := w.m.count
	w.m.count++
	c := &w.m.chunks[k]
	*c = chunk{state: creating, writable: first}
	for _, i := range servers {
		c.members = append(c.members, quarry.Member{Server: quarry.ServerID(i + 1), Incarnation: w.m.incs[i]})
	}
	w.m.created = 0
	w.sendCreates(k)
}

func (w *world) sendCreates(k uint8) {
	c := &w.m.chunks[k]
	if c.state != creating && !off(CreateAfterLogged) {
		return
	}
	for i, m := range c.members {
		to, ref := memberNode(m), quarry.ChunkRef{Handle: handleOf(k), Version: first, Target: m.Incarnation}
		if c.state != creating { // only without a rule
			to, ref = w.target(uint8(m.Server-1), handleOf(k), first)
		}
		if !bit(w.m.created, uint8(i)) || c.state != creating {
			w.send(to, &quarry.CreateRequest{ChunkRef: ref})
		}
	}
}

func (w *world) opened(b *openedMsg) {
	k := chunkOf(b.handle)
	c := &w.m.chunks[k]
	if c.state != creating {
		return
	}
	for i, m := range c.members {
		if m.Server == b.from && m.Incarnation == b.inc {
			w.m.created |= 1 << i
		}
	}
	if w.m.created == 1<<len(c.members)-1 {
		c.state = logging
		switch {
		case w.left.failover == 0 && len(w.m.file) > 0: // no other leader comes: proposed is as good as committed
			w.logged(k)
		case off(EntryUsedEarly) && len(w.m.file) > 0:
			w.logged(k)
			w.m.unlogged = k + 1
		}
	}
}

// logged is the commit of the entry that puts chunk k at the end of the file.
func (w *world) logged(k uint8) {
	w.m.chunks[k].state = open
	if slices.Contains(w.m.file, k) {
		bad("handle %d is used twice", handleOf(k))
	}
	w.m.file = append(w.m.file, k)
	w.note("logged chunk %d", handleOf(k))
}

// unlog: the leader that took handle k is gone and never logged it. The handle is of that
// leader's range, so nobody takes it again.
func (w *world) unlog(k uint8) {
	w.m.chunks[k].state = dead
	if off(HandleTakenTwice) {
		w.m.chunks[k] = chunk{}
		w.m.count--
	}
}

func (w *world) activate() {
	k, c := w.m.tail()
	p := c.members[0]
	ref := quarry.ChunkRef{Handle: handleOf(k), Version: c.writable, Target: p.Incarnation}
	w.send(memberNode(p), &quarry.ActivateRequest{ChunkRef: ref, Members: c.members, Base: c.base})
}

// beginSeal logs SEALING for chunk k, if it is the open tail, and fences its members.
func (w *world) beginSeal(k uint8) {
	t, c := w.m.tail()
	if w.m.barrier || t != k {
		return
	}
	if c.state == open {
		w.m.unlogged = 0
		c.state = sealing
		for _, m := range c.members {
			i := m.Server - 1
			w.m.unsettled[i] = append(w.m.unsettled[i], quarry.Item{Kind: quarry.ItemFence, Handle: handleOf(k), Version: c.version()})
		}
		w.beginAttempt()
	}
	w.sendFences()
}

// beginAttempt starts a sealer for the tail, as every leader does that finds SEALING.
func (w *world) beginAttempt() {
	k, c := w.m.tail()
	if c.state == sealing {
		w.m.sealer = protocol.NewSealer(c.entry(k))
	}
}

func (w *world) sendFences() {
	k, c := w.m.tail()
	if c.state != sealing || w.m.sealer == nil {
		return
	}
	for _, s := range w.m.sealer.Unanswered() {
		to, ref := w.target(uint8(s-1), handleOf(k), c.version())
		w.send(to, &quarry.FenceRequest{ChunkRef: ref})
	}
}

func (w *world) fenced(b *fencedMsg) {
	k, c := w.m.tail()
	if c.state != sealing || w.m.sealer == nil || k != chunkOf(b.handle) {
		return
	}
	w.m.sealer.Replied(b.from, &b.reply, w.m.incs[b.from-1], w.masterNow())
}

// decision is what the attempt under way has found.
func (w *world) decision() protocol.Decision {
	if w.m.sealer == nil || w.m.barrier {
		return protocol.Decision{}
	}
	return w.m.sealer.Decide(&w.m.leases, w.masterNow())
}

// publish logs SEALED, and tells the replicas.
func (w *world) publish() {
	k, c := w.m.tail()
	d := w.decision()
	w.m.sealer = nil
	if d.Verdict == protocol.Lost {
		w.note("lost chunk %d", handleOf(k))
		w.stop = true
		return
	}
	c.state, c.length, c.suspect, c.holders = sealed, d.Length, d.Suspect, 0
	w.g.lengths[k][c.version()/2] = c.length + 1
	w.note("sealed chunk %d at %d, suspect %v", handleOf(k), d.Length, d.Suspect)
	w.sendSeals(k)
}

func (w *world) sendSeals(k uint8) {
	c := &w.m.chunks[k]
	entry := c.entry(k)
	req := protocol.NewSealRound(&entry, c.length, nil).Request()
	for i := range uint8(w.cfg.servers) {
		found := w.servers[i].disk[k].replica.Exists // as an inventory would show it
		if (found || c.has(i)) && !bit(c.holders, i) {
			r := req
			var to node
			to, r.ChunkRef = w.target(i, handleOf(k), c.version())
			w.send(to, &r)
		}
	}
}

func (w *world) holds(b *holdsMsg) {
	k := chunkOf(b.handle)
	c := &w.m.chunks[k]
	if c.state != sealed || b.version != c.version() || b.inc != w.m.incs[b.from-1] {
		return
	}
	i := uint8(b.from - 1)
	to, ref := w.target(i, b.handle, b.version)
	if b.holds {
		c.holders |= 1 << i
		w.send(to, &quarry.AddRequest{ChunkRef: ref}) // ADD of a copy; others serve already
	}
}

func (w *world) heard(b *heartbeatMsg) {
	i := b.from - 1
	for _, it := range b.settled {
		w.m.unsettled[i] = slices.DeleteFunc(slices.Clone(w.m.unsettled[i]), func(o quarry.Item) bool { return o == it })
	}
	if w.m.barrier || !w.m.leases.Heartbeat(b.from, b.inc, w.masterNow()) {
		return // not known to be the leader, or not the server's last incarnation
	}
	g := &grantMsg{nonce: b.nonce, items: slices.Clone(w.m.unsettled[i])}
	if off(GrantWithoutFences) {
		g.items = nil
	}
	w.send(node{atServer, uint8(i), b.inc}, g)
}

// failover makes another master the leader; only the log remains.
func (w *world) failover() {
	m := &w.m
	if m.unlogged != 0 { // only without a rule: the entry in use was lost
		m.file = m.file[:len(m.file)-1]
		m.chunks[m.unlogged-1].state = dead
		m.unlogged = 0
	}
	m.created, m.reopened, m.sealer, m.barrier = 0, 0, nil, true
	m.leases = protocol.NewLeases(w.masterNow())
	for i := range w.cfg.servers {
		m.leases.Registered(quarry.ServerID(i+1), m.incs[i])
	}
	switch k, c := m.last(); c.state {
	case creating:
		w.unlog(k)
	case logging:
		c.state = limbo
	}
}

// lead is the commit of the new leader's first entry: now it knows what is logged.
func (w *world) lead(committed bool) {
	w.m.barrier = false
	if k, c := w.m.last(); c.state == limbo {
		if committed {
			w.logged(k)
		} else {
			w.unlog(k)
		}
	}
	w.beginAttempt()
	w.sendFences()
	w.sendReopens()
}

// copies sends a sealed chunk from one server to another.
func (w *world) copyChunk(k, from, to uint8) {
	r := &w.servers[from].disk[k].replica
	b := &copyMsg{forgotten: slices.Clone(r.Forgotten)}
	b.req.Length, b.req.WritableVersion = r.SealLength, r.LogVersion
	t := r.Records.Clone()
	t.Cut(r.SealLength)
	b.runs = slices.Clone(t.Runs())
	var n node
	n, b.req.ChunkRef = w.target(to, handleOf(k), r.SealVersion)
	w.send(n, b)
}

func (w *world) atMaster(body any) {
	switch b := body.(type) {
	case *openedMsg:
		w.opened(b)
	case *reopenedMsg:
		w.reopened(b)
	case *fencedMsg:
		w.fenced(b)
	case *waitingMsg:
		w.fenced(&b.fencedMsg)
	case *holdsMsg:
		w.holds(b)
	case *heartbeatMsg:
		w.heard(b)
	default:
		panic("model: no such message for a master")
	}
}
