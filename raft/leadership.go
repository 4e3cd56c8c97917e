package raft

import (
	"context"
	"slices"
	"sync"

	etcd "go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	"github.com/quarryfs/quarry"
)

// OnLeadership has fn called when this node has become the leader of a group and its state
// has everything that was acknowledged before (leading is true), and when it leads no longer
// (false, with the same term). The calls of one group come one after the other and alternate;
// if the node leads already, the first one comes at once. fn must not block for long. What
// fn hears may be old news: only a command in the log and ReadIndex know who leads.
func (h *Host) OnLeadership(id quarry.ShardID, fn func(term uint64, leading bool)) error {
	g, err := h.group("watch leadership", id)
	if err != nil {
		return err
	}
	g.onLeading.subscribe(h, fn)
	return nil
}

// leadership is what the subscribers of a group are told.
type leadership struct {
	mu      sync.Mutex
	leading bool
	term    uint64
	fns     []func(uint64, bool)
}

func (l *leadership) subscribe(h *Host, fn func(uint64, bool)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fns = append(l.fns, fn)
	if term := l.term; l.leading {
		h.notify(func() { fn(term, true) })
	}
}

// set tells the subscribers, through the host's notifier, so that the order is kept.
func (l *leadership) set(h *Host, term uint64, leading bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !leading {
		term = l.term
	}
	l.leading, l.term = leading, term
	for _, fn := range l.fns {
		h.notify(func() { fn(term, leading) })
	}
}

// notices are calls of subscribers that are due. There are at most as many as changes of
// leadership that the subscribers have not heard of.
type notices struct {
	mu   sync.Mutex
	list []func()
	wake chan struct{}
}

func (h *Host) notify(f func()) {
	h.notices.mu.Lock()
	h.notices.list = append(h.notices.list, f)
	h.notices.mu.Unlock()
	kick(h.notices.wake)
}

func (h *Host) runNotices() {
	for {
		select {
		case <-h.stopping:
			return
		case <-h.notices.wake:
		}
		h.notices.mu.Lock()
		list := h.notices.list
		h.notices.list = nil
		h.notices.mu.Unlock()
		for _, f := range list {
			f()
		}
	}
}

// roleChanged takes note of who leads.
func (g *group) roleChanged(st *etcd.SoftState) {
	leads := st.RaftState == etcd.StateLeader
	g.leader.Store(st.Lead)
	g.leading.Store(leads)
	if st.Lead != 0 {
		g.campaignIn = 0
	}
	if lost := g.leads && !leads; lost {
		g.waiting.fail(quarry.Errorf("propose", quarry.Unknown, g.name(), "this node has lost the leadership while the command was in the log"))
		g.reads.fail(g.notLeader("read"))
		if g.announced {
			g.announced = false
			g.onLeading.set(g.h, 0, false)
		}
	}
	if g.leads != leads {
		g.h.cfg.Logger.Info("raft: leadership", "group", uint64(g.id), "leading", leads, "term", g.term.Load())
	}
	g.leads = leads
	g.checkTransfers()
}

// PeerLost tells the host that the connection with a node has broken in a way that says its
// process is gone: reset or refused. The groups that the node led do not wait for their
// election timeout. A false alarm does no harm: without a majority that has lost the leader
// nobody is elected, and the leader's next message is heeded.
func (h *Host) PeerLost(node quarry.NodeID) {
	for _, g := range h.allGroups() {
		g.call(func() { g.peerLost(node) })
	}
}

func (g *group) peerLost(node quarry.NodeID) {
	m := g.members.Load()
	if g.leader.Load() != uint64(node) || !slices.Contains(m.voters, uint64(g.h.cfg.Node)) {
		return
	}
	if err := g.rn.ForgetLeader(); err == nil {
		g.hurry(node)
	}
}

// hurry has this member campaign soon, because there is no leader: at a start, or when the
// leader, not to be counted on, is gone. The voters go one after the other, so that they do
// not split the votes, and each group begins with another one, so that the leaders are
// spread. The first one gives the others a tick to hear of it, too.
func (g *group) hurry(gone quarry.NodeID) {
	m := g.members.Load()
	voters := slices.DeleteFunc(slices.Clone(m.voters), func(id uint64) bool { return id == uint64(gone) })
	n := uint64(len(voters))
	if i := slices.Index(voters, uint64(g.h.cfg.Node)); i >= 0 {
		g.campaignIn = 1 + 3*int((uint64(i)+n-uint64(g.id)%n)%n)
		g.campaigns = 5
	}
}

// campaign counts down to a campaign, and to some more if nobody leads then. It asks for
// votes only when a majority would give them, so it does no harm where there is a leader.
func (g *group) campaign() {
	if g.campaignIn--; g.campaignIn > 0 {
		return
	}
	_ = g.rn.Campaign() // it has no error but for a stopped machine
	if g.campaigns--; g.campaigns > 0 {
		g.campaignIn = 4
	}
}

// transfer is one call of TransferLeadership.
type transfer struct {
	done chan error // has room for the one outcome
}

// TransferLeadership moves the leadership of a group to a voter, or, if to is 0, to the one
// that is furthest. It returns when this node has heard the new leader. Proposals in between
// get NotLeader. Errors: NotLeader if this node does not lead, Invalid if the node is not a
// voter, Unavailable if it did not take over in time (this node leads on) or ctx ended.
func (h *Host) TransferLeadership(ctx context.Context, id quarry.ShardID, to quarry.NodeID) error {
	g, err := h.group("transfer leadership", id)
	if err != nil {
		return err
	}
	return g.handOver(ctx, to, nil)
}

// HandOver moves the leadership of a group to the voter that is furthest and is not in but, which
// are on their way out. Otherwise it is as TransferLeadership.
func (h *Host) HandOver(ctx context.Context, id quarry.ShardID, but []quarry.NodeID) error {
	g, err := h.group("transfer leadership", id)
	if err != nil {
		return err
	}
	return g.handOver(ctx, 0, but)
}

// handOver moves the leadership to a node, or, if to is 0, to a voter that is not in but.
func (g *group) handOver(ctx context.Context, to quarry.NodeID, but []quarry.NodeID) error {
	h, t := g.h, &transfer{done: make(chan error, 1)}
	g.call(func() { g.transfer(t, to, but) })
	select {
	case err := <-t.done:
		return err
	case <-ctx.Done():
		return quarry.Wrap("transfer leadership", g.name(), ctx.Err())
	case <-h.stopping:
		return &quarry.Error{Op: "transfer leadership", Kind: quarry.Unavailable, Subject: g.name(), Err: h.stopCause()}
	}
}

func (g *group) transfer(t *transfer, to quarry.NodeID, but []quarry.NodeID) {
	if !g.leads {
		t.done <- g.notLeader("transfer leadership")
		return
	}
	if to == 0 {
		to = g.successor(but)
	}
	if to == g.h.cfg.Node || !slices.Contains(g.members.Load().voters, uint64(to)) {
		t.done <- quarry.Errorf("transfer leadership", quarry.Invalid, g.name(), "node %d is not another voter", to)
		return
	}
	g.transfers = append(g.transfers, t)
	g.rn.TransferLeader(uint64(to))
}

// successor returns the voter that is furthest, of those that have been heard of if there are
// such, and are not in but; 0 if there is no other voter. Of several that are equally far each group takes another
// one, so that the groups of a node that stops are spread.
func (g *group) successor(but []quarry.NodeID) quarry.NodeID {
	var of tracker.Progress
	var best []quarry.NodeID
	voters := g.members.Load().voters
	g.rn.WithProgress(func(id uint64, _ etcd.ProgressType, pr tracker.Progress) {
		if id == uint64(g.h.cfg.Node) || !slices.Contains(voters, id) || slices.Contains(but, quarry.NodeID(id)) {
			return
		}
		switch better := pr.RecentActive && !of.RecentActive || pr.RecentActive == of.RecentActive && pr.Match > of.Match; {
		case len(best) == 0 || better:
			best, of = append(best[:0], quarry.NodeID(id)), pr
		case pr.RecentActive == of.RecentActive && pr.Match == of.Match:
			best = append(best, quarry.NodeID(id))
		}
	})
	if len(best) == 0 {
		return 0
	}
	slices.Sort(best)
	return best[uint64(g.id)%uint64(len(best))]
}

// checkTransfers answers those who wait for a transfer that has come to its end.
func (g *group) checkTransfers() {
	if len(g.transfers) == 0 {
		return
	}
	var err error
	switch {
	case g.leads && g.rn.BasicStatus().LeadTransferee != 0, !g.leads && g.leader.Load() == 0:
		return
	case g.leads:
		err = quarry.Errorf("transfer leadership", quarry.Unavailable, g.name(), "the node did not take over in time")
	}
	for _, t := range g.transfers {
		t.done <- err
	}
	g.transfers = nil
}
