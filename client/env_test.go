package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
	"github.com/quarryfs/quarry/clock"
)

// env is a cluster in memory and a client of it, in a bubble.
type env struct {
	*testing.T
	c     *clienttest.Cluster
	files *client.FS
}

// run runs a test in a bubble and fails it if goroutines are left, because a bubble does not
// end before they do.
func run(t *testing.T, config clienttest.Config, opts client.Options, test func(*env)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := clienttest.New(config)
		e := &env{t, c, c.Client(opts)}
		test(e)
		e.must(e.files.Close())
		c.Close()
	})
}

func (e *env) must(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

func (e *env) want(err error, kind error) {
	e.Helper()
	if !errors.Is(err, kind) {
		e.Errorf("got %v, want %v", err, kind)
	}
}

func (e *env) sleep(d time.Duration) { clock.Simulated().Sleep(context.Background(), d) }

// create makes an empty file.
func (e *env) create(path string) {
	e.Helper()
	w, err := e.files.Create(e.Context(), path)
	e.must(err)
	e.must(w.Close())
}

func (e *env) put(path string, data []byte) {
	e.Helper()
	_, err := e.files.Put(e.Context(), path, bytes.NewReader(data), client.PutOptions{})
	e.must(err)
}

func (e *env) expect(path string, data []byte) {
	e.Helper()
	if got := clienttest.ReadAll(e.T, e.files, path); !bytes.Equal(got, data) {
		e.Errorf("%s: %d bytes were read, want %d; they differ at %d", path, len(got), len(data), differ(got, data))
	}
}

func differ(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// appenders append numbered records from several goroutines while something happens, and
// check that each stands in the file once, at the offset that was told.
func (e *env) appenders(path string, goroutines, each int, meanwhile func()) {
	e.Helper()
	a, err := e.files.Appender(e.Context(), path)
	e.must(err)
	var mu sync.Mutex
	offsets := map[string]int64{}
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := range each {
				record := fmt.Sprintf("<%d.%d>%s", g, i, strings.Repeat("x", (g*31+i*7)%100))
				offset, err := a.Append(e.Context(), []byte(record))
				if err != nil {
					e.Errorf("%s: %v", record, err)
					return
				}
				mu.Lock()
				offsets[record] = offset
				mu.Unlock()
			}
		})
	}
	meanwhile()
	wg.Wait()
	e.must(a.Close())
	e.checkRecords(path, offsets)
}

func (e *env) checkRecords(path string, offsets map[string]int64) {
	e.Helper()
	all := clienttest.ReadAll(e.T, e.files, path)
	total := 0
	for record, offset := range offsets {
		total += len(record)
		if !bytes.HasPrefix(all[min(offset, int64(len(all))):], []byte(record)) {
			e.Errorf("%q is not at %d", record, offset)
		}
	}
	if total != len(all) {
		e.Errorf("the file has %d bytes, the records %d", len(all), total)
	}
}

// goroutines waits until the bubble is quiet and returns how many goroutines there are in it. The
// runtime's own, which run finalizers at any moment, do not count.
func goroutines() int {
	synctest.Wait()
	stacks := make([]byte, 1<<22)
	return bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("synctest bubble"))
}

func primary(e *env, path string) *clienttest.Server {
	e.Helper()
	for range 5000 { // somebody may be opening it at this moment
		if tail := e.c.Tail(path); len(tail) > 0 {
			return e.c.Server(tail[0].Server)
		}
		e.sleep(time.Millisecond)
	}
	e.Fatal("the file is not open")
	return nil
}

func secondary(e *env, path string) *clienttest.Server {
	return e.c.Server(e.c.Tail(path)[1].Server)
}

var small = clienttest.Config{Delay: time.Millisecond}

var _ = quarry.Unknown
