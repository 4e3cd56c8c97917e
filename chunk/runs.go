package chunk

import (
	"sort"

	"github.com/quarryfs/quarry"
)

// RunsMax bounds the runs of records of one chunk, and so their memory (10 MiB) and the
// size of a journal record. A chunk with so many takes no more records.
const RunsMax = 1 << 18

// A table of runs covers a chunk from its first byte without a gap. Records of one session
// with consecutive sequences and equal lengths that follow each other are one run.

// runEnd returns the offset behind a run.
func runEnd(r *quarry.RecordRun) int64 { return r.Offset + int64(r.Count)*r.Length }

// addRun adds a run behind the last one.
func addRun(runs []quarry.RecordRun, next quarry.RecordRun) []quarry.RecordRun {
	if n := len(runs); n > 0 {
		last := &runs[n-1]
		if last.Session == next.Session && last.Length == next.Length && last.Sequence+quarry.Sequence(last.Count) == next.Sequence {
			last.Count += next.Count
			return runs
		}
	}
	return append(runs, next)
}

// recordBoundary reports whether length is 0 or the end of a record.
func recordBoundary(runs []quarry.RecordRun, length int64) bool {
	if length == 0 {
		return true
	}
	i := runAt(runs, length-1)
	return i < len(runs) && (length-runs[i].Offset)%runs[i].Length == 0
}

// runAt returns the index of the run that holds the byte at off.
func runAt(runs []quarry.RecordRun, off int64) int {
	return sort.Search(len(runs), func(i int) bool { return runEnd(&runs[i]) > off })
}

// cutRuns returns a copy of the records in [from, to); both are boundaries of records.
func cutRuns(runs []quarry.RecordRun, from, to int64) []quarry.RecordRun {
	if from >= to {
		return nil
	}
	first, last := runAt(runs, from), runAt(runs, to-1)
	out := append([]quarry.RecordRun(nil), runs[first:last+1]...)
	end := &out[len(out)-1]
	end.Count = uint64((to - end.Offset) / end.Length)
	if skip := uint64((from - out[0].Offset) / out[0].Length); skip > 0 {
		out[0].Sequence += quarry.Sequence(skip)
		out[0].Count -= skip
		out[0].Offset = from
	}
	return out
}

// packedRun is how many integers a run takes in a record of the journal and in an index:
// session, sequence of the first record, count, and length of each. Offsets follow from
// the lengths.
const packedRun = 4

// packRuns returns the runs as integers.
func packRuns(runs []quarry.RecordRun) []uint64 {
	if len(runs) == 0 {
		return nil
	}
	out := make([]uint64, 0, packedRun*len(runs))
	for i := range runs {
		r := &runs[i]
		out = append(out, uint64(r.Session), uint64(r.Sequence), r.Count, uint64(r.Length))
	}
	return out
}

// unpackRuns is the inverse of packRuns for runs that cover exactly [from, to).
func unpackRuns(packed []uint64, from, to int64) ([]quarry.RecordRun, error) {
	if len(packed)%packedRun != 0 || len(packed) > packedRun*RunsMax {
		return nil, corrupt("the table of records has %d numbers", len(packed))
	}
	var runs []quarry.RecordRun
	if len(packed) > 0 {
		runs = make([]quarry.RecordRun, 0, len(packed)/packedRun)
	}
	off := from
	for ; len(packed) > 0; packed = packed[packedRun:] {
		count, length := packed[2], packed[3]
		if length < 1 || length > quarry.RecordBytesMax || count < 1 || count > uint64(to-off)/length {
			return nil, corrupt("a run of %d records of %d bytes at %d does not fit into %d bytes", count, length, off, to)
		}
		runs = append(runs, quarry.RecordRun{
			Session: quarry.SessionID(packed[0]), Sequence: quarry.Sequence(packed[1]),
			Count: count, Offset: off, Length: int64(length),
		})
		off += int64(count * length)
	}
	if off != to {
		return nil, corrupt("the records end at %d, the bytes at %d", off, to)
	}
	return runs, nil
}
