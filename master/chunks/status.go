package chunks

import (
	"cmp"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

// Status returns the shard's numbers, as this leader has them; who leads and how far the log
// is applied are the caller's to fill in.
func (l *Leader) Status() (quarry.ShardStatus, error) {
	s := quarry.ShardStatus{Shard: l.Shard, Term: l.Term}
	err := l.Log.View(func(v meta.View) error {
		n := meta.Totals(v)
		s.Inodes, s.Chunks, s.OpenChunks = n.Files+n.Dirs, n.Chunks, n.Open
		s.Missing, s.UnderCopied, s.Suspect = n.Missing, n.UnderCopied, n.Suspect
		return nil
	})
	s.Repairing = int64(l.Repairing())
	return s, err
}

// Repairing returns how many chunks are under repair.
func (l *Leader) Repairing() int {
	l.repairs.mu.Lock()
	defer l.repairs.mu.Unlock()
	return len(l.repairs.running)
}

// ServerStatus returns what this leader has heard of each chunk server, in the order of
// their ids.
func (l *Leader) ServerStatus() []quarry.ServerStatus {
	r := l.roster
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]quarry.ServerStatus, 0, len(r.servers))
	for _, s := range r.servers {
		list = append(list, quarry.ServerStatus{
			Server: s.id, Incarnation: s.incarnation, Address: s.address, Rack: s.rack,
			SilentMS: int64(r.clock.Now().Sub(s.heard) / time.Millisecond), Disks: slices.Clone(s.disks),
		})
	}
	slices.SortFunc(list, func(a, b quarry.ServerStatus) int { return cmp.Compare(a.Server, b.Server) })
	return list
}
