package protocol

import (
	"errors"
	"math/rand"
	"testing"

	"github.com/quarryfs/quarry"
)

// TestRecords compares the table with a plain list under random appends, cuts and forgotten
// sessions.
func TestRecords(t *testing.T) {
	for seed := range int64(300) {
		rnd := rand.New(rand.NewSource(seed))
		var table Records
		var list []Record
		last := map[quarry.SessionID]quarry.Sequence{}
		for range 200 {
			switch rnd.Intn(20) {
			case 0:
				n := 0
				if len(list) > 0 {
					n = rnd.Intn(len(list) + 1)
				}
				cut, inside := end(list[:n]), false
				if n < len(list) && list[n].Length > 1 && rnd.Intn(2) == 0 {
					cut, inside = cut+1, true // into the next record, which goes as well
				}
				if table.Boundary(cut) == inside {
					t.Fatalf("seed %d: boundary at %d: %v", seed, cut, !inside)
				}
				if table.Cut(cut) == inside {
					t.Fatalf("seed %d: cut at %d says %v", seed, cut, !inside)
				}
				list = list[:n]
				last = map[quarry.SessionID]quarry.Sequence{}
				for _, r := range list {
					last[r.Session] = r.Sequence
				}
			case 1:
				s := quarry.SessionID(1 + rnd.Intn(4))
				table.Forget(s)
				for i := range list {
					if list[i].Session == s {
						list[i].Session = 0
					}
				}
				delete(last, s)
			default:
				s := quarry.SessionID(1 + rnd.Intn(4))
				q := last[s] + 1 + quarry.Sequence(rnd.Intn(8)/7)
				for range 1 + rnd.Intn(4) {
					r := Record{s, q, end(list), int64(1 + rnd.Intn(2))}
					if err := table.Append(r); err != nil {
						t.Fatalf("seed %d: %v", seed, err)
					}
					list, last[s] = append(list, r), q
					q++
				}
			}
			sameRecords(t, seed, &table, list)
		}
		again, err := MakeRecords(table.Runs())
		if err != nil || !again.Equal(&table) {
			t.Fatalf("seed %d: the runs make another table: %v", seed, err)
		}
		copied := table.Clone()
		copied.Cut(0)
		sameRecords(t, seed, &table, list)
	}
}

func end(list []Record) int64 {
	if len(list) == 0 {
		return 0
	}
	return list[len(list)-1].End()
}

func sameRecords(t *testing.T, seed int64, table *Records, list []Record) {
	t.Helper()
	if table.Length() != end(list) {
		t.Fatalf("seed %d: length %d, want %d", seed, table.Length(), end(list))
	}
	last := map[quarry.SessionID]Record{}
	for _, r := range list {
		if r.Session == 0 {
			continue
		}
		if got, ok := table.Find(r.Session, r.Sequence); !ok || got != r {
			t.Fatalf("seed %d: find %+v: %+v %v", seed, r, got, ok)
		}
		last[r.Session] = r
	}
	for s := quarry.SessionID(0); s <= 5; s++ {
		want, ok := last[s]
		if got, found := table.Last(s); found != ok || got != want {
			t.Fatalf("seed %d: last of %d: %+v %v, want %+v", seed, s, got, found, want)
		}
		for _, q := range []quarry.Sequence{0, want.Sequence + 1, want.Sequence + 100} {
			if _, found := table.Find(s, q); found {
				t.Fatalf("seed %d: found %d.%d, which is not there", seed, s, q)
			}
		}
	}
}

// TestRecordRuns: what a stream appends is one run.
func TestRecordRuns(t *testing.T) {
	var table Records
	for q := range quarry.Sequence(256) {
		if err := table.Append(Record{9, q + 1, int64(q) << 18, 1 << 18}); err != nil {
			t.Fatal(err)
		}
	}
	if table.Count() != 1 || table.Length() != quarry.ChunkBytesMax {
		t.Errorf("%d runs, %d bytes", table.Count(), table.Length())
	}
	if err := table.Append(Record{9, 257, quarry.ChunkBytesMax, 1}); !errors.Is(err, quarry.Invalid) {
		t.Errorf("beyond the end of a chunk: %v", err)
	}
}

func TestRecordsFull(t *testing.T) {
	var table Records
	for i := range int64(RunsMax) {
		r := Record{quarry.SessionID(1 + i%2), quarry.Sequence(1 + i), i, 1}
		if err := table.Append(r); err != nil {
			t.Fatal(i, err)
		}
	}
	if err := table.Append(Record{3, 1, RunsMax, 1}); !errors.Is(err, quarry.Full) {
		t.Errorf("one run more: %v", err)
	}
}

func TestMakeRecords(t *testing.T) {
	run := func(s quarry.SessionID, q quarry.Sequence, n uint64, off, length int64) quarry.RecordRun {
		return quarry.RecordRun{Session: s, Sequence: q, Count: n, Offset: off, Length: length}
	}
	for name, runs := range map[string][]quarry.RecordRun{
		"hole at the start":       {run(1, 1, 1, 5, 10)},
		"hole":                    {run(1, 1, 1, 0, 10), run(1, 2, 1, 11, 10)},
		"overlap":                 {run(1, 1, 2, 0, 10), run(1, 3, 1, 10, 10)},
		"empty run":               {run(1, 1, 0, 0, 10)},
		"empty records":           {run(1, 1, 1, 0, 0)},
		"negative length":         {run(1, 1, 1, 0, -5)},
		"record too large":        {run(1, 1, 1, 0, quarry.RecordBytesMax+1)},
		"longer than a chunk":     {run(1, 1, 5, 0, quarry.RecordBytesMax)},
		"count that overflows":    {run(1, 1, 1<<63+1, 0, 2)},
		"sequence 0":              {run(1, 0, 1, 0, 10)},
		"sequences that wrap":     {run(1, 1<<64-2, 9, 0, 10)},
		"sequence twice":          {run(1, 1, 2, 0, 10), run(2, 1, 1, 20, 10), run(1, 2, 1, 30, 10)},
		"sequences going back":    {run(1, 7, 1, 0, 10), run(1, 3, 1, 10, 10)},
		"more runs than a table ": make([]quarry.RecordRun, RunsMax+1),
	} {
		if _, err := MakeRecords(runs); !errors.Is(err, quarry.Invalid) && !errors.Is(err, quarry.TooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
