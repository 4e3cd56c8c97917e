package chunkserver

import (
	"context"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/chunk"
	"github.com/quarryfs/quarry/protocol"
)

// A disk that fails says so. One that hangs says nothing, and whoever asks it hangs with it;
// so nothing that a server does for all its disks together asks one, above all not the
// heartbeat, and what is asked of each disk is asked by goroutines of its own.

const (
	// measureEvery is how often a disk is asked how full it is. What Quarry itself writes is
	// counted meanwhile.
	measureEvery = time.Second
	// A disk is short of room when it has less left for chunks than a twentieth of it, and less than
	// roomBytes: what was dropped goes then, so that whoever else writes to the same file system does
	// not find it full. New chunks need no such margin, because what was dropped goes when they are made. It
	// is what the fastest disks take in some seconds, and the disk is looked at each second.
	roomShare, roomBytes = 20, 16 << 30
	// attendEvery is how often a disk is looked at, and hungLooks how many looks in a row
	// must find that something waits for the disk and nothing has ended until it is given up.
	// Looks are counted, not time, because a process that was stopped finds that much time
	// has passed. A disk that retries a bad sector by itself may need 20 seconds.
	attendEvery = time.Second
	hungLooks   = 30
	// hungClose is how long a stopping server waits for what waits for a disk that hangs.
	hungClose = time.Second
)

// measure keeps what is known of a disk's space fresh, and a disk that is short of room free of what
// was dropped.
func (s *Server) measure(ctx context.Context, d *chunk.Store) {
	for s.cfg.Clock.Sleep(ctx, measureEvery) == nil && d.Err() == nil {
		u, _ := d.Usage() // where it is not known yet, what is promised to chunks is all that room is made for
		if _, err := d.MakeRoom(ctx, min(u.Total/roomShare, roomBytes)); err != nil && ctx.Err() == nil {
			s.cfg.Logger.Warn("a disk does not tell how full it is, or what was dropped cannot be removed", "disk", d.Identity().Disk, "error", err)
		}
	}
}

// attend retires a disk that hangs, also one that failed before.
func (s *Server) attend(ctx context.Context, d *chunk.Store) {
	looks, last := 0, int64(0)
	for s.cfg.Clock.Sleep(ctx, attendEvery) == nil && !d.Hung() {
		waiting, ended := d.Progress()
		if waiting == 0 || ended != last {
			looks, last = 0, ended
			continue
		}
		if looks++; looks == hungLooks {
			d.Retire(quarry.Errorf("disk", quarry.Unavailable, d.Identity().Disk.String(),
				"it does not answer: %d changes wait for it, and none has ended for %v", waiting, hungLooks*attendEvery))
			return
		}
	}
}

// watch waits for a disk to fail, and then gives all its replicas up.
func (s *Server) watch(ctx context.Context, d *chunk.Store) {
	select {
	case <-ctx.Done():
		return
	case <-d.Done():
	}
	if ctx.Err() != nil {
		return
	}
	s.cfg.Logger.Error("a disk is retired: its replicas are copied from elsewhere", "disk", d.Identity().Disk, "error", d.Err())
	s.mu.Lock()
	var lost []*replica
	for _, r := range s.replicas {
		if r.disk == d {
			lost = append(lost, r)
		}
	}
	sortReplicas(lost)
	s.mu.Unlock()
	for _, r := range lost {
		r.step(func(m *protocol.Member) []protocol.Effect { return m.Fail() })
	}
}

// usage tells the state of the disks, as it is known.
func (s *Server) usage() []quarry.DiskUsage {
	out := make([]quarry.DiskUsage, 0, len(s.cfg.Disks))
	for _, d := range s.cfg.Disks {
		u := quarry.DiskUsage{Disk: d.Identity().Disk}
		usage, err := d.Usage()
		u.Total, u.Free, u.Chunks = usage.Total, usage.Free, usage.Chunks
		if err != nil {
			u.Failed = clip(err.Error())
		}
		out = append(out, u)
	}
	return out
}
