package raft

import (
	"fmt"
	"sort"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/journal"
)

// entryLog is the Raft log of one group: entries base+1 to last. The newest are kept in
// memory; of the older ones it is known where in the journal they stand. It belongs to one
// goroutine, the group's worker; slices of entries that it hands out stay as they are.
type entryLog struct {
	id      groupID
	journal *journal.Journal

	base, baseTerm uint64 // the entry before the first one; it is applied and durably so
	last           uint64
	spans          []*span   // where the entries stand, in order, without gaps
	terms          []termRun // the terms of the entries, in order

	cache      []*pb.Entry // the entries cached.. to last
	cached     uint64      // index of cache[0]; last+1 if the cache is empty
	cacheBytes int

	hard hardState
	head *place // of the last record that told base and baseTerm

	// For replay: the base that was told last, and whether base is only where the entries
	// happen to begin that are left.
	told termRun
	open bool
}

// hardState is what Raft must not forget: the term, the vote in it, and, to save time, how
// far entries are known to be committed.
type hardState struct{ term, vote, commit uint64 }

// place is where a record stands in the journal, as soon as that is known.
type place struct {
	pos    journal.Position
	placed bool
}

// span is a run of entries in one record.
type span struct {
	first, last uint64
	at          *place
}

// termRun says that the entries from first on, up to the next run, have a term.
type termRun struct{ first, term uint64 }

// cacheBytesMax is how many bytes of entries one group keeps in memory.
const cacheBytesMax = 8 << 20

func newEntryLog(id groupID, j *journal.Journal) *entryLog {
	return &entryLog{id: id, journal: j, cached: 1}
}

// reset makes the log an empty one behind an entry.
func (l *entryLog) reset(base, baseTerm uint64) {
	l.base, l.baseTerm, l.last, l.cached = base, baseTerm, base, base+1
	l.spans, l.terms, l.cache, l.cacheBytes = nil, nil, nil, 0
}

// term returns the term of an entry from base to last, 0 for others.
func (l *entryLog) term(index uint64) uint64 {
	if index == l.base {
		return l.baseTerm
	}
	if index < l.base || index > l.last {
		return 0
	}
	for i := len(l.terms) - 1; i >= 0; i-- { // nearly always it is the last run
		if l.terms[i].first <= index {
			return l.terms[i].term
		}
	}
	return 0
}

// append adds entries that stand in a record at a place. Entries from the first one's index
// on are forgotten before. There must be no gap.
func (l *entryLog) append(entries []*pb.Entry, at *place) {
	first := entries[0].GetIndex()
	if first <= l.base || first > l.last+1 {
		panic(fmt.Sprintf("raft: group %d: entries from %d do not follow a log of %d to %d", l.id, first, l.base, l.last))
	}
	if first <= l.last {
		l.cut(first)
	}
	for _, e := range entries {
		if n := len(l.terms); n == 0 || l.terms[n-1].term != e.GetTerm() {
			l.terms = append(l.terms, termRun{e.GetIndex(), e.GetTerm()})
		}
		l.cacheBytes += len(e.Data) + entryOverhead
	}
	l.last = entries[len(entries)-1].GetIndex()
	l.spans = append(l.spans, &span{first, l.last, at})
	l.cache = append(l.cache, entries...)
}

// cut forgets the entries from an index on.
func (l *entryLog) cut(from uint64) {
	for n := len(l.spans); n > 0 && l.spans[n-1].last >= from; n-- {
		if l.spans[n-1].first < from {
			l.spans[n-1].last = from - 1
			break
		}
		l.spans = l.spans[:n-1]
	}
	for n := len(l.terms); n > 0 && l.terms[n-1].first >= from; n-- {
		l.terms = l.terms[:n-1]
	}
	l.last = from - 1
	if from <= l.cached {
		l.cache, l.cached, l.cacheBytes = nil, from, 0
		return
	}
	// Others may hold the slice behind the cut: what comes there goes into another one.
	keep := int(from - l.cached)
	for _, e := range l.cache[keep:] {
		l.cacheBytes -= len(e.Data) + entryOverhead
	}
	l.cache = append([]*pb.Entry(nil), l.cache[:keep]...)
}

// compact moves base forward to an entry of the log.
func (l *entryLog) compact(to uint64) {
	if to <= l.base || to > l.last {
		return
	}
	term := l.term(to)
	i := sort.Search(len(l.spans), func(i int) bool { return l.spans[i].last > to })
	l.spans = append([]*span(nil), l.spans[i:]...)
	if len(l.spans) > 0 {
		l.spans[0].first = to + 1
	}
	i = sort.Search(len(l.terms), func(i int) bool { return l.terms[i].first > to+1 }) - 1
	if to == l.last {
		i = len(l.terms)
	}
	l.terms = append([]termRun(nil), l.terms[max(0, i):]...)
	if len(l.terms) > 0 {
		l.terms[0].first = to + 1
	}
	l.base, l.baseTerm = to, term
	if to >= l.cached {
		l.uncache(to + 1)
	}
}

// trimCache lets the oldest entries go from memory when they are too many. Only entries
// that can be read from the journal go.
func (l *entryLog) trimCache() {
	if l.cacheBytes <= cacheBytesMax {
		return
	}
	i := sort.Search(len(l.spans), func(i int) bool { return l.spans[i].last >= l.cached })
	for ; i < len(l.spans) && l.spans[i].at.placed && l.cacheBytes > cacheBytesMax/2; i++ {
		l.uncache(l.spans[i].last + 1)
	}
}

// uncache lets the entries before an index go from memory.
func (l *entryLog) uncache(before uint64) {
	n := int(before - l.cached)
	for _, e := range l.cache[:n] {
		l.cacheBytes -= len(e.Data) + entryOverhead
	}
	l.cache, l.cached = l.cache[n:], before
	if len(l.cache) == 0 {
		l.cache = nil
	}
}

// entries returns entries lo to hi-1, or fewer if they are more than size bytes, but at
// least one. lo is above base and below hi, hi at most last+1.
func (l *entryLog) entries(lo, hi, size uint64) ([]*pb.Entry, error) {
	if lo >= l.cached {
		list := l.cache[lo-l.cached : hi-l.cached]
		n, _ := fit(list, size, true)
		return list[:n:n], nil
	}
	var list []*pb.Entry
	i := sort.Search(len(l.spans), func(i int) bool { return l.spans[i].last >= lo })
	for ; lo < min(hi, l.cached); i++ {
		part, err := l.read(l.spans[i])
		if err != nil {
			return nil, err
		}
		part = part[lo-part[0].GetIndex():]
		part = part[:min(uint64(len(part)), min(hi, l.cached)-lo)]
		n, left := fit(part, size, len(list) == 0)
		list = append(list, part[:n]...)
		if n < len(part) {
			return list, nil
		}
		lo, size = lo+uint64(n), left
	}
	n, _ := fit(l.cache[:hi-lo], size, false)
	return append(list, l.cache[:n]...), nil
}

// fit returns how many of the entries fit into size bytes, and what is left of size then.
// If one must, one does.
func fit(list []*pb.Entry, size uint64, oneMust bool) (int, uint64) {
	for i, e := range list {
		n := uint64(len(e.Data)) + 16
		if n > size && (i > 0 || !oneMust) {
			return i, 0
		}
		size -= min(n, size)
	}
	return len(list), size
}

// read returns the entries of a span from the journal.
func (l *entryLog) read(s *span) ([]*pb.Entry, error) {
	if !s.at.placed {
		return nil, quarry.Errorf("read log", quarry.Internal, fmt.Sprintf("group %d", l.id), "entries %d to %d are neither in memory nor in the journal", s.first, s.last)
	}
	b, err := l.journal.Read(s.at.pos)
	if err != nil {
		return nil, quarry.Wrap("read log", fmt.Sprintf("group %d", l.id), err)
	}
	r, err := decodeRecord(b)
	if err != nil {
		return nil, quarry.Wrap("read log", fmt.Sprintf("group %d at %v", l.id, s.at.pos), err)
	}
	n := len(r.entries)
	if r.id != l.id || n == 0 || r.first > s.first || r.first+uint64(n)-1 < s.last {
		return nil, quarry.Errorf("read log", quarry.Corrupt, fmt.Sprintf("group %d at %v", l.id, s.at.pos), "the record does not hold entries %d to %d", s.first, s.last)
	}
	return r.entries[s.first-r.first : s.last-r.first+1], nil
}

// oldest returns the place of the oldest record that the log still needs, and false if it is
// not known yet.
func (l *entryLog) oldest() (journal.Position, bool) {
	if l.head == nil || !l.head.placed {
		return journal.Position{}, false
	}
	if len(l.spans) > 0 {
		if s := l.spans[0].at; !s.placed || s.pos.Before(l.head.pos) {
			return s.pos, s.placed
		}
	}
	return l.head.pos, true
}
