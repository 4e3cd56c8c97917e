package client_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
)

func TestAppendExactlyOnce(t *testing.T) {
	for name, meanwhile := range map[string]func(*env){
		"nothing happens": func(*env) {},
		"answers are lost": func(e *env) {
			for range 10 {
				e.sleep(5 * time.Millisecond)
				primary(e, "/f").SetFaults(clienttest.Faults{LoseAcks: 3})
			}
		},
		"the primary is busy": func(e *env) {
			e.sleep(5 * time.Millisecond)
			primary(e, "/f").SetFaults(clienttest.Faults{Busy: 20})
		},
		"the chunk is sealed": func(e *env) {
			for range 5 {
				e.sleep(7 * time.Millisecond)
				e.c.Seal("/f")
			}
		},
		"the chunk is sealed and answers are lost": func(e *env) {
			for range 5 {
				e.sleep(5 * time.Millisecond)
				primary(e, "/f").SetFaults(clienttest.Faults{LoseAcks: 5})
				e.sleep(2 * time.Millisecond)
				e.c.Seal("/f")
			}
		},
		"the primary dies": func(e *env) {
			e.sleep(10 * time.Millisecond)
			primary(e, "/f").Kill()
		},
		"the primary restarts": func(e *env) {
			e.sleep(10 * time.Millisecond)
			p := primary(e, "/f")
			p.Kill()
			p.Restart()
		},
		"a secondary dies": func(e *env) {
			e.sleep(10 * time.Millisecond)
			secondary(e, "/f").Kill()
		},
		"the primary hangs": func(e *env) {
			e.sleep(10 * time.Millisecond)
			p := primary(e, "/f")
			p.Hang()
			e.sleep(12 * time.Second)
			p.Resume()
		},
		"the master loses answers": func(e *env) {
			e.c.LoseAnswers("rolled", 2)
			e.c.LoseAnswers("chunk", 2)
			e.sleep(10 * time.Millisecond)
			e.c.Seal("/f")
		},
		"the master is away": func(e *env) {
			e.sleep(10 * time.Millisecond)
			e.c.SetDown(true)
			primary(e, "/f").Kill()
			e.sleep(5 * time.Second)
			e.c.SetDown(false)
		},
	} {
		most := 4 * time.Second
		if name == "the primary hangs" || name == "the master is away" {
			most = 20 * time.Second
		}
		t.Run(name, func(t *testing.T) { appendExactlyOnce(t, small, most, meanwhile) })
		t.Run(name+", and chunks are opened again", func(t *testing.T) {
			config := small
			config.Reopen = true
			appendExactlyOnce(t, config, most, meanwhile)
		})
	}
}

// appendExactlyOnce appends to a file while something happens to its cluster.
func appendExactlyOnce(t *testing.T, config clienttest.Config, most time.Duration, meanwhile func(*env)) {
	run(t, config, client.Options{}, func(e *env) {
		e.create("/f")
		start := time.Now()
		e.appenders("/f", 6, 40, func() { meanwhile(e) })
		if d := time.Since(start); d > most {
			e.Errorf("it took %v", d)
		}
	})
}

// Appends to a file that nobody writes to for a while stay in one chunk, and readers that have
// seen it sealed, or open before that, go on reading.
func TestAppendToASealedTail(t *testing.T) {
	config := small
	config.Reopen = true
	run(t, config, client.Options{}, func(e *env) {
		e.create("/f")
		reader, err := e.files.Open(e.Context(), "/f")
		e.must(err)
		defer reader.Close()
		tail, err := e.files.Tail(e.Context(), "/f", 0)
		e.must(err)
		defer tail.Close()
		var want []byte
		got := make([]byte, 100)
		for i := range 20 {
			record := clienttest.Bytes(uint64(i), 100)
			offset, err := e.files.Append(e.Context(), "/f", record)
			e.must(err)
			if offset != int64(len(want)) {
				e.Fatalf("record %d stands at %d", i, offset)
			}
			want = append(want, record...)
			if i%3 > 0 {
				e.c.Seal("/f")
			}
			if _, err := io.ReadFull(tail, got); err != nil || !bytes.Equal(got, record) {
				e.Fatalf("record %d by the tail: %v", i, err)
			}
			all := make([]byte, len(want))
			if _, err := reader.ReadAt(all, 0); err != nil || !bytes.Equal(all, want) {
				e.Fatalf("after record %d: %v", i, err)
			}
		}
		if n := len(e.c.Chunks("/f")); n != 1 {
			e.Errorf("the file has %d chunks", n)
		}
	})
}

// A dead primary is noticed at once, and the data path is back when its lease is over.
func TestAppendFailoverTime(t *testing.T) {
	for name, fault := range map[string]struct {
		do  func(*clienttest.Server)
		max time.Duration
	}{
		"killed": {(*clienttest.Server).Kill, 3 * time.Second},
		"hung":   {(*clienttest.Server).Hang, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, small, client.Options{}, func(e *env) {
				e.create("/f")
				a, err := e.files.Appender(e.Context(), "/f")
				e.must(err)
				defer a.Close()
				_, err = a.Append(e.Context(), []byte("one"))
				e.must(err)
				p := primary(e, "/f")
				fault.do(p)
				defer p.Resume()
				start := time.Now()
				offset, err := a.Append(e.Context(), []byte("two"))
				e.must(err)
				if d := time.Since(start); offset != 3 || d > fault.max {
					e.Errorf("appended at %d after %v", offset, d)
				}
			})
		})
	}
}

// Two clients append to one file; a chunk that one of them gives up is not what the other
// one depends on.
func TestAppendOfTwoClients(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.create("/f")
		other := &env{e.T, e.c, e.c.Client(client.Options{})}
		defer other.files.Close()
		offsets := map[string]int64{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i, x := range []*env{e, other} {
			a, err := x.files.Appender(x.Context(), "/f")
			e.must(err)
			defer a.Close()
			wg.Go(func() {
				for n := range 100 {
					record := string(rune('a'+i)) + string(clienttest.Bytes(uint64(1000*i+n), 50))
					offset, err := a.Append(e.Context(), []byte(record))
					if err != nil {
						e.Error(err)
						return
					}
					mu.Lock()
					offsets[record] = offset
					mu.Unlock()
				}
			})
		}
		e.sleep(30 * time.Millisecond)
		primary(e, "/f").Kill()
		wg.Wait()
		e.checkRecords("/f", offsets)
	})
}

func TestAppendToARemovedFile(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.create("/f")
		a, err := e.files.Appender(e.Context(), "/f")
		e.must(err)
		e.must(e.files.Remove(e.Context(), "/f"))
		_, err = a.Append(e.Context(), []byte("x"))
		e.want(err, fs.ErrNotExist)
		a.Close()
		if n := e.c.Sessions(); n != 1 {
			e.Errorf("%d sessions, want 1", n)
		}
	})
}

// A full cluster refuses at once and surely; when there is space again, appending goes on.
func TestAppendWithoutSpace(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.create("/f")
		a, err := e.files.Appender(e.Context(), "/f")
		e.must(err)
		defer a.Close()
		_, err = a.Append(e.Context(), []byte("one"))
		e.must(err)
		e.c.Seal("/f")
		e.c.Fail("roll", quarry.Errorf("roll", quarry.NoSpace, "", "all disks are full"))
		for range 5 {
			_, err = a.Append(e.Context(), []byte("refused"))
			e.want(err, quarry.NoSpace)
			if errors.Is(err, quarry.Unknown) {
				e.Errorf("the outcome is known: %v", err)
			}
		}
		e.c.Fail("roll", nil)
		_, err = a.Append(e.Context(), []byte("two"))
		e.must(err)
		e.expect("/f", []byte("onetwo"))
		if n := e.c.Sessions(); n > 2 {
			e.Errorf("%d sessions are open", n)
		}
	})
}

func TestAppendContextEnds(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.create("/f")
		_, err := e.files.Append(e.Context(), "/f", []byte("one"))
		e.must(err)
		before := goroutines()
		a, err := e.files.Appender(e.Context(), "/f")
		e.must(err)
		p := primary(e, "/f")
		p.Hang()
		ctx, cancel := context.WithTimeout(e.Context(), 100*time.Millisecond)
		defer cancel()
		_, err = a.Append(ctx, []byte("two"))
		e.want(err, quarry.Unknown)
		e.want(err, context.DeadlineExceeded)
		p.Resume()
		e.must(a.Flush(e.Context()))
		a.Close()
		if after := goroutines(); after > before {
			e.Errorf("%d goroutines are left, there were %d", after, before)
		}
		if got := string(clienttest.ReadAll(e.T, e.files, "/f")); got != "onetwo" && got != "one" {
			e.Errorf("the file has %q", got)
		}
	})
}

// When nobody answers for as long as the client is patient, the outcome of what was sent is
// unknown, and the session is not used for this file any more.
func TestAppendGivesUp(t *testing.T) {
	run(t, small, client.Options{Patience: 15 * time.Second}, func(e *env) {
		e.create("/f")
		a, err := e.files.Appender(e.Context(), "/f")
		e.must(err)
		defer a.Close()
		_, err = a.Append(e.Context(), []byte("one"))
		e.must(err)
		for _, s := range e.c.Servers() {
			s.Hang()
		}
		start := time.Now()
		_, err = a.Append(e.Context(), []byte("two"))
		e.want(err, quarry.Unknown)
		if d := time.Since(start); d > 40*time.Second {
			e.Errorf("gave up after %v", d)
		}
		for _, s := range e.c.Servers() {
			s.Resume()
		}
		_, err = a.Append(e.Context(), []byte("three"))
		e.must(err)
		if got := string(clienttest.ReadAll(e.T, e.files, "/f")); got != "onethree" && got != "onetwothree" {
			e.Errorf("the file has %q", got)
		}
	})
}

func TestAppendSessionExpires(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.create("/f")
		a, err := e.files.Appender(e.Context(), "/f")
		e.must(err)
		defer a.Close()
		_, err = a.Append(e.Context(), []byte("one"))
		e.must(err)
		e.c.ExpireSessions()
		e.c.Seal("/f")
		for i := 0; ; i++ {
			if _, err = a.Append(e.Context(), []byte("two")); err == nil {
				break
			}
			if i == 3 {
				e.Fatal(err)
			}
		}
		e.expect("/f", []byte("onetwo"))
	})
}

// Records of one goroutine that do not wait for each other stand in its order, also when the
// chunk is sealed under them.
func TestAppendFuncKeepsOrder(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.create("/f")
		a, err := e.files.Appender(e.Context(), "/f")
		e.must(err)
		var want []byte
		var sealing sync.WaitGroup
		for i := range 2000 {
			if i%200 == 150 { // with the last records under way
				e.sleep(5 * time.Millisecond)
				sealing.Go(func() { e.c.Seal("/f") })
			}
			record := clienttest.Bytes(uint64(i), 100)
			at := int64(len(want))
			want = append(want, record...)
			e.must(a.AppendFunc(e.Context(), record, func(offset int64, err error) {
				if err != nil || offset != at {
					e.Errorf("record %d is at %d, want %d: %v", i, offset, at, err)
				}
			}))
		}
		e.must(a.Close())
		sealing.Wait()
		e.expect("/f", want)
		if n := e.c.Count("roll"); n < 5 {
			e.Errorf("only %d chunks were used", n)
		}
	})
}

// The largest records go through, and the window holds.
func TestAppendLargestRecords(t *testing.T) {
	run(t, clienttest.Config{Copies: 1}, client.Options{}, func(e *env) {
		e.create("/f")
		a, err := e.files.Appender(e.Context(), "/f")
		e.must(err)
		record := clienttest.Bytes(1, quarry.RecordBytesMax)
		for i := range 5 { // the fifth does not fit in the first chunk
			offset, err := a.Append(e.Context(), record)
			e.must(err)
			if want := int64(i) * quarry.RecordBytesMax; offset != want {
				e.Errorf("offset %d, want %d", offset, want)
			}
		}
		e.must(a.Close())
		if n := len(e.c.Chunks("/f")); n != 2 {
			e.Errorf("%d chunks, want 2", n)
		}
	})
}

// Servers that refuse everything do not have the master make chunk after chunk.
func TestAppendRollsWithPauses(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.create("/f")
		for _, s := range e.c.Servers() {
			s.SetFaults(clienttest.Faults{Refuse: quarry.Errorf("append", quarry.NoSpace, "", "the disk is full")})
		}
		go func() {
			e.sleep(8 * time.Second)
			for _, s := range e.c.Servers() {
				s.SetFaults(clienttest.Faults{})
			}
		}()
		_, err := e.files.Append(e.Context(), "/f", []byte("x"))
		e.must(err)
		if n := e.c.Count("roll"); n > 20 {
			e.Errorf("%d chunks were asked for in 8 s", n)
		}
		e.expect("/f", []byte("x"))
	})
}
