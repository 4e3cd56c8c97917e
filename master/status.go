package master

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/meta/slots"
	"github.com/quarryfs/quarry/raft"
)

// Topology tells where every slot lives, as far as this node knows.
func (m *Master) Topology(ctx context.Context) (*quarry.TopologyReply, error) {
	if !m.started.Load() {
		return nil, m.waiting("topology")
	}
	var applied uint64 // before the look at what that has come to
	if st, err := m.host.Status(quarry.RootShard); err == nil {
		applied = st.Applied
	}
	known := m.root.known.Load()
	if known == nil {
		return nil, quarry.Errorf("topology", quarry.Unavailable, m.cfg.Address, "this master has not learnt the cluster's map yet")
	}
	reply := *known.topology
	reply.Applied = applied
	reply.Shards = []quarry.ShardInfo{m.groupInfo(quarry.ShardInfo{Shard: quarry.RootShard})}
	for _, s := range known.topology.Shards {
		reply.Shards = append(reply.Shards, m.groupInfo(s))
	}
	return &reply, nil
}

// Totals returns the counters of this node's state of a shard, and up to which entry of the log
// that is at least.
func (m *Master) Totals(id quarry.ShardID) (applied uint64, n meta.Counters, err error) {
	sh, err := m.shard("totals", id)
	if err != nil {
		return 0, n, err
	}
	st, err := m.host.Status(id)
	if err != nil {
		return 0, n, quarry.Wrap("totals", "", err)
	}
	err = sh.local(func(v meta.View) error {
		n = meta.Totals(v)
		return nil
	})
	return st.Applied, n, err
}

// Look calls fn with this node's state of a shard, which may lag behind the leader's, and tells up
// to which entry of the log that is. The view is valid only during fn. Busy: entries were applied
// meanwhile, so that the entry is not known; what fn has seen was true.
func (m *Master) Look(id quarry.ShardID, fn func(meta.View) error) (applied uint64, err error) {
	sh, err := m.shard("look", id)
	if err != nil {
		return 0, err
	}
	before, err := m.host.Status(id)
	if err != nil {
		return 0, quarry.Wrap("look", "", err)
	}
	if err := sh.local(fn); err != nil {
		return 0, err
	}
	after, err := m.host.Status(id)
	if err == nil && before.Applied != after.Applied {
		err = quarry.Errorf("look", quarry.Busy, "", "shard %d has changed meanwhile", id)
	}
	return before.Applied, quarry.Wrap("look", "", err)
}

// LookNow is Look with a state in which everything is that was acknowledged before it was called.
// NotLeader, Unavailable.
func (m *Master) LookNow(ctx context.Context, id quarry.ShardID, fn func(meta.View) error) error {
	sh, err := m.shard("look", id)
	if err != nil {
		return err
	}
	return quarry.Wrap("look", "", sh.read(ctx, fn))
}

// Leads reports whether this node takes itself for the leader of a shard.
func (m *Master) Leads(id quarry.ShardID) bool {
	sh, err := m.shard("look", id)
	return err == nil && sh.lead.Load() != nil
}

// Group tells what this node knows of one of its groups; NotFound if it has no such group,
// Unavailable if it has none yet.
func (m *Master) Group(id quarry.ShardID) (raft.Status, error) {
	if !m.started.Load() {
		return raft.Status{}, m.waiting("look")
	}
	st, err := m.host.Status(id)
	return st, quarry.Wrap("look", "", err)
}

// OnStep has f called with each step that transactions, moves of slots and changes of masters reach
// at this node, by the goroutine that carries them out. It is for those who break a cluster at each
// step.
func (m *Master) OnStep(f func(step string)) { m.failpoint.Store(&f) }

// OnMembers has f called with each change of a group's members that this node has applied; see
// raft.Config.
func (m *Master) OnMembers(f func(quarry.ShardID, raft.Changed)) { m.onMembers.Store(&f) }

// membersChanged hears from a group that its members have changed.
func (m *Master) membersChanged(id quarry.ShardID, c raft.Changed) {
	if f := m.onMembers.Load(); f != nil {
		(*f)(id, c)
	}
	switch {
	case c.Snapshot:
		m.reached("snapshot installed")
	case len(c.Outgoing) > 0:
		m.reached("members joint")
	case len(c.Learners) > 0:
		m.reached("member learns")
	default:
		m.reached("members changed")
	}
}

// Digest sums up this node's state of a group, and tells up to which entry of the log that is.
// Nodes that have applied the same entries have the same digest. Busy: entries were applied
// meanwhile.
func (m *Master) Digest(id quarry.ShardID) (applied uint64, sum [sha256.Size]byte, err error) {
	if !m.started.Load() {
		return 0, sum, m.waiting("digest")
	}
	before, err := m.host.Status(id)
	if err != nil {
		return 0, sum, quarry.Wrap("digest", "", err)
	}
	h := sha256.New()
	err = m.host.View(id, func(kv raft.Reader) error {
		kv.Scan(nil, nil, func(key, value []byte) bool {
			var lengths [8]byte
			binary.LittleEndian.PutUint32(lengths[:], uint32(len(key)))
			binary.LittleEndian.PutUint32(lengths[4:], uint32(len(value)))
			h.Write(lengths[:])
			h.Write(key)
			h.Write(value)
			return true
		})
		return nil
	})
	if err != nil {
		return 0, sum, quarry.Wrap("digest", "", err)
	}
	after, err := m.host.Status(id)
	if err == nil && before.Applied != after.Applied {
		err = quarry.Errorf("digest", quarry.Busy, "", "entries are being applied")
	}
	return after.Applied, [sha256.Size]byte(h.Sum(nil)), err
}

// groupInfo adds to a shard's slots who leads it and who votes, and who is a member, if this node
// leads it and has come as far as the leaders before it.
func (m *Master) groupInfo(s quarry.ShardInfo) quarry.ShardInfo {
	st, err := m.host.Status(s.Shard)
	if err != nil {
		return s
	}
	s.Leader, s.Voters = st.Leader, st.Voters
	inOffice := st.Leading
	if s.Shard != quarry.RootShard {
		sh := m.group(s.Shard)
		if inOffice = inOffice && sh != nil; inOffice {
			t := sh.lead.Load()
			inOffice = t != nil && t.number == st.Term
		}
	}
	if inOffice {
		for _, member := range st.Members {
			s.Members = append(s.Members, member.Node)
		}
	}
	return s
}

// identifyTime is how long a master may take to show that it lives.
const identifyTime = time.Second

// Status tells the health of the cluster as this node knows it: shards by its own replicas,
// servers by the heartbeats that come to it. Of the groups that it leads it knows the latest; one of
// which no majority says in time that it leads it has no leader.
func (m *Master) Status(ctx context.Context) (*quarry.StatusReply, error) {
	topology, err := m.Topology(ctx)
	if err != nil {
		return nil, quarry.Wrap("status", "", err)
	}
	confirmed := m.confirm(ctx, topology.Shards)
	if topology, err = m.Topology(ctx); err != nil {
		return nil, quarry.Wrap("status", "", err)
	}
	reply := &quarry.StatusReply{Cluster: topology.Cluster, Node: m.node, Masters: m.masterStatus(ctx, topology.Masters)}
	for _, s := range topology.Shards {
		st := m.shardStatus(s)
		if st.Leader == m.node && !confirmed[s.Shard] {
			st.Leader = 0
		}
		reply.Shards = append(reply.Shards, st)
	}
	reply.Servers = m.serverStatus()
	reply.TrashMS = m.trashKeep().Milliseconds()
	return reply, nil
}

// confirmTime is how long a majority may take to say that this node leads a group.
const confirmTime = 500 * time.Millisecond

// confirm makes sure that this node leads the groups that it takes itself for the leader of, and that
// it knows the latest of them. It returns those of which that is so.
func (m *Master) confirm(ctx context.Context, shards []quarry.ShardInfo) (confirmed map[quarry.ShardID]bool) {
	ctx, cancel := m.cfg.Clock.WithTimeout(ctx, confirmTime)
	defer cancel()
	confirmed = map[quarry.ShardID]bool{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, s := range shards {
		if s.Leader != m.node {
			continue
		}
		wg.Go(func() {
			if m.host.ReadIndex(ctx, s.Shard) == nil {
				mu.Lock()
				confirmed[s.Shard] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return confirmed
}

// masterStatus asks every master whether it lives.
func (m *Master) masterStatus(ctx context.Context, nodes []quarry.MasterNode) []quarry.MasterStatus {
	ctx, cancel := m.cfg.Clock.WithTimeout(ctx, identifyTime)
	defer cancel()
	out := make([]quarry.MasterStatus, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		out[i] = quarry.MasterStatus{MasterNode: n, Alive: n.Node == m.node}
		if !out[i].Alive {
			wg.Go(func() {
				id, err := m.cfg.Client.Master(n.Address).Identify(ctx)
				out[i].Alive = err == nil && id.Disk == n.Disk
			})
		}
	}
	wg.Wait()
	return out
}

// shardStatus tells what this node's replica of a group says.
func (m *Master) shardStatus(info quarry.ShardInfo) quarry.ShardStatus {
	s := quarry.ShardStatus{Shard: info.Shard, Leader: info.Leader, Slots: slots.Count(info.Slots)}
	if st, err := m.host.Status(info.Shard); err == nil {
		s.Term, s.Applied, s.Voters, s.Changing = st.Term, st.Applied, st.Voters, st.Changing
		lags := m.host.Lags(info.Shard)
		for _, node := range st.Learners {
			lag, ok := lags[node]
			if !ok {
				lag = -1
			}
			s.Learners = append(s.Learners, quarry.LearnerStatus{Node: node, Lag: lag})
		}
	}
	sh := m.group(info.Shard)
	if sh == nil {
		return s
	}
	_ = sh.local(func(v meta.View) error { // a host that stops has no numbers
		c := meta.Totals(v)
		s.Inodes, s.Chunks, s.OpenChunks = c.Files+c.Dirs, c.Chunks-c.Garbage, c.Open
		s.Missing, s.UnderCopied, s.Suspect = c.Missing, c.UnderCopied, c.Suspect
		s.Removed, s.RemovedSize = c.Removed-c.Doomed, c.RemovedBytes-c.DoomedBytes
		s.Freeing, s.FreeingSize = c.Doomed, c.DoomedBytes
		return nil
	})
	if t := sh.lead.Load(); t != nil {
		s.Repairing = int64(t.chunks.Repairing())
		if s.Missing+s.UnderCopied > 0 {
			s.Lacking = t.chunks.Lacking(quarry.LackingMax)
		}
	}
	return s
}

// serverStatus tells of the chunk servers what the last heartbeats told.
func (m *Master) serverStatus() []quarry.ServerStatus {
	known := m.root.known.Load()
	now := m.cfg.Clock.Now()
	m.pulseMu.Lock()
	defer m.pulseMu.Unlock()
	out := make([]quarry.ServerStatus, 0, len(known.servers))
	for id, s := range known.servers {
		if s.Forgotten {
			continue
		}
		st := quarry.ServerStatus{Server: id, Incarnation: s.Incarnation, Address: s.Address, Rack: s.Rack, SilentMS: -1}
		if h, ok := m.pulses[id]; ok {
			st.Incarnation, st.Address, st.Rack, st.Disks = h.req.Incarnation, h.req.Address, h.req.Rack, h.req.Disks
			st.SilentMS = now.Sub(h.at).Milliseconds()
			st.DriftPPM, st.Leaseless = h.drift.PPM(), h.drift.TooMuch()
		}
		out = append(out, st)
	}
	slices.SortFunc(out, func(a, b quarry.ServerStatus) int { return cmp.Compare(a.Server, b.Server) })
	return out
}
