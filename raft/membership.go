package raft

import (
	"cmp"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/confchange"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// Member is a node as the groups know it. The disk belongs to the node for life: who comes
// back with another disk has forgotten its votes and its log, and is refused.
type Member struct {
	Node    quarry.NodeID
	Disk    quarry.DiskID
	Address string // host:port
}

const (
	// MembersMax is the most members of a group, learners included.
	MembersMax = 31
	retiredMax = 1024
)

func memberFields(w *wire.Walk, m *Member) {
	wire.Uint(w, 1, &m.Node)
	wire.Fixed16(w, 2, &m.Disk)
	wire.String(w, 3, &m.Address, addressBytesMax)
}

func (m Member) check() error {
	switch {
	case m.Node == 0 || uint64(m.Node) > nodeIDMax:
		return fmt.Errorf("%d cannot be the id of a node", m.Node)
	case m.Disk.IsZero():
		return fmt.Errorf("node %d has no disk id", m.Node)
	case m.Address == "" || len(m.Address) > addressBytesMax:
		return fmt.Errorf("node %d has the address %q", m.Node, m.Address)
	}
	return nil
}

// nodeIDMax keeps clear of the ids that Raft takes for the log and the state machine.
const nodeIDMax = 1<<63 - 1

// membership is who belongs to a group: Raft's configuration, and the members' names. It is
// part of the group's state.
type membership struct {
	voters, learners       []uint64
	outgoing, learnersNext []uint64 // while a change of several members is under way
	autoLeave              bool
	members                []Member // all of the above, ascending by node
	retired                []Member // nodes that were members once
}

func membersFields(w *wire.Walk, m *membership) {
	wire.Uints(w, 1, &m.voters, MembersMax)
	wire.Uints(w, 2, &m.learners, MembersMax)
	wire.Uints(w, 3, &m.outgoing, MembersMax)
	wire.Uints(w, 4, &m.learnersNext, MembersMax)
	wire.Bool(w, 5, &m.autoLeave)
	wire.List(w, 6, &m.members, 2*MembersMax, memberFields)
	wire.List(w, 7, &m.retired, retiredMax, memberFields)
}

// conf returns the membership as Raft has it.
func (m *membership) conf() *pb.ConfState {
	return &pb.ConfState{
		Voters: slices.Clone(m.voters), Learners: slices.Clone(m.learners),
		VotersOutgoing: slices.Clone(m.outgoing), LearnersNext: slices.Clone(m.learnersNext),
		AutoLeave: new(m.autoLeave),
	}
}

// find returns the member with the node's id.
func (m *membership) find(node quarry.NodeID) (Member, bool) {
	i, ok := slices.BinarySearchFunc(m.members, node, func(e Member, n quarry.NodeID) int { return cmp.Compare(e.Node, n) })
	if !ok {
		return Member{}, false
	}
	return m.members[i], true
}

// after returns the membership when Raft has come to conf by a change that named added.
func (m *membership) after(conf *pb.ConfState, added []Member) membership {
	n := membership{
		voters: slices.Clone(conf.Voters), learners: slices.Clone(conf.Learners),
		outgoing: slices.Clone(conf.VotersOutgoing), learnersNext: slices.Clone(conf.LearnersNext),
		autoLeave: conf.GetAutoLeave(), retired: slices.Clone(m.retired),
	}
	known := map[quarry.NodeID]Member{}
	for _, e := range m.members {
		known[e.Node] = e
	}
	for _, e := range added {
		known[e.Node] = e
	}
	for _, list := range [][]uint64{n.voters, n.learners, n.outgoing, n.learnersNext} {
		for _, id := range list {
			if e, ok := known[quarry.NodeID(id)]; ok {
				n.members = append(n.members, e)
				delete(known, e.Node)
			}
		}
	}
	slices.SortFunc(n.members, func(a, b Member) int { return cmp.Compare(a.Node, b.Node) })
	for _, e := range m.members {
		if _, gone := known[e.Node]; gone {
			n.retired = append(n.retired, Member{Node: e.Node, Disk: e.Disk})
		}
	}
	n.retired = slices.DeleteFunc(n.retired, func(e Member) bool { _, back := n.find(e.Node); return back })
	n.retired = n.retired[max(0, len(n.retired)-retiredMax):]
	return n
}

// joint reports whether a change of several members is under way.
func (m *membership) joint() bool { return len(m.outgoing) > 0 }

// Change is a change of a group's members. Fields may be combined; several changes at once
// pass through a joint configuration, in which both the old and the new majority must agree.
type Change struct {
	// Learn makes nodes learners: they get everything and vote in nothing. A node joins a
	// group this way.
	Learn []Member
	// Promote makes learners voters. It waits until they have caught up.
	Promote []quarry.NodeID
	// Remove takes nodes out. A leader that is to remove itself hands the leadership to
	// another voter instead, and answers NotLeader.
	Remove []quarry.NodeID
	// Move changes the addresses of members.
	Move []Member
}

// Changed is who belongs to a group from an entry of its log on.
type Changed struct {
	Index, Term uint64
	Voters      []quarry.NodeID
	Outgoing    []quarry.NodeID // who voted before, while a change of several members is under way
	Learners    []quarry.NodeID
	Snapshot    bool // the entry is the last one of a snapshot; who the members are was decided earlier
}

// told tells who asked for it about the members from an entry on.
func (g *group) told(a applied, m *membership, snapshot bool) {
	if g.h.cfg.Changed == nil {
		return
	}
	g.h.cfg.Changed(g.id, Changed{
		Index: a.index, Term: a.term, Voters: nodeIDs(m.voters), Outgoing: nodeIDs(m.outgoing),
		Learners: nodeIDs(slices.Concat(m.learners, m.learnersNext)), Snapshot: snapshot,
	})
}

// changeNote travels in the context of a change in the log.
type changeNote struct{ members []Member }

func noteFields(w *wire.Walk, n *changeNote) { wire.List(w, 1, &n.members, MembersMax, memberFields) }

// build checks a change against the membership and returns it as Raft wants it.
func (m *membership) build(c Change) (*pb.ConfChangeV2, error) {
	refuse := func(format string, args ...any) (*pb.ConfChangeV2, error) {
		return nil, quarry.Errorf("change members", quarry.Invalid, "", format, args...)
	}
	cc := &pb.ConfChangeV2{}
	single := func(t pb.ConfChangeType, node quarry.NodeID) {
		cc.Changes = append(cc.Changes, &pb.ConfChangeSingle{Type: t.Enum(), NodeId: new(uint64(node))})
	}
	if n := len(c.Learn) + len(c.Promote) + len(c.Remove) + len(c.Move); n == 0 || n > MembersMax {
		return refuse("a change names 1 to %d nodes, not %d", MembersMax, n)
	}
	var note changeNote
	for _, e := range slices.Concat(c.Learn, c.Move) {
		if err := e.check(); err != nil {
			return refuse("%w", err)
		}
		old, known := m.find(e.Node)
		if i := slices.IndexFunc(m.retired, func(r Member) bool { return r.Node == e.Node }); i >= 0 && !known {
			old, known = m.retired[i], true
		}
		if known && old.Disk != e.Disk {
			return refuse("node %d belongs to disk %v, not to disk %v; a node that lost its disk joins under another id", e.Node, old.Disk, e.Disk)
		}
		note.members = append(note.members, e)
	}
	for _, e := range c.Learn {
		if slices.Contains(m.voters, uint64(e.Node)) {
			return refuse("node %d is a voter already", e.Node)
		}
		single(pb.ConfChangeAddLearnerNode, e.Node)
	}
	for _, node := range c.Promote {
		if !slices.Contains(m.learners, uint64(node)) {
			return refuse("node %d is not a learner; add it as a learner first", node)
		}
		single(pb.ConfChangeAddNode, node)
	}
	for _, node := range c.Remove {
		if _, ok := m.find(node); !ok {
			return refuse("node %d is not a member", node)
		}
		single(pb.ConfChangeRemoveNode, node)
	}
	for _, e := range c.Move {
		if _, ok := m.find(e.Node); !ok {
			return refuse("node %d is not a member", e.Node)
		}
		single(pb.ConfChangeUpdateNode, e.Node)
	}
	cc.Context = wire.Marshal(nil, &note, noteFields)
	if _, err := m.next(cc); err != nil {
		return refuse("%w", err)
	}
	return cc, nil
}

// next returns what Raft comes to by a change, or what is wrong with it; Raft itself would
// panic.
func (m *membership) next(cc *pb.ConfChangeV2) (*pb.ConfState, error) {
	changer := confchange.Changer{Tracker: tracker.MakeProgressTracker(1, 0), LastIndex: 1}
	cfg, progress, err := confchange.Restore(changer, m.conf())
	if err != nil {
		return nil, err
	}
	changer.Tracker.Config, changer.Tracker.Progress = cfg, progress
	switch autoLeave, joint := cc.EnterJoint(); {
	case cc.LeaveJoint():
		cfg, progress, err = changer.LeaveJoint()
	case joint:
		cfg, progress, err = changer.EnterJoint(autoLeave, cc.Changes...)
	default:
		cfg, progress, err = changer.Simple(cc.Changes...)
	}
	if err != nil {
		return nil, err
	}
	if len(progress) > MembersMax {
		return nil, fmt.Errorf("a group has at most %d members", MembersMax)
	}
	after := tracker.ProgressTracker{Config: cfg, Progress: progress}
	return after.ConfState(), nil
}
