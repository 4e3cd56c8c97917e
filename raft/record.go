package raft

import (
	"encoding/binary"
	"fmt"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/journal"
)

// The journal of a node holds the logs of all its groups. The journal frames and checksums
// its records; this is what stands in one:
//
//	byte     version, 1
//	byte     kind: 1 entries, 2 base, 3 reset, 4 moved
//	uvarint  group
//	uvarint  term, vote, commit: the hard state from here on
//	uvarint  index
//	uvarint  kind entries: number of entries; other kinds: term of the entry at index
//	.        kind entries: the entries from index on (see appendEntry)
//
// Entries replace those of the same indexes that stand before them, and all behind those,
// unless index and term are the same: then it is the same entry, and the log goes on. The
// other kinds say that the log begins behind the entry at index. A reset record says that it
// is empty, a moved record that all its entries stand once more in records behind.
//
// What stands before a group's last record of these kinds may have been trimmed in part. So
// the first records that are left may speak of entries whose predecessors are gone, and of
// beginnings that are past; the last record tells the truth.
const (
	recordVersion = 1

	recordEntries = 1
	recordBase    = 2
	recordReset   = 3
	recordMoved   = 4
)

// record is a decoded record.
type record struct {
	kind    byte
	id      groupID
	hard    hardState
	first   uint64 // index of the first entry, or of the base
	term    uint64 // of the base
	entries []*pb.Entry
}

func appendRecordHead(b []byte, kind byte, id groupID, h hardState) []byte {
	b = append(b, recordVersion, kind)
	for _, v := range [...]uint64{uint64(id), h.term, h.vote, h.commit} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

// encodeEntries appends a record with entries, of which there may be none.
func encodeEntries(b []byte, id groupID, h hardState, entries []*pb.Entry) []byte {
	b = appendRecordHead(b, recordEntries, id, h)
	first := uint64(0)
	if len(entries) > 0 {
		first = entries[0].GetIndex()
	}
	b = binary.AppendUvarint(b, first)
	b = binary.AppendUvarint(b, uint64(len(entries)))
	for _, e := range entries {
		b = appendEntry(b, e)
	}
	return b
}

// encodeBase appends a base, reset or moved record.
func encodeBase(b []byte, kind byte, id groupID, h hardState, index, term uint64) []byte {
	b = appendRecordHead(b, kind, id, h)
	b = binary.AppendUvarint(b, index)
	return binary.AppendUvarint(b, term)
}

func decodeRecord(b []byte) (record, error) {
	d := decoder{b: b}
	if v := d.byte(); d.err == nil && v != recordVersion {
		return record{}, quarry.Errorf("read log", quarry.Unsupported, "", "a record has version %d; this release reads version %d", v, recordVersion)
	}
	r := record{kind: d.byte(), id: groupID(d.uvarint())}
	r.hard = hardState{term: d.uvarint(), vote: d.uvarint(), commit: d.uvarint()}
	r.first = d.uvarint()
	switch n := d.uvarint(); {
	case d.err != nil:
	case r.kind == recordEntries:
		r.entries = d.entries(r.first, int(min(n, entriesMax+1)))
	case r.kind == recordBase, r.kind == recordReset, r.kind == recordMoved:
		r.term = n
	default:
		d.fail("the record is of kind %d", r.kind)
	}
	if err := d.finish(); err != nil {
		return record{}, &quarry.Error{Op: "read log", Kind: quarry.Corrupt, Err: err}
	}
	return r, nil
}

// replay brings one record of the journal into the logs.
func replay(logs map[groupID]*entryLog, pos journal.Position, b []byte) error {
	r, err := decodeRecord(b)
	if err != nil {
		return quarry.Wrap("replay log", pos.String(), err)
	}
	l := logs[r.id]
	if l == nil {
		l = newEntryLog(r.id, nil)
		l.open = true
		logs[r.id] = l
	}
	l.hard = r.hard
	if err := l.replay(r, &place{pos: pos, placed: true}); err != nil {
		return quarry.Wrap("replay log", fmt.Sprintf("group %d at %v", r.id, pos), err)
	}
	return nil
}

func (l *entryLog) replay(r record, at *place) error {
	if r.kind != recordEntries {
		l.head, l.told = at, termRun{r.first, r.term}
	}
	switch {
	case r.kind == recordEntries:
		if len(r.entries) == 0 {
			return nil
		}
		err := l.replayEntries(r.entries, at)
		l.trimCache()
		return err
	case r.kind == recordReset,
		r.kind == recordMoved && l.open,
		r.first > l.last: // what was before was trimmed, with the entry itself
		l.reset(r.first, r.term)
	case l.open && r.first < l.base:
		return nil // the log has begun further on since
	case l.open && r.first == l.base:
		if l.last > l.base && l.term(l.base+1) < r.term {
			return fallingTerm(l.base+1, l.term(l.base+1), r.term)
		}
		l.baseTerm = r.term
	case l.term(r.first) != r.term:
		return quarry.Errorf("", quarry.Corrupt, "", "the log of %d to %d (term %d) is said to begin behind %d of term %d", l.base, l.last, l.term(r.first), r.first, r.term)
	default:
		l.compact(r.first)
	}
	l.open = false
	return nil
}

func (l *entryLog) replayEntries(entries []*pb.Entry, at *place) error {
	first := entries[0].GetIndex()
	switch {
	case first <= l.base && !l.open:
		return quarry.Errorf("", quarry.Corrupt, "", "entries from %d do not follow the log of %d to %d", first, l.base, l.last)
	case first <= l.base, first > l.last+1: // what was in between was trimmed
		l.reset(first-1, 0)
		if l.open = first-1 != l.told.first; !l.open {
			l.baseTerm = l.told.term
		}
	}
	for len(entries) > 0 && entries[0].GetIndex() <= l.last && l.term(entries[0].GetIndex()) == entries[0].GetTerm() {
		entries = entries[1:]
	}
	if len(entries) == 0 {
		return nil
	}
	if e, before := entries[0], l.term(entries[0].GetIndex()-1); e.GetTerm() < before {
		return fallingTerm(e.GetIndex(), e.GetTerm(), before)
	}
	l.append(entries, at)
	return nil
}

// fallingTerm is the error of an entry whose term is below that of the one before. Terms never
// fall along a log, whoever has written it.
func fallingTerm(index, term, before uint64) error {
	return quarry.Errorf("", quarry.Corrupt, "", "entry %d has term %d and stands behind one of term %d", index, term, before)
}
