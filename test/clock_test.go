package test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/quarryfs/quarry/client"
)

// TestWallClockJumps lets the wall clocks of all servers jump by a day, in both directions and
// not together, while a file is put and records are appended: nothing expires, nobody is taken
// for dead, nothing is lost, and a leader still fails over. The binary is that of a test build,
// whose servers do so at a signal.
func TestWallClockJumps(t *testing.T) {
	t.Parallel()
	jumpy, err := mutant()
	if err != nil {
		t.Fatal(err)
	}
	s := newSystem(t, options{program: jumpy})
	const path, appenders = "/log", 4
	w, err := s.fs.Create(s.ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var acked atomic.Int64
	places := make([]map[int]int64, appenders)
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
	sum, feed := sha256.New(), make(chan struct{})
	source := &slowSource{rng: rand.NewChaCha8([32]byte{1}), left: 80 << 20, feed: feed}
	work.Go(func() {
		if _, err := s.fs.Put(s.ctx, "/put", io.TeeReader(source, sum), client.PutOptions{}); err != nil {
			t.Errorf("put: %v", err)
		}
	})
	steps := 0
	more := func(what string) { // appends, and entries in the shard's log
		before, began := acked.Load(), time.Now()
		steps++
		if err := s.fs.Mkdir(s.ctx, fmt.Sprint("/step-", steps)); err != nil {
			t.Errorf("mkdir %s: %v", what, err)
		}
		// A leader looks every second for sessions that are due.
		s.eventually("appends "+what, time.Minute, func() bool { return acked.Load() > before+200 && time.Since(began) > 2500*time.Millisecond })
	}
	more("at first")
	everybody := append(append([]*process{}, s.masters...), s.servers...)
	for _, jump := range [][2]syscall.Signal{{syscall.SIGUSR1, syscall.SIGUSR2}, {syscall.SIGUSR2, syscall.SIGUSR1}, {syscall.SIGUSR1, syscall.SIGUSR1}} {
		for i, p := range everybody {
			p.signal(jump[i%2])
		}
		more("after the jump")
	}
	victim := s.leader()
	victim.kill()
	more("after the leader was killed")
	victim.start()
	close(feed)
	s.eventually("the end of the put", 2*time.Minute, func() bool { _, err := s.fs.Stat(s.ctx, "/put"); return err == nil })
	stop.Store(true)
	work.Wait()
	s.healthy()
	checkLog(t, readAll(t, s, path), places)
	if got := sha256.Sum256(readAll(t, s, "/put")); !bytes.Equal(got[:], sum.Sum(nil)) {
		t.Error("the file that was put reads back differently")
	}
	for _, p := range everybody {
		if err := p.cmd.Process.Signal(syscall.Signal(0)); err != nil {
			t.Errorf("%s is gone: %v", p.name, err)
		}
		text, err := os.ReadFile(p.log)
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(text, []byte("the wall clock has jumped")); n != 3 {
			t.Errorf("the clock of %s has jumped %d times", p.name, n)
		}
		for _, word := range []string{"expired", "made elsewhere", "panic"} {
			if strings.Contains(string(text), word) {
				t.Errorf("%s says %q", p.name, word)
			}
		}
	}
}

// slowSource gives half of its bytes at once, and the rest when feed is closed.
type slowSource struct {
	rng  *rand.ChaCha8
	left int
	feed chan struct{}
	half bool
}

func (r *slowSource) Read(b []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	if !r.half && r.left <= 40<<20 {
		<-r.feed
		r.half = true
	}
	n := min(len(b), r.left, 1<<20)
	r.rng.Read(b[:n])
	r.left -= n
	return n, nil
}
