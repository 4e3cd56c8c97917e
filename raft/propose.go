package raft

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	etcd "go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/quarryfs/quarry"
)

// Propose has a command applied by all members of a group and returns what the state machine
// returned here. It is called on the leader. The host keeps the command: it must not be
// changed, even after Propose has returned. When it returns, View here sees the effects.
//
// Errors: NotLeader, naming the leader if it is known: the command was not and will not be
// applied, ask the leader. Busy: too much is under way, and nothing happened; retry later,
// here. NoSpace: the leader's disk is nearly full. TooLarge: the command is beyond
// CommandBytesMax. Unknown: leadership was lost, the
// host stopped or ctx ended while the command was in the log: it may have been applied, or
// may be yet. Unavailable: ctx ended, or the host stopped, before that. NotFound: the node
// has no such group.
func (h *Host) Propose(ctx context.Context, id quarry.ShardID, command []byte) ([]byte, error) {
	return h.ProposeIn(ctx, id, 0, command)
}

// ProposeIn is Propose for a caller that leads in one term, and decides by what it has heard
// in it: in any other term the command is refused with NotLeader, even if this node leads
// again. Term 0 is any.
func (h *Host) ProposeIn(ctx context.Context, id quarry.ShardID, term uint64, command []byte) ([]byte, error) {
	g, err := h.group("propose", id)
	if err != nil {
		return nil, err
	}
	switch {
	case len(command) == 0:
		return nil, quarry.Errorf("propose", quarry.Invalid, g.name(), "the command is empty")
	case len(command) > CommandBytesMax:
		return nil, quarry.Errorf("propose", quarry.TooLarge, g.name(), "the command has %d bytes, at most %d are allowed", len(command), CommandBytesMax)
	case !g.leading.Load():
		return nil, g.notLeader("propose")
	case h.full.Load():
		return nil, g.noSpace()
	}
	p := &proposal{data: command, inTerm: term, done: make(chan outcome, 1)}
	err = g.post(func(in *inputs) error {
		if len(in.proposals) >= proposalsMax || in.proposalBytes+len(command) > proposalBytesMax {
			return quarry.Errorf("propose", quarry.Busy, g.name(), "%d proposals wait", len(in.proposals))
		}
		in.proposals = append(in.proposals, p)
		in.proposalBytes += len(command)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return p.wait(ctx, g)
}

// proposal is a command or a change of members on its way.
type proposal struct {
	data   []byte
	inTerm uint64 // the only term in which it may be taken; 0: any
	typ    pb.EntryType
	state  atomic.Int32
	done   chan outcome // has room for the one outcome
	index  uint64       // of its entry, once it is in the log
	term   uint64
}

const (
	proposalWaits int32 = iota // in the inbox
	proposalTaken              // by the worker: it may be in the log
	proposalGone               // the proposer gave up before
)

type outcome struct {
	result []byte
	err    error
}

// wait returns the outcome.
func (p *proposal) wait(ctx context.Context, g *group) ([]byte, error) {
	var cause error
	select {
	case o := <-p.done:
		return o.result, o.err
	case <-ctx.Done():
		cause = ctx.Err()
	case <-g.h.stopping:
		cause = g.h.stopCause()
	}
	if p.state.CompareAndSwap(proposalWaits, proposalGone) {
		return nil, &quarry.Error{Op: "propose", Kind: quarry.Unavailable, Subject: g.name(), Err: cause}
	}
	select {
	case o := <-p.done: // it has come in the meantime
		return o.result, o.err
	default:
		return nil, quarry.Errorf("propose", quarry.Unknown, g.name(), "gave up waiting: %w", cause)
	}
}

// propose gives Raft the proposals of a round.
func (g *group) propose(list []*proposal) {
	for len(list) > 0 {
		n, size := 0, 0
		for ; n < len(list) && (n == 0 || size+len(list[n].data) <= recordBytesMax); n++ {
			size += len(list[n].data)
		}
		g.proposeSome(list[:n])
		list = list[n:]
	}
}

// proposeSome proposes as one: Raft takes all or none. What it takes it adds to the end of
// its log, so the last entries that it then wants stored are just these.
func (g *group) proposeSome(list []*proposal) {
	own := make([]*proposal, 0, len(list))
	entries := make([]*pb.Entry, 0, len(list))
	for _, p := range list {
		if p.inTerm != 0 && !off(AnyTerm) && p.inTerm != g.rn.BasicStatus().GetTerm() {
			p.done <- outcome{err: g.notLeader("propose")}
			continue
		}
		if p.state.CompareAndSwap(proposalWaits, proposalTaken) {
			own = append(own, p)
			entries = append(entries, &pb.Entry{Type: &p.typ, Data: p.data})
		}
	}
	if len(own) == 0 {
		return
	}
	err := etcd.ErrProposalDropped
	if g.leads {
		err = g.rn.Step(&pb.Message{Type: pb.MsgProp.Enum(), From: new(uint64(g.h.cfg.Node)), Entries: entries})
	}
	if err == nil {
		g.ready(own)
		return
	}
	err = g.dropped()
	for _, p := range own {
		p.done <- outcome{err: err}
	}
}

// dropped says why Raft has refused to take proposals.
func (g *group) dropped() error {
	st := g.rn.BasicStatus()
	if !g.leads || st.RaftState != etcd.StateLeader {
		return g.notLeaderBut("propose", quarry.NodeID(st.Lead))
	}
	if st.LeadTransferee != 0 {
		return g.notLeaderBut("propose", quarry.NodeID(st.LeadTransferee))
	}
	return quarry.Errorf("propose", quarry.Busy, g.name(), "more than %d bytes of proposals wait for a majority", uncommittedBytesMax)
}

// notLeader is the error of a member that does not lead.
func (g *group) notLeader(op string) error {
	return g.notLeaderBut(op, quarry.NodeID(g.leader.Load()))
}

func (g *group) notLeaderBut(op string, leader quarry.NodeID) error {
	err := &quarry.Error{Op: op, Kind: quarry.NotLeader, Subject: g.name()}
	if leader != 0 && leader != g.h.cfg.Node {
		err.Err = &quarry.NotLeaderError{Leader: leader, Address: g.h.peers.address(leader)}
	}
	return err
}

// waiting are the proposals that are in the log, in the order of their entries.
type waiting struct {
	mu   sync.Mutex
	list []*proposal
}

// add is called before the entries can be applied.
func (w *waiting) add(entries []*pb.Entry, list []*proposal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, p := range list {
		p.index, p.term = entries[i].GetIndex(), entries[i].GetTerm()
	}
	w.list = append(w.list, list...)
}

// none reports whether nobody waits.
func (w *waiting) none() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.list) == 0
}

// answer gives out the outcomes of applied entries.
func (w *waiting) answer(g *group, entries []*pb.Entry, outcomes []outcome) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for i, e := range entries {
		if n == len(w.list) {
			break
		}
		p := w.list[n]
		if p.index > e.GetIndex() {
			continue
		}
		if p.index < e.GetIndex() || p.term != e.GetTerm() { // who loses the leadership fails them all
			panic(fmt.Sprintf("raft: group %d: proposal %d of term %d meets entry %d of term %d", g.id, p.index, p.term, e.GetIndex(), e.GetTerm()))
		}
		n++
		if p.typ != e.GetType() { // Raft has put an empty entry in its place
			p.done <- outcome{err: quarry.Errorf("change members", quarry.Busy, g.name(), "another change is under way")}
		} else {
			p.done <- outcomes[i]
		}
	}
	clear(w.list[:n])
	if w.list = w.list[n:]; len(w.list) == 0 {
		w.list = nil
	}
}

// fail gives all the same error.
func (w *waiting) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.list {
		p.done <- outcome{err: err}
	}
	w.list = nil
}
