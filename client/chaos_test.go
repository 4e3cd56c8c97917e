package client_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
)

// Appenders of two clients, a writer, a put and a tail go on while servers die, hang, restart
// and lose answers, chunks are sealed and the master goes away. Everything acknowledged is
// there once, at its offset; the tail shows the file.
func TestChaos(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			run(t, small, client.Options{}, func(e *env) {
				e.create("/records")
				other := &env{e.T, e.c, e.c.Client(client.Options{})}
				defer other.files.Close()
				over := make(chan struct{})
				var faults, work sync.WaitGroup
				faults.Go(func() { chaos(e, rand.New(rand.NewPCG(seed, 1)), over) })

				offsets, total := map[string]int64{}, 0
				var mu sync.Mutex
				for i, x := range []*env{e, e, other} {
					work.Go(func() { appendSome(x, i, &mu, offsets, &total) })
				}
				stream := clienttest.Bytes(seed, 3<<20)
				work.Go(func() { writeSlowly(e, "/stream", stream) })
				work.Go(func() {
					_, err := e.files.Put(e.Context(), "/put", &pausing{data: stream, parts: 10, pause: func(int) { e.sleep(500 * time.Millisecond) }}, client.PutOptions{})
					if err != nil {
						e.Errorf("put: %v", err)
					}
				})
				work.Wait()
				tail, err := e.files.Tail(e.Context(), "/records", 0)
				e.must(err)
				shown := make([]byte, total)
				_, err = io.ReadFull(tail, shown)
				e.must(err)
				e.must(tail.Close())
				close(over)
				faults.Wait()
				e.checkRecords("/records", offsets)
				e.expect("/records", shown)
				e.expect("/stream", stream)
				e.expect("/put", stream)
			})
		})
	}
}

func appendSome(e *env, g int, mu *sync.Mutex, offsets map[string]int64, total *int) {
	a, err := e.files.Appender(e.Context(), "/records")
	if err != nil {
		e.Error(err)
		return
	}
	defer a.Close()
	for i := range 100 {
		record := fmt.Sprintf("<%d.%d>%s", g, i, bytes.Repeat([]byte{'x'}, i%50))
		offset, err := a.Append(e.Context(), []byte(record))
		if err != nil {
			e.Errorf("append %s: %v", record, err)
			return
		}
		mu.Lock()
		offsets[record] = offset
		*total += len(record)
		mu.Unlock()
		e.sleep(20 * time.Millisecond)
	}
}

func writeSlowly(e *env, path string, data []byte) {
	w, err := e.files.Create(e.Context(), path)
	if err != nil {
		e.Error(err)
		return
	}
	for len(data) > 0 {
		n := min(len(data), 100_000)
		if _, err := w.Write(data[:n]); err != nil {
			e.Errorf("write: %v", err)
			return
		}
		data = data[n:]
		e.sleep(100 * time.Millisecond)
	}
	if err := w.Close(); err != nil {
		e.Errorf("close: %v", err)
	}
}

// chaos breaks one thing after the other until over; at most one server is away at a time.
func chaos(e *env, r *rand.Rand, over chan struct{}) {
	for {
		s := e.c.Servers()[r.IntN(len(e.c.Servers()))]
		long := time.Duration(r.IntN(4000)) * time.Millisecond
		switch r.IntN(8) {
		case 0:
			s.Kill()
			e.sleep(long)
			s.Restart()
		case 1:
			s.Hang()
			e.sleep(long)
			s.Resume()
		case 2:
			s.SetFaults(clienttest.Faults{LoseAcks: r.IntN(20), Busy: r.IntN(3), DropReads: r.IntN(3)})
		case 3:
			s.SetFaults(clienttest.Faults{Slow: 300 * time.Millisecond, Corrupt: r.IntN(2) == 0, NoLease: r.IntN(2) == 0})
			e.sleep(long)
			s.SetFaults(clienttest.Faults{})
		case 4:
			e.c.Seal("/records")
		case 5:
			for _, op := range []string{"roll", "rolled", "chunk", "allocate", "finish", "link", "make", "session"} {
				e.c.LoseAnswers(op, r.IntN(3))
			}
		case 6:
			e.c.SetDown(true)
			e.sleep(long)
			e.c.SetDown(false)
		case 7:
			e.sleep(long)
		}
		select {
		case <-over:
			return
		case <-time.After(time.Duration(r.IntN(500)) * time.Millisecond):
		}
	}
}
