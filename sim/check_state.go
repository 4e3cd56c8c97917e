package sim

import (
	"fmt"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/master"
	"github.com/quarryfs/quarry/meta"
)

// The states of all masters are equal when they have applied the same entries: what one says
// of a name or a chunk, any other would say in its place.

// compareStates compares what the masters hold at this instant. It reports false if they have
// not applied the same entries, so that nothing can be said.
func (c *Cluster) compareStates() (compared bool, err error) {
	for id := quarry.RootShard; int(id) <= c.shards; id++ {
		var first uint64
		var sum [32]byte
		for i, h := range c.fleet.Members() {
			p := h.life()
			if p == nil || p.master.Load() == nil {
				return false, nil
			}
			applied, s, err := p.master.Load().Digest(id)
			switch {
			case err != nil || i > 0 && applied != first:
				return false, nil // it is looked at again
			case i > 0 && s != sum:
				return true, fmt.Errorf("masters agree: the states of group %d at entry %d differ on %s and %s", id, applied, c.fleet.Members()[0].name, h.name)
			}
			first, sum = applied, s
		}
	}
	return true, nil
}

// counters returns the totals of a shard's state at a master that has applied what any other has.
func (c *Cluster) counters(id quarry.ShardID) (meta.Counters, error) {
	var last uint64
	var n meta.Counters
	for _, h := range c.fleet.Members() {
		p := h.life()
		if p == nil || p.master.Load() == nil {
			return n, fmt.Errorf("%s does not run", h.name)
		}
		applied, totals, err := p.master.Load().Totals(id)
		if err != nil {
			return n, err
		}
		if applied >= last {
			last, n = applied, totals
		}
	}
	return n, nil
}

// observeMaster keeps a process's master, whose state is compared at the end.
func (p *process) observeMaster(m quarry.Master) {
	if real, ok := m.(*master.Master); ok {
		p.master.Store(real)
		real.OnMembers(p.membersTold)
		real.OnStep(func(step string) { p.stepped(step) })
	}
}
