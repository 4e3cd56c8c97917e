package raft

import (
	"slices"
	"sync"
	"sync/atomic"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/journal"
)

// workersMax is how many goroutines drive the groups of a node at most.
const workersMax = 4

// worker drives a part of the groups: it alone touches their Raft machines and logs. In each
// round it takes all that has come in for a group, then all that Raft wants done. It waits
// for nothing but a full journal queue.
type worker struct {
	h    *Host
	wake chan struct{}
	tick atomic.Bool

	mu    sync.Mutex
	ready []*group // with something in their inbox
	all   []*group

	spare []*group
	buf   []byte // for records; the journal copies them
}

func newWorker(h *Host) *worker { return &worker{h: h, wake: make(chan struct{}, 1)} }

// kick wakes whoever waits on the channel, which has room for one.
func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// add gives the worker a group.
func (w *worker) add(g *group) {
	w.mu.Lock()
	w.all = append(slices.Clone(w.all), g)
	w.mu.Unlock()
}

// push notes that a group has input.
func (w *worker) push(g *group) {
	w.mu.Lock()
	w.ready = append(w.ready, g)
	w.mu.Unlock()
	kick(w.wake)
}

func (w *worker) run() {
	defer w.h.contain("raft")
	for {
		select {
		case <-w.h.stopping:
			return
		case <-w.wake:
		}
		tick := w.tick.Swap(false)
		w.mu.Lock()
		ready, all := w.ready, w.all
		w.ready = w.spare[:0]
		w.mu.Unlock()
		for _, g := range ready {
			g.round()
		}
		clear(ready)
		w.spare = ready
		if tick {
			// Ticks come after the messages: a worker that was held up must not take the
			// leader for dead whose messages are in its hands. Ticks that it missed are lost.
			for _, g := range all {
				g.tick()
			}
		}
		w.h.peers.flush()
	}
}

// Bounds of what may wait for a group's worker.
const (
	messagesMax      = 4096
	messagesBytesMax = 32 << 20
	proposalsMax     = 8192
	proposalBytesMax = 16 << 20
	readsMax         = 65536
)

// inbox is what has come in for a group. What the node itself owes Raft (calls, durable
// records, applied entries) is never refused; it is bounded by what Raft has asked for.
type inbox struct {
	mu     sync.Mutex
	queued bool // the worker knows
	inputs
	free inputs // emptied, for the next round
}

type inputs struct {
	durable       []*logOp
	steps         []*pb.Message // from the node's own storage
	messages      []*received   // from other nodes
	messageBytes  int
	calls         []func()
	proposals     []*proposal
	proposalBytes int
	reads         []*read
}

// post adds something to the inbox by f, unless f returns an error.
func (g *group) post(f func(in *inputs) error) error {
	in := &g.in
	in.mu.Lock()
	err := f(&in.inputs)
	first := err == nil && !in.queued
	in.queued = in.queued || first
	in.mu.Unlock()
	if first {
		g.w.push(g)
	}
	return err
}

// call has f run on the worker.
func (g *group) call(f func()) {
	_ = g.post(func(in *inputs) error { in.calls = append(in.calls, f); return nil })
}

// do has f run on the worker and waits for it; false if the host stops first.
func (g *group) do(f func()) bool {
	done := make(chan struct{})
	g.call(func() { f(); close(done) })
	select {
	case <-done:
		return true
	case <-g.h.stopping:
		return false
	}
}

// deliver adds a message from another node. Raft can bear the loss of those beyond the
// bounds.
func (g *group) deliver(r *received) error {
	return g.post(func(in *inputs) error {
		if len(in.messages) >= messagesMax || in.messageBytes+r.bytes > messagesBytesMax {
			return quarry.Errorf("raft message", quarry.Busy, g.name(), "too many messages wait")
		}
		in.messages = append(in.messages, r)
		in.messageBytes += r.bytes
		return nil
	})
}

// take empties the inbox; if hold is set, the proposals stay. While the journal is writing
// for the group, proposals gather, so that they travel and are stored together: at 128
// proposers that halves the CPU time of each.
func (in *inbox) take(hold bool) inputs {
	in.mu.Lock()
	defer in.mu.Unlock()
	out := in.inputs
	in.inputs, in.free = in.free, inputs{}
	if hold {
		in.proposals, out.proposals = out.proposals, in.proposals
		in.proposalBytes = out.proposalBytes
	}
	in.queued = false
	return out
}

// takeProposals takes the proposals only.
func (in *inbox) takeProposals() []*proposal {
	in.mu.Lock()
	defer in.mu.Unlock()
	out := in.proposals
	in.proposals, in.proposalBytes = nil, 0
	return out
}

// give hands back what take returned, so that its memory is used again.
func (in *inbox) give(out inputs) {
	clear(out.durable)
	clear(out.steps)
	clear(out.messages)
	clear(out.calls)
	clear(out.proposals)
	clear(out.reads)
	in.mu.Lock()
	defer in.mu.Unlock()
	in.free = inputs{
		durable: out.durable[:0], steps: out.steps[:0], messages: out.messages[:0],
		calls: out.calls[:0], proposals: out.proposals[:0], reads: out.reads[:0],
	}
}

// logOp is one write to the journal.
type logOp struct {
	places    []*place           // of its records
	positions []journal.Position // set when it is durable
	responses []*pb.Message      // to be delivered then
	then      func()             // to be called then; may be nil
}

// write appends the records of an operation to the journal.
func (g *group) write(op *logOp, records ...[]byte) {
	g.ops = append(g.ops, op)
	g.h.journal.Append(func(positions []journal.Position, err error) {
		if err != nil {
			g.h.fail(quarry.Wrap("write log", g.name(), err))
			return
		}
		op.positions = slices.Clone(positions)
		_ = g.post(func(in *inputs) error { in.durable = append(in.durable, op); return nil })
	}, records...)
}

// durable is called with the operations in their order, when they are durable.
func (g *group) durable(op *logOp) {
	g.ops[0] = nil
	g.ops = g.ops[1:]
	for i, p := range op.places {
		p.pos, p.placed = op.positions[i], true
	}
	g.respond(op.responses)
	if op.then != nil {
		op.then()
	}
}

// respond delivers messages that have waited for the node's own storage.
func (g *group) respond(responses []*pb.Message) {
	for _, m := range responses {
		if m.GetTo() == uint64(g.h.cfg.Node) {
			g.step(m)
		} else {
			g.h.peers.send(g, m)
		}
	}
}
