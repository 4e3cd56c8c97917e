package transfer

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/crc32c"
)

// noting is a local file and the folder of its ledgers.
type noting struct {
	*testing.T
	dir, local string
	skipped    int64
	why        string
}

func newNoting(t *testing.T) *noting {
	n := &noting{T: t, dir: filepath.Join(t.TempDir(), "state", "quarry"), local: filepath.Join(t.TempDir(), "f")}
	if err := os.WriteFile(n.local, []byte("0123456789"), 0o644); err != nil {
		t.Fatal(err)
	}
	return n
}

// try opens the ledger, as a put to a path of a cluster does.
func (n *noting) try(cluster byte, path string) (*ledger, error) {
	n.Helper()
	src, err := os.Open(n.local)
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { src.Close() })
	n.skipped, n.why = 0, ""
	o := PutOptions{Skipped: func(m int64) { n.skipped += m }, Anew: func(why string) { n.why = why }}
	return openLedger(n.dir, quarry.ClusterID{cluster}, path, src, o, clock.System())
}

func (n *noting) open() *ledger {
	n.Helper()
	l, err := n.try(1, "/p")
	if err != nil {
		n.Fatal(err)
	}
	return l
}

func (n *noting) must(err error) {
	n.Helper()
	if err != nil {
		n.Fatal(err)
	}
}

func (n *noting) add(l *ledger, offset int64, text string, chunk quarry.Handle) {
	n.Helper()
	crc := crc32c.Checksum([]byte(text))
	n.must(l.Add(offset, int64(len(text)), crc, []quarry.LinkPiece{{Handle: chunk, Length: int64(len(text))}}))
}

// has fails the test unless just the parts at some offsets are in the ledger.
func (n *noting) has(l *ledger, offsets ...int64) {
	n.Helper()
	var got []int64
	for at := int64(0); at < 10; at += 4 {
		if p := l.Part(at, min(4, 10-at)); p != nil {
			got = append(got, at)
		}
	}
	if len(got) != len(offsets) {
		n.Errorf("parts at %v, want %v", got, offsets)
		return
	}
	for i := range got {
		if got[i] != offsets[i] {
			n.Errorf("parts at %v, want %v", got, offsets)
		}
	}
}

func TestLedger(t *testing.T) {
	n := newNoting(t)
	l := n.open()
	if id, _ := l.Earlier(); id != 0 {
		t.Errorf("session %d in an empty ledger", id)
	}
	n.must(l.Begin(77))
	n.add(l, 0, "0123", 5)
	n.add(l, 8, "89", 6)
	_, err := n.try(1, "//p/")
	if quarry.KindOf(err) != quarry.Busy || !strings.HasPrefix(err.Error(), "put /p: ") {
		t.Errorf("two puts of a file to a path: %v", err)
	}
	if other, err := n.try(2, "/p"); err != nil || other.head.Session != 0 {
		t.Errorf("in another cluster: %v", err)
	}
	if other, err := n.try(1, "/q"); err != nil || other.head.Session != 0 {
		t.Errorf("to another path: %v", err)
	}
	info, err := os.Stat(l.name)
	n.must(err)
	dir, err := os.Stat(n.dir)
	n.must(err)
	if info.Mode().Perm() != 0o600 || dir.Mode().Perm() != 0o700 {
		t.Errorf("others may read it: %v in %v", info.Mode(), dir.Mode())
	}
	n.must(l.f.Close())

	whole, err := os.ReadFile(l.name)
	n.must(err)
	last := bytes.LastIndexByte(whole[:len(whole)-1], '\n') + 1
	for cut := range whole { // whatever a power failure leaves
		n.must(os.WriteFile(l.name, whole[:cut], 0o600))
		l := n.open()
		switch id, same := l.Earlier(); {
		case cut <= bytes.IndexByte(whole, '\n'):
			if id != 0 {
				t.Errorf("cut at %d: session %d", cut, id)
			}
			n.has(l)
		case id != 77 || !same:
			t.Errorf("cut at %d: session %d, %v", cut, id, same)
		case cut < last:
			n.has(l)
		default:
			n.has(l, 0)
		}
		n.must(l.f.Close())
	}
	n.must(os.WriteFile(l.name, append(whole[:last:last], bytes.Replace(whole[last:], []byte(`"chunk":6`), []byte(`"chunk":7`), 1)...), 0o600))
	l = n.open()
	n.add(l, 4, "4567", 9)
	n.must(l.f.Close())
	n.must(os.WriteFile(n.local, []byte("x123456789"), 0o644))
	n.must(os.Chtimes(n.local, info.ModTime(), info.ModTime()))
	l = n.open()
	if _, same := l.Earlier(); same {
		t.Error("the file has another time")
	}
	n.has(l, 4) // a byte of the first part is another one, and the last one's line is broken
	if n.skipped != 4 {
		t.Errorf("%d bytes are passed over", n.skipped)
	}
	n.must(l.Begin(78))
	if !strings.Contains(n.why, "changed") {
		t.Errorf("anew because %q", n.why)
	}
	n.has(l)
	l.End()
	n.must(l.f.Close())
	l.Alive(time.Hour)
	if _, err := os.Stat(l.name); err == nil {
		t.Error("it is there when nobody needs it")
	}
}

// TestLedgerThatIsNone: in the place of a ledger is something that cannot be one.
func TestLedgerThatIsNone(t *testing.T) {
	n := newNoting(t)
	l := n.open()
	n.must(l.f.Close())
	for what, put := range map[string]func() error{
		"pipe":   func() error { return unix.Mkfifo(l.name, 0o600) },
		"folder": func() error { return os.Mkdir(l.name, 0o700) },
		"link":   func() error { return os.Symlink(n.local, l.name) },
	} {
		n.must(os.Remove(l.name))
		n.must(put())
		failed := make(chan error, 1)
		go func() {
			_, err := n.try(1, "/p")
			failed <- err
		}()
		select {
		case err := <-failed:
			if err == nil || !strings.Contains(err.Error(), l.name) || !strings.Contains(err.Error(), "do without it") {
				t.Errorf("a %s: %v", what, err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("a %s: the put hangs", what)
		}
	}
}

// TestLedgerGolden reads a ledger of the first format.
func TestLedgerGolden(t *testing.T) {
	n := newNoting(t)
	golden, err := os.ReadFile(filepath.Join("testdata", "ledger1.txt"))
	n.must(err)
	l := n.open()
	n.must(l.f.Close())
	l.key = "00112233445566778899aabbccddeeff"
	n.must(os.WriteFile(l.name, golden, 0o600))
	l.f, err = openLocked(l.name, "/p")
	n.must(err)
	l.read()
	if l.head.Session != 77 || l.head.Path != "/p" {
		t.Errorf("read %+v", l.head)
	}
	n.has(l, 0, 8)
	n.must(l.f.Close())
	n.must(os.WriteFile(l.name, bytes.Replace(golden, []byte(`"format":1`), []byte(`"format":2`), 1), 0o600))
	l.head = ledgerHead{}
	l.f, err = openLocked(l.name, "/p")
	n.must(err)
	l.read()
	if l.head.Session != 0 {
		t.Error("another format is taken for this one")
	}
	n.must(l.f.Close())
}

func TestLedgersAreRemoved(t *testing.T) {
	n := newNoting(t)
	old := n.open()
	n.must(old.Begin(77))
	old.Alive(-48 * time.Hour)
	young, err := n.try(1, "/young")
	n.must(err)
	young.Alive(time.Hour)
	n.must(young.f.Close())
	other := filepath.Join(n.dir, "other")
	n.must(os.WriteFile(other, nil, 0o600))
	n.must(os.Chtimes(other, time.Unix(1, 0), time.Unix(1, 0)))
	there := func(l string) bool { _, err := os.Stat(l); return err == nil }
	removeStale(n.dir, time.Now())
	if !there(old.name) {
		t.Error("one that is in use was removed")
	}
	n.must(old.f.Close())
	removeStale(n.dir, time.Now())
	if there(old.name) || !there(young.name) || !there(other) {
		t.Errorf("old %v, young %v, other %v", there(old.name), there(young.name), there(other))
	}
}

// TestResumeIntoCluster has a put go on with another one's, through ledger and all.
func TestResumeIntoCluster(t *testing.T) {
	bubble(t, func(e *env) {
		q := e.q
		q.State = filepath.Join(e.dir, "state")
		local := filepath.Join(e.dir, "big")
		data := bytes.Repeat([]byte("0123456789abcdef"), (quarry.ChunkBytesMax+2<<20)/16)
		e.must(os.WriteFile(local, data, 0o644))
		var events []Event
		put := func(most int64) (Summary, error) {
			sources, err := Targets(e.Context(), Local{}, []string{local}, q, "/big")
			e.must(err)
			ctx, cancel := context.WithCancel(e.Context())
			defer cancel()
			bars := &stopping{stop: cancel}
			bars.left.Store(most)
			events = nil
			return Copy(ctx, Local{}, q, sources, Options{Resume: true, Progress: bars, Report: func(x Event) { events = append(events, x) }})
		}
		_, err := put(quarry.ChunkBytesMax + 2<<20 - 1)
		e.want(err, context.Canceled)
		left, _ := os.ReadDir(q.State)
		if len(left) != 1 {
			e.Fatalf("%d ledgers", len(left))
		}
		sum, err := put(1 << 40)
		e.must(err)
		if sum.Files != 1 || sum.Bytes >= int64(len(data)) || len(events) != 1 {
			e.Errorf("%+v; %+v", sum, events)
		}
		if left, _ = os.ReadDir(q.State); len(left) != 0 {
			e.Errorf("%d ledgers are left", len(left))
		}
		in, err := q.Open(e.Context(), "/big")
		e.must(err)
		defer in.Close()
		same, err := alike(in, bytes.NewReader(data), func(int) error { return nil })
		e.must(err)
		if !same || e.c.Unlinked() != 0 {
			e.Errorf("the same: %v; %d chunks that nobody wants", same, e.c.Unlinked())
		}
	})
}

// stopping is a Progress that ends everything after some bytes.
type stopping struct {
	nobody
	left atomic.Int64
	stop func()
}

func (s *stopping) Begin(string, int64) Bar { return s }
func (s *stopping) End(error)               {}
func (s *stopping) Add(n int) {
	if s.left.Add(-int64(n)) <= 0 {
		s.stop()
	}
}

// FuzzLedger opens a ledger of any bytes: what is left of it is a beginning of them, and opened once
// more it says the same.
func FuzzLedger(f *testing.F) {
	golden, err := os.ReadFile(filepath.Join("testdata", "ledger1.txt"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Add(golden[:len(golden)-3])
	f.Fuzz(func(t *testing.T, data []byte) {
		name := filepath.Join(t.TempDir(), "put-x")
		var heads [2]ledgerHead
		for i := range heads {
			if i == 0 {
				if err := os.WriteFile(name, data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			file, err := openLocked(name, "/p")
			if err != nil {
				t.Fatal(err)
			}
			l := &ledger{f: file, name: name, key: "00112233445566778899aabbccddeeff"}
			l.read()
			heads[i] = l.head
			file.Close()
		}
		left, err := os.ReadFile(name)
		if err != nil || !bytes.HasPrefix(data, left) || heads[0] != heads[1] {
			t.Errorf("%q is left, %v; %+v, then %+v", left, err, heads[0], heads[1])
		}
	})
}
