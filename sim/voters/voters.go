// Package voters judges who decides in Raft groups whose members change: a majority at one time must
// have a node in common with a majority at the time before, a term has one leader, and a node's number
// belongs to one disk.
package voters

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/raft"
)

// Groups is what was seen of the groups of a cluster. Its zero value has seen nothing.
type Groups struct {
	groups map[quarry.ShardID]*group
	disks  map[quarry.NodeID]string
}

type group struct {
	changes []raft.Changed           // ascending by index
	leaders map[uint64]quarry.NodeID // of the terms
}

func (g *Groups) group(id quarry.ShardID) *group {
	if g.groups == nil {
		g.groups, g.disks = map[quarry.ShardID]*group{}, map[quarry.NodeID]string{}
	}
	if g.groups[id] == nil {
		g.groups[id] = &group{leaders: map[uint64]quarry.NodeID{}}
	}
	return g.groups[id]
}

// Changed notes who belongs to a group from an entry of its log on. It returns an error if another node
// came to other members at that entry. A snapshot says nothing that was not decided earlier.
func (g *Groups) Changed(id quarry.ShardID, c raft.Changed) error {
	if c.Snapshot {
		return nil
	}
	gr := g.group(id)
	at, known := slices.BinarySearchFunc(gr.changes, c.Index, func(o raft.Changed, index uint64) int { return int(int64(o.Index) - int64(index)) })
	if known {
		if o := gr.changes[at]; o.Term != c.Term || !slices.Equal(o.Voters, c.Voters) || !slices.Equal(o.Outgoing, c.Outgoing) || !slices.Equal(o.Learners, c.Learners) {
			return fmt.Errorf("at entry %d of group %d the members are %s and %s", c.Index, id, show(o), show(c))
		}
		return nil
	}
	gr.changes = slices.Insert(gr.changes, at, c)
	return nil
}

// Apart returns an error if there is a change of a group across which majorities need not meet. It is
// asked when all nodes have told of all changes: one that dies as it comes to one tells nothing of it.
func (g *Groups) Apart() error {
	for _, id := range slices.Sorted(maps.Keys(g.groups)) {
		changes := g.groups[id].changes
		for i := 1; i < len(changes); i++ {
			if a, b := changes[i-1], changes[i]; !Meet(a, b) {
				return fmt.Errorf("group %d goes from %s at entry %d to %s at entry %d: majorities need not meet", id, show(a), a.Index, show(b), b.Index)
			}
		}
	}
	return nil
}

func show(c raft.Changed) string {
	if len(c.Outgoing) > 0 {
		return fmt.Sprintf("%v and %v", c.Outgoing, c.Voters)
	}
	return fmt.Sprint(c.Voters)
}

// Leads notes that a node takes itself for a group's leader in a term. It returns an error if another
// one has done so.
func (g *Groups) Leads(id quarry.ShardID, term uint64, node quarry.NodeID) error {
	leaders := g.group(id).leaders
	if other := leaders[term]; other != 0 && other != node {
		return fmt.Errorf("nodes %d and %d both lead group %d in term %d", other, node, id, term)
	}
	leaders[term] = node
	return nil
}

// Is notes on which disk, of whichever name, there is a node. It returns an error if it was on another
// one.
func (g *Groups) Is(node quarry.NodeID, disk string) error {
	g.group(quarry.RootShard) // so that there are maps
	if other, known := g.disks[node]; known && other != disk {
		return fmt.Errorf("node %d is on the disk %s, and was on %s", node, disk, other)
	}
	g.disks[node] = disk
	return nil
}

// Out reports whether a node is known to be out of a group: it was a member once, and the last change
// that anybody has come to is without it.
func (g *Groups) Out(id quarry.ShardID, node quarry.NodeID) bool {
	changes := g.group(id).changes
	return len(changes) > 0 && !member(changes[len(changes)-1], node) && slices.ContainsFunc(changes, func(c raft.Changed) bool { return member(c, node) })
}

func member(c raft.Changed, node quarry.NodeID) bool {
	return slices.Contains(c.Voters, node) || slices.Contains(c.Outgoing, node) || slices.Contains(c.Learners, node)
}

// Meet reports whether each majority of one membership has a node in common with each one of another.
func Meet(a, b raft.Changed) bool {
	nodes := slices.Concat(a.Voters, a.Outgoing, b.Voters, b.Outgoing)
	slices.Sort(nodes)
	nodes = slices.Compact(nodes)
	all := uint64(1)<<len(nodes) - 1 // a group has 31 members at most, and here far fewer
	for some := range all + 1 {
		if decides(a, nodes, some) && decides(b, nodes, all&^some) {
			return false
		}
	}
	return true
}

// decides reports whether some of the nodes, of which some has a bit for each, are a majority.
func decides(c raft.Changed, nodes []quarry.NodeID, some uint64) bool {
	for _, voters := range [][]quarry.NodeID{c.Voters, c.Outgoing} {
		mask := uint64(0)
		for i, n := range nodes {
			if slices.Contains(voters, n) {
				mask |= 1 << i
			}
		}
		if len(voters) > 0 && 2*bits.OnesCount64(some&mask) <= len(voters) {
			return false
		}
	}
	return true
}
