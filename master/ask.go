package master

import (
	"context"
	"errors"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/meta/move"
	"github.com/quarryfs/quarry/meta/root"
	"github.com/quarryfs/quarry/raft"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/wire"
)

// opAsk is what the leaders of groups ask of each other: for transactions, and for moves of slots.
// Nobody who serves a question asks another one, so nobody waits in a circle.
var opAsk = rpc.RawOp{Op: rpc.OpRaw + 2, Name: "ask", BodyMax: questionMax}

const (
	// questionMax is the most bytes of a question or an answer: a batch of records that move, of
	// which one may be long, is the longest.
	questionMax = 512 << 10
	// partMax is the most bytes of the part of a transaction.
	partMax = 8 << 10
	// askSilence is how long one node may take to answer.
	askSilence = 3 * time.Second
	// askPauseMin and askPauseMax are between tries.
	askPauseMin = 10 * time.Millisecond
	askPauseMax = 500 * time.Millisecond
)

// askVerb says what is asked. The numbers are sent; never changed or used again.
type askVerb uint8

const (
	askApply     askVerb = 1 // apply a Prepare or a Finish: Command
	askOutcome   askVerb = 2 // what has become of transaction Tx
	askClimb     askVerb = 3 // go up from directory From until Dir
	askTakeOrder askVerb = 4 // of the root group: give Tx the right to move a directory
	askEndOrder  askVerb = 5
	askMoving    askVerb = 6  // what Shard knows of moves of its slots
	askMove      askVerb = 7  // apply, at Shard, a command of a move: Command
	askMoves     askVerb = 8  // of the root group: the moves of slots that are not over
	askEndMove   askVerb = 9  // of the root group: Move is over, Done or undone
	askSession   askVerb = 11 // whether Session is known at the shard that owns Slot
	askHeavy     askVerb = 12 // slots of Shard to be moved elsewhere, with at most Weight records
)

// question goes to the leader of the shard that owns Slot, of Shard, or of the root group.
type question struct {
	Verb      askVerb
	Slot      quarry.Slot
	Command   []byte // an encoded meta.Command
	Tx        meta.TxID
	From, Dir quarry.Inode
	Shard     quarry.ShardID
	Move      move.ID
	Done      bool
	PauseUS   int64 // of EndMove: how long nobody answered for the slots
	Session   quarry.SessionID
	Weight    int64
}

// group returns the group that a question is for; false: that of Slot.
func (q *question) group() (quarry.ShardID, bool) {
	switch q.Verb {
	case askTakeOrder, askEndOrder, askMoves, askEndMove:
		return quarry.RootShard, true
	case askMoving, askMove, askHeavy:
		return q.Shard, true
	}
	return 0, false
}

func questionFields(w *wire.Walk, q *question) {
	wire.Uint(w, 1, &q.Verb)
	wire.Uint(w, 2, &q.Slot)
	wire.Bytes(w, 3, &q.Command, questionMax-1024)
	wire.Uint(w, 4, &q.Tx)
	wire.Uint(w, 5, &q.From)
	wire.Uint(w, 6, &q.Dir)
	wire.Uint(w, 7, &q.Shard)
	wire.Uint(w, 8, &q.Move)
	wire.Bool(w, 9, &q.Done)
	wire.Uint(w, 10, &q.PauseUS)
	wire.Uint(w, 11, &q.Session)
	wire.Uint(w, 12, &q.Weight)
}

// answer is what a question gets that was not refused.
type answer struct {
	Result      []byte // of Apply: an encoded meta.Result
	Known       bool   // of Outcome
	Transaction []byte // of Outcome, if Known: encoded
	Inode       quarry.Inode
	Holder      meta.TxID // of TakeOrder: who has the right; 0: Tx has

	Moving  []byte // of Moving and Move: an encoded move.State
	Records int64  // of Moving: what the present leader has copied of the move by which slots leave
	Weight  int64  // of Moving and Heavy: records
	Moves   []root.Move
	Slots   []quarry.SlotRange // of Heavy
}

func answerFields(w *wire.Walk, a *answer) {
	wire.Bytes(w, 1, &a.Result, 15<<10)
	wire.Bool(w, 2, &a.Known)
	wire.Bytes(w, 3, &a.Transaction, 8<<10)
	wire.Uint(w, 4, &a.Inode)
	wire.Uint(w, 5, &a.Holder)
	wire.Bytes(w, 6, &a.Moving, questionMax-1024)
	wire.Uint(w, 7, &a.Records)
	wire.Uint(w, 8, &a.Weight)
	wire.List(w, 9, &a.Moves, quarry.SlotMovesMax, moveFields)
	wire.List(w, 10, &a.Slots, quarry.Slots, wire.SlotRangeFields)
}

func moveFields(w *wire.Walk, m *root.Move) {
	wire.Uint(w, 1, &m.Move)
	wire.Uint(w, 2, &m.From)
	wire.Uint(w, 3, &m.To)
	wire.List(w, 4, &m.Slots, move.RangesMax, wire.SlotRangeFields)
	wire.Bool(w, 5, &m.Cancelled)
}

// ask asks the leader of the group that a question belongs to, whoever that becomes, until it
// has an answer, a refusal that asking again does not change, or ctx ends.
func (m *Master) ask(ctx context.Context, q *question) (*answer, error) {
	for pause := askPauseMin; ; pause = min(2*pause, askPauseMax) {
		a, err := m.askOnce(ctx, q)
		switch quarry.KindOf(err) {
		case quarry.NotLeader, quarry.Unavailable, quarry.WrongShard, quarry.Busy:
		default:
			return a, err
		}
		if m.cfg.Clock.Sleep(ctx, pause) != nil {
			return nil, quarry.Errorf("ask", quarry.Unavailable, "", "the leader has not answered: %w", err)
		}
	}
}

func (m *Master) askOnce(ctx context.Context, q *question) (*answer, error) {
	group, named := q.group()
	if !named {
		sh, err := m.shardOf("ask", q.Slot)
		if err != nil {
			return nil, err
		}
		group = sh.id
	}
	node, address := m.leaderOf(group)
	ctx, cancel := m.cfg.Clock.WithTimeout(ctx, askSilence)
	defer cancel()
	switch {
	case node == m.node:
		return m.answer(ctx, q)
	case address == "":
		return nil, quarry.Errorf("ask", quarry.NotLeader, "", "the leader of group %d is not known", group)
	}
	reply, err := m.cfg.Client.CallRaw(ctx, address, rpc.Route{Lane: rpc.LaneControl}, opAsk, &rpc.Raw{Body: wire.Marshal(nil, q, questionFields)})
	if err != nil {
		return nil, err
	}
	a := new(answer)
	if err := wire.Unmarshal(reply.Body, a, answerFields); err != nil {
		return nil, err
	}
	return a, nil
}

// serveAsk serves the question of another master.
func (m *Master) serveAsk(ctx context.Context, req *rpc.Raw) (*rpc.Raw, error) {
	if peer, ok := rpc.PeerFrom(ctx); !ok || peer.Role != rpc.RoleMaster {
		return nil, quarry.Errorf("ask", quarry.Permission, "", "only masters of the cluster ask this")
	}
	if !m.started.Load() { // it may be soon; a refusal would be the operation's result for ever
		return nil, m.waiting("ask")
	}
	q := new(question)
	if err := wire.Unmarshal(req.Body, q, questionFields); err != nil {
		return nil, err
	}
	a, err := m.answer(ctx, q)
	if err != nil {
		return nil, err
	}
	return &rpc.Raw{Body: wire.Marshal(nil, a, answerFields)}, nil
}

// answer answers a question as the group's leader.
func (m *Master) answer(ctx context.Context, q *question) (*answer, error) {
	switch q.Verb {
	case askApply:
		return m.answerApply(ctx, q)
	case askOutcome:
		var x meta.Transaction
		a, err := read(ctx, m, "ask", q.Slot, func(v meta.View) (a *answer, err error) {
			a = new(answer)
			x, a.Known, err = meta.TransactionOf(v, q.Tx)
			return a, err
		})
		if err == nil && a.Known {
			a.Transaction = x.Append(nil)
		}
		return a, err
	case askClimb:
		return read(ctx, m, "ask", q.Slot, func(v meta.View) (*answer, error) {
			up, err := meta.Climb(v, q.From, q.Dir)
			return &answer{Inode: up}, err
		})
	case askTakeOrder:
		holder, err := m.takeOrder(ctx, q.Tx)
		return &answer{Holder: holder}, err
	case askEndOrder:
		_, err := m.root.propose(ctx, &root.EndOrder{Tx: q.Tx})
		m.turns.leave(q.Tx)
		return &answer{}, err
	}
	return m.answerMove(ctx, q)
}

// answerMove answers a question that has to do with moves of slots.
func (m *Master) answerMove(ctx context.Context, q *question) (*answer, error) {
	switch q.Verb {
	case askMoving:
		return m.answerMoving(ctx, q.Shard)
	case askMove:
		return m.answerMoveCommand(ctx, q)
	case askMoves:
		list, err := m.movesNow(ctx)
		return &answer{Moves: list}, err
	case askEndMove:
		return &answer{}, m.endMove(ctx, q)
	case askSession:
		return read(ctx, m, "ask", q.Slot, func(v meta.View) (*answer, error) {
			_, err := meta.Session(v, q.Session)
			if errors.Is(err, quarry.SessionExpired) {
				return &answer{}, nil
			}
			return &answer{Known: err == nil}, err
		})
	case askHeavy:
		return m.answerHeavy(ctx, q)
	}
	return nil, quarry.Errorf("ask", quarry.Unsupported, "", "question %d is not known", q.Verb)
}

// proposeOrder has the log give a transaction the turn; holder is who has it instead.
func (m *Master) proposeOrder(ctx context.Context, tx meta.TxID) (holder meta.TxID, err error) {
	result, err := m.root.propose(ctx, &root.TakeOrder{Tx: tx})
	if result != nil && result.Holder != 0 && errors.Is(err, quarry.Busy) {
		return result.Holder, nil
	}
	return 0, err
}

// orderHolder returns which transaction has the turn to move a directory, or 0, as the root
// group's leader.
func (m *Master) orderHolder(ctx context.Context) (holder meta.TxID, err error) {
	if err := m.host.ReadIndex(ctx, quarry.RootShard); err != nil {
		return 0, err
	}
	err = m.host.View(quarry.RootShard, func(v raft.Reader) error {
		holder = root.OrderHolder(v)
		return nil
	})
	return holder, err
}

func (m *Master) answerApply(ctx context.Context, q *question) (*answer, error) {
	if len(q.Command) > partMax {
		return nil, quarry.Errorf("ask", quarry.TooLarge, "", "the command has %d bytes, a part has at most %d", len(q.Command), partMax)
	}
	c, err := meta.DecodeCommand(q.Command)
	if err != nil {
		return nil, err
	}
	switch c.Body.(type) {
	case *meta.Prepare, *meta.Finish:
	default:
		return nil, quarry.Errorf("ask", quarry.Invalid, "", "the command is no part of a transaction")
	}
	sh, err := m.shardOf("ask", q.Slot)
	if err != nil {
		return nil, err
	}
	m.reached("part")
	result, err := sh.propose(ctx, quarry.Op{}, c.Body)
	if result == nil || errors.Is(err, quarry.WrongShard) {
		return nil, err
	}
	m.reached("part applied")
	sh.orphaned(result.Orphans)
	return &answer{Result: result.Append(nil)}, nil
}

// apply has a command applied by the shard that owns a slot. Its refusal is the result's error.
func (m *Master) apply(ctx context.Context, slot quarry.Slot, body meta.Body) (*meta.Result, error) {
	c := meta.Command{Body: body}
	command, err := c.Append(nil)
	if err != nil {
		return nil, err
	}
	a, err := m.ask(ctx, &question{Verb: askApply, Slot: slot, Command: command})
	if err != nil {
		return nil, err
	}
	return meta.DecodeResult(a.Result)
}

// outcome asks the coordinator's shard what has become of a transaction.
func (m *Master) outcome(ctx context.Context, id meta.TxID) (x meta.Transaction, known bool, err error) {
	m.reached("outcome")
	a, err := m.ask(ctx, &question{Verb: askOutcome, Slot: id.Slot(), Tx: id})
	if err != nil || !a.Known {
		return x, false, err
	}
	x, err = meta.DecodeTransaction(a.Transaction)
	return x, err == nil, err
}

// reached tells who asked for it that a step was reached; see OnStep.
func (m *Master) reached(point string) {
	if f := m.failpoint.Load(); f != nil {
		(*f)(point)
	}
}
