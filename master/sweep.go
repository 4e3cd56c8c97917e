package master

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

// settle asks what became of the transaction that has left an intent, and carries out or
// undoes its part here. It reports whether the transaction is not decided yet.
func (s *shard) settle(ctx context.Context, in meta.Intent) (undecided bool, err error) {
	x, known, err := s.master.outcome(ctx, in.Tx)
	if err != nil {
		return false, err
	}
	return s.settleAs(ctx, in, &x, known)
}

// settleAs is settle when the coordinator's shard has said what became of the transaction.
func (s *shard) settleAs(ctx context.Context, in meta.Intent, x *meta.Transaction, known bool) (undecided bool, err error) {
	if in.Part.Kind == meta.PartSource { // decided here, with whatever was to become of it
		return known && !x.Committed, nil
	}
	f := in.Settle(x, known)
	if f == nil {
		return true, nil
	}
	_, err = s.propose(ctx, quarry.Op{}, f)
	return false, err
}

// outcomesMax bounds the questions that one reader has under way.
const outcomesMax = 16

// settleMet settles the intents that a reader has met. Of each transaction it asks once, of
// several at the same time. It reports whether none of them was decided.
func (s *shard) settleMet(ctx context.Context, met []meta.Intent) (undecided bool, err error) {
	byTx := map[meta.TxID][]meta.Intent{}
	for _, in := range met {
		byTx[in.Tx] = append(byTx[in.Tx], in)
	}
	var (
		jobs sync.WaitGroup
		mu   sync.Mutex // guards what is returned
	)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	undecided = true
	room := make(chan struct{}, outcomesMax)
	for _, id := range slices.Sorted(maps.Keys(byTx)) {
		room <- struct{}{} // what holds it ends with ctx
		jobs.Go(func() {
			defer func() { <-room }()
			open, failed := s.settleTx(ctx, id, byTx[id])
			mu.Lock()
			defer mu.Unlock()
			if undecided = undecided && open; failed != nil && err == nil {
				err = failed
				cancel() // the reader has no answer: the others need not wait
			}
		})
	}
	jobs.Wait()
	return undecided, err
}

// settleTx settles intents of one transaction.
func (s *shard) settleTx(ctx context.Context, id meta.TxID, list []meta.Intent) (undecided bool, err error) {
	x, known, err := s.master.outcome(ctx, id)
	if err != nil {
		return false, err
	}
	undecided = true
	for _, in := range list {
		open, err := s.settleAs(ctx, in, &x, known)
		if err != nil {
			return false, err
		}
		undecided = undecided && open
	}
	return undecided, nil
}

// settleAt is settle for an intent of any shard, for as long as one question may take.
func (m *Master) settleAt(in meta.Intent) (undecided bool, err error) {
	ctx, cancel := m.cfg.Clock.WithTimeout(m.ctx, askSilence)
	defer cancel()
	x, known, err := m.outcome(ctx, in.Tx)
	if err != nil {
		return false, err
	}
	f := in.Settle(&x, known)
	if f == nil || in.Part.Kind == meta.PartSource {
		return f == nil, nil
	}
	_, err = m.apply(ctx, in.Part.Where(), f)
	return false, err
}

// readTries bounds how often a reader looks again because a transaction was decided meanwhile.
const readTries = 16

// readNames is read for answers that depend on entries: f adds the intents that it meets. An
// answer is right, as of its view, if none of them was decided when their coordinators were
// asked, which is later. One that is decided is settled, and the reader looks again.
func readNames[R any](ctx context.Context, m *Master, op string, slot quarry.Slot, f func(meta.View, *[]meta.Intent) (R, error)) (R, error) {
	var none R
	for range readTries {
		var met []meta.Intent
		reply, err := read(ctx, m, op, slot, func(v meta.View) (R, error) {
			met = nil
			return f(v, &met)
		})
		if off(IntentPassedOver) {
			met = nil
		}
		if len(met) == 0 {
			return reply, err
		}
		sh, failed := m.shardOf(op, slot)
		if failed != nil {
			return none, failed
		}
		undecided, failed := sh.settleMet(ctx, met)
		if failed != nil {
			return none, quarry.Wrap(op, "", failed)
		}
		if undecided {
			return reply, err
		}
	}
	return none, quarry.Errorf(op, quarry.Busy, "", "the names are being changed from elsewhere all the time")
}

// sweep looks for what nobody cares for: transactions whose request is gone, and chunks whose
// owner is over. Transactions that it finds twice in a row are seen to. Intents: intentSweep.
type sweep struct {
	c       *coordinator
	pending map[meta.TxID]bool
	past    quarry.SessionID // the last session whose chunks were looked at
}

// transactions has transactions carried out that nobody carries out; at once: those that an
// earlier leader has begun.
func (s *sweep) transactions(atOnce bool) {
	var list []meta.TxID
	_ = s.c.shard.local(func(v meta.View) error {
		list = meta.Transactions(v, 0, meta.TransactionsMax)
		return nil
	})
	seen := make(map[meta.TxID]bool, len(list))
	for _, id := range list {
		if seen[id] = true; atOnce || s.pending[id] {
			s.c.start(id, false)
		}
	}
	s.pending = seen
}

// strangers frees chunks whose owners are over at other shards. Of a client whose slots have moved
// the session may be at one shard and chunks of it, which are not linked yet, at another one.
func (s *sweep) strangers() {
	m := s.c.shard.master
	var list []quarry.SessionID
	_ = s.c.shard.local(func(v meta.View) error {
		list, s.past = meta.Strangers(v, s.past, sweepMax)
		return nil
	})
	for _, id := range list {
		ctx, cancel := m.cfg.Clock.WithTimeout(s.c.ctx, askSilence)
		a, err := m.ask(ctx, &question{Verb: askSession, Slot: id.Slot(), Session: id})
		for more := err == nil && !a.Known; more; {
			var result *meta.Result
			if result, err = s.c.shard.propose(ctx, quarry.Op{}, &meta.Disown{Session: id}); err != nil {
				break
			}
			s.c.shard.orphaned(result.Orphans)
			more = result.More
		}
		cancel()
		if err != nil {
			m.cfg.Logger.Debug("chunks of a session that lives elsewhere stay as they are", "session", uint64(id), "error", err)
			s.past = id // the next round goes on behind it: its shard may be away for long
			return
		}
	}
}
