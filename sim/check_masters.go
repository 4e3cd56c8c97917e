package sim

import (
	"context"
	"fmt"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/master"
	"github.com/quarryfs/quarry/raft"
)

// Masters come and go. Whoever decides in a group at one time has somebody in common with whoever
// decided before; a term has one leader; a number belongs to one disk for ever; and a master that is out
// leads nothing and answers nothing soon after.

const (
	masterMajorities = "majorities of masters meet"
	masterOut        = "who was removed is out"
)

// outTime is how long a master that was removed may not know it: longer than a leader without a majority
// takes itself for one.
const outTime = 4 * time.Second

// memberKey names a master as a member of a group.
type memberKey struct {
	group quarry.ShardID
	node  quarry.NodeID
}

// membersTold notes, and judges, that a process's master has come to other members of a group.
func (p *process) membersTold(id quarry.ShardID, c raft.Changed) {
	o, m := p.watch, p.master.Load()
	o.end(p, func() {
		if at, err := m.Identify(context.Background()); c.Snapshot && err == nil && at.Init == nil {
			o.log.Count("snapshots installed by masters that came later")
		}
		o.holds(masterMajorities, p.host, o.groups.Changed(id, c))
	})
}

// holds notes a violation if there is an error; mu is held.
func (o *observer) holds(invariant string, h *Host, err error) {
	if err != nil {
		o.violated(invariant, "%s: %v", h.name, err)
	}
}

// lookAtGroups judges what a master takes itself for.
func (m *observedMaster) lookAtGroups(real *master.Master) {
	id, err := real.Identify(context.Background())
	if err != nil || id.Node == 0 {
		return
	}
	o, h := m.o, m.p.host
	held, now := h.held(), h.w.Now()
	o.end(m.p, func() {
		m.p.node = id.Node
		o.holds("a number has one disk", h, o.groups.Is(id.Node, fmt.Sprintf("%s, %d times emptied", h.name, h.disk.replaced())))
		for group := quarry.RootShard; int(group) <= o.shards; group++ {
			st, err := real.Group(group)
			leads := err == nil && st.Leading && st.Leader == id.Node
			if leads {
				o.holds("a term has one leader", h, o.groups.Leads(group, st.Term, id.Node))
			}
			o.out(memberKey{group, id.Node}, h, leads && !held, now)
		}
	})
}

// out notes since when a master is out of a group, and judges whether it leads it all the same.
func (o *observer) out(key memberKey, h *Host, leads bool, now clock.Instant) {
	if !o.groups.Out(key.group, key.node) {
		delete(o.outSince, key)
		return
	}
	if _, known := o.outSince[key]; !known {
		o.outSince[key] = now
	}
	if !leads {
		delete(o.leadsSince, key)
		return
	}
	if _, known := o.leadsSince[key]; !known {
		o.leadsSince[key] = now
	}
	if now.Sub(o.outSince[key]) > outTime && now.Sub(o.leadsSince[key]) > outTime {
		o.violated(masterOut, "%s, node %d, leads group %d %v after it was removed from it", h.name, key.node, key.group, now.Sub(o.outSince[key]))
	}
}

// answered judges that a master has answered, from what it knows, a question that came at an instant: not
// if it had been out of all groups for a while by then. mu is held.
func (o *observer) answered(p *process, came clock.Instant) {
	if p.node == 0 {
		return
	}
	for group := quarry.RootShard + 1; int(group) <= o.shards; group++ {
		if since, out := o.outSince[memberKey{group, p.node}]; !out || came.Sub(since) < outTime {
			return
		}
	}
	o.violated(masterOut, "%s, node %d, answers from a state, and was removed from all groups", p.host.name, p.node)
}

// mastersJudged judges, when all is healed, the changes of all groups.
func (o *observer) mastersJudged() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.holds(masterMajorities, o.masters[0], o.groups.Apart())
}
