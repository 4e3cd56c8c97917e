package raft

import (
	"context"
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"
	etcd "go.etcd.io/raft/v3"

	"github.com/quarryfs/quarry"
)

// ReadIndex returns when a View opened after it sees everything that was acknowledged
// anywhere before ReadIndex was called. It asks a majority whether this node still leads; one
// question serves all calls that wait.
//
// Errors: NotLeader, naming the leader if it is known; Busy if too many wait; Unavailable if
// ctx ended or the host stopped; NotFound if the node has no such group.
func (h *Host) ReadIndex(ctx context.Context, id quarry.ShardID) error {
	g, err := h.group("read", id)
	if err != nil {
		return err
	}
	if !g.leading.Load() {
		return g.notLeader("read")
	}
	if off(StaleLeaderReads) {
		return nil
	}
	r := &read{done: make(chan error, 1)}
	err = g.post(func(in *inputs) error {
		if len(in.reads) >= readsMax {
			return quarry.Errorf("read", quarry.Busy, g.name(), "%d reads wait", len(in.reads))
		}
		in.reads = append(in.reads, r)
		return nil
	})
	if err != nil {
		return err
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return quarry.Wrap("read", g.name(), ctx.Err())
	case <-h.stopping:
		return &quarry.Error{Op: "read", Kind: quarry.Unavailable, Subject: g.name(), Err: h.stopCause()}
	}
}

// read is one call of ReadIndex.
type read struct {
	done chan error // has room for the one outcome
}

// reads are the calls of ReadIndex that wait, in the three stages they pass.
type reads struct {
	next   []*read            // not asked for yet: the question before is still out
	flight map[uint64][]*read // by question: at most one
	asked  uint64             // questions so far
	ready  []readyReads       // answered, but not yet applied up to the answer
}

type readyReads struct {
	index uint64
	list  []*read
}

// waiting is how many calls wait.
func (r *reads) waiting() int {
	n := len(r.next)
	for _, list := range r.flight {
		n += len(list)
	}
	for _, b := range r.ready {
		n += len(b.list)
	}
	return n
}

// startReads asks Raft for the index at which the waiting reads may be served, if it is not
// being asked already: the answer to a question may be older than who comes later. A leader asks
// from when its leadership is announced.
func (g *group) startReads(list []*read) {
	r := &g.reads
	if len(list) > 0 && r.waiting()+len(list) > readsMax {
		failReads(list, quarry.Errorf("read", quarry.Busy, g.name(), "%d reads wait", r.waiting()))
		list = nil
	}
	r.next = append(r.next, list...)
	if len(r.next) == 0 || len(r.flight) > 0 {
		return
	}
	if !g.leads {
		failReads(r.next, g.notLeader("read"))
		r.next = nil
		return
	}
	if !g.announced {
		// A leader knows how far entries are committed when one of its own term is: the index that
		// it remembers may be of before. Raft minds that itself, but not where one voter is alone.
		return
	}
	r.asked++
	r.flight[r.asked] = r.next
	r.next = nil
	g.rn.ReadIndex(binary.LittleEndian.AppendUint64(nil, r.asked))
}

// askAgain puts the question that is out once more, because the members have changed. Raft waits
// for the answers of those that it has asked: if none of them is left, as when a group shrinks to
// one voter, no answer would come, and all later reads would wait for it.
func (g *group) askAgain() {
	for question, list := range g.reads.flight {
		g.reads.next = append(list, g.reads.next...)
		delete(g.reads.flight, question)
	}
	g.startReads(nil)
}

// confirmed takes Raft's answer. An unknown question is of a leadership that has ended.
func (r *reads) confirmed(s etcd.ReadState) {
	if len(s.RequestCtx) != 8 {
		return
	}
	question := binary.LittleEndian.Uint64(s.RequestCtx)
	if list := r.flight[question]; list != nil {
		r.ready = append(r.ready, readyReads{s.Index, list})
		delete(r.flight, question)
	}
}

// applied lets those go whose index is applied.
func (r *reads) applied(to uint64) {
	keep := r.ready[:0]
	for _, b := range r.ready {
		if b.index > to && !off(ReadBeforeApplied) {
			keep = append(keep, b)
			continue
		}
		failReads(b.list, nil)
	}
	clear(r.ready[len(keep):])
	r.ready = keep
}

// fail ends all that are not answered. What is answered stays true.
func (r *reads) fail(err error) {
	failReads(r.next, err)
	for _, list := range r.flight {
		failReads(list, err)
	}
	clear(r.flight)
	r.next = nil
}

func failReads(list []*read, err error) {
	for _, r := range list {
		r.done <- err
	}
}

// View calls fn with the group's state as it is now, at one moment: all that was applied
// before View was called, perhaps more. On the leader, after ReadIndex, it is the latest
// state; elsewhere it may lag. Views hold up the installation of a leader's snapshot, so fn
// should be quick. kv is valid only during fn. The error is fn's, Unavailable if the host is
// stopping, NotFound if the node has no such group, or Internal if the disk failed.
func (h *Host) View(id quarry.ShardID, fn func(kv Reader) error) (err error) {
	g, err := h.group("view", id)
	if err != nil {
		return err
	}
	if !h.use.TryRLock() {
		return &quarry.Error{Op: "view", Kind: quarry.Unavailable, Subject: g.name(), Err: h.stopCause()}
	}
	defer h.use.RUnlock()
	if h.closed || h.Err() != nil {
		return &quarry.Error{Op: "view", Kind: quarry.Unavailable, Subject: g.name(), Err: h.stopCause()}
	}
	g.viewMu.RLock()
	defer g.viewMu.RUnlock()
	snap, at, known := g.snapshot()
	defer func() { _ = snap.Close() }() // it has no error to tell
	defer func() {
		switch p := recover().(type) {
		case nil:
		case storeFailure:
			err = quarry.Wrap("view", g.name(), p.err)
			h.fail(err)
		default:
			panic(p)
		}
	}()
	r := cachedReader{newReader(snap, id), &g.cache, at}
	if !known {
		return fn(&r.reader)
	}
	return fn(&r)
}

// snapshot returns the state as it is now, and, if that is known, the index it has come to.
func (g *group) snapshot() (snap *pebble.Snapshot, at uint64, known bool) {
	for range 3 {
		before := g.changes.Load()
		at = g.appliedAt.Load()
		snap = g.h.store.db.NewSnapshot()
		if g.changes.Load() == before && before%2 == 0 {
			return snap, at, true
		}
		_ = snap.Close() // it has no error to tell
	}
	return g.h.store.db.NewSnapshot(), 0, false
}
