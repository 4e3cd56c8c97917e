// Package newest keeps the names that were made last and that nobody has touched since, so that
// a master which does not know one of them can be found out.
package newest

import (
	"slices"
	"sync"

	"github.com/quarryfs/quarry"
)

// Place is a name in a directory. Its zero value is no name.
type Place struct {
	Dir  quarry.Inode
	Name string
}

// Touches are the changes of a name: how many were asked for, and how many of them may still
// come about.
type Touches struct{ asked, open int }

// kept is how many names are remembered.
const kept = 16

// Names is what the changes of names say. Its zero value has seen none. Safe for use by many
// goroutines.
type Names struct {
	mu      sync.Mutex
	touches map[Place]Touches
	done    map[quarry.Op]bool // that have succeeded: when they come again, nothing is made
	made    []Place            // at most kept, the last is the newest
}

// Touch notes that names may be about to change, and returns how often the last has been touched.
func (n *Names) Touch(names ...Place) (last int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.touches == nil {
		n.touches, n.done = map[Place]Touches{}, map[quarry.Op]bool{}
	}
	for _, at := range names {
		t := n.touches[at]
		t.asked, t.open = t.asked+1, t.open+1
		n.touches[at], last = t, t.asked
		n.made = slices.DeleteFunc(n.made, func(made Place) bool { return made == at })
	}
	return last
}

// Settle notes that a change of names, for which Touch has returned last, is done, the last of
// them made, or refused for good. Any other err says that it may still come about.
func (n *Names) Settle(op quarry.Op, err error, last int, names ...Place) {
	switch quarry.KindOf(err) {
	case 0, quarry.NotFound, quarry.Exists, quarry.NotDir, quarry.IsDir, quarry.NotEmpty:
	default:
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	again := n.done[op]
	n.done[op] = again || err == nil
	for _, at := range names {
		t := n.touches[at]
		t.open--
		if n.touches[at] = t; err == nil && !again && t.open == 0 && t.asked == last && at == names[len(names)-1] && at != (Place{}) {
			n.made = append(n.made[max(0, len(n.made)+1-kept):], at)
		}
	}
}

// Newest are the names that were made last and that nobody has touched since, at most so many, the
// newest first, each with what is to be given to Untouched.
func (n *Names) Newest(most int) (places []Place, since []Touches) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, at := range slices.Backward(n.made) {
		if len(places) < most {
			places, since = append(places, at), append(since, n.touches[at])
		}
	}
	return places, since
}

// Untouched reports whether nobody has touched a name since Newest has told it.
func (n *Names) Untouched(at Place, since Touches) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.touches[at] == since
}
