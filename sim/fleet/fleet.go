// Package fleet keeps what an operator knows of the machines that are masters, or can become some.
package fleet

import (
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// LearnTime is how long it may take until every client and server knows a master that has come: they are
// cut off, and then ask one master after the other.
const LearnTime = 40 * time.Second

// Fleet is machines, each of which is a master of the cluster, is on its way to be one or has been one,
// or is spare: without a process, and empty. Safe for use by many goroutines.
type Fleet[M comparable] struct {
	all []M

	mu       sync.Mutex
	members  []M // masters of the cluster
	others   []M // on their way in or out
	nodes    map[M]quarry.NodeID
	since    map[M]clock.Instant // members, for how long
	changing bool                // somebody changes them
}

// New returns a fleet whose first masters are numbered from 1, and known to everybody.
func New[M comparable](all []M, masters int, now clock.Instant) *Fleet[M] {
	f := &Fleet[M]{all: all, members: slices.Clone(all[:masters]), nodes: map[M]quarry.NodeID{}, since: map[M]clock.Instant{}}
	for i, m := range f.members {
		f.nodes[m], f.since[m] = quarry.NodeID(1+i), now.Add(-2*LearnTime)
	}
	return f
}

// Members returns the masters of the cluster, as the last change that is over has left them.
func (f *Fleet[M]) Members() []M {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.members)
}

// Used returns the machines that are not spare.
func (f *Fleet[M]) Used() []M {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Concat(f.members, f.others)
}

// Spare returns those that are.
func (f *Fleet[M]) Spare() []M {
	used := f.Used()
	return slices.DeleteFunc(slices.Clone(f.all), func(m M) bool { return slices.Contains(used, m) })
}

// Number returns the number of the master on a machine; 0 if there is none.
func (f *Fleet[M]) Number(m M) quarry.NodeID {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.nodes[m]
}

// Numbers returns the numbers of all masters, ascending.
func (f *Fleet[M]) Numbers() (list []quarry.NodeID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.members {
		list = append(list, f.nodes[m])
	}
	slices.Sort(list)
	return list
}

// Begin takes the right to change the masters; false if somebody else has it. End gives it back.
func (f *Fleet[M]) Begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	begun := !f.changing
	f.changing = true
	return begun
}

// End gives back what Begin took.
func (f *Fleet[M]) End() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changing = false
}

// Enter notes that a machine is to become a master's.
func (f *Fleet[M]) Enter(m M) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Contains(f.members, m) {
		f.others = append(f.others, m)
	}
}

// Settled notes who the masters are, with their numbers. Other machines that are not spare are on their
// way out.
func (f *Fleet[M]) Settled(nodes map[M]quarry.NodeID, now clock.Instant) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var members, others []M
	since := map[M]clock.Instant{}
	for _, m := range f.all {
		switch then, member := f.since[m]; {
		case nodes[m] != 0 && member:
			since[m] = then
		case nodes[m] != 0:
			since[m] = now
		default:
			if slices.Contains(f.members, m) || slices.Contains(f.others, m) {
				others = append(others, m)
			}
			continue
		}
		members = append(members, m)
	}
	f.members, f.others, f.nodes, f.since = members, others, nodes, since
}

// Leave notes that a machine that is no master's is spare.
func (f *Fleet[M]) Leave(m M) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.others = slices.DeleteFunc(f.others, func(o M) bool { return o == m })
}

// Lost notes that the master that was on a machine is gone, with its number.
func (f *Fleet[M]) Lost(m M) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.nodes, m)
}

// MayGo returns at most so many of the members, in the order of a permutation of them, that can be taken
// away and leave one that everybody knows.
func (f *Fleet[M]) MayGo(most int, permutation []int, now clock.Instant) (gone []M) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := func(m M) bool { return now.Sub(f.since[m]) > LearnTime }
	left := len(slices.DeleteFunc(slices.Clone(f.members), func(m M) bool { return !known(m) }))
	for _, i := range permutation {
		m := f.members[i]
		switch {
		case len(gone) == most || known(m) && left == 1:
			continue
		case known(m):
			left--
		}
		gone = append(gone, m)
	}
	return gone
}
