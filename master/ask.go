package master

import (
	"context"
	"errors"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/meta/root"
	"github.com/quarryfs/quarry/raft"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/wire"
)

// opAsk is what the coordinator of a transaction asks of other groups' leaders, and they of it.
// Nobody who serves a question asks another one, so nobody waits in a circle.
var opAsk = rpc.RawOp{Op: rpc.OpRaw + 2, Name: "ask", BodyMax: 16 << 10}

const (
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
)

// question goes to the leader of the shard that owns Slot, or of the root group.
type question struct {
	Verb      askVerb
	Slot      quarry.Slot
	Command   []byte // an encoded meta.Command
	Tx        meta.TxID
	From, Dir quarry.Inode
}

func questionFields(w *wire.Walk, q *question) {
	wire.Uint(w, 1, &q.Verb)
	wire.Uint(w, 2, &q.Slot)
	wire.Bytes(w, 3, &q.Command, 8<<10)
	wire.Uint(w, 4, &q.Tx)
	wire.Uint(w, 5, &q.From)
	wire.Uint(w, 6, &q.Dir)
}

// answer is what a question gets that was not refused.
type answer struct {
	Result      []byte // of Apply: an encoded meta.Result
	Known       bool   // of Outcome
	Transaction []byte // of Outcome, if Known: encoded
	Inode       quarry.Inode
	Holder      meta.TxID // of TakeOrder: who has the right; 0: Tx has
}

func answerFields(w *wire.Walk, a *answer) {
	wire.Bytes(w, 1, &a.Result, 15<<10)
	wire.Bool(w, 2, &a.Known)
	wire.Bytes(w, 3, &a.Transaction, 8<<10)
	wire.Uint(w, 4, &a.Inode)
	wire.Uint(w, 5, &a.Holder)
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
	group := quarry.RootShard
	if q.Verb != askTakeOrder && q.Verb != askEndOrder {
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
		if holder, err := m.orderHolder(ctx); err != nil || holder != 0 && holder != q.Tx {
			return &answer{Holder: holder}, err // who waits asks often: only a turn that is free is a matter for the log
		}
		result, err := m.root.propose(ctx, &root.TakeOrder{Tx: q.Tx})
		if result != nil && result.Holder != 0 && errors.Is(err, quarry.Busy) {
			return &answer{Holder: result.Holder}, nil
		}
		return &answer{}, err
	case askEndOrder:
		_, err := m.root.propose(ctx, &root.EndOrder{Tx: q.Tx})
		return &answer{}, err
	}
	return nil, quarry.Errorf("ask", quarry.Unsupported, "", "question %d is not known", q.Verb)
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
	a, err := m.ask(ctx, &question{Verb: askOutcome, Slot: id.Slot(), Tx: id})
	if err != nil || !a.Known {
		return x, false, err
	}
	x, err = meta.DecodeTransaction(a.Transaction)
	return x, err == nil, err
}

// reached tells a test how far a transaction has come.
func (m *Master) reached(point string) {
	if f := m.failpoint.Load(); f != nil {
		(*f)(point)
	}
}
