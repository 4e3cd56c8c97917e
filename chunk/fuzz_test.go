package chunk

import (
	"math"
	"reflect"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/wire"
)

// FuzzRecord reads hostile records of the journal. What is taken comes back when it is
// written again.
func FuzzRecord(f *testing.F) {
	for _, r := range testRecords() {
		f.Add(r.encode(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r, again record
		if wire.Unmarshal(b, &r, recordFields) != nil {
			return
		}
		if err := wire.Unmarshal(r.encode(nil), &again, recordFields); err != nil || !reflect.DeepEqual(r, again) {
			t.Fatalf("%+v became %+v, %v", r, again, err)
		}
	})
}

// FuzzRuns reads hostile runs of records, as a journal, an index or another server has them.
func FuzzRuns(f *testing.F) {
	add := func(runs []quarry.RecordRun, to int64) {
		f.Add(wire.Marshal(nil, ptr(packRuns(runs)), packedFields), int64(0), to)
	}
	add(testIndex().Runs, testIndex().Length)
	add([]quarry.RecordRun{{Session: 1, Sequence: 1, Count: math.MaxInt32, Length: 1 << 40}}, 100)
	f.Fuzz(func(t *testing.T, b []byte, from, to int64) {
		var packed []uint64
		if wire.Unmarshal(b, &packed, packedFields) != nil || from < 0 || to < from || to > quarry.ChunkBytesMax {
			return
		}
		runs, err := unpackRuns(packed, from, to)
		if err != nil {
			return
		}
		end := from
		for _, r := range runs {
			if r.Offset != end || r.Count < 1 || r.Length < 0 {
				t.Fatalf("a run is %+v, the one before ends at %d", r, end)
			}
			end += int64(r.Count) * r.Length
		}
		if end != to {
			t.Fatalf("the runs end at %d, not %d", end, to)
		}
		if again, err := unpackRuns(packRuns(runs), from, to); err != nil || !reflect.DeepEqual(runs, again) {
			t.Fatalf("%+v became %+v, %v", runs, again, err)
		}
	})
}

func packedFields(w *wire.Walk, p *[]uint64) { wire.Uints(w, 1, p, 1<<16) }

func ptr[T any](v T) *T { return &v }

// FuzzFolder opens a disk in whose folders there are files with whatever names: none is lost,
// and none is taken for a chunk.
func FuzzFolder(f *testing.F) {
	f.Add("0000000000000001", "0000000000000001.1700000000", []byte("bytes"))
	f.Add("0000000000000001.idx", "0000000000000001.1700000000.idx", []byte{})
	f.Add("0000000000000001.tmp", "README", []byte("x"))
	f.Add("000000000000000g", "0000000000000001.-9223372036854775808", []byte("x"))
	f.Fuzz(func(t *testing.T, inChunks, inTrash string, content []byte) {
		m := disk.NewMem()
		s, err := Open(m, testOptions())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"chunks/01/" + inChunks, "trash/" + inTrash} {
			_ = m.MkdirAll("chunks/01")
			file, err := m.Create(name)
			if err != nil {
				return // no name
			}
			if _, err := file.WriteAt(content, 0); err != nil {
				t.Fatal(err)
			}
		}
		s, err = Open(m, testOptions())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if states := s.Inventory(0, math.MaxUint64, 10); len(states) != 0 {
			t.Fatalf("%q was taken for a replica", inChunks)
		}
		if _, _, err := s.Purge(testNow.AddDate(1, 0, 0), 10); err != nil {
			t.Fatal(err)
		}
		if u, err := s.Usage(); err != nil || u.Trash < 0 {
			t.Fatalf("%+v, %v", u, err)
		}
		create(t, s, 1)
	})
}
