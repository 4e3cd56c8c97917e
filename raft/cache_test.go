package raft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/disk"
)

// batchWriter is a group's state in a batch, for tests without a host.
func batchWriter(b *pebble.Batch, id groupID) *writer {
	g := &group{id: id}
	g.cache.max = new(atomic.Int64)
	return g.newWriter(b)
}

// scribbler is a state machine whose commands are seeds of changes at few keys. It checks
// that it reads what the batch has.
type scribbler struct{ t *testing.T }

func scribbleKey(n int) []byte { return fmt.Appendf(nil, "key-%02d", n) }

const scribbleKeys = 40

func (m scribbler) Apply(kv KV, index uint64, command []byte) []byte {
	rng := rand.New(rand.NewPCG(binary.BigEndian.Uint64(command), 7))
	for range 1 + rng.IntN(4) {
		key := scribbleKey(rng.IntN(scribbleKeys))
		switch w := kv.(*writer); rng.IntN(12) {
		case 0, 1:
			kv.Delete(key)
		case 2:
			if rng.IntN(8) == 0 {
				kv.DeleteRange(key, scribbleKey(rng.IntN(scribbleKeys)))
			}
		case 3, 4, 5, 6:
			got, ok := kv.Get(key)
			want, has := w.reader.Get(key)
			if ok != has || !bytes.Equal(got, want) {
				m.t.Errorf("at %d the machine reads %q as %q (%v), the batch has %q (%v)", index, key, got, ok, want, has)
			}
		default:
			kv.Set(key, fmt.Appendf(nil, "%d-%d", index, rng.IntN(100)))
		}
	}
	return nil
}

// TestCacheIsExact reads a state through the cache, in views of every age, while commands
// change it: each time the value is the one that the store has at the view's moment.
func TestCacheIsExact(t *testing.T) {
	h, err := Open(Config{
		Node: 1, Cluster: testClusterID, Address: "node1:1", Log: disk.NewMem(), State: vfs.NewMem(), StateDir: "state",
		Transport: &direct{}, Clock: clock.System(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.Bootstrap(0, []Member{h.Self()}, scribbler{t}); err != nil {
		t.Fatal(err)
	}
	h.cacheShare.Store(2 << 10) // few of the keys fit
	benchLeadersReady(t, h)
	g, err := h.group("", 0)
	if err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var hits, views atomic.Int64
	var readers sync.WaitGroup
	for n := range 4 {
		rng := rand.New(rand.NewPCG(uint64(n), 3))
		readers.Go(func() {
			for !stop.Load() {
				_ = h.View(0, func(kv Reader) error {
					r, ok := kv.(*cachedReader)
					if !ok {
						return nil // a batch was just becoming visible
					}
					views.Add(1)
					for range rng.IntN(60) {
						key := scribbleKey(rng.IntN(scribbleKeys))
						if _, ok := r.cache.get(key, r.at); ok {
							hits.Add(1)
						}
						got, ok := kv.Get(key)
						want, has := r.reader.Get(key)
						if ok != has || !bytes.Equal(got, want) {
							t.Errorf("a view at %d reads %q as %q (%v), the store has %q (%v)", r.at, key, got, ok, want, has)
						}
					}
					return nil
				})
				runtime.Gosched() // without it each step of a proposal waits until readers are interrupted, and the test for 44 s
			}
		})
	}
	var writers sync.WaitGroup
	var next atomic.Uint64
	for range 8 {
		writers.Go(func() {
			for n := next.Add(1); n <= 12000 && !t.Failed(); n = next.Add(1) {
				if _, err := h.Propose(t.Context(), 0, binary.BigEndian.AppendUint64(nil, n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	stop.Store(true)
	readers.Wait()
	g.cache.mu.Lock()
	defer g.cache.mu.Unlock()
	t.Logf("%d hits in %d views", hits.Load(), views.Load())
	if hits.Load() < 1000 || views.Load() < 100 {
		t.Errorf("%d hits in %d views: the test tests little", hits.Load(), views.Load())
	}
	if n := len(g.cache.young) + len(g.cache.old); n > 2<<10/cachedOverhead+1 {
		t.Errorf("%d values are cached", n)
	}
}

// benchLeadersReady waits until a single node leads its group 0.
func benchLeadersReady(t *testing.T, h *Host) {
	for {
		if _, err := h.Propose(t.Context(), 0, make([]byte, 8)); quarry.KindOf(err) != quarry.NotLeader {
			return
		}
		_ = clock.System().Sleep(t.Context(), h.cfg.Tick)
	}
}

// TestCacheForgetsAtInstall lets a follower that has values cached get a snapshot.
func TestCacheForgetsAtInstall(t *testing.T) {
	inBubble(t, 3, 1, smallLog, func(t *testing.T, c *testCluster) {
		c.put(0, "first")
		n := c.other(0)
		c.list(0)
		c.net.isolate(n.id, true)
		c.fill(0, "a")
		if l := n.list(0); len(l) != 1 {
			t.Fatalf("it has %d elements", len(l))
		}
		c.net.isolate(n.id, false)
		if l := c.list(0); len(l) != 41 { // readList compares what Get says with what Scan says
			t.Fatalf("the list has %d elements", len(l))
		}
		if g, _ := n.host.group("", 0); g.log.base < 20 {
			t.Errorf("the log of node %d begins at %d; no snapshot was needed", n.id, g.log.base)
		}
	})
}

func TestCacheGenerations(t *testing.T) {
	c := valueCache{max: new(atomic.Int64)}
	c.max.Store(4 << 10)
	value := make([]byte, 100)
	c.fill([]byte("hot"), value, 5)
	for i := range 1000 {
		c.fill(fmt.Appendf(nil, "cold-%d", i), value, 5)
		if _, ok := c.get([]byte("hot"), 5); !ok && i%5 == 0 {
			t.Fatalf("what is used all the time is gone after %d others", i)
		}
		if n := len(c.young) + len(c.old); n > 4<<10/(100+cachedOverhead)+2 {
			t.Fatalf("%d values are kept", n)
		}
	}
	c.fill([]byte("large"), make([]byte, cachedValueMax+1), 5)
	if _, ok := c.get([]byte("large"), 5); ok {
		t.Error("a large value is kept")
	}
	if _, ok := c.get([]byte("hot"), 4); ok {
		t.Error("an older view sees a value of a later state")
	}
}
