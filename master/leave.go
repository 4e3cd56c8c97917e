package master

import (
	"context"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/raft"
)

// A master that was removed from its cluster hears nothing any more from the groups that it was a
// member of, and cannot tell this from a network that is cut: so it asks. The answer is certain,
// because the root group gives each number once: a number that was given and is not among the
// masters was taken back. But a group may count on a master that was removed, where another change
// has just added it: so it goes on until the leaders of all shards know that it was removed, and say
// that it is no member. It notes that in its folder then, so that it is never started from it again,
// and ends. Nothing depends on how soon.
const (
	// leaveEvery is how often a master looks whether it still hears from the root group.
	leaveEvery = 500 * time.Millisecond
	// leaveAfter is how long it hears nothing before it asks.
	leaveAfter = 2 * time.Second
	// leaveSave is how long the note in the folder may take before the master ends without it.
	leaveSave = 2 * time.Second
)

// attend watches whether the master still belongs to its cluster, as long as it lives.
func (m *Master) attend() {
	silent := time.Duration(0)
	for m.cfg.Clock.Sleep(m.ctx, leaveEvery) == nil {
		st, err := m.host.Status(quarry.RootShard)
		out := st.Applied > 0 && !slices.ContainsFunc(st.Members, func(n raft.Member) bool { return n.Node == m.node })
		switch {
		case err != nil || st.Leader != 0 && !out:
			silent = 0
			continue
		case !out:
			if silent += leaveEvery; silent < leaveAfter {
				continue
			}
		}
		if m.removed(m.ctx) {
			m.leave()
			return
		}
		silent = 0
	}
}

// removed asks the other masters whether this one was removed, and no group counts on it.
func (m *Master) removed(ctx context.Context) bool {
	masters := []quarry.MasterNode(nil)
	if o := m.originNow(); o.Join != nil {
		masters = append(masters, o.Join.Masters...)
	}
	if st, err := m.host.Status(quarry.RootShard); err == nil {
		for _, n := range st.Members {
			masters = append(masters, quarry.MasterNode{Node: n.Node, Disk: n.Disk, Address: n.Address})
		}
	}
	heard := m.hear(ctx, masters)
	var sure topologies // of those who know that it was removed
	for _, t := range heard {
		if m.node <= t.Numbered && !slices.ContainsFunc(t.Masters, func(o quarry.MasterNode) bool { return o.Node == m.node }) {
			sure = append(sure, t)
		}
	}
	for _, t := range sure {
		for _, s := range t.Shards {
			if s.Shard != quarry.RootShard && len(sure.members(s.Shard)) == 0 || slices.Contains(heard.members(s.Shard), m.node) {
				return false
			}
		}
	}
	return len(sure) > 0
}

// leave notes in the folder that the master was removed, and stops it.
func (m *Master) leave() {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-m.ctx.Done(): // Close has the turn, and waits for this goroutine
		return
	}
	if m.ctx.Err() != nil {
		return
	}
	m.reached("master leaves")
	gone := *m.originNow()
	gone.Removed = true
	saved := make(chan error, 1)
	go func() { saved <- gone.save(m.cfg.Folder) }() // its disk may hang for ever: that may be why it was removed
	patience := m.cfg.Clock.NewTimer(leaveSave)
	defer patience.Stop()
	var err error
	select {
	case err = <-saved:
	case <-patience.C():
		err = quarry.Errorf("write", quarry.Unavailable, originName, "the disk has not answered for %v", leaveSave)
	}
	if err != nil { // it is found out again after the next start
		m.cfg.Logger.Warn("this master was removed from its cluster, and cannot note it in its folder", "error", err)
	}
	m.begun.Store(&gone)
	m.host.Expel(gone.removedError(m.cfg.Address))
}

// removedError tells an operator why this folder serves nothing any more.
func (o *origin) removedError(address string) error {
	return quarry.Errorf("master", quarry.Permission, address, `this master was node %d of cluster %v and was removed from it; what is in its folder is of no use any more. `+
		`To use the machine as a master again, start one with an empty folder and say "quarry admin master add"`, o.Node, o.cluster())
}
