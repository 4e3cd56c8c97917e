package protocol

import (
	"slices"
	"sort"

	"github.com/quarryfs/quarry"
)

// RunsMax bounds the runs of one chunk's table, and so its memory (about 14 MiB). A chunk
// whose table is full takes no more records.
const RunsMax = 1 << 18

// Record is one record of a chunk.
type Record struct {
	Session  quarry.SessionID
	Sequence quarry.Sequence
	Offset   int64 // of its first byte in the chunk
	Length   int64
}

// End returns the offset behind the record.
func (r Record) End() int64 { return r.Offset + r.Length }

// Records is the table of a chunk's records. It covers the chunk from its first byte
// without a hole, and the sequences of each session grow with the offset. Records of one
// session with consecutive sequences, equal lengths and adjacent places are kept as one
// run, so that a stream's table is short. The zero value is an empty table; it is copied
// with Clone, never by assignment.
type Records struct {
	runs     []quarry.RecordRun
	sessions []sessionRuns // sorted by session
}

// sessionRuns lists the runs of one session, as indexes into Records.runs.
type sessionRuns struct {
	session quarry.SessionID
	runs    []int32
}

// MakeRecords builds a table from runs, as they come from a disk or from another server. It
// returns an Invalid error if they are not a table.
func MakeRecords(runs []quarry.RecordRun) (Records, error) {
	var t Records
	if len(runs) > RunsMax {
		return t, quarry.Errorf("records", quarry.TooLarge, "", "%d runs, at most %d are allowed", len(runs), RunsMax)
	}
	for i := range runs {
		if err := t.check(&runs[i]); err != nil {
			return Records{}, err
		}
		t.addRun(runs[i])
	}
	return t, nil
}

// Length returns the end of the last record.
func (t *Records) Length() int64 {
	if len(t.runs) == 0 {
		return 0
	}
	return runEnd(&t.runs[len(t.runs)-1])
}

// Count returns the number of runs.
func (t *Records) Count() int { return len(t.runs) }

// Runs returns the runs in the order of their offsets. The caller does not change them, nor
// keep them beyond the next Append or Cut.
func (t *Records) Runs() []quarry.RecordRun { return t.runs }

// Clone returns a copy that shares nothing with t.
func (t *Records) Clone() Records {
	c := Records{runs: slices.Clone(t.runs), sessions: slices.Clone(t.sessions)}
	for i := range c.sessions {
		c.sessions[i].runs = slices.Clone(c.sessions[i].runs)
	}
	return c
}

// Equal reports whether both tables hold the same records.
func (t *Records) Equal(u *Records) bool { return slices.Equal(t.runs, u.runs) }

// Find looks a record up.
func (t *Records) Find(session quarry.SessionID, seq quarry.Sequence) (Record, bool) {
	i, ok := t.session(session)
	if !ok {
		return Record{}, false
	}
	rows := t.sessions[i].runs
	n := sort.Search(len(rows), func(k int) bool { return t.runs[rows[k]].Sequence > seq }) - 1
	if n < 0 {
		return Record{}, false
	}
	run := &t.runs[rows[n]]
	k := uint64(seq - run.Sequence)
	if k >= run.Count {
		return Record{}, false
	}
	return Record{session, seq, run.Offset + int64(k)*run.Length, run.Length}, true
}

// Last returns a session's last record.
func (t *Records) Last(session quarry.SessionID) (Record, bool) {
	i, ok := t.session(session)
	if !ok {
		return Record{}, false
	}
	rows := t.sessions[i].runs
	run := &t.runs[rows[len(rows)-1]]
	k := run.Count - 1
	return Record{session, run.Sequence + quarry.Sequence(k), run.Offset + int64(k)*run.Length, run.Length}, true
}

// Append adds a record at the end. It returns an Invalid error if the record does not begin
// at Length, or its sequence is not above all others of its session, and a Full error if the
// table is full.
func (t *Records) Append(r Record) error {
	run := quarry.RecordRun{Session: r.Session, Sequence: r.Sequence, Count: 1, Offset: r.Offset, Length: r.Length}
	if err := t.check(&run); err != nil {
		return err
	}
	if n := len(t.runs) - 1; n >= 0 {
		p := &t.runs[n]
		if p.Session == r.Session && p.Length == r.Length && p.Sequence+quarry.Sequence(p.Count) == r.Sequence {
			p.Count++
			return nil
		}
	}
	if len(t.runs) >= RunsMax {
		return quarry.Errorf("records", quarry.Full, "", "the table has %d runs already", len(t.runs))
	}
	t.addRun(run)
	return nil
}

// Cut removes the records that end after length. It reports whether length is the end of a
// record, or 0; if not, the record that length falls into goes as well.
func (t *Records) Cut(length int64) bool {
	for n := len(t.runs) - 1; n >= 0 && runEnd(&t.runs[n]) > length; n-- {
		run := &t.runs[n]
		if length >= run.Offset+run.Length {
			run.Count = uint64((length - run.Offset) / run.Length)
			break
		}
		if i, ok := t.session(run.Session); ok { // not of a forgotten one
			s := &t.sessions[i]
			if s.runs = s.runs[:len(s.runs)-1]; len(s.runs) == 0 {
				t.sessions = slices.Delete(t.sessions, i, i+1)
			}
		}
		t.runs = t.runs[:n]
	}
	return t.Length() == length
}

// Forget removes nothing from the runs, which must go on covering the chunk, but gives the
// records of a session to no session, so that they are not found any more.
func (t *Records) Forget(session quarry.SessionID) {
	i, ok := t.session(session)
	if !ok {
		return
	}
	for _, k := range t.sessions[i].runs {
		t.runs[k].Session = 0
	}
	t.sessions = slices.Delete(t.sessions, i, i+1)
}

// Boundary reports whether length is 0 or the end of a record.
func (t *Records) Boundary(length int64) bool {
	if length == 0 {
		return true
	}
	i := sort.Search(len(t.runs), func(k int) bool { return runEnd(&t.runs[k]) >= length })
	return i < len(t.runs) && (length-t.runs[i].Offset)%t.runs[i].Length == 0
}

// session returns where a session stands in t.sessions, or should stand.
func (t *Records) session(id quarry.SessionID) (int, bool) {
	i := sort.Search(len(t.sessions), func(k int) bool { return t.sessions[k].session >= id })
	return i, i < len(t.sessions) && t.sessions[i].session == id
}

// check tells why a run cannot stand at the end of the table.
func (t *Records) check(run *quarry.RecordRun) error {
	var why string
	switch last, ok := t.Last(run.Session); {
	case run.Count == 0 || run.Length < 1 || run.Length > quarry.RecordBytesMax || run.Offset != t.Length():
		why = "a run has no records, no length, or the wrong place"
	case run.Count > quarry.ChunkBytesMax || run.Offset+int64(run.Count)*run.Length > quarry.ChunkBytesMax:
		why = "the records do not fit in a chunk"
	case run.Session == 0:
		return nil // records whose session is forgotten
	case run.Sequence == 0 || run.Sequence+quarry.Sequence(run.Count) < run.Sequence:
		why = "a sequence is 0 or wraps around"
	case ok && run.Sequence <= last.Sequence && !off(NoDedup):
		why = "the sequences of a session do not grow"
	default:
		return nil
	}
	return quarry.Errorf("records", quarry.Invalid, "", "%s: %+v at %d", why, *run, t.Length())
}

func (t *Records) addRun(run quarry.RecordRun) {
	t.runs = append(t.runs, run)
	if run.Session == 0 {
		return
	}
	i, ok := t.session(run.Session)
	if !ok {
		t.sessions = slices.Insert(t.sessions, i, sessionRuns{session: run.Session})
	}
	s := &t.sessions[i]
	s.runs = append(s.runs, int32(len(t.runs)-1))
}

func runEnd(r *quarry.RecordRun) int64 { return r.Offset + int64(r.Count)*r.Length }
