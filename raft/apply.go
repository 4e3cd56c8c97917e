package raft

import (
	"fmt"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/wire"
)

// applier brings a group's committed entries into its state machine, one after the other.
type applier struct {
	mu   sync.Mutex
	jobs []applyJob
	wake chan struct{}
}

// applyJob is committed entries to apply, or a snapshot to install.
type applyJob struct {
	entries   []*pb.Entry
	responses []*pb.Message
	install   *installation
}

// push adds a job. Raft bounds how much it hands out at once.
func (a *applier) push(j applyJob) {
	a.mu.Lock()
	a.jobs = append(a.jobs, j)
	a.mu.Unlock()
	kick(a.wake)
}

func (a *applier) take(spare []applyJob) []applyJob {
	a.mu.Lock()
	defer a.mu.Unlock()
	jobs := a.jobs
	a.jobs = spare[:0]
	return jobs
}

// runApplier is the goroutine that alone changes the group's state.
func (g *group) runApplier() {
	defer g.h.contain("apply " + g.name())
	var jobs []applyJob
	for {
		select {
		case <-g.h.stopping:
			return
		case <-g.applier.wake:
		}
		for jobs = g.applier.take(jobs); len(jobs) > 0; jobs = g.applier.take(jobs) {
			if err := g.runJobs(jobs); err != nil {
				g.h.fail(err)
				return
			}
			clear(jobs)
		}
	}
}

// runJobs does the jobs in their order; runs of entries go into one batch.
func (g *group) runJobs(jobs []applyJob) error {
	for len(jobs) > 0 {
		n := slices.IndexFunc(jobs, func(j applyJob) bool { return j.install != nil })
		if n == 0 {
			if err := g.runInstall(jobs[0].install); err != nil {
				return err
			}
			jobs = jobs[1:]
			continue
		}
		if n < 0 {
			n = len(jobs)
		}
		if err := g.apply(jobs[:n]); err != nil {
			return err
		}
		jobs = jobs[n:]
	}
	return nil
}

// apply applies the entries of the jobs, answers those who have proposed them, and tells Raft.
func (g *group) apply(jobs []applyJob) error {
	entries := jobs[0].entries
	if len(jobs) > 1 {
		entries = nil
		for _, j := range jobs {
			entries = append(entries, j.entries...)
		}
	}
	var outcomes []outcome
	if !g.waiting.none() {
		outcomes = make([]outcome, len(entries))
	}
	for from := 0; from < len(entries); {
		to := from + 1
		for to < len(entries) && entries[to-1].GetType() != pb.EntryConfChangeV2 {
			to++
		}
		var out []outcome
		if outcomes != nil {
			out = outcomes[from:to]
		}
		if err := g.applyRun(entries[from:to], out); err != nil {
			return disk.Wrap("apply", g.name(), err)
		}
		from = to
	}
	if outcomes != nil {
		g.waiting.answer(g, entries, outcomes)
	}
	return g.post(func(in *inputs) error {
		for _, j := range jobs {
			in.steps = append(in.steps, j.responses...)
		}
		return nil
	})
}

// applyRun applies entries in one batch, with the index that they lead to. Only the last one
// may change the members. That is made durable before Raft counts by it: a node that came
// back with members that were replaced long ago could find a majority among them.
func (g *group) applyRun(entries []*pb.Entry, outcomes []outcome) error {
	batch := g.h.store.db.NewIndexedBatch()
	defer func() { _ = batch.Close() }() // it is committed, or the host stops
	kv := g.newWriter(batch)
	for i, e := range entries {
		if e.GetType() != pb.EntryNormal || len(e.Data) == 0 {
			continue
		}
		result := g.sm.Apply(kv, e.GetIndex(), e.Data)
		if outcomes != nil {
			outcomes[i].result = result
		}
	}
	last := entries[len(entries)-1]
	a := applied{last.GetIndex(), last.GetTerm()}
	if !off(StateWithoutIndex) {
		if err := batch.Set(metaKey(g.id, keyApplied), a.encode(nil), nil); err != nil {
			return err
		}
	}
	if last.GetType() == pb.EntryConfChangeV2 {
		return g.commitChange(kv, last)
	}
	return g.commit(kv, a.index, pebble.NoSync)
}

// newWriter returns the group's state as the commands of a run see and change it.
func (g *group) newWriter(batch *pebble.Batch) *writer {
	return &writer{
		cachedReader: cachedReader{newReader(batch, g.id), &g.cache, g.appliedAt.Load()},
		batch:        batch, touched: map[string]*touch{},
	}
}

// commit lets the batch of a run be seen. Views that begin meanwhile do without the cache.
func (g *group) commit(kv *writer, index uint64, how *pebble.WriteOptions) error {
	g.changes.Add(1)
	kv.hide(index)
	if err := kv.batch.Commit(how); err != nil {
		return err
	}
	g.appliedAt.Store(index)
	g.changes.Add(1)
	kv.show(index)
	return nil
}

// commitChange commits a batch whose last entry changes the members, durably, and then tells
// Raft of the change.
func (g *group) commitChange(kv *writer, e *pb.Entry) error {
	var cc pb.ConfChangeV2
	if err := proto.Unmarshal(e.Data, &cc); err != nil {
		return quarry.Errorf("", quarry.Corrupt, "", "entry %d is no change of members: %w", e.GetIndex(), err)
	}
	var note changeNote
	if err := wire.Unmarshal(cc.Context, &note, noteFields); err != nil {
		return quarry.Errorf("", quarry.Corrupt, "", "entry %d names no members: %w", e.GetIndex(), err)
	}
	old := g.members.Load()
	conf, err := old.next(&cc)
	if err != nil {
		return quarry.Errorf("", quarry.Corrupt, "", "entry %d cannot be applied: %w", e.GetIndex(), err)
	}
	m := old.after(conf, note.members)
	if err := kv.batch.Set(metaKey(g.id, keyMembers), wire.Marshal(nil, &m, membersFields), nil); err != nil {
		return err
	}
	if err := g.commit(kv, e.GetIndex(), &pebble.WriteOptions{Sync: !off(MembersNotDurable)}); err != nil {
		return err
	}
	g.h.peers.learn(&m)
	ran := g.do(func() {
		if err := conf.Equivalent(g.rn.ApplyConfChange(&cc)); err != nil {
			panic(fmt.Sprintf("group %d: Raft comes to other members than the state: %v", g.id, err))
		}
		g.members.Store(&m)
		g.askAgain()
	})
	if !ran {
		return g.h.stopCause()
	}
	g.told(applied{e.GetIndex(), e.GetTerm()}, &m, false)
	g.h.cfg.Logger.Info("raft: members changed", "group", uint64(g.id), "voters", m.voters, "learners", m.learners, "outgoing", m.outgoing)
	return nil
}
