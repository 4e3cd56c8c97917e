package model

import (
	"slices"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/protocol"
)

// process is one incarnation of a chunk server: what its runtime would be, without bytes.
type process struct {
	id      quarry.ServerID
	inc     quarry.Incarnation
	members [maxChunks]*protocol.Member
	disk    [maxChunks]disk
	lease   protocol.HeldLease
	nonce   uint64
	grants  []promising
	settled []quarry.Item // to be told with the next heartbeat
	key     uint64        // hash of the rest; 0 if not known
}

// disk is what is durable of a replica, and the changes on their way.
type disk struct {
	replica protocol.Replica
	queue   []protocol.Persist
}

// promising is a grant whose items are not all durable.
type promising struct {
	nonce uint64
	left  []quarry.Item
}

func (p *process) clone() *process {
	if p == nil {
		return nil
	}
	c := *p
	for k := range c.members {
		if p.members[k] != nil {
			c.members[k] = p.members[k].Clone()
		}
		if d := &c.disk[k]; d.replica.Exists {
			d.replica = d.replica.Clone()
		}
		c.disk[k].queue = slices.Clone(p.disk[k].queue)
	}
	c.lease = p.lease.Clone()
	c.grants = slices.Clone(p.grants)
	for i := range c.grants {
		c.grants[i].left = slices.Clone(p.grants[i].left)
	}
	c.settled = slices.Clone(p.settled)
	return &c
}

func (p *process) index() uint8 { return uint8(p.id - 1) }

// member is the machine for chunk k, made when it is first asked for.
func (p *process) member(k uint8) *protocol.Member {
	if p.members[k] == nil {
		p.members[k] = protocol.NewMember(handleOf(k), p.id, p.inc)
	}
	return p.members[k]
}

// The kinds of calls. A call says where its answer goes, so that equal requests are one.
const (
	callCreate = 1 + iota
	callActivate
	callAppend
	callPrepare
	callFence
	callSeal
	callCopy
	callAdd
	callDrop
	callItem
	callForget
	callReopen
)

// call packs a kind, whom to answer, and up to 32 bits more.
func call(kind, who uint8, x uint64) protocol.Call {
	return protocol.Call(uint64(kind)<<56 | uint64(who)<<48 | x)
}

func unpack(c protocol.Call) (kind, who uint8, x uint64) {
	return uint8(c >> 56), uint8(c >> 48), uint64(c) & (1<<48 - 1)
}

// atServer is a packet's arrival at a process.
func (w *world) atServer(p *process, body any) {
	switch b := body.(type) {
	case *quarry.CreateRequest:
		k := chunkOf(b.Handle)
		w.run(p, k, p.member(k).Create(call(callCreate, 0, 0), b))
	case *quarry.ActivateRequest:
		k := chunkOf(b.Handle)
		w.run(p, k, p.member(k).Activate(call(callActivate, 0, 0), b))
	case *quarry.ReopenRequest:
		k := chunkOf(b.Handle)
		w.run(p, k, p.member(k).Reopen(call(callReopen, 0, uint64(b.Version)), b))
	case *appendMsg:
		k := chunkOf(b.ref.Handle)
		c := call(callAppend, uint8(b.header.Session-1), uint64(b.ref.Version)<<16|uint64(b.header.Sequence))
		w.run(p, k, p.member(k).Append(c, &b.ref, b.oldest, b.header))
	case *prepareMsg:
		k := chunkOf(b.req.Handle)
		c := call(callPrepare, b.from, uint64(b.inc)<<16|uint64(b.req.Version))
		w.run(p, k, p.member(k).Prepare(c, &b.req))
	case *ackMsg:
		k := chunkOf(b.handle)
		w.run(p, k, p.member(k).Acknowledged(b.version, []quarry.MemberLength{{Server: b.from, Length: b.length}}))
	case *quarry.CommitRequest:
		k := chunkOf(b.Handle)
		effects, _ := p.member(k).Commit(b)
		w.run(p, k, effects)
	case *quarry.FenceRequest:
		k := chunkOf(b.Handle)
		m := p.member(k)
		leads := m.Primary() != nil
		w.run(p, k, m.Fence(call(callFence, 0, 0), b))
		if reply, err := m.Fencing(b); err == nil && leads { // its disk may take long
			w.send(node{}, &waitingMsg{fencedMsg{b.Handle, p.id, *reply}})
		}
	case *quarry.SealRequest:
		k := chunkOf(b.Handle)
		w.run(p, k, p.member(k).Seal(call(callSeal, 0, uint64(b.Version)), b))
	case *copyMsg:
		k := chunkOf(b.req.Handle)
		table, err := protocol.MakeRecords(b.runs)
		if err != nil {
			bad("a copy's records are no table: %v", err)
		}
		w.run(p, k, p.member(k).Copied(call(callCopy, 0, uint64(b.req.Version)), &b.req, &table, b.forgotten))
	case *quarry.AddRequest:
		k := chunkOf(b.Handle)
		w.run(p, k, p.member(k).Add(call(callAdd, 0, 0), b))
	case *quarry.DropRequest:
		k := chunkOf(b.Handle)
		w.run(p, k, p.member(k).Drop(call(callDrop, 0, 0), b))
	case *fateMsg:
		w.fate(p, b)
	case *endMsg:
		w.end(p, b)
	case *grantMsg:
		w.granted(p, b)
	default:
		panic("model: no such message for a server")
	}
}

// run carries out what a member wants.
func (w *world) run(p *process, k uint8, effects []protocol.Effect) {
	w.touch(p, k)
	for _, e := range effects {
		switch e := e.(type) {
		case protocol.Persist:
			p.disk[k].queue = append(p.disk[k].queue, e)
		case protocol.Answer:
			w.answered(p, k, e)
		case protocol.Ship:
			for _, m := range p.members[k].Primary().Members()[1:] {
				req := e.Request
				req.Target = m.Incarnation
				w.send(memberNode(m), &prepareMsg{from: p.index(), inc: p.inc, req: req})
			}
		case protocol.AskSeal:
			w.beginSeal(k)
		}
	}
	if m := p.members[k]; m != nil && m.Idle() {
		p.members[k] = nil
	}
}

func memberNode(m quarry.Member) node { return node{atServer, uint8(m.Server - 1), m.Incarnation} }

// answered passes an answer on to whom the call names.
func (w *world) answered(p *process, k uint8, a protocol.Answer) {
	h := handleOf(k)
	kind, who, x := unpack(a.Call)
	switch kind {
	case callCreate:
		if a.Err == nil {
			w.send(node{}, &openedMsg{h, p.id, p.inc})
		}
	case callReopen:
		if a.Err == nil {
			w.send(node{}, &reopenedMsg{h, quarry.Version(x), p.id, p.inc})
		}
	case callAppend:
		m := &appendedMsg{seq: quarry.Sequence(x & 0xffff), handle: h, version: quarry.Version(x >> 16), kind: quarry.KindOf(a.Err)}
		if a.Err == nil {
			m.offset = a.Reply.(*quarry.AppendReply).Offset
		}
		if m.kind != quarry.Busy && m.kind != quarry.Unavailable { // of these a client hears nothing
			w.send(node{atClient, who, 0}, m)
		}
	case callPrepare:
		if a.Err == nil {
			d := a.Reply.(*quarry.PrepareReply).Durable[0]
			to := node{atServer, who, quarry.Incarnation(x >> 16)}
			w.send(to, &ackMsg{h, quarry.Version(x & 0xffff), d.Server, d.Length})
		}
	case callFence:
		if a.Err == nil {
			reply := a.Reply.(*quarry.FenceReply)
			if r := &p.disk[k].replica; reply.Status == quarry.ReplicaGood && (r.Promised < reply.Version || r.DurableLength() < reply.DurableLength) {
				bad("I1: server %d answers fence %d with %d bytes, durable are promise %d and %d bytes",
					p.id, reply.Version, reply.DurableLength, r.Promised, r.DurableLength())
			}
			w.send(node{}, &fencedMsg{h, p.id, *reply})
		}
	case callSeal:
		holds := a.Err == nil && a.Reply.(*quarry.SealReply).Holds
		w.send(node{}, &holdsMsg{h, quarry.Version(x), p.id, p.inc, holds})
	case callCopy:
		if a.Err == nil {
			w.send(node{}, &holdsMsg{h, quarry.Version(x), p.id, p.inc, true})
		}
	case callItem:
		w.promised(p, quarry.Item{Kind: quarry.ItemFence, Handle: h, Version: quarry.Version(x)})
	}
}

// sync makes changes of a replica durable: the first n, or all if n is 0.
func (w *world) sync(p *process, k uint8, n int) {
	d := &p.disk[k]
	if n == 0 {
		n = len(d.queue)
	}
	last := d.queue[n-1].Ticket
	for i := range n {
		p.apply(k, &d.queue[i].Change)
	}
	d.queue = slices.Clone(d.queue[n:])
	w.run(p, k, p.member(k).Durable(last))
}

func (p *process) apply(k uint8, c *protocol.Change) {
	d := &p.disk[k]
	d.replica.Handle = handleOf(k)
	if err := d.replica.Apply(c); err != nil {
		bad("the journal of server %d does not replay: %v", p.id, err)
	}
}

// restart ends a process: of each replica the first keep changes on their way are durable.
// A new incarnation begins and registers; proven: it is known that the old one has ended.
func (w *world) restart(i uint8, keep int, proven bool) {
	old := w.own(i)
	p := &process{id: old.id, inc: old.inc + 1}
	for k := range uint8(maxChunks) {
		for n := range min(keep, len(old.disk[k].queue)) {
			old.apply(k, &old.disk[k].queue[n].Change)
		}
		if r := &old.disk[k].replica; r.Exists {
			p.disk[k].replica = r.Clone()
		}
	}
	w.servers[i] = p
	w.recover(p)
	w.register(p, proven)
}

// recover builds the machines from the disk.
func (w *world) recover(p *process) {
	for k := range uint8(maxChunks) {
		p.members[k] = nil
		if r := &p.disk[k].replica; r.Exists {
			p.members[k] = protocol.RecoverMember(*r, p.id, p.inc)
		}
		w.touch(p, k)
	}
}

// register makes an incarnation known to the master's log.
func (w *world) register(p *process, proven bool) {
	w.m.incs[p.index()] = p.inc
	w.m.leases.Registered(p.id, p.inc)
	if proven {
		w.m.leases.Ended(p.id, p.inc-1)
	}
}

// heartbeat asks for the lease.
func (w *world) heartbeat(p *process) {
	p.nonce++
	p.lease.Ask(p.nonce, w.serverNow())
	w.send(node{}, &heartbeatMsg{p.id, p.inc, p.nonce, p.settled})
}

// granted is the arrival of a grant: its items come first, then the lease.
func (w *world) granted(p *process, g *grantMsg) {
	p.grants = append(p.grants, promising{g.nonce, slices.Clone(g.items)})
	for _, it := range g.items {
		k := chunkOf(it.Handle)
		w.run(p, k, p.member(k).Promise(call(callItem, 0, uint64(it.Version)), it.Version))
	}
	w.leased(p)
}

// promised notes that an item is durable here.
func (w *world) promised(p *process, it quarry.Item) {
	for i := range p.grants {
		p.grants[i].left = slices.DeleteFunc(p.grants[i].left, func(o quarry.Item) bool { return o == it })
	}
	if !slices.Contains(p.settled, it) {
		p.settled = append(slices.Clip(p.settled), it)
	}
	w.leased(p)
}

func (w *world) leased(p *process) {
	p.grants = slices.DeleteFunc(p.grants, func(g promising) bool {
		if len(g.left) == 0 {
			p.lease.Granted(g.nonce, protocol.EndLease, protocol.ReadLease)
		}
		return len(g.left) == 0
	})
}

// fate answers a client.
func (w *world) fate(p *process, b *fateMsg) {
	k := chunkOf(b.req.Handle)
	reply, err := p.member(k).Fate(&b.req)
	if err != nil {
		return
	}
	for _, f := range reply.Fates {
		if f.State == quarry.FateAbsent {
			r := record(b.req.Session, f.Sequence)
			below := uint8(255) // asked before there is a seal
			if b.req.Length >= 0 {
				below = uint8(b.req.Length/w.cfg.length) + 1
			}
			w.g.absent[k][r] = max(w.g.absent[k][r], below)
		}
	}
	w.touch(p, k)
	w.send(node{atClient, b.client, 0}, &fatesMsg{b.req.Handle, *reply})
}

// end answers the reader: first the content, then a look at the lease.
func (w *world) end(p *process, b *endMsg) {
	k := chunkOf(b.req.Handle)
	reply, err := p.member(k).End(&b.req)
	if err != nil {
		return
	}
	content := contentOf(&p.members[k].Replica().Records, reply.Commit)
	confirm := !p.lease.Holds(protocol.RightEnd, w.serverNow())
	w.send(node{kind: atReader}, &endedMsg{b.req.Handle, b.req.Version, b.gen, content, confirm})
}

// contentOf lists the records below length.
func contentOf(t *protocol.Records, length int64) []recID {
	var out []recID
	for _, run := range t.Runs() {
		for i := range run.Count {
			if run.Offset+int64(i+1)*run.Length > length {
				return out
			}
			if run.Session == 0 {
				out = append(out, 0) // a record of a forgotten session
				continue
			}
			out = append(out, record(run.Session, run.Sequence+quarry.Sequence(i)))
		}
	}
	return out
}
