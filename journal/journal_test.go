package journal

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// small makes segments that a test fills with some dozens of records.
var small = Options{SegmentBytes: 4 << 10, id: 0x1122334455667788}

// entry is a replayed record.
type entry struct {
	at   Position
	data string
}

// open opens the journal "j" and returns what it replayed.
func open(t *testing.T, fs disk.FS, opts Options) (*Journal, []entry) {
	t.Helper()
	var all []entry
	j, err := Open(fs, "j", opts, func(p Position, b []byte) error {
		all = append(all, entry{p, string(b)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return j, all
}

// write appends the records in one call and returns their entries.
func write(t *testing.T, j *Journal, records ...string) []entry {
	t.Helper()
	var all []entry
	done := make(chan error, 1)
	j.Append(func(positions []Position, err error) {
		for i, p := range positions {
			all = append(all, entry{p, records[i]})
		}
		done <- err
	}, raw(records)...)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if len(all) != len(records) {
		t.Fatalf("%d positions for %d records", len(all), len(records))
	}
	return all
}

func raw(records []string) [][]byte {
	var b [][]byte
	for _, r := range records {
		b = append(b, []byte(r))
	}
	return b
}

func closeJournal(t *testing.T, j *Journal) {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func wantEntries(t *testing.T, got, want []entry) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("replayed %d records, want %d: %.3v ... and %.3v ...", len(got), len(want), got, want)
	}
}

func wantKind(t *testing.T, what string, err error, kind quarry.Kind) {
	t.Helper()
	if quarry.KindOf(err) != kind {
		t.Errorf("%s: error %v, want one of kind %v", what, err, kind)
	}
}

func TestReplayIsWhatWasAppended(t *testing.T) {
	folder := t.TempDir()
	var want []entry
	for round := range 4 {
		d, err := disk.Open(folder)
		if err != nil {
			t.Fatal(err)
		}
		j, got := open(t, d, small)
		wantEntries(t, got, want)
		for i := range 30 {
			r := fmt.Sprintf("%d.%d", round, i)
			want = append(want, write(t, j, r, "", strings.Repeat(r, i*10))...)
		}
		want = append(want, write(t, j, strings.Repeat("large", 3000))...) // beyond a segment
		if !slices.IsSortedFunc(want, func(a, b entry) int {
			if a.at.Before(b.at) {
				return -1
			}
			return 1
		}) {
			t.Fatal("the positions are not in order")
		}
		for _, e := range want {
			b, err := j.Read(e.at)
			if err != nil || string(b) != e.data {
				t.Fatalf("Read(%v) = %.20q, %v; want %.20q", e.at, b, err, e.data)
			}
		}
		closeJournal(t, j)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadRefusesWhatIsNoRecord(t *testing.T) {
	m := disk.NewMem()
	damage := false
	d := disk.NewFaulty(m, func(op disk.Op) disk.Fault {
		if damage && op.Kind == disk.OpRead && op.N != recordHeaderBytes {
			return disk.Fault{Damage: func(p []byte) { p[3] ^= 4 }}
		}
		return disk.Fault{}
	})
	j, _ := open(t, d, small)
	defer j.Close()
	records := write(t, j, "record one", "record two")
	end := j.End()
	for off := uint32(0); off < end.Offset; off++ {
		p := Position{end.Segment, off}
		if p != records[0].at && p != records[1].at {
			_, err := j.Read(p)
			wantKind(t, fmt.Sprintf("Read(%v)", p), err, quarry.Corrupt)
		}
	}
	for _, p := range []Position{{}, end, {end.Segment, 1 << 31}, {end.Segment + 1, 64}, {1 << 63, 64}} {
		_, err := j.Read(p)
		wantKind(t, fmt.Sprintf("Read(%v)", p), err, quarry.NotFound)
	}
	damage = true
	_, err := j.Read(records[0].at)
	wantKind(t, "Read of a flipped bit", err, quarry.Corrupt)
	damage = false
	closeJournal(t, j)
	_, err = j.Read(records[0].at)
	wantKind(t, "Read after Close", err, quarry.Unavailable)
}

func TestTrim(t *testing.T) {
	m := disk.NewMem()
	j, _ := open(t, m, small)
	var all []entry
	for i := range 200 {
		all = append(all, write(t, j, fmt.Sprintf("%0300d", i))...)
	}
	size := j.Bytes()
	middle := all[100]
	if err := j.Trim(middle.at); err != nil {
		t.Fatal(err)
	}
	if now := j.Bytes(); now > size*6/10 || now < size*4/10 {
		t.Errorf("trimming half of %d bytes left %d", size, now)
	}
	first := slices.IndexFunc(all, func(e entry) bool { return e.at.Segment == middle.at.Segment })
	_, err := j.Read(all[first-1].at)
	wantKind(t, "Read of a trimmed record", err, quarry.NotFound)
	if b, err := j.Read(all[first].at); err != nil || string(b) != all[first].data {
		t.Errorf("Read of the oldest record that is left: %v", err)
	}
	for number := range j.files {
		if number < middle.at.Segment {
			t.Errorf("trimmed segment %d is still open", number)
		}
	}
	end := j.End()
	closeJournal(t, j)

	j, got := open(t, m, small)
	wantEntries(t, got, all[first:])
	if j.End().Before(end) {
		t.Errorf("the end went back from %v to %v", end, j.End())
	}
	if err := j.Trim(Position{Segment: 1 << 60}); err != nil {
		t.Fatal(err)
	}
	if names, err := m.List("j"); err != nil || len(names) != 1 {
		t.Errorf("after trimming all there are %q, %v", names, err)
	}
	last := write(t, j, "after")
	closeJournal(t, j)
	j, got = open(t, m, small)
	if len(got) == 0 || got[len(got)-1] != last[0] {
		t.Error("a record after a Trim of all is missing")
	}
	closeJournal(t, j)
}

func TestManySegmentsAreReadThroughFewFiles(t *testing.T) {
	j, _ := open(t, disk.NewMem(), small)
	defer j.Close()
	var all []entry
	for i := range 10 * filesMax {
		all = append(all, write(t, j, fmt.Sprintf("%04000d", i))...)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for _, e := range all {
				if b, err := j.Read(e.at); err != nil || string(b) != e.data {
					t.Errorf("Read(%v): %v", e.at, err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(j.files); n > filesMax {
		t.Errorf("%d files are open", n)
	}
	write(t, j, "the file that is written is open still")
}

func TestManyAppenders(t *testing.T) {
	d, err := disk.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	j, _ := open(t, d, Options{SegmentBytes: 64 << 10, QueueBytes: 4 << 10})
	var mu sync.Mutex
	var answered []entry
	var wg sync.WaitGroup
	for a := range 16 {
		wg.Go(func() {
			for i := range 50 {
				r := fmt.Sprintf("%d.%d %0200d", a, i, i)
				wg.Add(1)
				j.Append(func(positions []Position, err error) {
					defer wg.Done()
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					defer mu.Unlock()
					answered = append(answered, entry{positions[0], r}, entry{positions[1], r + "'"})
				}, []byte(r), []byte(r+"'"))
			}
		})
	}
	wg.Wait()
	closeJournal(t, j)
	j, got := open(t, d, Options{})
	wantEntries(t, got, answered)
	closeJournal(t, j)
}

func TestAppendsAreAnsweredInOrder(t *testing.T) {
	m := disk.NewMem()
	j, _ := open(t, m, small)
	var order []string
	note := func(name string) func([]Position, error) {
		return func(p []Position, err error) {
			order = append(order, fmt.Sprintf("%s:%d:%d", name, len(p), quarry.KindOf(err)))
		}
	}
	tooMany := slices.Repeat([][]byte{make([]byte, RecordBytesMax)}, 2)
	j.Append(note("one"), []byte("1"))
	j.Append(note("barrier"))
	j.Append(note("large"), []byte("x"), make([]byte, RecordBytesMax+1))
	j.Append(note("many"), tooMany...)
	j.Append(nil, []byte("2"))
	j.Append(note("two"), []byte("3"), []byte("4"))
	closeJournal(t, j)
	large := fmt.Sprint(uint8(quarry.TooLarge))
	if want := []string{"one:1:0", "barrier:0:0", "large:0:" + large, "many:0:" + large, "two:2:0"}; !slices.Equal(order, want) {
		t.Errorf("the answers came as %q, want %q", order, want)
	}
	_, err := j.Write([]byte("5"))
	wantKind(t, "Write after Close", err, quarry.Unavailable)
	j.Append(nil, []byte("6"))
	closeJournal(t, j)

	j, got := open(t, m, small)
	defer j.Close()
	var data []string
	for _, e := range got {
		data = append(data, e.data)
	}
	if strings.Join(data, "") != "1234" {
		t.Errorf("replayed %q", data)
	}
}

func TestWriteOfNothing(t *testing.T) {
	j, _ := open(t, disk.NewMem(), small)
	defer j.Close()
	if p, err := j.Write(); p != (Position{}) || err != nil {
		t.Errorf("Write() = %v, %v", p, err)
	}
}

// slowDisk returns a disk whose syncs wait for a value on the channel once it is armed.
func slowDisk(m *disk.Mem) (d disk.FS, arm func(), syncs chan struct{}) {
	var armed sync.Mutex
	on := false
	syncs = make(chan struct{})
	d = disk.NewFaulty(m, func(op disk.Op) disk.Fault {
		armed.Lock()
		wait := on && op.Kind == disk.OpSync
		armed.Unlock()
		if wait {
			<-syncs
		}
		return disk.Fault{}
	})
	return d, func() { armed.Lock(); on = true; armed.Unlock() }, syncs
}

func TestGroupCommitAndBoundedQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, arm, syncs := slowDisk(disk.NewMem())
		j, _ := open(t, d, Options{SegmentBytes: 1 << 20, QueueBytes: 1000})
		arm()
		answered, returned := 0, 0
		go func() {
			for range 20 {
				j.Append(func(_ []Position, err error) {
					if err != nil {
						t.Error(err)
					}
					answered++
				}, make([]byte, 100))
				returned++
			}
		}()
		wait := func(wantReturned, wantAnswered int) {
			t.Helper()
			synctest.Wait()
			if returned != wantReturned || answered != wantAnswered {
				t.Fatalf("%d appends have returned and %d are answered, want %d and %d", returned, answered, wantReturned, wantAnswered)
			}
		}
		// The writer takes whatever is there when it first runs; from then on each batch is
		// what came together while the one before was synced: 9 records of 108 bytes.
		synctest.Wait()
		first := returned - 9
		if first < 1 || first > 9 {
			t.Fatalf("%d appends have returned", returned)
		}
		syncs <- struct{}{}
		wait(min(20, first+18), first)
		syncs <- struct{}{}
		wait(20, first+9)
		syncs <- struct{}{}
		synctest.Wait()
		if answered < min(20, first+18) {
			t.Fatalf("%d appends are answered after three syncs", answered)
		}
		close(syncs)
		closeJournal(t, j)
		if answered != 20 {
			t.Errorf("%d appends are answered at the end", answered)
		}
	})
}

func TestACallLargerThanTheQueueIsTaken(t *testing.T) {
	j, _ := open(t, disk.NewMem(), Options{QueueBytes: 10})
	write(t, j, strings.Repeat("x", 1000))
	closeJournal(t, j)
}

func TestCloseFreesWaitingAppends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, arm, syncs := slowDisk(disk.NewMem())
		j, _ := open(t, d, Options{QueueBytes: 100})
		arm()
		errs := make(chan error, 10)
		for range 10 {
			go func() {
				_, err := j.Write(make([]byte, 60))
				errs <- err
			}()
			synctest.Wait()
		}
		go j.Close()
		synctest.Wait()
		close(syncs)
		written, refused := 0, 0
		for range 10 {
			switch err := <-errs; {
			case err == nil:
				written++
			case errors.Is(err, quarry.Unavailable):
				refused++
			default:
				t.Error(err)
			}
		}
		if written != 2 || refused != 8 {
			t.Errorf("%d writes succeeded and %d were refused, want 2 and 8", written, refused)
		}
	})
}

func TestFailureKills(t *testing.T) {
	for _, kind := range []disk.OpKind{disk.OpWrite, disk.OpSync} {
		t.Run(kind.String(), func(t *testing.T) {
			m := disk.NewMem()
			var mu sync.Mutex
			armed, failed, after := false, false, 0
			d := disk.NewFaulty(m, func(op disk.Op) disk.Fault {
				mu.Lock()
				defer mu.Unlock()
				if failed {
					after++
				}
				if armed && op.Kind == kind && !failed {
					failed = true
					return disk.Fault{Err: syscall.EIO, Part: 20}
				}
				return disk.Fault{}
			})
			j, _ := open(t, d, small)
			kept := write(t, j, "kept")
			mu.Lock()
			armed = true
			mu.Unlock()
			_, first := j.Write([]byte("lost"))
			wantKind(t, "the failing Write", first, quarry.Internal)
			_, second := j.Write([]byte("never tried"))
			if second != first || j.Err() != first {
				t.Errorf("later errors are %v and %v, want the first: %v", second, j.Err(), first)
			}
			if err := j.Close(); err != first {
				t.Errorf("Close: %v", err)
			}
			if after > 0 {
				t.Errorf("%d operations followed the failure", after)
			}
			j, got := open(t, m, small)
			if len(got) == 0 || got[0] != kept[0] || len(got) > 1 && got[1].data != "lost" || len(got) > 2 {
				t.Errorf("replayed %v", got)
			}
			closeJournal(t, j)
		})
	}
}

func TestFullDisk(t *testing.T) {
	m := disk.NewMem()
	d, err := disk.WithQuota(m, 20_000)
	if err != nil {
		t.Fatal(err)
	}
	j, _ := open(t, d, small)
	var want []entry
	for {
		r := bytes.Repeat([]byte("x"), 100)
		p, err := j.Write(r)
		if err != nil {
			wantKind(t, "Write on a full disk", err, quarry.NoSpace)
			break
		}
		want = append(want, entry{p, string(r)})
	}
	if len(want) < 100 {
		t.Errorf("only %d records fitted", len(want))
	}
	wantKind(t, "Close", j.Close(), quarry.NoSpace)
	j, got := open(t, d, small) // it can be read while the disk is full
	wantEntries(t, got, want)
	if err := j.Trim(j.End()); err != nil {
		t.Fatal(err)
	}
	write(t, j, "there is room again")
	closeJournal(t, j)
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []Options{{SegmentBytes: 1}, {SegmentBytes: 2 << 30}, {QueueBytes: -1}, {QueueBytes: 1 << 30}} {
		_, err := Open(disk.NewMem(), "j", o, nil)
		wantKind(t, fmt.Sprintf("%+v", o), err, quarry.Invalid)
	}
}

func TestReplayErrorEndsOpen(t *testing.T) {
	m := disk.NewMem()
	j, _ := open(t, m, small)
	write(t, j, "a", "b", "c")
	closeJournal(t, j)
	stop, seen := errors.New("stop"), 0
	_, err := Open(m, "j", small, func(Position, []byte) error { seen++; return stop })
	if !errors.Is(err, stop) || seen != 1 {
		t.Errorf("Open: %v after %d records", err, seen)
	}
}
