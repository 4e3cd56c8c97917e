package master

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/meta/move"
	"github.com/quarryfs/quarry/meta/root"
	slotset "github.com/quarryfs/quarry/meta/slots"
	"github.com/quarryfs/quarry/raft"
)

const (
	// endedMax is how many moves that are over are remembered by the root group's leader.
	endedMax = 16
	// progressTime is how long the leaders of shards may take to say how far their moves are.
	progressTime = time.Second
)

// moving is what the leader of the root group knows of moves besides the log. Its successor
// begins without it.
type moving struct {
	mu      sync.Mutex
	ended   []quarry.SlotMove    // the last ones, at most endedMax
	weights []quarry.ShardWeight // as the balancer has seen them last
	undone  map[[2]quarry.ShardID]undone
}

// MoveSlots begins to move slots, has a move undone, switches the balancer, and tells what moves
// are under way.
func (m *Master) MoveSlots(ctx context.Context, req *quarry.MoveSlotsRequest) (*quarry.MoveSlotsReply, error) {
	const op = "move slots"
	if !m.started.Load() {
		return nil, m.waiting(op)
	}
	if _, err := m.led(op, quarry.RootShard); err != nil {
		return nil, err
	}
	if err := m.changeMoves(ctx, req); err != nil {
		return nil, quarry.Wrap(op, "", err)
	}
	list, err := m.movesNow(ctx)
	if err != nil {
		return nil, quarry.Wrap(op, "", err)
	}
	reply := &quarry.MoveSlotsReply{Moves: m.progress(ctx, list)}
	err = m.host.View(quarry.RootShard, func(v raft.Reader) error {
		reply.Balance = root.Balancer(v)
		left := req.Slots
		for _, s := range root.Shards(v) {
			if s.Shard == req.To {
				left = slotset.Cut(req.Slots, s.Slots)
			}
		}
		reply.Left = slotset.Count(left)
		return nil
	})
	m.root.moving.mu.Lock()
	defer m.root.moving.mu.Unlock()
	reply.Ended, reply.Weights = slices.Clone(m.root.moving.ended), slices.Clone(m.root.moving.weights)
	return reply, quarry.Wrap(op, "", err)
}

// changeMoves logs what a request wants to be changed.
func (m *Master) changeMoves(ctx context.Context, req *quarry.MoveSlotsRequest) error {
	if len(req.Slots) == 0 && req.Cancel == 0 && req.Balance == quarry.SwitchLeave {
		return nil
	}
	if err := m.root.speak(quarry.FeatureLevel); err != nil {
		return err
	}
	switch {
	case req.Balance > quarry.SwitchOff:
		return quarry.Errorf("balance", quarry.Invalid, "", "switch %d is not known", req.Balance)
	case len(req.Slots) > 0 && req.Cancel != 0:
		return quarry.Errorf("cancel", quarry.Invalid, "", "a move is to be undone and slots are to be moved: ask for one of them")
	case len(req.Slots) > 0 && !slotset.InOrder(req.Slots):
		return quarry.Errorf("slots", quarry.Invalid, "", "the slots are not in order, or beyond %d", quarry.Slots-1)
	}
	if req.Balance != quarry.SwitchLeave {
		if _, err := m.root.propose(ctx, &root.SetBalancer{On: req.Balance == quarry.SwitchOn}); err != nil {
			return err
		}
	}
	if req.Cancel != 0 {
		_, err := m.root.propose(ctx, &root.CancelMove{Move: move.ID(req.Cancel)})
		return err
	}
	return m.beginMoves(ctx, req.To, req.Slots)
}

// beginMoves begins the moves of slots to a shard, one from each shard that has some of them. What
// cannot begin because of another move is left to a repeated request.
func (m *Master) beginMoves(ctx context.Context, to quarry.ShardID, set []quarry.SlotRange) error {
	if len(set) == 0 {
		return nil
	}
	if err := m.host.ReadIndex(ctx, quarry.RootShard); err != nil {
		return err
	}
	var shards []root.Shard
	var under []root.Move
	if err := m.host.View(quarry.RootShard, func(v raft.Reader) error {
		shards, under = root.Shards(v), root.Moves(v)
		return nil
	}); err != nil {
		return err
	}
	if !slices.ContainsFunc(shards, func(s root.Shard) bool { return s.Shard == to }) {
		return quarry.Errorf("slots", quarry.NotFound, "", "there is no shard %d: \"quarry admin slot list\" shows all of them", to)
	}
	for _, mv := range under {
		set = slotset.Cut(set, mv.Slots)
	}
	for _, s := range shards {
		part := slotset.Cut(s.Slots, slotset.Cut(s.Slots, set))
		part = part[:min(len(part), move.RangesMax)]
		if s.Shard == to || len(part) == 0 {
			continue
		}
		_, err := m.root.propose(ctx, &root.BeginMove{From: s.Shard, To: to, Slots: part})
		if err != nil && quarry.KindOf(err) != quarry.Busy {
			return err
		}
	}
	return nil
}

// movesNow returns the moves that are not over, as the root group's leader.
func (m *Master) movesNow(ctx context.Context) (list []root.Move, err error) {
	if err := m.host.ReadIndex(ctx, quarry.RootShard); err != nil {
		return nil, err
	}
	err = m.host.View(quarry.RootShard, func(v raft.Reader) error {
		list = root.Moves(v)
		return nil
	})
	return list[:min(len(list), quarry.SlotMovesMax)], err
}

// progress asks the leaders of the shards that slots leave how far the moves are.
func (m *Master) progress(ctx context.Context, list []root.Move) []quarry.SlotMove {
	ctx, cancel := m.cfg.Clock.WithTimeout(ctx, progressTime)
	defer cancel()
	out := make([]quarry.SlotMove, len(list))
	var wg sync.WaitGroup
	for i, mv := range list {
		out[i] = describe(&mv)
		wg.Go(func() {
			a, err := m.ask(ctx, &question{Verb: askMoving, Shard: mv.From})
			if err != nil {
				return
			}
			st, err := move.DecodeState(a.Moving)
			if l := st.Leaving; err == nil && l != nil && l.Move == mv.Move {
				out[i].Records = a.Records
				switch {
				case l.Released:
					out[i].Step = quarry.MoveReleased
				case !mv.Cancelled:
					out[i].Step = quarry.MoveCopying
				}
			}
		})
	}
	wg.Wait()
	return out
}

func describe(mv *root.Move) quarry.SlotMove {
	s := quarry.SlotMove{Move: uint64(mv.Move), From: mv.From, To: mv.To, Slots: mv.Slots, Step: quarry.MoveBegun}
	if mv.Cancelled {
		s.Step = quarry.MoveUndoing
	}
	return s
}

// endMove has the root group end a move, and remembers how it has ended.
func (m *Master) endMove(ctx context.Context, q *question) error {
	list, err := m.movesNow(ctx)
	if err != nil {
		return err
	}
	if _, err := m.root.propose(ctx, &root.EndMove{Move: q.Move, Done: q.Done}); err != nil {
		return err
	}
	for i := range list {
		if list[i].Move != q.Move {
			continue
		}
		s := describe(&list[i])
		if s.Step = quarry.MoveUndone; q.Done {
			s.Step, s.PauseUS = quarry.MoveDone, q.PauseUS
		}
		g := &m.root.moving
		g.mu.Lock()
		g.noteLocked(s.From, s.To, q.Done, m.cfg.Clock.Now())
		g.ended = append(g.ended, s)
		g.ended = g.ended[max(0, len(g.ended)-endedMax):]
		g.mu.Unlock()
	}
	return nil
}

// leading returns a shard's present term if this node leads it.
func (m *Master) leading(op string, id quarry.ShardID) (*shard, *term, error) {
	sh, err := m.shard(op, id)
	if err != nil {
		return nil, nil, err
	}
	t, err := sh.present(op)
	return sh, t, err
}

// answerMoving tells what a shard knows of moves.
func (m *Master) answerMoving(ctx context.Context, id quarry.ShardID) (*answer, error) {
	sh, t, err := m.leading("ask", id)
	if err != nil {
		return nil, err
	}
	m.reached("moves asked")
	a := &answer{Records: t.moves.records.Load()}
	err = sh.read(ctx, func(v meta.View) error {
		st, n := meta.MovingOf(v), meta.Totals(v)
		a.Moving, a.Weight = st.Append(nil), n.Files+n.Dirs+n.Chunks
		return nil
	})
	return a, err
}

// answerMoveCommand applies a command of a move for the shard that drives it.
func (m *Master) answerMoveCommand(ctx context.Context, q *question) (*answer, error) {
	c, err := meta.DecodeCommand(q.Command)
	if err != nil {
		return nil, err
	}
	sh, t, err := m.leading("ask", q.Shard)
	if err != nil {
		return nil, err
	}
	switch c.Body.(type) {
	case *meta.BeginTake, *meta.Take, *meta.CancelTake:
	case *meta.Activate:
		if err := sh.expect(t); err != nil {
			return nil, err
		}
		m.reached("expecting")
	default:
		return nil, quarry.Errorf("ask", quarry.Invalid, "", "the command is none of a move")
	}
	result, err := sh.proposeIn(ctx, t, quarry.Op{}, c.Body)
	if result == nil {
		return nil, err
	}
	if _, ok := c.Body.(*meta.Activate); ok && result.Err == nil {
		t.chunks.Came()
	}
	a := &answer{Result: result.Append(nil)}
	err = sh.local(func(v meta.View) error {
		st := meta.MovingOf(v)
		a.Moving = st.Append(nil)
		return nil
	})
	return a, err
}

// expect has the leases waited out that another shard may have granted for the slots that come.
// Who asks for Activate has seen that they were released there.
func (s *shard) expect(t *term) error {
	var st move.State
	err := s.local(func(v meta.View) error {
		st = meta.MovingOf(v)
		return nil
	})
	if err == nil && st.Taking != nil {
		t.chunks.Expect(st.Taking.Slots)
	}
	return err
}
