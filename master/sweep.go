package master

import (
	"context"

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
	if in.Part.Kind == meta.PartSource { // decided here, with whatever was to become of it
		return known && !x.Committed, nil
	}
	f := in.Settle(&x, known)
	if f == nil {
		return true, nil
	}
	_, err = s.propose(ctx, quarry.Op{}, f)
	return false, err
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
		again := false
		if off(IntentPassedOver) {
			met = nil
		}
		for _, in := range met {
			sh, err := m.shardOf(op, slot)
			if err != nil {
				return none, err
			}
			undecided, err := sh.settle(ctx, in)
			if err != nil {
				return none, quarry.Wrap(op, "", err)
			}
			again = again || !undecided
		}
		if !again {
			return reply, err
		}
	}
	return none, quarry.Errorf(op, quarry.Busy, "", "the names are being changed from elsewhere all the time")
}

// sweep looks for what nobody cares for: transactions whose request is gone, intents whose
// coordinator was not heard of, and chunks whose owner is over. What it finds of the first two
// twice in a row is seen to.
type sweep struct {
	c       *coordinator
	pending map[meta.TxID]bool
	held    map[meta.Intent]bool
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

func (s *sweep) intents() {
	var list []meta.Intent
	_ = s.c.shard.local(func(v meta.View) error {
		list, _ = meta.Intents(v, nil, sweepMax)
		return nil
	})
	seen := make(map[meta.Intent]bool, len(list))
	for _, in := range list {
		seen[in] = true
		if !s.held[in] {
			continue
		}
		ctx, cancel := s.c.shard.master.cfg.Clock.WithTimeout(s.c.ctx, askSilence)
		_, err := s.c.shard.settle(ctx, in)
		cancel()
		if err != nil {
			s.c.shard.master.cfg.Logger.Debug("an intent cannot be settled yet", "transaction", uint64(in.Tx), "error", err)
		}
	}
	s.held = seen
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
			return // the others wait for the next round, so that intents do not wait for a shard that is away
		}
	}
}
