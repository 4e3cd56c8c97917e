package test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// toolchain returns a tar of the Go toolchain's own tree, 300 MB or more.
var toolchain = sync.OnceValues(func() (string, error) {
	name := filepath.Join(filepath.Dir(program), "go.tar")
	out, err := os.Create(name)
	if err != nil {
		return "", err
	}
	defer out.Close()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	for size := int64(0); size < 300<<20; {
		tar := exec.Command("tar", "c", "-C", strings.TrimSpace(string(root)), ".")
		tar.Stdout = out
		if err := tar.Run(); err != nil {
			return "", err
		}
		info, err := out.Stat()
		if err != nil {
			return "", err
		}
		size = info.Size()
	}
	return name, out.Truncate(310 << 20)
})

// TestTransferSurvivesKills writes a real file while processes are killed at 25, 50 and 75 %
// of its acknowledged bytes: the leader of the shard, the primary and a secondary of the
// open chunk, and leader and primary together.
func TestTransferSurvivesKills(t *testing.T) {
	t.Parallel()
	s := newSystem(t, options{})
	source, err := toolchain()
	if err != nil {
		t.Fatal(err)
	}
	files := [][3]string{{"leader", "primary", "secondary"}, {both, both, both}}
	if long() {
		files = nil
		for _, victim := range []string{"leader", "primary", "secondary", both} {
			files = append(files, [3]string{victim, victim, victim})
		}
	}
	for i, victims := range files {
		t.Run(strings.Join(victims[:], ", "), func(t *testing.T) {
			s.t = t
			transfer(t, s, fmt.Sprint("/file-", i), source, victims)
			s.healthy()
		})
	}
	s.t = t
}

const both = "leader and primary" // killed together

func transfer(t *testing.T, s *system, path, tar string, victims [3]string) {
	in, err := os.Open(tar)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.fs.Create(s.ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	finished := make(chan error, 1)
	source := &reins{r: in}
	source.more.L = &source.mu
	go func() {
		_, err := io.Copy(w, io.TeeReader(source, sum))
		if err == nil {
			err = w.Close()
		}
		finished <- err
	}()
	acked := func() int64 { // what every replica has on disk
		info, err := s.fs.Stat(s.ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	var back []*process
	for i, victim := range victims {
		percent := 25 * int64(i+1)
		source.give(info.Size()*percent/100 + 64<<20)
		s.eventually("progress", 2*time.Minute, func() bool { return acked() >= info.Size()*percent/100 })
		for _, p := range back {
			p.start()
		}
		back = nil
		if acked() >= info.Size() {
			t.Errorf("at %d %% the transfer was finished already", percent)
		}
		back = killVictims(s, path, victim)
		if len(finished) > 0 {
			t.Errorf("at %d %% the transfer had ended before the kill", percent)
		}
	}
	source.give(math.MaxInt64)
	select {
	case err := <-finished:
		if err != nil {
			t.Fatalf("the transfer failed: %v", err)
		}
	case <-time.After(3 * time.Minute):
		t.Fatal("the transfer does not end")
	}
	for _, p := range back {
		p.start()
	}
	got := sha256.New()
	f, err := s.fs.Open(s.ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := f.WriteTo(got); err != nil || n != info.Size() {
		t.Fatalf("read back %d bytes of %d: %v", n, info.Size(), err)
	}
	if !bytes.Equal(got.Sum(nil), sum.Sum(nil)) {
		t.Error("the file reads back differently")
	}
}

// reins is a reader that gives no more than it is told to, so that a quick machine does not
// end a transfer before its fault.
type reins struct {
	r     io.Reader
	mu    sync.Mutex
	more  sync.Cond
	limit int64 // under mu; may be passed by one read
	given int64 // under mu
}

// give lets it give this many bytes in all.
func (r *reins) give(limit int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.limit = limit
	r.more.Broadcast()
}

func (r *reins) Read(p []byte) (int, error) {
	r.mu.Lock()
	for r.given >= r.limit {
		r.more.Wait()
	}
	r.mu.Unlock()
	n, err := r.r.Read(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.given += int64(n)
	return n, err
}

// killVictims kills and returns the processes that victims names. A chunk server is stopped
// first, and is killed only if it is a member of the open chunk while it stands still: the
// chunk can then have ended by the kill alone.
func killVictims(s *system, path, victim string) (killed []*process) {
	s.t.Helper()
	s.eventually("a member that can be killed", time.Minute, func() bool {
		killed = victims(s, path, victim)
		last := killed[len(killed)-1]
		if victim == "leader" {
			return true
		}
		last.signal(syscall.SIGSTOP)
		if slices.Contains(s.tail(path), last) {
			return true
		}
		last.signal(syscall.SIGCONT)
		return false
	})
	for _, p := range killed {
		p.kill()
	}
	return killed
}

// victims returns the processes to kill. It waits until the file has an open chunk.
func victims(s *system, path, victim string) []*process {
	s.t.Helper()
	var out []*process
	if strings.Contains(victim, "leader") {
		out = append(out, s.leader())
	}
	if victim == "leader" {
		return out
	}
	var members []*process
	s.eventually("an open chunk", 30*time.Second, func() bool {
		members = s.tail(path)
		return len(members) > 1
	})
	if victim == "secondary" {
		return append(out, members[len(members)-1])
	}
	return append(out, members[0])
}

// record makes a record that says whose it is: appender, number, and a checksum of itself.
func record(appender, number int) []byte {
	n := 24 + (appender*131+number*17)%900
	b := make([]byte, n)
	binary.LittleEndian.PutUint32(b, uint32(n))
	binary.LittleEndian.PutUint32(b[4:], uint32(appender))
	binary.LittleEndian.PutUint64(b[8:], uint64(number))
	for i := 20; i < n; i++ {
		b[i] = byte(appender + number*i)
	}
	binary.LittleEndian.PutUint32(b[16:], crc32.ChecksumIEEE(append(append([]byte{}, b[:16]...), b[20:]...)))
	return b
}

// TestAppendersSurviveKills has 16 appenders append to one file while processes are killed:
// each acknowledged record is there once, at its offset, the records of each appender in
// their order, and readers that follow the file see nothing but prefixes of it.
func TestAppendersSurviveKills(t *testing.T) {
	t.Parallel()
	s := newSystem(t, options{})
	const path, appenders = "/log", 16
	w, err := s.fs.Create(s.ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var acked atomic.Int64
	places := make([]map[int]int64, appenders) // number -> offset
	var work sync.WaitGroup
	for i := range appenders {
		places[i] = map[int]int64{}
		work.Go(func() {
			a, err := s.fs.Appender(s.ctx, path)
			if err != nil {
				t.Errorf("appender %d: %v", i, err)
				return
			}
			defer a.Close()
			for number := 0; !stop.Load(); number++ {
				offset, err := a.Append(s.ctx, record(i, number))
				if err != nil {
					t.Errorf("appender %d, record %d: %v", i, number, err)
					return
				}
				places[i][number] = offset
				acked.Add(1)
			}
		})
	}
	seen := followers(t, s, path, 3)
	rounds := 1
	if long() {
		rounds = 5
	}
	for range rounds {
		for _, victim := range []string{"leader", "primary", "secondary", both} {
			before := acked.Load()
			s.eventually("appends", time.Minute, func() bool { return acked.Load() > before+500 })
			killed := killVictims(s, path, victim)
			before = acked.Load()
			s.eventually("appends after killing the "+victim, time.Minute, func() bool { return acked.Load() > before+500 })
			for _, p := range killed {
				p.start()
			}
			s.healthy()
		}
	}
	stop.Store(true)
	work.Wait()
	all := readAll(t, s, path)
	checkLog(t, all, places)
	for i, b := range seen() {
		if !bytes.HasPrefix(all, b) {
			t.Errorf("follower %d saw %d bytes that are no prefix of the file", i, len(b))
		}
	}
}

// followers start to follow a file; the function that is returned ends them and returns what
// they saw.
func followers(t *testing.T, s *system, path string, n int) func() [][]byte {
	ctx, cancel := context.WithCancel(s.ctx)
	out := make([][]byte, n)
	var work sync.WaitGroup
	for i := range n {
		tail, err := s.fs.Tail(ctx, path, 0)
		if err != nil {
			t.Fatal(err)
		}
		work.Go(func() {
			defer tail.Close()
			buf := make([]byte, 64<<10)
			for {
				k, err := tail.Read(buf)
				out[i] = append(out[i], buf[:k]...)
				if err != nil {
					if ctx.Err() == nil {
						t.Errorf("follower %d: %v", i, err)
					}
					return
				}
			}
		})
	}
	return func() [][]byte {
		cancel()
		work.Wait()
		return out
	}
}

// checkLog walks the records of a file.
func checkLog(t *testing.T, all []byte, places []map[int]int64) {
	t.Helper()
	next := make([]int, len(places))
	found := 0
	for at := 0; at < len(all); {
		n := int(binary.LittleEndian.Uint32(all[at:]))
		appender, number := int(binary.LittleEndian.Uint32(all[at+4:])), int(binary.LittleEndian.Uint64(all[at+8:]))
		if n < 24 || at+n > len(all) || appender >= len(places) || !bytes.Equal(all[at:at+n], record(appender, number)) {
			t.Fatalf("at %d there is no record", at)
		}
		if number != next[appender] {
			t.Errorf("at %d appender %d has record %d, %d was due", at, appender, number, next[appender])
		}
		next[appender] = number + 1
		if offset, ok := places[appender][number]; ok && offset != int64(at) {
			t.Errorf("record %d of appender %d was acknowledged at %d, it is at %d", number, appender, offset, at)
		}
		found++
		at += n
	}
	total := 0
	for i, p := range places {
		total += len(p)
		if len(p) > next[i] {
			t.Errorf("appender %d has %d records acknowledged, the file has %d", i, len(p), next[i])
		}
	}
	t.Logf("%d records acknowledged, %d in the file of %d bytes", total, found, len(all))
}

func readAll(t testing.TB, s *system, path string) []byte {
	t.Helper()
	f, err := s.fs.Open(s.ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestAllKilledAtOnce kills every process at the same moment, in the middle of appends.
func TestAllKilledAtOnce(t *testing.T) {
	t.Parallel()
	s := newSystem(t, options{})
	const path = "/log"
	if out, code := s.run("", "append", "--create", path); code == 0 {
		t.Fatalf("an empty record was appended: %s", out)
	}
	var acked atomic.Int64
	places := []map[int]int64{{}}
	ctx, cancel := context.WithCancel(s.ctx)
	var work sync.WaitGroup
	work.Go(func() {
		a, err := s.fs.Appender(ctx, path)
		if err != nil {
			t.Error(err)
			return
		}
		defer a.Close()
		for number := 0; ; number++ {
			offset, err := a.Append(ctx, record(0, number))
			if err != nil {
				return // everything is dead
			}
			places[0][number] = offset
			acked.Add(1)
		}
	})
	s.eventually("appends", time.Minute, func() bool { return acked.Load() > 300 })
	for _, p := range append(s.masters, s.servers...) {
		_ = p.cmd.Process.Kill()
	}
	for _, p := range append(s.masters, s.servers...) {
		p.kill()
	}
	cancel()
	work.Wait()
	for _, p := range append(s.masters, s.servers...) {
		p.start()
	}
	s.healthy()
	checkLog(t, readAll(t, s, path), places)
	if out, code := s.run("more", "append", path); code != 0 {
		t.Errorf("append after the restart: %s", out)
	}
}

// TestStoppedPrimary stops the primary of an open chunk for longer than each of its leases:
// others go on, and when it comes back it changes nothing.
func TestStoppedPrimary(t *testing.T) {
	t.Parallel()
	s := newSystem(t, options{})
	const path = "/log"
	places := []map[int]int64{{}}
	number := 0
	appendSome := func() {
		a, err := s.fs.Appender(s.ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		for range 50 {
			offset, err := a.Append(s.ctx, record(0, number))
			if err != nil {
				t.Fatal(err)
			}
			places[0][number] = offset
			number++
		}
	}
	s.run("", "append", "--create", path)
	appendSome()
	for _, pause := range []time.Duration{5 * time.Second, 12 * time.Second} {
		primary := victims(s, path, "primary")[0]
		primary.signal(syscall.SIGSTOP)
		timer := time.NewTimer(pause)
		appendSome()
		if all := readAll(t, s, path); len(all) == 0 {
			t.Error("nothing can be read while the primary is stopped")
		}
		<-timer.C
		primary.signal(syscall.SIGCONT)
		appendSome()
		checkLog(t, readAll(t, s, path), places)
	}
	s.healthy()
	checkLog(t, readAll(t, s, path), places)
}
