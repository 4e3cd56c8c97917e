package raft

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// Transport carries messages and snapshots to other nodes. The other side hands them to
// Host.Deliver and Host.ReceiveSnapshot; if it refuses, its error should come back where
// that costs nothing. It also calls Host.PeerLost when a connection is reset or refused.
// Both methods return soon after their context has ended. Safe for use by many goroutines.
type Transport interface {
	// Send writes a batch of messages of at most BatchBytesMax to a node's connection. It may
	// block; batches to other nodes do not wait for it. Batches may be lost, but not changed;
	// they should keep their order. The batch is the transport's from then on.
	Send(ctx context.Context, to Member, batch []byte) error
	// SendSnapshot streams body to a node and returns nil when the node has taken it all and
	// its ReceiveSnapshot has returned nil.
	SendSnapshot(ctx context.Context, to Member, body io.Reader) error
}

// sendTimeout is how long a batch may take; what comes in the meantime waits, up to
// BatchBytesMax, and what is more is lost.
const sendTimeout = 2 * time.Second

// warnInterval is how often a refusal is logged.
const warnInterval = 10 * time.Second

// peersMax is how many nodes may introduce themselves.
const peersMax = 1024

// peers are the nodes that this node knows, and what is on its way to them.
type peers struct {
	h   *Host
	mu  sync.RWMutex
	all map[quarry.NodeID]*peer

	touchedMu sync.Mutex
	touched   []*peer // have got messages since the last flush
}

// peer is another node.
type peer struct {
	h    *Host
	node quarry.NodeID
	wake chan struct{}

	mu      sync.Mutex
	member  Member // as the groups or, if sworn is false, its own messages have it
	sworn   bool   // the disk is known from a group
	batch   []byte // what waits; empty, or begins with an envelope
	size    int    // of the batch before, for the capacity of the next
	touched bool   // it is in peers.touched
	lost    map[*group]bool

	warned clock.Instant // when a refusal was logged; only run uses it
}

// learn takes note of a group's members: their disks, and their addresses until they say so
// themselves.
func (ps *peers) learn(m *membership) {
	for _, e := range m.members {
		if e.Node == ps.h.cfg.Node {
			continue
		}
		p := ps.get(e)
		p.mu.Lock()
		p.member, p.sworn = e, true
		p.mu.Unlock()
	}
}

// get returns the peer for a member, which it makes if it must.
func (ps *peers) get(m Member) *peer {
	if p := ps.find(m.Node); p != nil {
		return p
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.all[m.Node]
	if p == nil {
		p = &peer{h: ps.h, node: m.Node, member: m, wake: make(chan struct{}, 1), lost: map[*group]bool{}}
		ps.all[m.Node] = p
		ps.h.spawn(p.run)
	}
	return p
}

func (ps *peers) count() int {
	ps.mu.RLock()
	defer ps.mu.RUnlock()
	return len(ps.all)
}

func (ps *peers) find(node quarry.NodeID) *peer {
	ps.mu.RLock()
	defer ps.mu.RUnlock()
	return ps.all[node]
}

// address returns where a node is, "" if it is not known.
func (ps *peers) address(node quarry.NodeID) string {
	if node == ps.h.cfg.Node {
		return ps.h.cfg.Address
	}
	if p := ps.find(node); p != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.member.Address
	}
	return ""
}

// send puts a message into the batch for its node. It leaves with the next flush.
func (ps *peers) send(g *group, m *pb.Message) {
	p := ps.find(quarry.NodeID(m.GetTo()))
	if p == nil {
		return // Raft names a node that no group and no message has made known
	}
	p.mu.Lock()
	if len(p.batch) == 0 {
		p.batch = make([]byte, 0, min(p.size+p.size/4+512, 1<<20))
		p.batch = appendEnvelope(p.batch, &envelope{from: ps.h.self, to: p.node, disk: p.member.Disk})
	}
	if len(p.batch)+messageSize(m) > BatchBytesMax {
		p.lost[g] = true
	} else {
		p.batch = appendMessage(p.batch, g.id, m)
	}
	first := !p.touched
	p.touched = true
	p.mu.Unlock()
	if first {
		ps.touchedMu.Lock()
		ps.touched = append(ps.touched, p)
		ps.touchedMu.Unlock()
	}
}

// flush lets the batches go that have grown since the last flush.
func (ps *peers) flush() {
	ps.touchedMu.Lock()
	list := ps.touched
	ps.touched = nil
	ps.touchedMu.Unlock()
	for _, p := range list {
		p.mu.Lock()
		p.touched = false
		p.mu.Unlock()
		kick(p.wake)
	}
}

// run sends batch after batch: while one is written, the next one fills.
func (p *peer) run() {
	for {
		select {
		case <-p.h.stopping:
			return
		case <-p.wake:
		}
		p.mu.Lock()
		batch, to, lost := p.batch, p.member, p.lost
		p.batch, p.size = nil, len(p.batch)
		if len(lost) > 0 {
			p.lost = map[*group]bool{}
		}
		p.mu.Unlock()
		if len(batch) > 0 {
			sealBatch(batch)
			ctx, cancel := p.h.cfg.Clock.WithTimeout(p.h.life, sendTimeout)
			err := p.h.cfg.Transport.Send(ctx, to, batch)
			cancel()
			if err != nil && p.h.life.Err() == nil {
				p.report(err)
				p.unreachable(p.h.allGroups())
			}
		}
		if len(lost) > 0 {
			groups := make([]*group, 0, len(lost))
			for g := range lost {
				groups = append(groups, g)
			}
			slices.SortFunc(groups, func(a, b *group) int { return cmp.Compare(a.id, b.id) })
			p.unreachable(groups)
		}
	}
}

// report logs that a batch was not sent: a refusal loudly, but not each time.
func (p *peer) report(err error) {
	level := slog.LevelDebug
	if now := p.h.cfg.Clock.Now(); quarry.KindOf(err) == quarry.Permission && (p.warned == 0 || now.Sub(p.warned) >= warnInterval) {
		level, p.warned = slog.LevelWarn, now
	}
	p.h.cfg.Logger.Log(p.h.life, level, "raft: messages not delivered", "node", uint64(p.node), "err", err)
}

// unreachable tells groups that messages were lost, so that they find out which.
func (p *peer) unreachable(groups []*group) {
	for _, g := range groups {
		g.call(func() {
			if g.leads {
				g.rn.ReportUnreachable(uint64(p.node))
			}
		})
	}
}

// replaceAdvice is what to do about a node that has lost its disk.
const replaceAdvice = `let the node join again under another id with "quarry admin master replace"`

// Deliver takes a batch of messages that a Transport has carried here, and keeps nothing of
// it. Errors: Invalid, Corrupt, Unsupported or TooLarge for bytes that are no sound batch;
// Permission if the sender, or this node, is not on the disk that it is known with: its disk
// was lost or swapped, and it must not vote with what it has forgotten; WrongCluster if the
// batch is for another node. Messages beyond the bounds are dropped without an error.
func (h *Host) Deliver(batch []byte) error {
	e, rest, err := openBatch(batch)
	if err != nil {
		return err
	}
	if err := h.admit(&e); err != nil {
		return err
	}
	for len(rest) > 0 {
		var body []byte
		if body, rest, err = nextMessage(rest); err != nil {
			return err
		}
		id, r, err := decodeMessage(body, e.from.Node, h.cfg.Node)
		if err != nil {
			return err
		}
		if g, err := h.group("deliver", id); err == nil {
			_ = g.deliver(r) // Busy: lost, which Raft can bear
		}
	}
	return nil
}

// admit checks that a message is from who it says, for this node, on these disks.
func (h *Host) admit(e *envelope) error {
	if e.to != h.cfg.Node {
		return quarry.Errorf("raft", quarry.WrongCluster, "", "node %d sends for node %d, this is node %d", e.from.Node, e.to, h.cfg.Node)
	}
	if e.disk != h.self.Disk && !off(AnyDisk) {
		err := quarry.Errorf("raft", quarry.Permission, "", "node %d is known to node %d with disk %v, but this is disk %v: the node's disk was lost or swapped; %s",
			h.cfg.Node, e.from.Node, e.disk, h.self.Disk, replaceAdvice)
		h.refused(err)
		return err
	}
	p := h.peers.find(e.from.Node)
	if p == nil {
		if h.peers.count() >= peersMax {
			return quarry.Errorf("raft", quarry.Busy, "", "%d nodes are known already", peersMax)
		}
		h.peers.get(e.from)
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sworn && p.member.Disk != e.from.Disk && !off(AnyDisk) {
		return quarry.Errorf("raft", quarry.Permission, "", "node %d is known with disk %v, but comes with disk %v: its disk was lost or swapped; %s",
			e.from.Node, p.member.Disk, e.from.Disk, replaceAdvice)
	}
	p.member = e.from
	return nil
}
