package raft

import "github.com/quarryfs/quarry"

// spaceReserve is how many bytes of a disk, or a twentieth of it if that is less, must be free
// for a leader to take proposals: what is under way, and the state's own housekeeping, must
// not meet a full disk, because then the node stops.
const spaceReserve = 64 << 20

// checkSpace looks whether the disks of log and state have room.
func (h *Host) checkSpace() {
	low := func(total, free uint64) bool { return total > 0 && free < min(spaceReserve, total/20) }
	full := false
	if total, free, err := h.cfg.Log.Usage(); err == nil && total > 0 {
		full = low(uint64(total), uint64(max(free, 0)))
	}
	if u, err := h.store.fs.GetDiskUsage(h.cfg.StateDir); err == nil {
		full = full || low(u.TotalBytes, u.AvailBytes)
	}
	if full != h.full.Swap(full) {
		h.cfg.Logger.Warn("raft: the disk of this node is nearly full, or has room again", "full", full)
	}
}

func (g *group) noSpace() error {
	return quarry.Errorf("propose", quarry.NoSpace, g.name(), "the disk of node %d, which leads, is nearly full: make room on it", g.h.cfg.Node)
}
