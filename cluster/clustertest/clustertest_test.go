package clustertest_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
	"github.com/quarryfs/quarry/cluster"
	"github.com/quarryfs/quarry/cluster/clustertest"
)

// The suite that every client.FileSystem passes holds on such a cluster.
func TestSuite(t *testing.T) { clienttest.Run(t, clustertest.Start(t)) }

// Tests that run at the same time have clusters of their own; each can be reached from outside.
func TestSeveral(t *testing.T) {
	for _, name := range []string{"one", "two"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := clustertest.StartWith(t, cluster.DevOptions{Masters: 1, Servers: 2, Shards: 1})
			data := clienttest.Bytes(1, 3<<20)
			if _, err := c.Put(t.Context(), "/f", bytes.NewReader(data), client.PutOptions{Keep: true}); err != nil {
				t.Fatal(err)
			}
			other, err := client.Open(t.Context(), c.Masters, client.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()
			if got := clienttest.ReadAll(t, other, "/f"); !bytes.Equal(got, data) {
				t.Errorf("%d bytes came back", len(got))
			}
		})
	}
}

// Nothing of a cluster is left when its test is over.
func TestEnd(t *testing.T) {
	var masters []string
	var dir string
	var tail *client.Tail
	t.Run("of a test", func(t *testing.T) {
		dir = t.TempDir()
		c := clustertest.StartWith(t, cluster.DevOptions{Dir: dir})
		masters = c.Masters
		w, err := c.Create(t.Context(), "/log")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, "not closed"); err != nil {
			t.Fatal(err)
		}
		if tail, err = c.Tail(t.Context(), "/log", 0); err != nil {
			t.Fatal(err)
		}
	})
	for _, address := range masters {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			t.Errorf("a master still listens at %s", address)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its folder: %v", err)
	}
	if _, err := io.ReadAll(tail); err == nil {
		t.Error("a tail of it goes on")
	}
}

// How long a test waits for its cluster.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		fresh := &ender{TB: b, dir: b.TempDir()}
		b.StartTimer()
		clustertest.StartWith(fresh, cluster.DevOptions{Dir: fresh.dir})
		b.StopTimer()
		fresh.end()
		b.StartTimer()
	}
}

// ender ends what it was started for before the benchmark ends.
type ender struct {
	testing.TB
	dir      string
	cleanups []func()
}

func (e *ender) Cleanup(f func()) { e.cleanups = append(e.cleanups, f) }

func (e *ender) end() {
	for i := len(e.cleanups) - 1; i >= 0; i-- {
		e.cleanups[i]()
	}
}
