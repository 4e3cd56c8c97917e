package journal

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/quarryfs/quarry/disk"
)

// history is what a workload has done so far. Records are numbered from 0 and say so.
type history struct {
	mu       sync.Mutex
	appended int          // records handed to Append
	acked    int          // records that are durable
	trimmed  int          // records before this one may be gone
	ends     map[int]bool // numbers behind the last record of a call
}

// record returns the record with the number, of a length that the number decides.
func record(n int) []byte {
	return []byte(fmt.Sprintf("%d %s", n, strings.Repeat("x", n*97%900)))
}

// append adds a call of n records without waiting.
func (h *history) append(t *testing.T, j *Journal, n int) {
	h.mu.Lock()
	var records [][]byte
	for range n {
		records = append(records, record(h.appended))
		h.appended++
	}
	last := h.appended
	h.ends[last] = true
	h.mu.Unlock()
	j.Append(func(_ []Position, err error) {
		if err != nil {
			t.Error(err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.acked = last
	}, records...)
}

// setAcked replaces the number of durable records and returns it as it was.
func (h *history) setAcked(n int) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n, h.acked = h.acked, n
	return n
}

// check opens an image and compares it with the history. Then it goes on writing on the
// image and opens it again. It runs on the writer's goroutine, where a test cannot end, so
// after a failure the rest is passed over.
func (h *history) check(t *testing.T, image disk.FS, format string, args ...any) {
	t.Helper()
	if t.Failed() {
		return
	}
	if err := h.compare(image); err != nil {
		t.Errorf(format+": %v", append(args, err)...)
	}
}

func (h *history) compare(image disk.FS) error {
	h.mu.Lock()
	appended, acked, trimmed, ends := h.appended, h.acked, h.trimmed, maps.Clone(h.ends)
	h.mu.Unlock()
	count, err := replayAll(image, trimmed, func(j *Journal, count int) error {
		if count < acked || count > appended || !ends[count] && count > trimmed {
			return fmt.Errorf("%d records were recovered of %d appended; %d were acknowledged", count, appended, acked)
		}
		_, err := j.Write(record(count), record(count+1))
		return err
	})
	if err != nil {
		return err
	}
	again, err := replayAll(image, trimmed, func(*Journal, int) error { return nil })
	if err == nil && again != count+2 {
		err = fmt.Errorf("the second Open found %d records, want %d", again, count+2)
	}
	return err
}

// replayAll opens the journal, checks that the records follow each other and that none from
// the trimmed one on is missing at the start, hands the journal and the number of the
// record that comes next to use, and closes it.
func replayAll(fs disk.FS, trimmed int, use func(*Journal, int) error) (next int, err error) {
	next = -1
	j, err := Open(fs, "j", small, func(p Position, b []byte) error {
		if next < 0 {
			if _, err := fmt.Sscan(string(b), &next); err != nil || next > trimmed {
				return fmt.Errorf("the first record is %.10q, those from %d on must be there", b, trimmed)
			}
		}
		if string(b) != string(record(next)) {
			return fmt.Errorf("record %.10q stands at %v, want number %d", b, p, next)
		}
		next++
		return nil
	})
	if err != nil {
		return 0, err
	}
	next = max(next, 0)
	return next, errors.Join(use(j, next), j.Close())
}

// workload appends, alone and in groups, fills segments and trims.
func (h *history) workload(t *testing.T, fs disk.FS) {
	j, err := Open(fs, "j", small, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(3, 3))
	for step := range 14 {
		for range 1 + r.IntN(3) {
			h.append(t, j, 1+r.IntN(3))
		}
		if _, err := j.Write(); err != nil {
			t.Fatal(err)
		}
		if step == 9 {
			// The end of what is durable: everything before its segment may go.
			h.mu.Lock()
			h.trimmed = h.acked
			h.mu.Unlock()
			if err := j.Trim(j.End()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// isChange reports whether the operation changes a disk.
func isChange(op disk.Op) bool {
	switch op.Kind {
	case disk.OpRead, disk.OpSize, disk.OpList, disk.OpOpen:
		return false
	}
	return true
}

func TestCrashAtEveryOperation(t *testing.T) {
	h := &history{ends: map[int]bool{0: true}}
	m := disk.NewMem()
	cuts, images := 0, 0
	h.workload(t, disk.NewFaulty(m, func(op disk.Op) disk.Fault {
		if isChange(op) {
			cuts++
			m.Images(60, func(image *disk.Mem) {
				images++
				h.check(t, image, "crash %d before %v", cuts, op)
			})
		}
		return disk.Fault{}
	}))
	h.check(t, m.Clone(), "the end")
	t.Logf("%d records, %d crashes, %d images", h.appended, cuts, images)
	if h.appended < 40 || cuts < 40 || images < 400 {
		t.Error("the workload is too small to show anything")
	}
}

// TestCrashInRecovery crashes while Open works on the image of a crash.
func TestCrashInRecovery(t *testing.T) {
	h := &history{ends: map[int]bool{0: true}}
	m := disk.NewMem()
	images := 0
	h.workload(t, disk.NewFaulty(m, func(op disk.Op) disk.Fault {
		if op.Kind != disk.OpSync && op.Kind != disk.OpRename {
			return disk.Fault{}
		}
		m.Images(6, func(image *disk.Mem) {
			acked := h.setAcked(0)
			h.setAcked(acked) // nobody else sets it: callbacks come from this goroutine
			fs := disk.NewFaulty(image, func(inner disk.Op) disk.Fault {
				if isChange(inner) {
					image.Images(6, func(second *disk.Mem) {
						images++
						h.check(t, second, "crash in recovery before %v, after one before %v", inner, op)
					})
				}
				return disk.Fault{}
			})
			// What this Open replays is a promise, once it returns.
			replayed := 0
			j, err := Open(fs, "j", small, func(_ Position, b []byte) error {
				_, err := fmt.Sscan(string(b), &replayed)
				replayed++
				return err
			})
			if err != nil {
				t.Error(err)
				return
			}
			h.setAcked(max(acked, replayed))
			image.Images(6, func(second *disk.Mem) { h.check(t, second, "crash after recovery") })
			_ = j.Close()
			h.setAcked(acked)
		})
		return disk.Fault{}
	}))
	t.Logf("%d images", images)
	if images < 200 {
		t.Error("the workload is too small to show anything")
	}
}

// TestReplayAfterFailedSyncIsDurable: the sync of a batch fails, the process ends, and the
// next one finds the batch in the system's cache, where it passes for clean.
func TestReplayAfterFailedSyncIsDurable(t *testing.T) {
	m := disk.NewMem()
	fail := false
	d := disk.NewFaulty(m, func(op disk.Op) disk.Fault {
		if fail && op.Kind == disk.OpSync {
			return disk.Fault{Err: syscall.EIO}
		}
		return disk.Fault{}
	})
	j, _ := open(t, d, small)
	write(t, j, "one")
	fail = true
	if _, err := j.Write([]byte("two")); err == nil {
		t.Fatal("a failed sync was not noticed")
	}
	m = m.Clone()
	j, got := open(t, m, small)
	if len(got) != 2 {
		t.Fatalf("replayed %v", got)
	}
	m.Images(1000, func(image *disk.Mem) {
		j, again := open(t, image, small)
		wantEntries(t, again, got)
		closeJournal(t, j)
	})
	closeJournal(t, j)
}

// TestSegmentWithoutSyncedName: the process ends between the renaming of a segment and the
// sync of the folder, and the next one writes to that segment.
func TestSegmentWithoutSyncedName(t *testing.T) {
	m := disk.NewMem()
	fail := false
	d := disk.NewFaulty(m, func(op disk.Op) disk.Fault {
		if fail && op.Kind == disk.OpSyncDir {
			return disk.Fault{Err: syscall.EIO}
		}
		return disk.Fault{}
	})
	j, _ := open(t, d, small)
	want := write(t, j, strings.Repeat("a", 3000))
	fail = true
	if _, err := j.Write(make([]byte, 3000)); err == nil {
		t.Fatal("a failed sync of the folder was not noticed")
	}
	m = m.Clone()
	j, _ = open(t, m, small)
	want = append(want, write(t, j, strings.Repeat("b", 500))...)
	if want[1].at.Segment != 2 {
		t.Fatalf("the record is at %v, not in the segment in question", want[1].at)
	}
	m.Images(1000, func(image *disk.Mem) {
		j, got := open(t, image, small)
		wantEntries(t, got, want)
		closeJournal(t, j)
	})
	closeJournal(t, j)
}
