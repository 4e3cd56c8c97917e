package chunk

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// TestTrace holds the order in which each change writes, syncs and renames against the
// expected one. What the journal does by itself is shortened to a line.
func TestTrace(t *testing.T) {
	var mu sync.Mutex
	var trace []string
	note := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		line := fmt.Sprintf(format, args...)
		if len(trace) == 0 || trace[len(trace)-1] != line {
			trace = append(trace, line)
		}
	}
	fsys := disk.NewFaulty(disk.NewMem(), func(op disk.Op) disk.Fault {
		switch op.Kind {
		case disk.OpOpen, disk.OpRead, disk.OpSize, disk.OpList, disk.OpUsage:
			return disk.Fault{}
		}
		if strings.HasPrefix(op.Name, journalName) {
			if op.Kind == disk.OpWrite || op.Kind == disk.OpSync {
				note("  %v journal", op.Kind)
			}
			return disk.Fault{}
		}
		note("  %v", op)
		return disk.Fault{}
	})
	opts := testOptions()
	opts.Workers = 1
	note("make a disk")
	s, err := Open(fsys, opts)
	if err != nil {
		t.Fatal(err)
	}
	data := pattern(1, 5<<20)
	steps := []struct {
		name string
		do   func(done func(error))
	}{
		{"create", func(done func(error)) { s.Create(createRequest(0xab), done) }},
		{"small record", func(done func(error)) {
			write(t, s, 0xab, 0, 1, data[:1000])
			s.Sync(0xab, done)
		}},
		{"large record", func(done func(error)) {
			write(t, s, 0xab, 1000, 2, data[1000:200_000])
			s.Sync(0xab, done)
		}},
		{"stream", func(done func(error)) {
			for off := 200_000; off < len(data); off += 1 << 20 {
				end := min(off+1<<20, len(data))
				write(t, s, 0xab, int64(off), quarry.Sequence(off), data[off:end])
				if end < len(data) {
					continue
				}
				s.SyncLater(0xab, done)
			}
			s.SyncAll()
		}},
		{"small record, and promise", func(done func(error)) {
			write(t, s, 0xab, 5<<20, 1<<30, data[:1000])
			s.Promise(0xab, 2, done)
		}},
		{"seal", func(done func(error)) { s.Seal(sealRequest(0xab, 5<<20), done) }},
		{"reopen", func(done func(error)) { s.Reopen(0xab, 3, 5<<20, done) }},
		{"seal again", func(done func(error)) {
			req := sealRequest(0xab, 5<<20)
			req.Version, req.WritableVersion = 4, 3
			s.Seal(req, done)
		}},
		{"drop", func(done func(error)) { s.Drop(0xab, 4, testNow, done) }},
		{"stale replica", func(done func(error)) { s.Create(createRequest(0xcd), done) }},
		{"copy in its place", func(done func(error)) { done(receive(t, s, copyRequest(0xcd, data[:100_000]), data[:100_000])) }},
		{"add", func(done func(error)) { s.Add(0xcd, 2, false, done) }},
		{"close", func(done func(error)) { done(s.Close()) }},
	}
	for _, step := range steps {
		note("%s", step.name)
		must(t, step.do)
	}
	mu.Lock()
	got := strings.Join(trace, "\n") + "\n"
	mu.Unlock()
	compareGolden(t, "testdata/trace.txt", []byte(got))
}

// compareGolden compares with the content of a file, or writes it.
func compareGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	if *rewrite {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s differs; got:\n%s", name, got)
	}
}
