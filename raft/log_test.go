package raft

import (
	"fmt"
	"math/rand/v2"
	"testing"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/journal"
)

// logBench is a group without Raft over a real journal: what Raft would order, the test does.
type logBench struct {
	t     *testing.T
	fs    *disk.Mem
	h     *Host
	g     []*group
	model []map[uint64]*pb.Entry // of each group, by index
}

var smallSegments = journal.Options{SegmentBytes: 4 << 10}

func newLogBench(t *testing.T, groups int) *logBench {
	b := &logBench{t: t, fs: disk.NewMem()}
	b.h = &Host{stopping: make(chan struct{}), cfg: Config{Node: 1}}
	j, err := journal.Open(b.fs, journalDir, smallSegments, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.h.journal = j
	w := newWorker(b.h)
	for i := range groups {
		g := &group{h: b.h, id: groupID(i), w: w, log: newEntryLog(groupID(i), j)}
		b.g = append(b.g, g)
		b.model = append(b.model, map[uint64]*pb.Entry{})
		g.writeBase(recordReset, nil, nil)
	}
	b.settle()
	t.Cleanup(func() { _ = j.Close() })
	return b
}

// settle waits until what was written is durable, and tells the groups.
func (b *logBench) settle() {
	b.t.Helper()
	if _, err := b.h.journal.Write(); err != nil {
		b.t.Fatal(err)
	}
	for _, g := range b.g {
		in := g.in.take(false)
		for _, op := range in.durable {
			g.durable(op)
		}
		g.in.give(in)
	}
}

func entry(index, term uint64, data string) *pb.Entry {
	e := &pb.Entry{Index: &index, Term: &term, Type: &normalEntry}
	if data != "" {
		e.Data = []byte(data)
	}
	return e
}

// check compares a log with the entries it must have.
func check(l *entryLog, model map[uint64]*pb.Entry) error {
	if want := uint64(len(model)); want < l.last-l.base {
		return fmt.Errorf("the log has %d to %d, the model %d entries", l.base, l.last, want)
	}
	if l.last == l.base {
		return nil
	}
	list, err := l.entries(l.base+1, l.last+1, 1<<62)
	if err != nil {
		return err
	}
	if uint64(len(list)) != l.last-l.base {
		return fmt.Errorf("%d entries of %d to %d", len(list), l.base, l.last)
	}
	for i, e := range list {
		index := l.base + 1 + uint64(i)
		want := model[index]
		if want == nil || e.GetIndex() != index || e.GetTerm() != want.GetTerm() || string(e.Data) != string(want.Data) || l.term(index) != want.GetTerm() {
			return fmt.Errorf("entry %d is %v (term %d), not %v", index, e, l.term(index), want)
		}
	}
	return nil
}

// TestLogReplay appends, overwrites and trims the logs of two groups at random, and again and
// again replays the journal as it is left: the logs must be the same.
func TestLogReplay(t *testing.T) {
	for seed := range uint64(30) {
		b := newLogBench(t, 2)
		r := rand.New(rand.NewPCG(seed, 7))
		committed := []uint64{0, 0}
		for step := range 400 {
			i := r.IntN(2)
			g, model := b.g[i], b.model[i]
			l := g.log
			switch r.IntN(10) {
			case 0: // another leader overwrites what is not committed
				if l.last > committed[i] {
					l.hard.term++
					b.append(i, committed[i]+1+r.Uint64N(l.last-committed[i]), 1+r.IntN(3), r)
				}
			case 1:
				l.hard.vote = r.Uint64N(4)
				g.writeEntries(nil, nil)
			case 2:
				if l.last > committed[i] && i == 0 || r.IntN(40) == 0 { // group 1 is stuck mostly
					committed[i] += r.Uint64N(l.last - committed[i] + 1)
					l.hard.commit = committed[i]
				}
			case 3:
				b.trim(committed, r)
			default:
				b.append(i, l.last+1, 1+r.IntN(5), r)
			}
			if r.IntN(2) == 0 {
				b.settle()
			}
			if err := check(l, model); err != nil {
				t.Fatalf("seed %d, step %d: %v", seed, step, err)
			}
			if step%10 == 0 {
				b.settle()
				b.replay(fmt.Sprintf("seed %d, step %d", seed, step))
			}
		}
	}
}

func (b *logBench) append(i int, from uint64, n int, r *rand.Rand) {
	l := b.g[i].log
	if l.hard.term == 0 || r.IntN(20) == 0 {
		l.hard.term++
	}
	var list []*pb.Entry
	for k := range uint64(n) {
		e := entry(from+k, l.hard.term, fmt.Sprintf("%d.%d %0*d", from+k, l.hard.term, r.IntN(100), 0))
		list = append(list, e)
	}
	for index := range b.model[i] {
		if index >= from {
			delete(b.model[i], index)
		}
	}
	for _, e := range list {
		b.model[i][e.GetIndex()] = e
	}
	b.g[i].writeEntries(list, nil)
}

// trim does what Host.trim does, with a random place to keep.
func (b *logBench) trim(durable []uint64, r *rand.Rand) {
	b.settle()
	end := b.h.journal.End()
	keep := journal.Position{Segment: end.Segment - min(end.Segment, r.Uint64N(3))}
	results := make(chan journal.Position, len(b.g))
	for i, g := range b.g {
		g.compact(keep, durable[i], false, results)
	}
	b.settle()
	for range b.g {
		if pos := <-results; pos.Before(end) {
			end = pos
		}
	}
	if err := b.h.journal.Trim(end); err != nil {
		b.t.Fatal(err)
	}
}

func (b *logBench) replay(at string) {
	b.t.Helper()
	logs := map[groupID]*entryLog{}
	j, err := journal.Open(b.fs.Clone(), journalDir, smallSegments, func(pos journal.Position, rec []byte) error { return replay(logs, pos, rec) })
	if err != nil {
		b.t.Fatalf("%s: %v", at, err)
	}
	defer func() { _ = j.Close() }()
	for i, g := range b.g {
		l := logs[g.id]
		if l == nil || l.open {
			b.t.Fatalf("%s: group %d: the journal does not say where its log begins", at, i)
		}
		l.journal = j
		if l.base != g.log.base || l.baseTerm != g.log.baseTerm || l.last != g.log.last || l.hard.vote != g.log.hard.vote {
			b.t.Fatalf("%s: group %d: the log is %d (term %d) to %d with %v, not %d (term %d) to %d with %v", at, i,
				l.base, l.baseTerm, l.last, l.hard, g.log.base, g.log.baseTerm, g.log.last, g.log.hard)
		}
		if err := check(l, b.model[i]); err != nil {
			b.t.Fatalf("%s: group %d: replayed: %v", at, i, err)
		}
	}
}

// TestLogReadsBack lets entries go from memory and reads them from the journal.
func TestLogReadsBack(t *testing.T) {
	b := newLogBench(t, 1)
	l := b.g[0].log
	l.hard.term = 1
	for i := range uint64(50) {
		e := entry(i+1, 1, fmt.Sprintf("%0*d", 1000, i))
		b.model[0][i+1] = e
		b.g[0].writeEntries([]*pb.Entry{e}, nil)
	}
	b.settle()
	l.uncache(41)
	if err := check(l, b.model[0]); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ lo, hi, size, want uint64 }{
		{1, 51, 0, 1}, {1, 51, 1016, 1}, {1, 51, 2031, 1}, {1, 51, 2032, 2}, {39, 43, 1 << 20, 4}, {39, 51, 3 * 1016, 3}, {41, 51, 0, 1}, {40, 42, 1016, 1},
	} {
		list, err := l.entries(c.lo, c.hi, c.size)
		if err != nil || uint64(len(list)) != c.want || list[0].GetIndex() != c.lo {
			t.Errorf("entries(%d, %d, %d): %d entries, want %d; %v", c.lo, c.hi, c.size, len(list), c.want, err)
		}
	}
}

// TestLogSlicesStay holds slices of the log while it is overwritten.
func TestLogSlicesStay(t *testing.T) {
	l := newEntryLog(0, nil)
	l.append([]*pb.Entry{entry(1, 1, "a"), entry(2, 1, "b"), entry(3, 1, "c")}, &place{})
	held, _ := l.entries(1, 4, 1<<20)
	l.append([]*pb.Entry{entry(2, 2, "x")}, &place{})
	l.append([]*pb.Entry{entry(3, 2, "y"), entry(4, 2, "z")}, &place{})
	if string(held[1].Data) != "b" || string(held[2].Data) != "c" {
		t.Fatal("a held slice has changed")
	}
	if l.term(1) != 1 || l.term(2) != 2 || l.term(4) != 2 || l.term(5) != 0 {
		t.Fatal("the terms are wrong")
	}
}

func TestReconcile(t *testing.T) {
	log := func() *entryLog {
		l := newEntryLog(0, nil)
		l.reset(10, 2)
		l.append([]*pb.Entry{entry(11, 2, "a"), entry(12, 3, "b"), entry(13, 3, "c")}, &place{})
		l.hard = hardState{term: 3, vote: 2, commit: 12}
		return l
	}
	for _, c := range []struct {
		name        string
		state       applied
		fails       bool
		moved       bool
		base, last  uint64
		term, voted uint64
		commit      uint64
	}{
		{"within", applied{12, 3}, false, false, 10, 13, 3, 2, 12},
		{"at the base", applied{10, 2}, false, false, 10, 13, 3, 2, 12},
		{"not yet committed when it was logged", applied{13, 3}, false, false, 10, 13, 3, 2, 13},
		{"behind the base", applied{9, 2}, true, false, 0, 0, 0, 0, 0},
		{"another entry, committed", applied{12, 2}, true, false, 0, 0, 0, 0, 0},
		{"another entry, not committed", applied{13, 5}, false, true, 13, 13, 5, 0, 13},
		{"ahead", applied{40, 3}, false, true, 40, 40, 3, 2, 40},
		{"ahead, of a later term", applied{40, 7}, false, true, 40, 40, 7, 0, 40},
	} {
		l := log()
		moved, err := l.reconcile(c.state)
		if (err != nil) != c.fails || moved != c.moved {
			t.Errorf("%s: moved %v, %v", c.name, moved, err)
		}
		if err != nil {
			continue
		}
		if want := (hardState{c.term, c.voted, c.commit}); l.base != c.base || l.last != c.last || l.hard != want {
			t.Errorf("%s: the log is %d to %d with %v, want %d to %d with %v", c.name, l.base, l.last, l.hard, c.base, c.last, want)
		}
	}
}
