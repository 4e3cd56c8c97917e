package master

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/meta"
)

// intentSweep settles intents whose coordinator was not heard of: those that it finds in two
// rounds in a row. A round sees to one page of them, and the next one goes on behind it. The
// coordinators' shards are asked at the same time, one intent of each after the other, so that
// none waits for a shard that is away. Not safe for use by several goroutines.
type intentSweep struct {
	clock  clock.Clock
	logger *slog.Logger
	page   func(from []byte) (list []meta.Intent, next []byte) // at most sweepMax, by transaction
	owner  func(quarry.Slot) quarry.ShardID
	settle func(context.Context, meta.Intent) error // may run several times at once

	from   []byte // where the next page begins
	held   map[meta.Intent]bool
	failed map[meta.TxID]bool // could not be settled; their turn comes after the others'. At most sweepMax
}

const (
	// sweepShards is how many coordinators' shards a sweep asks at the same time.
	sweepShards = 16
	// sweepTime is how long a sweep spends on the intents of one shard.
	sweepTime = 2 * askSilence
)

func newIntentSweep(c *coordinator) *intentSweep {
	m := c.shard.master
	return &intentSweep{
		clock: m.cfg.Clock, logger: m.cfg.Logger,
		page: func(from []byte) (list []meta.Intent, next []byte) {
			_ = c.shard.local(func(v meta.View) error {
				list, next = meta.Intents(v, from, sweepMax)
				return nil
			})
			return list, next
		},
		owner: func(slot quarry.Slot) quarry.ShardID {
			id, _ := m.root.owner(slot) // of those that are not known, questions wait together
			return id
		},
		settle: func(ctx context.Context, in meta.Intent) error {
			m.reached("swept")
			_, err := c.shard.settle(ctx, in)
			return err
		},
	}
}

// round sees to one page. It takes sweepTime at most for each sweepShards shards that do not answer.
func (s *intentSweep) round(ctx context.Context) {
	list, next := s.page(s.from)
	byShard := map[quarry.ShardID][]meta.Intent{}
	for _, in := range list {
		if s.held[in] {
			id := s.owner(in.Tx.Slot())
			byShard[id] = append(byShard[id], in)
		}
	}
	if again := s.from == nil && next == nil; s.held != nil && !again { // the first round only looks
		s.from = next
		list, _ = s.page(s.from)
	}
	s.held = make(map[meta.Intent]bool, len(list))
	for _, in := range list {
		s.held[in] = true
	}
	stopped := make([]meta.TxID, len(byShard))
	var jobs sync.WaitGroup
	room := make(chan struct{}, sweepShards)
	for i, id := range slices.Sorted(maps.Keys(byShard)) {
		room <- struct{}{} // what holds it ends in time
		jobs.Go(func() {
			stopped[i] = s.settleAll(ctx, byShard[id])
			<-room
		})
	}
	jobs.Wait()
	if len(s.failed) >= sweepMax || s.failed == nil {
		s.failed = map[meta.TxID]bool{}
	}
	for _, id := range stopped {
		if id != 0 {
			s.failed[id] = true
		}
	}
}

// settleAll settles intents of one coordinator's shard until one cannot be settled, or time is
// up. It returns the transaction at which it stopped; 0: at none.
func (s *intentSweep) settleAll(ctx context.Context, list []meta.Intent) meta.TxID {
	ctx, cancel := s.clock.WithTimeout(ctx, sweepTime)
	defer cancel()
	for _, again := range []bool{false, true} {
		for _, in := range list {
			if s.failed[in.Tx] != again {
				continue
			}
			if err := s.settleOne(ctx, in); err != nil {
				s.logger.Debug("an intent cannot be settled yet", "transaction", uint64(in.Tx), "error", err)
				return in.Tx
			}
		}
	}
	return 0
}

func (s *intentSweep) settleOne(ctx context.Context, in meta.Intent) error {
	ctx, cancel := s.clock.WithTimeout(ctx, askSilence)
	defer cancel()
	return s.settle(ctx, in)
}

// every calls f every now and then until the term ends.
func (c *coordinator) every(pause time.Duration, f func()) {
	for c.shard.master.cfg.Clock.Sleep(c.ctx, pause) == nil {
		f()
	}
}
