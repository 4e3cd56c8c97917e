package raft

import (
	"fmt"
	"maps"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/journal"
)

// recover opens the journal and checks the log of each group against its state.
func (h *Host) recover() error {
	fs, incoming := h.store.fs, h.store.incomingDir()
	if err := fs.RemoveAll(incoming); err != nil {
		return quarry.Wrap("open state", incoming, err)
	}
	if err := fs.MkdirAll(incoming, 0o755); err != nil {
		return quarry.Wrap("open state", incoming, err)
	}
	opts := journal.Options{SegmentBytes: max(4<<10, min(h.cfg.LogBytes/journalSegments, 1<<30))}
	var err error
	h.journal, err = journal.Open(h.cfg.Log, journalDir, opts, func(pos journal.Position, b []byte) error {
		return replay(h.dormant, pos, b)
	})
	if err != nil {
		return err
	}
	if h.id.used && len(h.dormant) == 0 {
		return quarry.Errorf("open", quarry.Corrupt, journalDir, "the log of this node is lost, and with it its votes; %s", replaceAdvice)
	}
	if len(h.dormant) > 0 {
		if err := h.markUsed(); err != nil {
			return err
		}
	}
	ids, err := h.store.groups()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if h.dormant[id] == nil {
			return quarry.Errorf("open", quarry.Corrupt, fmt.Sprintf("group %d", id), "its log is lost, and with it the votes of this node; %s", replaceAdvice)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(h.dormant)) {
		st, err := loadGroup(h.store.db, id)
		if err != nil {
			return err
		}
		if err := h.reconcile(h.dormant[id], st.applied); err != nil {
			return err
		}
	}
	return nil
}

// reconcile moves a log up to the applied state where it must, durably.
func (h *Host) reconcile(l *entryLog, a applied) error {
	l.journal = h.journal
	moved, err := l.reconcile(a)
	if err != nil || !moved {
		return err
	}
	pos, err := h.journal.Write(encodeBase(nil, recordReset, l.id, l.hard, l.base, l.baseTerm))
	l.head = &place{pos: pos, placed: true}
	return quarry.Wrap("open", fmt.Sprintf("group %d", l.id), err)
}

// reconcile checks a recovered log against the applied state. The state may be ahead of the
// log: a snapshot was installed, and the crash came before the log knew. It is never behind
// the log's beginning: the log is cut only when the state has what goes, durably. It reports
// whether the log was moved.
func (l *entryLog) reconcile(a applied) (moved bool, err error) {
	subject := fmt.Sprintf("group %d", l.id)
	switch {
	case l.open:
		return false, quarry.Errorf("open", quarry.Corrupt, subject, "the journal does not say where the log begins")
	case a.index < l.base:
		return false, quarry.Errorf("open", quarry.Corrupt, subject, "the state ends at %d, but the log begins behind %d: state that was durable is lost; %s", a.index, l.base, replaceAdvice)
	case a.index > l.last || l.term(a.index) != a.term:
		if a.index <= l.hard.commit && a.index <= l.last {
			return false, quarry.Errorf("open", quarry.Corrupt, subject, "entry %d has term %d in the log and term %d in the state", a.index, l.term(a.index), a.term)
		}
		l.reset(a.index, a.term)
		moved = true
	}
	// A later term than the last one voted in is no vote.
	if a.term > l.hard.term {
		l.hard.term, l.hard.vote = a.term, 0
	}
	l.hard.commit = min(max(l.hard.commit, a.index), l.last)
	return moved, nil
}

// oldestDormant returns the oldest position that groups need which were recovered but not
// added, or end; waits is true if that is not known.
func (h *Host) oldestDormant(end journal.Position) (oldest journal.Position, waits bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	oldest = end
	for _, l := range h.dormant {
		pos, ok := l.oldest()
		if !ok {
			return oldest, true
		}
		if pos.Before(oldest) {
			oldest = pos
		}
	}
	return oldest, false
}

// Groups returns the groups that this node was a member of, or had added, when it was
// opened, in ascending order, whether they are added again already or not.
func (h *Host) Groups() []quarry.ShardID {
	h.mu.RLock()
	defer h.mu.RUnlock()
	ids := slices.Collect(maps.Keys(h.dormant))
	ids = slices.AppendSeq(ids, maps.Keys(h.groups))
	slices.Sort(ids)
	return ids
}

// AddGroup starts this node's member of a group: a recovered one, or else an empty one, which
// waits for the group's leader to send the state. Errors: Exists if it was added before,
// Internal if the disk fails, Unavailable if the host is stopping.
func (h *Host) AddGroup(id quarry.ShardID, sm StateMachine) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.groups[id] != nil {
		return quarry.Errorf("add group", quarry.Exists, fmt.Sprintf("group %d", id), "it was added before")
	}
	return h.add(id, sm)
}

// Bootstrap founds a group with its first voters, of which this node is one. It is called
// with the same voters on each of them, once, when a cluster is made. It returns when the
// group is durable here. Called again after a crash in the midst of it, it finishes. Errors: Exists
// if this member has a state already or has heard of others, and is for AddGroup; Invalid for bad
// voters, and those of AddGroup.
func (h *Host) Bootstrap(id quarry.ShardID, voters []Member, sm StateMachine) error {
	subject := fmt.Sprintf("group %d", id)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.groups[id] != nil {
		return quarry.Errorf("bootstrap", quarry.Exists, subject, "it was added before")
	}
	if old, err := loadGroup(h.store.db, id); err != nil || old.applied.index > 0 {
		if err != nil {
			return err
		}
		return quarry.Errorf("bootstrap", quarry.Exists, subject, "this node has a state of it")
	}
	if l := h.dormant[id]; l != nil && (l.base > 0 || l.last > 0 || l.hard != hardState{}) {
		return quarry.Errorf("bootstrap", quarry.Exists, subject, "this node has a log of it")
	}
	st := groupState{applied: applied{index: 1, term: 1}}
	for _, m := range voters {
		if err := m.check(); err != nil {
			return &quarry.Error{Op: "bootstrap", Kind: quarry.Invalid, Subject: subject, Err: err}
		}
		st.members.voters = append(st.members.voters, uint64(m.Node))
	}
	st.members.members = slices.SortedFunc(slices.Values(voters), func(a, b Member) int { return int(int64(a.Node - b.Node)) })
	slices.Sort(st.members.voters)
	if self, ok := st.members.find(h.cfg.Node); !ok || self != h.self || len(voters) > MembersMax || len(slices.Compact(slices.Clone(st.members.voters))) != len(voters) {
		return quarry.Errorf("bootstrap", quarry.Invalid, subject, "the voters must be at most %d different nodes, and one of them %v", MembersMax, h.self)
	}
	// The log first: a state without a log is taken for a lost log. A log without a state is
	// an empty member, which may be founded again.
	if err := h.ensureLog(id); err != nil {
		return err
	}
	b := h.store.db.NewBatch()
	defer func() { _ = b.Close() }() // it is committed, or there is an error
	err := st.put(b, id)
	if err == nil {
		err = b.Commit(pebble.Sync)
	}
	if err != nil {
		return quarry.Wrap("bootstrap", subject, err)
	}
	if err := h.reconcile(h.dormant[id], st.applied); err != nil {
		return err
	}
	return h.add(id, sm)
}

// ensureLog makes the empty log of a group that has none, durably. h.mu is held.
func (h *Host) ensureLog(id groupID) error {
	if h.dormant[id] != nil {
		return nil
	}
	l := newEntryLog(id, h.journal)
	pos, err := h.journal.Write(encodeBase(nil, recordReset, id, l.hard, 0, 0))
	if err != nil {
		return quarry.Wrap("add group", fmt.Sprintf("group %d", id), err)
	}
	l.head = &place{pos: pos, placed: true}
	h.dormant[id] = l
	return h.markUsed()
}

// markUsed has the identity say that the log must be there from here on.
func (h *Host) markUsed() error {
	if h.id.used {
		return nil
	}
	h.id.used = true
	return h.id.save(h.cfg.Log)
}

// add starts a member over the log in h.dormant. h.mu is held.
func (h *Host) add(id groupID, sm StateMachine) error {
	if err := h.ensureLog(id); err != nil {
		return err
	}
	st, err := loadGroup(h.store.db, id)
	if err != nil {
		return err
	}
	g := &group{h: h, id: id, sm: sm, w: h.workers[uint64(id)%uint64(len(h.workers))]}
	g.applier.wake = make(chan struct{}, 1)
	g.cache.max = &h.cacheShare
	h.shareCache(len(h.groups) + 1)
	if err := g.start(st, h.dormant[id]); err != nil {
		return err
	}
	delete(h.dormant, id)
	h.groups[id] = g
	h.spawn(g.runApplier)
	g.w.add(g)
	g.call(func() {}) // what Raft wants done right away
	return nil
}
