package sim

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/cluster"
)

const (
	// spareMachines is how many machines can become masters beside those that are from the beginning.
	spareMachines = 3
	// mastersMost is the most masters of a cluster here.
	mastersMost = 5
	// sayTime is how long an operator waits for one command, changePause how long until the next one.
	sayTime     = 30 * time.Second
	changePause = 500 * time.Millisecond
)

// masters returns the machines on which a master runs, or should, be it one of the cluster or not.
func (c *Cluster) masters() []*Host { return c.fleet.Used() }

func (h *Host) address() string { return h.name + ":7400" }

// addresses returns where the masters are, as whoever starts a process tells it.
func (c *Cluster) addresses() (list []string) {
	for _, h := range c.masters() {
		list = append(list, h.address())
	}
	return list
}

// askAll has the operator ask all masters who the masters are, as a command does that begins.
func (c *Cluster) askAll(ctx context.Context) {
	for turn := range mastersMost {
		_ = c.operator.RefreshNext(ctx, uint64(turn)) // of some that do not answer
	}
}

// change says once how the masters are to change, as "quarry admin master" does. It waits for at
// most d.
func (c *Cluster) change(d time.Duration, gone []quarry.NodeID, come []*Host) error {
	ctx, cancel := c.admin.clock.WithTimeout(context.Background(), d)
	defer cancel()
	c.askAll(ctx)
	change := cluster.MasterChange{Gone: gone}
	for _, h := range come {
		change.By = append(change.By, h.address())
	}
	_, _, err := cluster.ChangeMasters(ctx, c.connections, c.operator, c.admin.clock, change)
	c.log.Printf("sim  masters %v to go, %v to come: %v", gone, names(come), err)
	return err
}

// settle has the masters be those on some machines, whatever was begun before, and returns nil when
// every group says so. Called again and again it comes to that.
func (c *Cluster) settle(want []*Host) error {
	ctx, cancel := c.admin.clock.WithTimeout(context.Background(), sayTime)
	defer cancel()
	c.askAll(ctx)
	st, err := c.operator.Status(ctx)
	if err != nil {
		return err
	}
	for _, s := range st.Shards {
		if s.Leader == 0 { // what is said of it, or of all masters, may be of some time ago
			return fmt.Errorf("shard %d has no leader that tells who votes", s.Shard)
		}
	}
	nodes, stray, missing := c.sort(st.Masters, want)
	if len(stray) > 0 {
		return cmp.Or(c.change(sayTime, stray, nil), fmt.Errorf("nodes %v were removed", stray))
	}
	for _, h := range missing {
		if c.fleet.Number(h) != 0 {
			// It was removed before that was undone. Its folder is of no use any more.
			c.log.Count("masters emptied to be added again")
			h.Kill()
			h.Wipe()
			h.Start()
			c.fleet.Lost(h)
		}
	}
	if len(missing) > 0 {
		return cmp.Or(c.change(sayTime, nil, missing), fmt.Errorf("%v were added", names(missing)))
	}
	var numbers []quarry.NodeID
	for _, h := range want {
		numbers = append(numbers, nodes[h])
	}
	slices.Sort(numbers)
	for _, s := range st.Shards {
		voters := slices.Sorted(slices.Values(s.Voters))
		if s.Changing || len(s.Learners) > 0 || !slices.Equal(voters, numbers) {
			return cmp.Or(c.change(sayTime, nil, want), fmt.Errorf("of shard %d %v voted, and %v are masters", s.Shard, voters, numbers))
		}
	}
	c.fleet.Settled(nodes, c.w.Now())
	return nil
}

// sort tells apart the masters on the machines that are wanted, those that are on none, and the
// machines on which there is none. Of two at one address the later one is there.
func (c *Cluster) sort(masters []quarry.MasterStatus, want []*Host) (nodes map[*Host]quarry.NodeID, stray []quarry.NodeID, missing []*Host) {
	nodes = map[*Host]quarry.NodeID{}
	for _, h := range want {
		for _, m := range masters {
			if m.Address == h.address() {
				nodes[h] = max(nodes[h], m.Node)
			}
		}
		if nodes[h] == 0 {
			missing = append(missing, h)
		}
	}
	for _, m := range masters {
		if nodes[c.net.host(m.Address)] != m.Node {
			stray = append(stray, m.Node)
		}
	}
	return nodes, stray, missing
}

// mastersAgree returns nil when the members of every group are the masters of the cluster, as each of
// them has it, and nobody else leads.
func (c *Cluster) mastersAgree() error {
	members, want := c.fleet.Members(), c.fleet.Numbers()
	for _, h := range c.Masters {
		p := h.life()
		member := slices.Contains(members, h)
		if p == nil || p.master.Load() == nil {
			if member {
				return fmt.Errorf("%s does not run", h.name)
			}
			continue
		}
		for id := quarry.RootShard; int(id) <= c.shards; id++ {
			st, err := p.master.Load().Group(id)
			switch {
			case !member && err == nil && st.Leading:
				return fmt.Errorf("%s, which is no master of the cluster, leads group %d", h.name, id)
			case !member:
			case err != nil:
				return err
			case !slices.Equal(slices.Sorted(slices.Values(st.Voters)), want) || len(st.Learners) > 0 || st.Changing || len(st.Members) != len(want):
				return fmt.Errorf("on %s the voters of group %d are %v and the learners %v, and the masters are %v", h.name, id, st.Voters, st.Learners, want)
			}
		}
	}
	return nil
}
