package raft

import (
	"fmt"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/quarryfs/quarry"
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

// apply applies the entries of the jobs in one batch, with the index that they lead to.
func (g *group) apply(jobs []applyJob) error {
	batch := g.h.store.db.NewIndexedBatch()
	defer func() { _ = batch.Close() }() // it is committed, or the host stops
	kv := newWriter(batch, g.id)
	var entries []*pb.Entry
	if len(jobs) == 1 {
		entries = jobs[0].entries
	} else {
		for _, j := range jobs {
			entries = append(entries, j.entries...)
		}
	}
	var outcomes []outcome
	if !g.waiting.none() {
		outcomes = make([]outcome, len(entries))
	}
	for i, e := range entries {
		var result []byte
		switch {
		case e.GetType() == pb.EntryConfChangeV2:
			if err := g.applyChange(batch, e); err != nil {
				return err
			}
		case len(e.Data) > 0:
			result = g.sm.Apply(kv, e.GetIndex(), e.Data)
		}
		if outcomes != nil {
			outcomes[i].result = result
		}
	}
	last := entries[len(entries)-1]
	to := applied{last.GetIndex(), last.GetTerm()}
	if err := batch.Set(metaKey(g.id, keyApplied), to.encode(nil), nil); err != nil {
		return quarry.Wrap("apply", g.name(), err)
	}
	if err := batch.Commit(pebble.NoSync); err != nil {
		return quarry.Wrap("apply", g.name(), err)
	}
	g.appliedAt.Store(to.index)
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

// applyChange brings a change of the members into Raft and into the state.
func (g *group) applyChange(batch *pebble.Batch, e *pb.Entry) error {
	var cc pb.ConfChangeV2
	if err := proto.Unmarshal(e.Data, &cc); err != nil {
		return quarry.Errorf("apply", quarry.Corrupt, g.name(), "entry %d is no change of members: %w", e.GetIndex(), err)
	}
	var note changeNote
	if err := wire.Unmarshal(cc.Context, &note, noteFields); err != nil {
		return quarry.Errorf("apply", quarry.Corrupt, g.name(), "entry %d names no members: %w", e.GetIndex(), err)
	}
	var m membership
	stopped := !g.do(func() {
		m = g.members.Load().after(g.rn.ApplyConfChange(&cc), note.members)
		g.members.Store(&m)
	})
	if stopped {
		return fmt.Errorf("the host stops")
	}
	g.h.peers.learn(&m)
	g.h.cfg.Logger.Info("raft: members changed", "group", uint64(g.id), "voters", m.voters, "learners", m.learners, "outgoing", m.outgoing)
	return batch.Set(metaKey(g.id, keyMembers), wire.Marshal(nil, &m, membersFields), nil)
}
