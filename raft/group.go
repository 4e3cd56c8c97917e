package raft

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	etcd "go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/quarryfs/quarry"
)

// Bounds that Raft itself keeps, for each group.
const (
	uncommittedBytesMax = 32 << 20 // of proposals without a majority; more are Busy
	applyingBytesMax    = 8 << 20  // of committed entries on their way to the state machine
	inflightMessagesMax = 256      // to one follower
	inflightBytesMax    = 8 << 20  // to one follower
	recordBytesMax      = 1 << 20  // of entries in one record of the journal, or one entry
	writesMax           = 2        // to the journal under way; meanwhile proposals gather
)

// group is one Raft group's member on this node.
type group struct {
	h  *Host
	id groupID
	sm StateMachine
	w  *worker
	in inbox

	// Written by the worker, read by all.
	members   atomic.Pointer[membership]
	leader    atomic.Uint64 // the leader's node, 0 if unknown
	leading   atomic.Bool
	term      atomic.Uint64
	committed atomic.Uint64

	appliedAt atomic.Uint64 // written by the applier
	waiting   waiting       // proposals that are in the log
	applier   applier
	viewMu    sync.RWMutex  // held by readers of the state; excludes the installation of another one
	changes   atomic.Uint64 // odd while a batch becomes visible: then it is not known what appliedAt speaks of
	cache     valueCache
	onLeading leadership

	// Owned by the worker.
	rn         *etcd.RawNode
	log        *entryLog
	ops        []*logOp // writes to the journal under way, oldest first
	written    hardState
	appliedTo  uint64 // what Raft knows to be applied
	leads      bool
	announced  bool // the leadership was announced
	reads      reads
	transfers  []*transfer
	installing *installation
	held       []*pb.Message // appends that wait for the installation
	arrived    *installation // a received snapshot that Raft is being told of
	campaignIn int           // ticks until a campaign before Raft's own time; 0: none
	campaigns  int           // how many more of them
}

// name is the group in errors and logs.
func (g *group) name() string { return fmt.Sprintf("group %d", g.id) }

// start makes the Raft machine over a log that was checked against the state.
func (g *group) start(st groupState, l *entryLog) error {
	l.journal = g.h.journal
	g.log, g.appliedTo, g.written = l, st.applied.index, l.hard
	g.members.Store(&st.members)
	g.appliedAt.Store(st.applied.index)
	g.committed.Store(l.hard.commit)
	g.term.Store(l.hard.term)
	g.reads.flight = map[uint64][]*read{}
	rn, err := etcd.NewRawNode(&etcd.Config{
		ID:                        uint64(g.h.cfg.Node),
		ElectionTick:              g.h.cfg.ElectionTicks,
		HeartbeatTick:             1,
		Storage:                   storage{g},
		Applied:                   st.applied.index,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             messageBytesMax,
		MaxCommittedSizePerReady:  applyingBytesMax,
		MaxUncommittedEntriesSize: uncommittedBytesMax,
		MaxInflightMsgs:           inflightMessagesMax,
		MaxInflightBytes:          inflightBytesMax,
		CheckQuorum:               true,
		PreVote:                   true,
		ReadOnlyOption:            etcd.ReadOnlySafe,
		DisableProposalForwarding: true,
		StepDownOnRemoval:         true,
		Logger:                    &raftLogger{g.h.cfg.Logger.With("group", uint64(g.id))},
	})
	if err != nil {
		return quarry.Wrap("start group", g.name(), err)
	}
	g.rn = rn
	g.h.peers.learn(&st.members)
	g.hurry(0)
	return nil
}

// round takes the inbox and does what follows from it.
func (g *group) round() {
	in := g.in.take(g.leads && len(g.ops) >= writesMax)
	for _, op := range in.durable {
		g.durable(op)
	}
	for _, m := range in.steps {
		g.step(m)
	}
	for _, r := range in.messages {
		g.receive(r)
	}
	for _, f := range in.calls {
		f()
	}
	g.startReads(in.reads)
	g.propose(in.proposals)
	g.ready(nil)
	g.in.give(in)
}

// step gives Raft a message. What Raft ignores, the sender sends again if it matters.
func (g *group) step(m *pb.Message) {
	if m.GetType() == pb.MsgStorageApplyResp {
		g.appliedTo = max(g.appliedTo, m.Entries[len(m.Entries)-1].GetIndex())
		defer g.progressed()
	}
	if err := g.rn.Step(m); err != nil {
		g.h.cfg.Logger.Debug("raft: message ignored", "group", uint64(g.id), "type", m.GetType(), "from", m.GetFrom(), "err", err)
	}
}

// progressed does what has waited for entries to be applied.
func (g *group) progressed() {
	if g.leads && !g.announced && g.log.term(g.appliedTo) == g.term.Load() {
		g.announced = true
		g.onLeading.set(g.h, g.term.Load(), true)
		g.startReads(nil)
	}
	g.reads.applied(g.appliedTo)
}

// empty reports whether this member has no state yet: nobody has told it who the others are.
func (g *group) empty() bool { return g.appliedTo == 0 }

// receive takes a message from another node.
func (g *group) receive(r *received) {
	if g.empty() && !off(EmptyMemberVotes) && r.typ != pb.MsgApp && r.typ != pb.MsgHeartbeat {
		return // a member without a state, perhaps without its memory, has no vote
	}
	if r.typ == pb.MsgHeartbeat && r.term >= g.term.Load() && r.commit > g.log.last && g.installing == nil {
		g.h.fail(quarry.Errorf("raft", quarry.Corrupt, g.name(),
			"node %d knows that this node's log has reached %d, but it ends at %d: entries that were acknowledged are lost; the disk cannot be trusted: %s",
			r.from, r.commit, g.log.last, replaceAdvice))
		return
	}
	g.step(&r.m)
}

// tick passes one tick of the clock on.
func (g *group) tick() {
	g.rn.Tick()
	if g.campaignIn > 0 {
		g.campaign()
	}
	g.checkTransfers()
	g.propose(g.in.takeProposals()) // however slow this disk is: the others may be a majority
	g.ready(nil)
}

// ready does what Raft wants done. The last entries that it wants logged are those of own.
func (g *group) ready(own []*proposal) {
	for g.rn.HasReady() {
		rd := g.rn.Ready()
		if rd.HardState != nil {
			g.term.Store(rd.HardState.GetTerm())
			g.committed.Store(rd.HardState.GetCommit())
		}
		if len(own) > 0 {
			g.waiting.add(rd.Entries[len(rd.Entries)-len(own):], own)
			own = nil
		}
		if rd.SoftState != nil {
			g.roleChanged(rd.SoftState)
		}
		for _, s := range rd.ReadStates {
			g.reads.confirmed(s)
		}
		if len(rd.ReadStates) > 0 {
			g.reads.applied(g.appliedTo)
			g.startReads(nil)
		}
		for _, m := range rd.Messages {
			switch m.GetTo() {
			case etcd.LocalAppendThread:
				g.append(m)
			case etcd.LocalApplyThread:
				g.applier.push(applyJob{entries: m.Entries, responses: m.Responses})
			default:
				if m.GetType() == pb.MsgSnap {
					g.h.snapshots.send(g, m)
				} else {
					g.h.peers.send(g, m)
				}
			}
		}
	}
}

// append brings to the journal what Raft wants stored, and sees to its responses.
func (g *group) append(m *pb.Message) {
	if g.installing != nil {
		g.held = append(g.held, m)
		return
	}
	if m.Term != nil || m.Vote != nil || m.Commit != nil {
		g.log.hard = hardState{m.GetTerm(), m.GetVote(), m.GetCommit()}
	}
	if !etcd.IsEmptySnap(m.Snapshot) {
		g.install(m)
		return
	}
	// How far entries are committed is learned again from the leader; it is written only
	// when something else is.
	voted := g.log.hard.term != g.written.term || g.log.hard.vote != g.written.vote
	switch {
	case len(m.Entries) > 0 || voted && len(m.Responses) > 0:
		g.written = g.log.hard
		g.writeEntries(m.Entries, m.Responses)
	case len(m.Responses) == 0:
	case len(g.ops) > 0:
		last := g.ops[len(g.ops)-1]
		last.responses = append(slices.Clip(last.responses), m.Responses...)
	default:
		g.respond(m.Responses)
	}
}

// writeEntries appends entries, or only the hard state, to the log and to the journal.
func (g *group) writeEntries(entries []*pb.Entry, responses []*pb.Message) {
	for {
		n, size := 0, 0
		for ; n < len(entries) && n < entriesMax && (n == 0 || size+entryBytes(entries[n]) <= recordBytesMax); n++ {
			size += entryBytes(entries[n])
		}
		at := &place{}
		if n > 0 {
			g.log.append(entries[:n], at)
		}
		op := &logOp{places: []*place{at}}
		if n == len(entries) {
			op.responses = responses
		}
		if off(AckBeforeSync) {
			op.responses = nil
			g.respond(responses)
		}
		g.w.buf = encodeEntries(g.w.buf[:0], g.id, g.log.hard, entries[:n])
		g.write(op, g.w.buf)
		entries = entries[n:]
		if len(entries) == 0 {
			break
		}
	}
	g.log.trimCache()
	if cap(g.w.buf) > 4*recordBytesMax {
		g.w.buf = nil
	}
}
