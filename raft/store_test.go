package raft

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/disk"
)

func scanned(r Reader, lo, hi []byte) string {
	var l []string
	r.Scan(lo, hi, func(k, v []byte) bool {
		l = append(l, string(k)+"="+string(v))
		return true
	})
	return strings.Join(l, " ")
}

// TestKV writes to neighbouring groups: each has its own keys, and reads see the writes of the
// same command.
func TestKV(t *testing.T) {
	s, err := openStore(vfs.NewMem(), "s", 1<<20, testLogger(t), func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.close() }()
	ids := []groupID{0, 1, 255, 256, ^groupID(0)}
	for _, id := range ids {
		fillStore(t, s, id, 1, "x")
	}
	b := s.db.NewIndexedBatch()
	kv := batchWriter(b, 1)
	kv.Delete([]byte("0000"))
	for _, k := range []string{"", "a", "b", "b\x00", "c", "\xff\xff"} {
		kv.Set([]byte(k), []byte("v"+k))
	}
	for _, c := range []struct {
		lo, hi []byte
		want   string
	}{
		{nil, nil, "=v a=va b=vb b\x00=vb\x00 c=vc \xff\xff=v\xff\xff"},
		{[]byte("b"), []byte("c"), "b=vb b\x00=vb\x00"},
		{[]byte("b"), nil, "b=vb b\x00=vb\x00 c=vc \xff\xff=v\xff\xff"},
		{nil, []byte("b"), "=v a=va"},
		{[]byte("c"), []byte("b"), ""},
	} {
		if got := scanned(kv, c.lo, c.hi); got != c.want {
			t.Errorf("from %q to %q: %q, want %q", c.lo, c.hi, got, c.want)
		}
	}
	kv.DeleteRange([]byte("b"), []byte("c"))
	if _, ok := kv.Get([]byte("b")); ok {
		t.Error("a deleted key is there")
	}
	kv.Set([]byte("b"), nil)
	if v, ok := kv.Get([]byte("b")); !ok || len(v) != 0 {
		t.Error("an empty value is", v, ok)
	}
	kv.DeleteRange([]byte("c"), nil)
	if got := scanned(kv, nil, nil); got != "=v a=va b=" {
		t.Errorf("what is left is %q", got)
	}
	kv.DeleteRange(nil, nil)
	kv.Scan(nil, nil, func(k, _ []byte) bool { t.Errorf("%q is left", k); return false })
	if err := b.Commit(pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		want := "applied 1, 1 keys: x"
		if id == 1 {
			want = "applied 1, 0 keys: "
		}
		if got := describeStore(t, s, id); got != want {
			t.Errorf("group %d is %q, not %q", id, got, want)
		}
	}
	if got, err := s.groups(); err != nil || !slices.Equal(got, ids) {
		t.Error(got, err)
	}
}

// TestView reads while commands are applied: one view is of one moment.
func TestView(t *testing.T) {
	inBubble(t, 1, 1, nil, func(t *testing.T, c *testCluster) {
		c.put(0, "a")
		h := c.nodes[1].host
		err := h.View(0, func(kv Reader) error {
			before := len(readList(kv))
			c.put(0, "b")
			if after := len(readList(kv)); after != before {
				t.Errorf("the view has changed from %d to %d elements", before, after)
			}
			return errors.New("mine")
		})
		if err == nil || err.Error() != "mine" {
			t.Errorf("the error is %v", err)
		}
		if n := len(c.nodes[1].list(0)); n != 2 {
			t.Errorf("a later view has %d elements", n)
		}
		if err := h.View(8, nil); !errors.Is(err, quarry.NotFound) {
			t.Errorf("a view of a strange group: %v", err)
		}
	})
}

// TestStateDiskFails lets the state's disk fail or fill up while the log's is well: the node
// stops and says why, and comes back with everything when there is room. What is left of
// Pebble then cannot be closed, so this is not for a bubble.
func TestStateDiskFails(t *testing.T) {
	for _, c := range []struct {
		fault error
		kind  quarry.Kind
	}{{syscall.ENOSPC, quarry.NoSpace}, {syscall.EIO, quarry.Internal}} {
		var fails atomic.Bool
		mem := vfs.NewCrashableMem()
		log := disk.NewMem()
		cfg := Config{
			Node: 1, Cluster: testClusterID, Address: "node1:1", Log: log, StateDir: "state", Tick: 5 * time.Millisecond,
			Transport: &direct{}, Logger: slog.New(slog.DiscardHandler),
			State: errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if op.Kind == errorfs.OpFileWrite && fails.Load() {
					return c.fault
				}
				return nil
			})),
		}
		h, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Bootstrap(0, []Member{h.Self()}, &listMachine{}); err != nil {
			t.Fatal(err)
		}
		put := func() error {
			for {
				_, err := h.Propose(t.Context(), 0, make([]byte, 100))
				if !errors.Is(err, quarry.NotLeader) {
					return err
				}
				_ = clock.System().Sleep(t.Context(), time.Millisecond)
			}
		}
		if err := put(); err != nil {
			t.Fatal(err)
		}
		fails.Store(true)
		acked := 1
		for put() == nil {
			acked++
		}
		<-h.Done()
		if err := h.Err(); !errors.Is(err, c.kind) || !errors.Is(err, c.fault) {
			t.Errorf("%v: the node has stopped because of %v", c.fault, err)
		}
		_ = h.Close()
		cfg.Log, cfg.State = log.Clone(), mem.CrashClone(vfs.CrashCloneCfg{})
		if h, err = Open(cfg); err != nil {
			t.Fatal(err)
		}
		if err := h.AddGroup(0, &listMachine{}); err != nil {
			t.Fatal(err)
		}
		if err := put(); err != nil {
			t.Fatal(err)
		}
		_ = h.View(0, func(kv Reader) error {
			if n := len(readList(kv)); n < acked+1 || n > acked+2 {
				t.Errorf("%v: the list has %d elements, %d were acknowledged", c.fault, n, acked+1)
			}
			return nil
		})
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestFullDisk takes no proposals while a disk is nearly full; reads go on.
func TestFullDisk(t *testing.T) {
	inBubble(t, 3, 1, nil, func(t *testing.T, c *testCluster) {
		c.put(0, "a")
		n := c.leader(0)
		n.state.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: spaceReserve - 1, TotalBytes: 1 << 40})
		c.sleep(2 * trimInterval)
		if _, err := n.host.Propose(context.Background(), 0, []byte("b")); !errors.Is(err, quarry.NoSpace) {
			t.Errorf("a full disk: %v", err)
		}
		if err := n.host.ReadIndex(context.Background(), 0); err != nil {
			t.Error(err)
		}
		n.state.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: spaceReserve, TotalBytes: 1 << 40})
		c.sleep(2 * trimInterval)
		c.put(0, "c")
		if l := c.list(0); !slices.Equal(l, []string{"a", "c"}) {
			t.Errorf("the list is %v", l)
		}
	})
}

// TestHeartbeatsShareBatches counts the batches of a node that leads many idle groups.
func TestHeartbeatsShareBatches(t *testing.T) {
	inBubble(t, 3, 16, nil, func(t *testing.T, c *testCluster) {
		for _, g := range c.groups {
			for c.leader(g) != c.nodes[1] {
				_ = c.leader(g).host.TransferLeadership(context.Background(), g, 1)
			}
		}
		before := c.net.sent.Load()
		const ticks = 100
		c.sleep(ticks * c.nodes[1].host.cfg.Tick)
		// To each of two followers, and one answer from each; half as many again, because a
		// worker that is interrupted may send what it has in two. Unshared there were 6,400.
		if n, most := c.net.sent.Load()-before, int64(ticks*6*len(c.nodes[1].host.workers)); n > most || n < ticks {
			t.Errorf("%d batches in %d ticks, at most %d are wanted", n, ticks, most)
		}
	})
}

// TestBrokenState spoils each table of a node's state in turn, at rest: the node refuses to
// open, or stops when it reads what is broken, and says what that is. It never hangs.
func TestBrokenState(t *testing.T) {
	state, log := vfs.NewMem(), disk.NewMem()
	cfg := Config{
		Node: 1, Cluster: testClusterID, Address: "node1:1", Log: log, State: state, StateDir: "state", Tick: 5 * time.Millisecond,
		Transport: &direct{}, Logger: slog.New(slog.DiscardHandler),
	}
	h, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Bootstrap(0, []Member{h.Self()}, &listMachine{}); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		for put(h, strings.Repeat("x", 1000)) != nil {
			t.Fatal(i)
		}
		if err := h.store.db.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := state.List("state")
	if err != nil {
		t.Fatal(err)
	}
	spoilt := 0
	for _, name := range names {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		spoilt++
		cfg.State, cfg.Log = spoil(t, state, "state/"+name), log.Clone()
		h, err := Open(cfg)
		if err == nil {
			if err = h.AddGroup(0, &listMachine{}); err == nil {
				err = h.View(0, func(kv Reader) error { _ = readList(kv); return nil })
			}
			if err == nil {
				t.Errorf("nobody has noticed that %s is broken", name)
			}
			if h.Err() != nil {
				err = h.Err()
			}
			_ = h.Close()
		}
		if !errors.Is(err, quarry.Corrupt) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is broken: %v", name, err)
		}
	}
	if spoilt == 0 {
		t.Fatalf("there is no table among %v", names)
	}
}

// spoil returns a copy of a file system in which the first bytes of one file are others.
func spoil(t *testing.T, fs *vfs.MemFS, name string) *vfs.MemFS {
	copied := vfs.NewMem()
	if _, err := vfs.Clone(fs, copied, "state", "state"); err != nil {
		t.Fatal(err)
	}
	f, err := copied.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 40)
	for i := range b {
		b[i] = 0xa5
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return copied
}

// TestRotationFails lets the state's own log fail at the moment at which Pebble begins the next
// file of it, in each of the ways in which a disk can: the node stops and says why, the process
// goes on.
func TestRotationFails(t *testing.T) {
	for _, kind := range []errorfs.OpKind{errorfs.OpCreate, errorfs.OpReuseForWrite, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileWrite, errorfs.OpFileClose, errorfs.OpOpenDir} {
		var fails, failed atomic.Bool
		fs := errorfs.Wrap(vfs.NewCrashableMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			if fails.Load() && op.Kind == kind && (strings.HasSuffix(op.Path, ".log") || kind == errorfs.OpOpenDir) {
				failed.Store(true)
				return syscall.EIO
			}
			return nil
		}))
		h, err := Open(Config{
			Node: 1, Cluster: testClusterID, Address: "node1:1", Log: disk.NewMem(), State: fs, StateDir: "state", Tick: 5 * time.Millisecond,
			Transport: &direct{}, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Bootstrap(0, []Member{h.Self()}, &listMachine{}); err != nil {
			t.Fatal(err)
		}
		benchLeadersReady(t, h)
		fails.Store(true)
		for range 20 { // more than a memtable
			if _, err = h.Propose(t.Context(), 0, make([]byte, 1<<20)); err != nil {
				break
			}
		}
		switch {
		case !failed.Load(): // Pebble does nothing of the kind
		case err == nil && h.Err() == nil:
			t.Logf("%v: Pebble bears it", kind)
		default:
			<-h.Done()
			if err := h.Err(); !errors.Is(err, syscall.EIO) {
				t.Errorf("%v: the node has stopped because of %v", kind, err)
			}
		}
		_ = h.Close()
	}
}
