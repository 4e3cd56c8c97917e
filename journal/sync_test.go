package journal

import (
	"fmt"
	"maps"
	"testing"

	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/disk/crashtest"
)

// crashes counts the images of a run and what is wrong with them.
type crashes struct {
	t     *testing.T
	syncs *crashtest.Syncs
	crashtest.Result
}

// look compares the images that a crash may leave here with the history.
func (c *crashes) look(h *history, m *disk.Mem, limit int, format string, args ...any) {
	m.Images(limit, func(image *disk.Mem) {
		if c.syncs.Enough(c.Lost) {
			return
		}
		c.Images++
		if err := h.compare(image); err != nil {
			if c.Lost++; c.First == "" {
				c.First = fmt.Sprintf(format, args...) + ": " + err.Error()
			}
		}
	})
}

// restart lets another process open what this one leaves when it is killed before op: its
// disk with everything written, durable or not. What that process replays is a promise.
func (c *crashes) restart(h *history, m *disk.Mem, op disk.Op) {
	if c.syncs.Enough(c.Lost) {
		return
	}
	h.mu.Lock()
	again := &history{appended: h.appended, acked: h.acked, trimmed: h.trimmed, ends: maps.Clone(h.ends)}
	h.mu.Unlock()
	m = m.Clone()
	fs := disk.NewFaulty(m, func(inner disk.Op) disk.Fault {
		if isChange(inner) {
			c.look(again, m, 4, "killed before %v, power lost before %v", op, inner)
		}
		return c.syncs.Fault(inner)
	})
	replayed := again.trimmed
	j, err := Open(fs, "j", small, func(_ Position, b []byte) error {
		_, err := fmt.Sscan(string(b), &replayed)
		replayed++
		return err
	})
	if err != nil {
		c.t.Errorf("killed before %v: %v", op, err)
		return
	}
	again.mu.Lock()
	again.acked, again.appended = replayed, replayed
	again.mu.Unlock()
	c.look(again, m, 8, "killed before %v, power lost after recovery", op)
	for range 3 {
		again.append(c.t, j, 3)
		if _, err := j.Write(); err != nil {
			c.t.Error(err)
		}
		c.look(again, m, 8, "killed before %v, power lost later", op)
	}
	if err := j.Close(); err != nil {
		c.t.Error(err)
	}
}

// TestEverySyncIsNeeded crashes a disk while a journal is written, trimmed, killed and opened
// again, with all syncs and without those of each place.
func TestEverySyncIsNeeded(t *testing.T) {
	crashtest.Table(t, nil, func(t *testing.T, syncs *crashtest.Syncs) crashtest.Result {
		c := &crashes{t: t, syncs: syncs}
		h := &history{ends: map[int]bool{0: true}}
		m := disk.NewMem()
		h.workload(t, disk.NewFaulty(m, func(op disk.Op) disk.Fault {
			if isChange(op) {
				c.look(h, m, 12, "power lost before %v", op)
			}
			switch op.Kind {
			case disk.OpSync, disk.OpSyncDir, disk.OpRename:
				c.restart(h, m, op)
			}
			return syncs.Fault(op)
		}))
		c.look(h, m, 12, "power lost at the end")
		return c.Result
	})
}
