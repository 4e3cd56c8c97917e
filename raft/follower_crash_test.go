package raft

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk/crashtest"
	"github.com/quarryfs/quarry/wire"
)

// sentMessages is a Transport that hands what a node sends to a function.
type sentMessages func(to Member, batch []byte)

func (s sentMessages) Send(_ context.Context, to Member, batch []byte) error {
	s(to, batch)
	return nil
}

func (s sentMessages) SendSnapshot(context.Context, Member, io.Reader) error { return io.ErrClosedPipe }

// follower is node 2 of a group of three. The others are the test, which writes down what the
// follower says to them: each vote and each entry that it says it has is a promise.
type follower struct {
	c       *nodeCrasher
	host    *Host
	answers chan *pb.Message

	term  uint64            // of the test's own messages
	model map[uint64]uint64 // index: term of the entry that was sent for it last

	founded      bool
	terms, votes map[uint64]uint64 // by term: 1, and for whom
	has          uint64            // the highest index that was acknowledged
	snapshot     uint64            // index of the snapshot that was installed
}

var followerPeers = []Member{{1, quarry.DiskID{1}, "node1:1"}, {3, quarry.DiskID{3}, "node3:1"}}

func followerEntry(index, term uint64) *pb.Entry {
	return entry(index, term, fmt.Sprintf("%d.%d %0*d", index, term, index*397%2000, 0))
}

// deliver has a message of another node arrive, and waits for the answer.
func (f *follower) deliver(from Member, m *pb.Message) *pb.Message {
	m.Term = new(f.term)
	b := appendEnvelope(nil, &envelope{from: from, to: 2, disk: f.host.self.Disk})
	b = appendMessage(b, 0, m)
	sealBatch(b)
	if err := f.host.Deliver(b); err != nil {
		f.c.t.Fatal(err)
	}
	select {
	case answer := <-f.answers:
		return answer
	case <-time.After(time.Minute):
		f.c.t.Fatalf("no answer to a message of type %v", m.GetType())
		return nil
	}
}

// sent notes what the follower says.
func (f *follower) sent(to Member, batch []byte) {
	_, rest, err := openBatch(batch)
	for err == nil && len(rest) > 0 {
		var body []byte
		if body, rest, err = nextMessage(rest); err != nil {
			break
		}
		_, r, e := decodeMessage(body, 2, to.Node)
		if e != nil {
			f.c.t.Error(e)
			return
		}
		f.c.promise(func() {
			f.terms[r.term] = 1
			switch {
			case r.reject:
			case r.typ == pb.MsgVoteResp:
				f.votes[r.term] = uint64(to.Node)
			case r.typ == pb.MsgAppResp:
				f.has = max(f.has, r.index)
			}
		})
		f.answers <- &r.m
	}
	if err != nil {
		f.c.t.Error(err)
	}
}

// append sends n entries from an index on.
func (f *follower) append(index uint64, n int, commit uint64) {
	m := &pb.Message{Type: pb.MsgApp.Enum(), Index: new(index - 1), LogTerm: new(f.model[index-1]), Commit: &commit}
	f.c.promise(func() {
		if f.has >= index {
			f.has = index - 1 // what follows was not committed, and is overwritten
		}
		for i := range f.model {
			if i >= index {
				delete(f.model, i)
			}
		}
		for i := index; i < index+uint64(n); i++ {
			f.model[i] = f.term
			m.Entries = append(m.Entries, followerEntry(i, f.term))
		}
	})
	if answer := f.deliver(followerPeers[0], m); answer.GetReject() {
		f.c.t.Errorf("entries from %d on were refused", index)
	}
}

// vote has another node ask for a vote in a new term, and it must get it.
func (f *follower) vote(from Member) {
	f.term++
	m := &pb.Message{Type: pb.MsgVote.Enum(), Index: new(uint64(1 << 40)), LogTerm: new(f.term - 1), Context: []byte("CampaignTransfer")}
	if answer := f.deliver(from, m); answer.GetReject() {
		f.c.t.Errorf("node %d got no vote in term %d", from.Node, f.term)
	}
}

// install sends a snapshot of a state that has applied entries up to an index.
func (f *follower) install(index uint64) {
	st := groupState{applied: applied{index, f.term}, members: f.members()}
	var b bytes.Buffer
	s := snapshotWriter{head: &snapshotHead{group: 0, from: followerPeers[0], to: 2, disk: f.host.self.Disk, term: f.term}}
	s.add([]byte{keyApplied}, st.applied.encode(nil))
	s.add([]byte{keyMembers}, wire.Marshal(nil, &st.members, membersFields))
	for i := range index - 1 {
		s.add(append([]byte{keyData}, listKey(i)...), followerEntry(i+2, f.term).Data)
	}
	s.add(append([]byte{keyData}, listLength...), binary.BigEndian.AppendUint64(nil, index-1))
	s.finish(&b)
	f.c.promise(func() {
		f.has = 0 // until it says so
		f.model = map[uint64]uint64{index: f.term}
	})
	if err := f.host.ReceiveSnapshot(context.Background(), &b); err != nil {
		f.c.t.Fatal(err)
	}
	f.c.promise(func() { f.snapshot, f.has = index, index })
	<-f.answers
}

func (f *follower) members() membership {
	m := membership{voters: []uint64{1, 2, 3}, members: []Member{followerPeers[0], f.host.self, followerPeers[1]}}
	return m
}

// judge opens a crashed follower and compares it with what it said.
func (f *follower) judge(n crashedNode, what string) error {
	cfg := n.config()
	cfg.Node, cfg.Address, cfg.Tick, cfg.LogBytes = 2, "node2:1", time.Hour, 32<<10
	for range 2 { // recovery itself changes the disks
		h, err := Open(cfg)
		if err != nil {
			return err
		}
		err = errors.Join(f.compare(h), h.Close())
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *follower) compare(h *Host) error {
	l := h.dormant[0]
	st, err := loadGroup(h.store.db, 0)
	switch {
	case err != nil:
		return err
	case l == nil && f.founded:
		return errors.New("the log is gone")
	case l == nil:
		return nil
	case f.founded && st.applied.index == 0:
		return errors.New("the state is gone")
	case st.applied.index < f.snapshot:
		return fmt.Errorf("the snapshot of %d is lost, %d is applied", f.snapshot, st.applied.index)
	case max(l.last, st.applied.index) < f.has:
		return fmt.Errorf("entries up to %d were acknowledged, the log ends at %d", f.has, l.last)
	}
	for term := range f.terms {
		if l.hard.term < term {
			return fmt.Errorf("it spoke in term %d and is back in %d", term, l.hard.term)
		}
	}
	if v := f.votes[l.hard.term]; v != 0 && l.hard.vote != v {
		return fmt.Errorf("it voted for node %d in term %d, and says it was %d", v, l.hard.term, l.hard.vote)
	}
	for i := l.base + 1; i <= min(l.last, f.has); i++ {
		if want := f.model[i]; want != 0 && l.term(i) != want {
			return fmt.Errorf("entry %d has term %d, not %d", i, l.term(i), want)
		}
	}
	r := newReader(h.store.db, 0)
	list := readList(&r)
	if uint64(len(list))+1 != max(st.applied.index, 1) {
		return fmt.Errorf("the state has %d elements at index %d", len(list), st.applied.index)
	}
	for i, e := range list {
		if index, _, _ := strings.Cut(e, "."); index != fmt.Sprint(i+2) {
			return fmt.Errorf("element %d is %.20s", i, e)
		}
	}
	return nil
}

// run has the follower vote, take entries, lose some to another leader, trim its log, and
// install a snapshot.
func (f *follower) run() {
	t := f.c.t
	cfg := f.c.config()
	cfg.Node, cfg.Address, cfg.Tick, cfg.LogBytes = 2, "node2:1", time.Hour, 32<<10
	cfg.Transport = sentMessages(f.sent)
	var err error
	if f.host, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	if err := f.host.Bootstrap(0, []Member{followerPeers[0], f.host.self, followerPeers[1]}, &listMachine{}); err != nil {
		t.Fatal(err)
	}
	f.c.promise(func() { f.founded = true })
	next := uint64(2)
	for round := range 4 {
		f.vote(followerPeers[round%2])
		for range 3 {
			f.append(next, 3, next-1)
			next += 3
		}
		if round == 1 {
			f.vote(followerPeers[0])
			next -= 2
			f.append(next, 2, next-1)
			next += 2
		}
		if round == 2 {
			next = 60
			f.install(next)
			next++
		}
		if err := f.host.store.db.Flush(); err != nil {
			t.Error(err)
		}
		if err := f.host.trim(); err != nil {
			t.Error(err)
		}
	}
	if err := f.host.Close(); err != nil {
		t.Error(err)
	}
	f.c.look("after a promise")
}

// TestFollowerCrash crashes a follower between any two operations on its disks: it stands by
// what it said.
func TestFollowerCrash(t *testing.T) {
	every := 2
	if os.Getenv("QUARRY_LONG") != "" {
		every = 1
	}
	excuses := map[string]string{
		"syncdir in raft.identity.save by raft.(*Host).markUsed": "TestCrashTogether shows it",
		"syncdir in raft.identity.save by raft.loadIdentity":     "TestCrashTogether shows it",
	}
	const claim = "syncdir in raft.identity.save by raft.(*identity).claim"
	excuses[claim] = implied[claim]
	crashtest.Table(t, excuses, func(t *testing.T, syncs *crashtest.Syncs) crashtest.Result {
		f := &follower{
			c: newNodeCrasher(t, syncs, every), answers: make(chan *pb.Message, 16), term: 1,
			model: map[uint64]uint64{1: 1}, terms: map[uint64]uint64{}, votes: map[uint64]uint64{},
		}
		f.c.judge = f.judge
		f.run()
		return f.c.Result
	})
}
