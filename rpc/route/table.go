package route

import (
	"context"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
)

// target is where a request belongs: a shard, the shard of a slot, or any node.
type target struct {
	any    bool
	bySlot bool
	byOp   bool // slot is that of the session
	op     quarry.Op
	slot   quarry.Slot
	shard  quarry.ShardID
}

func bySlot(s quarry.Slot) target { return target{bySlot: true, slot: s} }

// byOp is where a change of something in a slot goes: to the shard that keeps its session.
func byOp(op quarry.Op, s quarry.Slot) target {
	if op.Session == 0 {
		return bySlot(s)
	}
	return target{bySlot: true, byOp: true, slot: op.Session.Slot(), op: op}
}

func byShard(s quarry.ShardID) target { return target{shard: s} }

// table is what the nodes told of the cluster. Guarded by Masters.mu.
type table struct {
	known     bool
	cluster   quarry.ClusterID
	version   uint64
	applied   uint64   // how far the node that told it was in the root group's log
	addresses []string // of all masters
	nodes     map[quarry.NodeID]string
	owners    [quarry.Slots]quarry.ShardID
	leaders   map[quarry.ShardID]string // addresses; absent: not known
	answering string                    // a node that answered last, for requests that any node takes
}

func (t *table) shard(to target) quarry.ShardID {
	if to.bySlot {
		return t.owners[to.slot%quarry.Slots]
	}
	return to.shard
}

// leader returns the address of the node that a request goes to first, or "".
func (t *table) leader(to target) string {
	if to.any {
		if !slices.Contains(t.addresses, t.answering) {
			return "" // a master that was removed would go on answering what it knew
		}
		return t.answering
	}
	return t.leaders[t.shard(to)]
}

// Times of a refresh.
const (
	refreshMax   = time.Second           // for the first answer, unless more is needed
	refreshGrace = 50 * time.Millisecond // for the others, after the first
)

func (m *Masters) known() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.learned.known
}

// version returns the version of the slot map that is known; 0: none is.
func (m *Masters) version() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.learned.version
}

// next returns the node to try: the one that the last answer named, the leader, or any node
// that this round has not tried. "" if none is left.
func (m *Masters) next(a *attempt) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.prefer != "" {
		return a.prefer
	}
	if at := m.learned.leader(a.target); at != "" && !slices.Contains(a.tried, at) {
		return at
	}
	for _, at := range m.learned.addresses {
		if !slices.Contains(a.tried, at) {
			return at
		}
	}
	return ""
}

// note keeps who answered.
func (m *Masters) note(to target, at string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.learned.answering = at
	if !to.any && m.learned.leaders != nil {
		m.learned.leaders[m.learned.shard(to)] = at
	}
}

// doubt forgets that a node leads.
func (m *Masters) doubt(to target, at string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.learned.answering == at {
		m.learned.answering = ""
	}
	if s := m.learned.shard(to); !to.any && m.learned.leaders[s] == at {
		delete(m.learned.leaders, s)
	}
}

// movedTo asks the other nodes, while a.at is silent, where the request should be instead:
// at another leader, or for a request that any node takes, at a node not tried yet.
func (m *Masters) movedTo(ctx context.Context, a *attempt) string {
	if err := m.refresh(ctx); err != nil {
		return ""
	}
	if a.target.any {
		return m.next(a)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if at := m.learned.leader(a.target); at != a.at {
		return at
	}
	return ""
}

// Shard returns the shard that owns a slot.
func (m *Masters) Shard(ctx context.Context, slot quarry.Slot) (quarry.ShardID, error) {
	if !m.known() {
		if _, err := m.Topology(ctx); err != nil {
			return 0, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.learned.shard(bySlot(slot)), nil
}

// told is one node's answer to a refresh.
type told struct {
	address  string
	topology *quarry.TopologyReply
	err      error
}

// refresh asks all nodes for the topology and merges what they say. Callers that come while
// a refresh runs, or in the same instant, share its outcome. It fails if no node answers.
func (m *Masters) refresh(ctx context.Context) error { return m.refreshWithin(ctx, refreshMax) }

// refreshWithin is refresh with another limit for the first answer.
func (m *Masters) refreshWithin(ctx context.Context, limit time.Duration) error {
	now := m.opts.Clock.Now()
	for {
		m.mu.Lock()
		if m.learned.known && m.asked >= now {
			m.mu.Unlock()
			return nil
		}
		running := m.fetching
		if running == nil {
			break
		}
		m.mu.Unlock()
		select {
		case <-running.done:
			if !running.aborted {
				return running.err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	run := &refreshing{done: make(chan struct{})}
	m.fetching = run
	addresses := slices.Clone(m.learned.addresses)
	for _, at := range m.opts.Addresses { // they may be names that resolve to new places
		if !slices.Contains(addresses, at) {
			addresses = append(addresses, at)
		}
	}
	m.mu.Unlock()

	answers, err := m.ask(ctx, addresses, limit)
	m.mu.Lock()
	if err == nil {
		m.learned.merge(answers)
		m.asked = now
	}
	m.fetching = nil
	m.mu.Unlock()
	run.err, run.aborted = err, ctx.Err() != nil
	close(run.done)
	return err
}

// refreshing is a refresh that runs; err and aborted are set before done is closed.
type refreshing struct {
	done    chan struct{}
	err     error
	aborted bool // its caller went away: who waited asks again
}

// ask calls Topology at all addresses at once and returns the good answers, at least one.
// After the first it waits only a moment for the others.
func (m *Masters) ask(ctx context.Context, addresses []string, limit time.Duration) ([]told, error) {
	ctx, cancel := m.opts.Clock.WithTimeout(ctx, limit)
	defer cancel()
	replies := make(chan told, len(addresses))
	for _, at := range addresses {
		go func() {
			topology, err := m.fetch(ctx, at)
			replies <- told{at, topology, err}
		}()
	}
	var good []told
	var grace <-chan time.Time
	var failed error
	for range addresses {
		select {
		case r := <-replies:
			switch {
			case r.err != nil:
				failed = worse(failed, r.err)
			default:
				good = append(good, r)
			}
		case <-grace:
			return good, nil
		case <-ctx.Done():
			if len(good) > 0 {
				return good, nil
			}
			return nil, worse(failed, ctx.Err())
		}
		if len(good) == 1 && grace == nil {
			timer := m.opts.Clock.NewTimer(refreshGrace)
			defer timer.Stop()
			grace = timer.C()
		}
	}
	if len(good) == 0 {
		return nil, worse(failed, ctx.Err())
	}
	return good, nil
}

// worse returns the error that tells more: one that a node answered with rather than one
// that says it did not answer.
func worse(a, b error) error {
	if a == nil || b != nil && quarry.KindOf(a) == quarry.Unavailable && quarry.KindOf(b) != quarry.Unavailable {
		return b
	}
	return a
}

// merge takes the newest slot map and, for each shard, the most credible leader.
func (t *table) merge(answers []told) {
	newest := answers[0].topology
	for _, a := range answers {
		if newer(a.topology, newest.Version, newest.Applied) {
			newest = a.topology
		}
	}
	t.takeNewer(newest)
	leaders := map[quarry.ShardID]string{}
	for _, s := range newest.Shards {
		if at := t.elect(s.Shard, answers); at != "" {
			leaders[s.Shard] = at
		}
	}
	t.leaders = leaders
	t.answering = answers[0].address
}

// newer reports whether a topology is of a later state of the root group than another one.
func newer(r *quarry.TopologyReply, version, applied uint64) bool {
	return r.Version > version || r.Version == version && r.Applied > applied
}

// takeNewer takes a topology unless a later one is known.
func (t *table) takeNewer(r *quarry.TopologyReply) {
	if known := t.known && (r.Version < t.version || r.Version == t.version && r.Applied < t.applied); !known {
		t.take(r)
	}
}

func (t *table) take(r *quarry.TopologyReply) {
	t.known, t.cluster, t.version, t.applied = true, r.Cluster, r.Version, r.Applied
	t.nodes = make(map[quarry.NodeID]string, len(r.Masters))
	t.addresses = t.addresses[:0:0]
	for _, n := range r.Masters {
		if n.Address != "" && len(t.addresses) < nodesMax {
			t.nodes[n.Node] = n.Address
			t.addresses = append(t.addresses, n.Address)
		}
	}
	for _, s := range r.Shards {
		for _, slots := range s.Slots {
			for slot := int(slots.First); slot <= min(int(slots.Last), quarry.Slots-1); slot++ {
				t.owners[slot] = s.Shard
			}
		}
	}
}

// elect returns whom the answers take for the leader of a shard: a node that says so of
// itself, or else the one that most of them name.
func (t *table) elect(shard quarry.ShardID, answers []told) string {
	votes := map[string]int{}
	best := ""
	for _, a := range answers {
		i := slices.IndexFunc(a.topology.Shards, func(s quarry.ShardInfo) bool { return s.Shard == shard })
		if i < 0 {
			continue
		}
		at := t.nodes[a.topology.Shards[i].Leader]
		if at == "" {
			continue
		}
		votes[at]++
		if at == a.address {
			votes[at] += len(answers)
		}
		if best == "" || votes[at] > votes[best] {
			best = at
		}
	}
	return best
}
