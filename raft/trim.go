package raft

import (
	"math"
	"time"

	etcd "go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/journal"
)

// journalSegments is into how many segments the journal's size is cut: the journal shrinks
// by segments.
const journalSegments = 8

// trimInterval is how often the size of the journal and the disks are looked at.
const trimInterval = time.Second

// holdFactor bounds the journal, in sizes at which it is trimmed, while it has what followers need
// that are catching up.
const holdFactor = 4

// runTrimmer keeps the journal at its size. A group's log may lose its beginning when the
// state has what was in it, on disk. So a trim makes the state durable first, then has every
// group write where its log begins, and when that is durable, too, the segments go that no
// group needs.
func (h *Host) runTrimmer() {
	defer h.contain("trim")
	t := h.cfg.Clock.NewTicker(trimInterval)
	defer t.Stop()
	for {
		select {
		case <-h.stopping:
			return
		case <-t.C():
		}
		h.checkSpace()
		if h.journal.Bytes() <= h.cfg.LogBytes {
			continue
		}
		if err := h.trim(); err != nil {
			h.fail(err)
			return
		}
	}
}

// trim cuts the journal to about half of its size.
func (h *Host) trim() error {
	groups := h.allGroups()
	durable := make([]uint64, len(groups))
	for i, g := range groups {
		durable[i] = g.appliedAt.Load()
	}
	if off(TrimBeforeSync) {
		h.cfg.Logger.Debug("raft: the log is trimmed at once")
	} else if err := h.store.barrier(); err != nil {
		return quarry.Wrap("sync state", "", err)
	}
	end := h.journal.End()
	keep := journal.Position{Segment: end.Segment - min(end.Segment, journalSegments/2)}
	hold := h.journal.Bytes() <= holdFactor*h.cfg.LogBytes
	results := make(chan journal.Position, len(groups))
	for i, g := range groups {
		g.call(func() { g.compact(keep, durable[i], hold, results) })
	}
	oldest, waits := h.oldestDormant(end)
	if waits {
		return nil
	}
	for range groups {
		select {
		case pos := <-results:
			if pos.Before(oldest) {
				oldest = pos
			}
		case <-h.stopping:
			return nil
		}
	}
	return h.journal.Trim(oldest)
}

// compact lets go what stands before a position in the journal and is applied durably,
// brings the rest forward, and answers with the oldest position that the group still needs,
// when all of that is durable. With hold, what followers need that are catching up stays where it is.
func (g *group) compact(keep journal.Position, durable uint64, hold bool, result chan<- journal.Position) {
	l := g.log
	answer := func() {
		pos, ok := l.oldest()
		if !ok {
			pos = journal.Position{}
		}
		result <- pos
	}
	if pos, ok := l.oldest(); g.installing != nil || ok && !pos.Before(keep) {
		answer()
		return
	}
	to := l.base
	for _, s := range l.spans {
		if !s.at.placed || !s.at.pos.Before(keep) || s.first > durable {
			break
		}
		to = min(s.last, durable)
	}
	if at := g.followed(); hold && at < to {
		if at > l.base {
			l.compact(at)
			g.writeBase(recordBase, nil, answer)
		} else {
			answer()
		}
		return
	}
	l.compact(to)
	// What is left before the position is not applied yet: it moves, with all behind it, so
	// that the records of the log stand in its order.
	moves := len(l.spans) > 0 && l.spans[0].at.placed && l.spans[0].at.pos.Before(keep)
	if !moves {
		g.writeBase(recordBase, nil, answer)
		return
	}
	g.writeBase(recordMoved, nil, nil)
	if err := g.moveEntries(answer); err != nil {
		g.h.fail(err)
	}
}

// followed returns the entry up to which all followers have come, or will have come with the snapshot
// that they are being sent: when the log does not have the next one any more, they need another
// snapshot. Those that are silent, or need a snapshot anyway, do not count.
func (g *group) followed() uint64 {
	least := uint64(math.MaxUint64)
	if !g.leads {
		return least
	}
	g.rn.WithProgress(func(id uint64, _ etcd.ProgressType, pr tracker.Progress) {
		at := pr.Match
		switch {
		case id == uint64(g.h.cfg.Node):
			return
		case pr.State == tracker.StateSnapshot:
			at = pr.PendingSnapshot // what is sent has come as far, or further
		case !pr.RecentActive:
			return
		case pr.State == tracker.StateProbe:
			at = pr.Next - 1 // behind a snapshot that has just been sent
		}
		if at >= g.log.base {
			least = min(least, at)
		}
	})
	return least
}

// moveEntries writes all entries of the log once more, and calls then when that is durable.
// Raft lets what is not applied grow to a bound, so they are not many.
func (g *group) moveEntries(then func()) error {
	l := g.log
	var spans []*span
	for lo := l.base + 1; lo <= l.last; {
		entries, err := l.entries(lo, l.last+1, recordBytesMax)
		if err != nil {
			return err
		}
		entries = entries[:min(len(entries), entriesMax)]
		at := &place{}
		next := entries[len(entries)-1].GetIndex() + 1
		op := &logOp{places: []*place{at}}
		if next > l.last {
			op.then = then
		}
		g.w.buf = encodeEntries(g.w.buf[:0], g.id, l.hard, entries)
		g.write(op, g.w.buf)
		spans = append(spans, &span{lo, next - 1, at})
		lo = next
	}
	l.spans = spans
	return nil
}
