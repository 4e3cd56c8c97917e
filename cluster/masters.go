package cluster

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/rpc/route"
)

// Pauses between tries to change a group that cannot be changed at this moment.
const (
	mastersPauseMin = 100 * time.Millisecond
	mastersPauseMax = 2 * time.Second
	// forgetTime is how long the root group is asked to forget masters before the shards are
	// looked through once more.
	forgetTime = 5 * time.Second
)

// MasterChange is a change of the masters of a cluster that is in use. With both fields set the
// new masters take the place of those that are gone; By alone adds masters, and Gone alone removes
// some, which may be alive.
type MasterChange struct {
	Gone []quarry.NodeID
	By   []string // addresses of masters that were started with empty folders and wait
}

// ChangeMasters changes the masters of a cluster, and returns the new ones, in the order of By, and
// all that there are then. It goes from group to group: when masters come, the root group is first,
// which numbers them; when masters go, it is the last, and forgets them, so that whoever leads a
// shard always hears from it. Each group is changed in one step, when the new members have caught up with it; who leads it and is to go hands it over
// first. Interrupted at any point, the same change said again finishes.
//
// It waits for masters that catch up for as long as ctx lasts. Errors: Invalid for a change that
// cannot be made, or is dangerous: one that leaves no master, or no majority that lives; one that
// names a node that there never was, or for a new master one that is a member already; and, unless it replaces, one beside a master that does not
// answer and is not among those that go. Unavailable if a new master does not answer, or if it is a member
// and no leader tells whether it has yet to take a place.
func ChangeMasters(ctx context.Context, client *rpc.Client, masters *route.Masters, c clock.Clock, change MasterChange) (came, all []quarry.MasterNode, err error) {
	m := &mastersChange{masters: masters, clock: c, gone: change.Gone}
	for i, address := range change.By {
		if slices.Contains(change.By[:i], address) {
			return nil, nil, quarry.Errorf("change masters", quarry.Invalid, address, "the new master is named twice")
		}
		id, err := client.Master(address).Identify(ctx)
		if err != nil {
			return nil, nil, quarry.Errorf("change masters", quarry.Unavailable, address, "the new master does not answer; start it with an empty folder first: %w", err)
		}
		m.came = append(m.came, quarry.MasterNode{Disk: id.Disk, Address: id.Address})
	}
	if err := m.check(ctx); err != nil {
		return nil, nil, err
	}
	for {
		if err := m.pass(ctx); err != nil {
			return nil, nil, err
		}
		done, err := m.forget(ctx)
		if err != nil {
			return nil, nil, err
		}
		if done {
			break
		}
	}
	// Another change may have added those who are gone to a shard again, before its leader heard
	// that they were forgotten.
	if len(m.gone) > 0 {
		if err := m.passShards(ctx); err != nil {
			return nil, nil, err
		}
	}
	topology, err := masters.Topology(ctx)
	if err != nil {
		return m.came, nil, err
	}
	return m.came, topology.Masters, nil
}

// mastersChange is a change of the masters under way.
type mastersChange struct {
	masters *route.Masters
	clock   clock.Clock
	gone    []quarry.NodeID
	came    []quarry.MasterNode // with their numbers, as soon as the root group has given them
	shards  int                 // how many groups the last pass has changed, the root group among them
}

// check refuses what must not be begun.
func (m *mastersChange) check(ctx context.Context) error {
	st, err := m.masters.Status(ctx)
	if err != nil {
		return err
	}
	topology, err := m.masters.Topology(ctx)
	if err != nil {
		return err
	}
	if err := m.newcomers(st, topology); err != nil {
		return err
	}
	left := len(m.came)
	for i, node := range m.gone {
		switch {
		case node == 0 || node > topology.Numbered:
			return quarry.Errorf("change masters", quarry.Invalid, "", "there has never been a master with the number %d; \"quarry admin status\" shows the numbers", node)
		case slices.Contains(m.gone[:i], node):
			return quarry.Errorf("change masters", quarry.Invalid, "", "node %d is named twice", node)
		}
	}
	for _, n := range st.Masters {
		switch {
		case slices.Contains(m.gone, n.Node):
			continue
		case !slices.ContainsFunc(m.came, func(c quarry.MasterNode) bool { return c.Disk == n.Disk }):
			left++
		}
		if !n.Alive && (len(m.gone) == 0 || len(m.came) == 0) {
			return quarry.Errorf("change masters", quarry.Invalid, n.Address,
				"node %d does not answer: start it, or put another one in its place (\"quarry admin master replace --gone %d\"), or remove it with the others (\"quarry admin master remove --node %d\")", n.Node, n.Node, n.Node)
		}
	}
	if left == 0 {
		return quarry.Errorf("change masters", quarry.Invalid, "", "that would remove the last master")
	}
	return nil
}

// newcomers refuses a replacement by a master that is a member already: by itself, or by one that
// has its own place, which would only remove those that are gone.
func (m *mastersChange) newcomers(st *quarry.StatusReply, topology *quarry.TopologyReply) error {
	if len(m.gone) == 0 {
		return nil
	}
	for _, n := range topology.Masters {
		i := slices.IndexFunc(m.came, func(c quarry.MasterNode) bool { return c.Disk == n.Disk })
		if i < 0 {
			continue
		}
		if slices.Contains(m.gone, n.Node) {
			return quarry.Errorf("change masters", quarry.Invalid, m.came[i].Address, "the master there is node %d, which cannot take its own place: start one with an empty folder", n.Node)
		}
		// Interrupted, the same change leaves no shard in which both vote, except new ones.
		both := func(s quarry.ShardStatus) bool {
			return s.Shard == quarry.RootShard || slices.Contains(s.Voters, n.Node) && slices.ContainsFunc(m.gone, func(g quarry.NodeID) bool { return slices.Contains(s.Voters, g) })
		}
		open := func(s quarry.ShardStatus) bool { return !both(s) }
		switch k := slices.IndexFunc(st.Shards, open); {
		case slices.ContainsFunc(st.Shards, func(s quarry.ShardStatus) bool { return open(s) && s.Leader != 0 }):
		case k >= 0: // without a leader's word its voters may be those of some time ago
			return quarry.Errorf("change masters", quarry.Unavailable, m.came[i].Address, "the master there is node %d of this cluster already, and no leader of shard %d tells whether it has its place there: try again when \"quarry admin status\" shows one", n.Node, st.Shards[k].Shard)
		default:
			return quarry.Errorf("change masters", quarry.Invalid, m.came[i].Address, "the master there is node %d of this cluster already; \"quarry admin master remove\" only removes", n.Node)
		}
	}
	return nil
}

// pass changes one group after the other. Those that are gone leave the root group by forget, when
// all shards are done.
func (m *mastersChange) pass(ctx context.Context) error {
	if len(m.came) > 0 {
		if err := m.one(ctx, quarry.RootShard, nil); err != nil {
			return err
		}
	}
	return m.passShards(ctx)
}

// passShards changes one shard after the other, those among them that are added meanwhile.
func (m *mastersChange) passShards(ctx context.Context) error {
	for next := quarry.RootShard + 1; ; next++ { // shards are numbered without gaps
		st, err := m.masters.Status(ctx)
		if err != nil {
			return err
		}
		if m.shards = len(st.Shards); int(next) >= m.shards {
			return nil
		}
		if err := m.one(ctx, next, m.gone); err != nil {
			return err
		}
	}
}

// one changes a group, and tries again, after a pause, for as long as it is only too early.
func (m *mastersChange) one(ctx context.Context, shard quarry.ShardID, gone []quarry.NodeID) error {
	for pause := mastersPauseMin; ; pause = min(2*pause, mastersPauseMax) {
		reply, err := m.masters.Replace(ctx, &quarry.ReplaceRequest{Shard: shard, Gone: gone, New: m.came})
		if err == nil {
			m.came = reply.New
			return nil
		}
		if !passing(err) || m.clock.Sleep(ctx, pause) != nil {
			return err
		}
	}
}

// forget has the root group let go of the masters that are gone. It reports false if there are
// shards that have not been changed, because they were added meanwhile.
func (m *mastersChange) forget(ctx context.Context) (bool, error) {
	if len(m.gone) == 0 {
		st, err := m.masters.Status(ctx)
		return err == nil && len(st.Shards) == m.shards, err
	}
	short, cancel := m.clock.WithTimeout(ctx, forgetTime)
	defer cancel()
	_, err := m.masters.Replace(short, &quarry.ReplaceRequest{Shard: quarry.RootShard, Gone: m.gone})
	if err != nil && (ctx.Err() != nil || !passing(err)) {
		return false, err
	}
	return err == nil, nil
}

// passing reports whether a refusal is one that a later try may not meet.
func passing(err error) bool {
	return errors.Is(err, quarry.Busy) || errors.Is(err, quarry.Unavailable) || errors.Is(err, quarry.NotLeader) || errors.Is(err, quarry.Unknown)
}
