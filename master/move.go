package master

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/meta/move"
	"github.com/quarryfs/quarry/meta/root"
)

const (
	// moveEvery is how often a leader looks whether slots are to leave, or records to be removed,
	// when nothing has told it so.
	moveEvery = time.Second
	// moveRetry is how long a move waits before it is tried again to go on.
	moveRetry = 100 * time.Millisecond
	// batchBytes is about how long a batch of records is.
	batchBytes = 64 << 10
	// backlogSmall is how many changes may wait to be copied when the slots are released. They are
	// copied while nobody answers for the slots.
	backlogSmall = 256
	// forgetStep is how many changes of the log are forgotten at a time.
	forgetStep = 4096
	// closedMax is how long slots may be closed before they are released: no transaction can begin
	// in them meanwhile. If those under way do not end, or the other shard does not answer, the move
	// is undone then. releasePause is between attempts to release them.
	closedMax    = 15 * time.Second
	releasePause = 10 * time.Millisecond
	// cleanStep is how many records are removed by one entry of the log.
	cleanStep = 200
)

// mover drives the moves by which slots leave a shard, while this node leads it. It keeps nothing
// that its successor needs: what is to be done next follows from what the logs of the three groups
// say, each step may be done twice, and steps of an earlier leader that come late do nothing.
type mover struct {
	shard *shard
	term  *term
	ctx   context.Context // ends with the term
	kick  chan struct{}   // has a value: the root group's state has changed

	records  atomic.Int64  // copied by this leader, of the present move
	closed   clock.Instant // since when this leader knows the slots of the present move to be closed; 0: they are not
	released clock.Instant // when this leader released the slots of the present move; 0: it has not
	undone   move.ID       // the last move that this leader has undone
}

func newMover(ctx context.Context, s *shard, t *term) *mover {
	return &mover{shard: s, term: t, ctx: ctx, kick: make(chan struct{}, 1)}
}

// kickMovers has every mover of this node look at the moves.
func (m *Master) kickMovers() {
	groups := m.groups.Load()
	if groups == nil {
		return
	}
	for _, sh := range *groups {
		if t := sh.lead.Load(); t != nil && t.moves != nil {
			select {
			case t.moves.kick <- struct{}{}:
			default:
			}
		}
	}
}

// run drives moves until the term ends.
func (v *mover) run() {
	m := v.shard.master
	ticker := m.cfg.Clock.NewTicker(moveEvery)
	defer ticker.Stop()
	for {
		more, err := v.step()
		if v.ctx.Err() != nil {
			return
		}
		switch {
		case err != nil:
			m.cfg.Logger.Debug("a move of slots does not go on", "shard", uint64(v.shard.id), "error", err)
			if m.cfg.Clock.Sleep(v.ctx, moveRetry) != nil {
				return
			}
		case more:
		default:
			select {
			case <-v.kick:
			case <-ticker.C():
			case <-v.ctx.Done():
				return
			}
		}
	}
}

// clean removes what is left of slots that the shard does not own, a little at a time, until the
// term ends.
func (v *mover) clean() {
	m := v.shard.master
	for m.cfg.Clock.Sleep(v.ctx, moveEvery) == nil {
		for more := true; more && v.ctx.Err() == nil; {
			more = false
			if st, err := v.state(false); err != nil || len(st.Remains) == 0 {
				break
			}
			began := m.cfg.Clock.Now()
			result, err := v.propose(&meta.CleanSlots{Max: cleanStep})
			if err != nil {
				break
			}
			more = result.More
			v.rest(began)
		}
	}
}

// rest pauses for as long as the work since an instant took, so that moves leave half of the time
// to requests.
func (v *mover) rest(since clock.Instant) {
	c := v.shard.master.cfg.Clock
	_ = c.Sleep(v.ctx, min(max(c.Now().Sub(since), time.Millisecond), moveEvery))
}

// state returns what the shard knows of moves; confirmed: as of now.
func (v *mover) state(confirmed bool) (st move.State, err error) {
	if confirmed {
		if err := v.shard.master.host.ReadIndex(v.ctx, v.shard.id); err != nil {
			return st, err
		}
	}
	err = v.shard.local(func(view meta.View) error {
		st = meta.MovingOf(view)
		return nil
	})
	return st, err
}

// propose has a command of a move applied at this shard.
func (v *mover) propose(body meta.Body) (*meta.Result, error) {
	return v.shard.proposeIn(v.ctx, v.term, quarry.Op{}, body)
}

// step does the next step of the move by which slots leave, if there is one, and reports whether
// another one may follow at once.
func (v *mover) step() (more bool, err error) {
	known := v.shard.master.root.known.Load()
	if known == nil {
		return false, nil
	}
	st, err := v.state(false)
	if err != nil {
		return false, err
	}
	listed := moveFrom(known.moves, v.shard.id)
	if st.Leaving == nil && (listed == nil || listed.Move <= st.LastLeft) {
		return false, nil
	}
	if st, err = v.state(true); err != nil {
		return false, err
	}
	if l := st.Leaving; l != nil && (listed == nil || listed.Move != l.Move) {
		// This node may be behind with the root group, or the move is over there.
		ctx, cancel := v.shard.master.cfg.Clock.WithTimeout(v.ctx, askSilence)
		defer cancel()
		a, err := v.shard.master.ask(ctx, &question{Verb: askMoves})
		if err != nil {
			return false, err
		}
		if listed = moveFrom(a.Moves, v.shard.id); listed == nil || listed.Move != l.Move {
			return true, v.over(l)
		}
	}
	switch l := st.Leaving; {
	case listed == nil || listed.Move <= st.LastLeft || listed.Move <= v.undone:
		return false, nil // it is over, and this node may be behind with the root group
	case l == nil && (listed.Cancelled || listed.Move <= st.LastLeave), l != nil && listed.Cancelled && !l.Released:
		return true, v.undo(listed, listed.Move <= st.LastLeave)
	case l == nil:
		v.records.Store(0)
		v.closed, v.released = 0, 0
		v.reached("move begins")
		_, err := v.propose(&meta.BeginLeave{Move: listed.Move, To: listed.To, Slots: listed.Slots})
		v.reached("leaving")
		return true, err
	case l.Lost && !l.Released:
		v.shard.master.cfg.Logger.Warn("a move of slots is undone: more has changed meanwhile than is kept", "move", uint64(l.Move))
		return true, v.undo(listed, false)
	case v.stuck(l):
		v.shard.master.cfg.Logger.Warn("a move of slots is undone: its slots are closed for too long", "move", uint64(l.Move), "to", uint64(l.To))
		return true, v.undo(listed, false)
	default:
		return true, v.carryOn(listed, l)
	}
}

// moveFrom returns the move by which slots leave a shard, or nil.
func moveFrom(list []root.Move, from quarry.ShardID) *root.Move {
	for i := range list {
		if list[i].From == from {
			return &list[i]
		}
	}
	return nil
}

// over ends a move here that is over in the root group.
func (v *mover) over(l *move.Leaving) error {
	var body meta.Body = &meta.LeaveOver{Move: l.Move}
	if !l.Released {
		body = &meta.CancelLeave{Move: l.Move}
	}
	_, err := v.propose(body)
	return err
}

// stuck reports whether slots are closed, and not released, for longer than they should be.
func (v *mover) stuck(l *move.Leaving) bool {
	now := v.shard.master.cfg.Clock.Now()
	switch {
	case !l.Closed || l.Released:
		v.closed = 0
	case v.closed == 0:
		v.closed = now
	}
	return v.closed != 0 && now.Sub(v.closed) > closedMax
}

// undo undoes a move: first here, where it is certain then that the slots stay, unless that is done.
func (v *mover) undo(mv *root.Move, here bool) error {
	if !here {
		_, err := v.propose(&meta.CancelLeave{Move: mv.Move})
		if errors.Is(err, quarry.Exists) {
			return nil // the slots were released: the next step goes on
		}
		if err != nil {
			return err
		}
		v.reached("move undone here")
	}
	if _, _, err := v.askTo(mv.To, &meta.CancelTake{Move: mv.Move}); err != nil {
		return err
	}
	v.reached("move undone there")
	if _, err := v.askRoot(&question{Verb: askEndMove, Move: mv.Move}); err != nil {
		return err
	}
	v.undone = mv.Move
	v.shard.master.cfg.Logger.Info("a move of slots is undone", "move", uint64(mv.Move), "to", uint64(mv.To))
	return nil
}

// carryOn copies the next records, or switches when they are copied.
func (v *mover) carryOn(mv *root.Move, l *move.Leaving) error {
	taking, over, err := v.taking(mv)
	switch {
	case err != nil:
		return err
	case over:
		return v.finish(mv)
	}
	for v.ctx.Err() == nil {
		began := v.shard.master.cfg.Clock.Now()
		batch, now, err := v.next(taking)
		if err != nil {
			return err
		}
		if cancelled := v.cancelled(mv); now == nil || now.Lost || v.stuck(now) || cancelled && !now.Released {
			return nil // the next step sees to it
		}
		if batch == nil && now.Released {
			return v.activate(mv)
		}
		if taking.Copied() && !now.Released && now.Changes-taking.Changes <= backlogSmall {
			if !now.Closed {
				v.reached("move copied")
				if _, err := v.propose(&meta.CloseSlots{Move: mv.Move}); err != nil {
					return err
				}
				v.reached("closed")
			}
			return v.release(mv)
		}
		if batch == nil {
			return nil
		}
		v.reached("batch")
		st, result, err := v.askTo(mv.To, &meta.Take{Batch: *batch})
		if err != nil {
			return err
		}
		if result.Count > 0 {
			v.records.Add(int64(len(batch.Pairs)))
		}
		if taking = st.Taking; taking == nil || taking.Move != mv.Move {
			return nil // another leader was faster
		}
		if upto := taking.Changes; !now.Released && upto >= now.Forgotten+forgetStep {
			if _, err := v.propose(&meta.ForgetChanges{Move: mv.Move, Upto: upto}); err != nil {
				return err
			}
		}
		if !now.Closed {
			v.rest(began)
		}
	}
	return nil
}

// cancelled reports whether the root group says, as far as this node knows, that a move is to be
// undone.
func (v *mover) cancelled(mv *root.Move) bool {
	known := v.shard.master.root.known.Load()
	at := moveFrom(known.moves, v.shard.id)
	return at != nil && at.Move == mv.Move && at.Cancelled
}

// taking returns how far the other shard is, which begins with the move if it has not; over: it
// owns the slots.
func (v *mover) taking(mv *root.Move) (k *move.Taking, over bool, err error) {
	st, err := v.askMoving(mv.To)
	if err != nil {
		return nil, false, err
	}
	if st.Taking == nil || st.Taking.Move != mv.Move {
		if st.LastTaken >= mv.Move {
			return nil, true, nil
		}
		if st, _, err = v.askTo(mv.To, &meta.BeginTake{Move: mv.Move, From: mv.From, Slots: mv.Slots, Time: v.term.now(v.shard.master.cfg.Clock)}); err != nil {
			return nil, false, err
		}
		v.reached("taking")
	}
	if st.Taking == nil || st.Taking.Move != mv.Move {
		return nil, false, quarry.Errorf("move", quarry.Busy, "", "shard %d has not begun move %d", mv.To, mv.Move)
	}
	return st.Taking, false, nil
}

// next makes the next batch from the present state, and tells how far the move is in it.
func (v *mover) next(to *move.Taking) (batch *move.Batch, now *move.Leaving, err error) {
	if err := v.shard.master.host.ReadIndex(v.ctx, v.shard.id); err != nil {
		return nil, nil, err
	}
	err = v.shard.local(func(view meta.View) error {
		if now = meta.MovingOf(view).Leaving; now == nil || now.Move != to.Move || now.Lost {
			now = nil
			return nil
		}
		batch, err = meta.NextBatch(view, to, batchBytes)
		return err
	})
	return batch, now, err
}

// release takes the slots from this shard. From here on nobody answers for them until the other
// one has the rest of the changes.
func (v *mover) release(mv *root.Move) error {
	if v.cancelled(mv) {
		return nil
	}
	began := v.shard.master.cfg.Clock.Now()
	_, err := v.propose(&meta.Release{Move: mv.Move})
	switch {
	case err == nil:
		v.released = began
		v.reached("released")
		return nil
	case !errors.Is(err, quarry.Busy):
		return err
	}
	return v.shard.master.cfg.Clock.Sleep(v.ctx, releasePause)
}

// activate makes the other shard the owner of the slots, which has all of their records.
func (v *mover) activate(mv *root.Move) error {
	var body *meta.Activate
	expiry := uint64(v.shard.master.cfg.SessionExpiry / time.Millisecond)
	err := v.shard.local(func(view meta.View) (err error) {
		body, err = meta.Handover(view, mv.Move, expiry)
		return err
	})
	if err != nil {
		return err
	}
	body.Time = max(body.Time, v.term.now(v.shard.master.cfg.Clock)) // the last command may be old
	v.reached("move activates")
	if _, _, err := v.askTo(mv.To, body); err != nil {
		return err
	}
	v.reached("activated")
	return v.finish(mv)
}

// finish changes the slot map, and ends the move here.
func (v *mover) finish(mv *root.Move) error {
	pause := time.Duration(0)
	if v.released != 0 {
		pause = v.shard.master.cfg.Clock.Now().Sub(v.released)
	}
	if _, err := v.askRoot(&question{Verb: askEndMove, Move: mv.Move, Done: true, PauseUS: pause.Microseconds()}); err != nil {
		return err
	}
	v.shard.master.cfg.Logger.Info("slots have moved", "move", uint64(mv.Move), "to", uint64(mv.To), "records", v.records.Load(), "pause", pause)
	v.closed, v.released = 0, 0
	v.reached("move ended")
	_, err := v.propose(&meta.LeaveOver{Move: mv.Move})
	v.reached("left")
	return err
}

// reached tells a test how far a move has come.
func (v *mover) reached(point string) { v.shard.master.reached(point) }

// askRoot asks the leader of the root group.
func (v *mover) askRoot(q *question) (*answer, error) {
	ctx, cancel := v.shard.master.cfg.Clock.WithTimeout(v.ctx, askSilence)
	defer cancel()
	return v.shard.master.ask(ctx, q)
}

// askMoving asks the leader of a shard what that knows of moves.
func (v *mover) askMoving(id quarry.ShardID) (st move.State, err error) {
	a, err := v.askRoot(&question{Verb: askMoving, Shard: id})
	if err != nil {
		return st, err
	}
	return move.DecodeState(a.Moving)
}

// askTo has a command of a move applied by another shard, and returns what that knows of the move
// afterwards. A refusal is the error.
func (v *mover) askTo(id quarry.ShardID, body meta.Body) (st move.State, result *meta.Result, err error) {
	c := meta.Command{Body: body}
	command, err := c.Append(nil)
	if err != nil {
		return st, nil, err
	}
	a, err := v.askRoot(&question{Verb: askMove, Shard: id, Command: command})
	if err != nil {
		return st, nil, err
	}
	if result, err = meta.DecodeResult(a.Result); err != nil {
		return st, nil, err
	}
	if st, err = move.DecodeState(a.Moving); err != nil {
		return st, result, err
	}
	return st, result, result.Err
}
