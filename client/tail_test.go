package client_test

import (
	"bytes"
	"context"
	"io"
	"testing"
	"time"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
)

// A tail shows every byte, once, in order, soon after it was committed, whatever happens to
// the chunks.
func TestTail(t *testing.T) {
	for name, meanwhile := range map[string]func(*env){
		"nothing happens":   func(*env) {},
		"the chunk is full": func(e *env) { e.c.Seal("/f") },
		"the primary dies":  func(e *env) { primary(e, "/f").Kill() },
		"a secondary hangs": func(e *env) { secondary(e, "/f").Hang() },
		"a member is slow":  func(e *env) { primary(e, "/f").SetFaults(clienttest.Faults{Slow: time.Second}) },
	} {
		t.Run(name, func(t *testing.T) {
			run(t, small, client.Options{}, func(e *env) {
				e.create("/f")
				var want []byte
				tail, err := e.files.Tail(e.Context(), "/f", 0)
				e.must(err)
				got := make(chan []byte)
				go func() {
					defer close(got)
					for {
						p := make([]byte, 64<<10)
						n, err := tail.Read(p)
						if err != nil {
							return
						}
						got <- p[:n]
					}
				}()
				for i := range 20 {
					if i == 10 {
						meanwhile(e)
					}
					record := clienttest.Bytes(uint64(i), 5000)
					_, err := e.files.Append(e.Context(), "/f", record)
					e.must(err)
					want = append(want, record...)
					start := time.Now()
					var seen []byte
					for len(seen) < len(record) {
						select {
						case b := <-got:
							seen = append(seen, b...)
						case <-time.After(time.Minute):
							e.Fatalf("record %d was not shown", i)
						}
					}
					if !bytes.Equal(seen, record) {
						e.Fatalf("record %d is shown as something else", i)
					}
					if d := time.Since(start); d > 2500*time.Millisecond {
						e.Errorf("record %d was shown after %v", i, d)
					}
				}
				for _, s := range e.c.Servers() {
					s.Resume()
				}
				e.must(tail.Close())
				<-got
				e.expect("/f", want)
			})
		})
	}
}

func TestTailFromTheMiddleAndTheEnd(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.put("/f", []byte("0123456789"))
		middle, err := e.files.Tail(e.Context(), "/f", 4)
		e.must(err)
		end, err := e.files.Tail(e.Context(), "/f", -1)
		e.must(err)
		go func() {
			e.sleep(5 * time.Second)
			if _, err := e.files.Append(e.Context(), "/f", []byte("abc")); err != nil {
				e.Error(err)
			}
		}()
		p := make([]byte, 9)
		_, err = io.ReadFull(middle, p)
		if err != nil || string(p) != "456789abc" {
			e.Errorf("from the middle: %q, %v", p, err)
		}
		_, err = io.ReadFull(end, p[:3])
		if err != nil || string(p[:3]) != "abc" || end.Offset() != 13 {
			e.Errorf("from the end: %q, %v", p[:3], err)
		}
		e.must(middle.Close())
		e.must(end.Close())
	})
}

func TestTailContextEnds(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.create("/f")
		_, err := e.files.Append(e.Context(), "/f", []byte("x"))
		e.must(err)
		before := goroutines()
		start := time.Now()
		ctx, cancel := context.WithTimeout(e.Context(), time.Hour)
		defer cancel()
		tail, err := e.files.Tail(ctx, "/f", 1)
		e.must(err)
		asked := e.c.Count("")
		_, err = tail.Read(make([]byte, 1))
		e.want(err, context.DeadlineExceeded)
		if d := time.Since(start); d != time.Hour {
			e.Errorf("it took %v", d)
		}
		if n := e.c.Count("") - asked; n > 320 { // one every 30 s, and two sessions
			e.Errorf("the masters were asked %d times in an hour", n)
		}
		e.must(tail.Close())
		if after := goroutines(); after > before {
			e.Errorf("%d goroutines, there were %d", after, before)
		}
	})
}

// Whoever follows the records of a file gets each of them, once, whole and in order, whatever
// happens to the chunks, and can go on where another one has stopped.
func TestTailRecords(t *testing.T) {
	for name, meanwhile := range map[string]func(*env){
		"nothing happens":   func(*env) {},
		"the chunk is full": func(e *env) { e.c.Seal("/f") },
		"the primary dies":  func(e *env) { primary(e, "/f").Kill() },
		"a secondary hangs": func(e *env) { secondary(e, "/f").Hang() },
	} {
		t.Run(name, func(t *testing.T) {
			run(t, small, client.Options{}, func(e *env) {
				const records, before = 60, 20
				record := func(i int) []byte { return clienttest.Bytes(uint64(i), 1+i*977%3000) }
				e.put("/f", record(0))
				add := func(i int) {
					_, err := e.files.Append(e.Context(), "/f", record(i))
					e.must(err)
				}
				for i := 1; i < before; i++ {
					add(i)
				}
				over := make(chan struct{})
				go func() {
					defer close(over)
					for i := before; i < records; i++ {
						e.sleep(100 * time.Millisecond)
						if i == 40 {
							meanwhile(e)
						}
						add(i)
					}
				}()
				next, offset := 0, int64(0)
				for next < records {
					tail, err := e.files.Tail(e.Context(), "/f", offset)
					e.must(err)
					for r, err := range tail.Records() {
						e.must(err)
						if r.Offset != offset || !bytes.Equal(r.Data, record(next)) {
							e.Fatalf("record %d: %d bytes at %d, want %d at %d", next, len(r.Data), r.Offset, len(record(next)), offset)
						}
						next, offset = next+1, offset+int64(len(r.Data))
						if next%7 == 0 || next == records {
							break
						}
					}
					if tail.Offset() != offset {
						e.Fatalf("it stands at %d, want %d", tail.Offset(), offset)
					}
					e.must(tail.Close())
				}
				<-over
				for _, s := range e.c.Servers() {
					s.Resume()
				}
			})
		})
	}
}

// A record that the tail begins in is passed over; Read goes on behind the records, and the other
// way round; the tail can be closed from within the loop, and that is the loop's error.
func TestTailRecordsAndBytes(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.put("/f", []byte("0123456789"))
		for _, r := range []string{"abc", "de", "fghi"} {
			_, err := e.files.Append(e.Context(), "/f", []byte(r))
			e.must(err)
		}
		tail, err := e.files.Tail(e.Context(), "/f", 4)
		e.must(err)
		for r, err := range tail.Records() {
			if err != nil || r.Offset != 10 || string(r.Data) != "abc" {
				e.Fatalf("got %q at %d, %v", r.Data, r.Offset, err)
			}
			break
		}
		p := make([]byte, 1)
		if _, err := io.ReadFull(tail, p); err != nil || string(p) != "d" {
			e.Errorf("a byte behind the record: %q, %v", p, err)
		}
		var got string
		var last error
		for r, err := range tail.Records() {
			if last = err; err != nil {
				break
			}
			got += string(r.Data)
			e.must(tail.Close())
		}
		if got != "fghi" {
			e.Errorf("behind the byte: %q", got)
		}
		e.want(last, context.Canceled)
		for _, err := range tail.Records() {
			e.want(err, context.Canceled)
		}
	})
}
