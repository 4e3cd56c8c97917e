package raft

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/quarryfs/quarry"
)

func smallLog(cfg *Config) { cfg.LogBytes = 32 << 10 }

// fill adds so much to the group that the log is trimmed beyond what it was before.
func (c *testCluster) fill(g quarry.ShardID, name string) {
	c.t.Helper()
	for i := range 40 {
		c.put(g, fmt.Sprintf("%s.%d %02000d", name, i, 0))
	}
	c.sleep(2 * trimInterval)
	for _, n := range c.nodes {
		if n.host != nil && n.host.journal.Bytes() > 2*n.host.cfg.LogBytes {
			c.t.Fatalf("the log of node %d has %d bytes", n.id, n.host.journal.Bytes())
		}
	}
}

// TestSnapshot lets a follower miss more than the log holds.
func TestSnapshot(t *testing.T) {
	inBubble(t, 3, 2, smallLog, func(t *testing.T, c *testCluster) {
		c.put(0, "first")
		n := c.other(0)
		n.stop()
		c.fill(0, "a")
		n.start()
		want := c.list(0)
		if len(want) != 41 || want[0] != "first" {
			t.Fatalf("the list has %d elements and begins with %s", len(want), want[0])
		}
		if g, _ := n.host.group("", 0); g.log.base < 20 {
			t.Errorf("the log of node %d begins at %d; no snapshot was needed", n.id, g.log.base)
		}
		// What was installed survives a loss of power, and the group goes on.
		n.crash()
		n.start()
		c.put(0, "last")
		if l := c.list(0); len(l) != 42 {
			t.Errorf("the list has %d elements", len(l))
		}
		if l := c.list(1); len(l) != 0 {
			t.Errorf("the other group has %d elements", len(l))
		}
	})
}

// TestSnapshotInterrupted breaks the stream at many places, by an error and by a crash of the
// receiver: it comes up with its old state, and gets the rest by the next attempt.
func TestSnapshotInterrupted(t *testing.T) {
	inBubble(t, 3, 1, smallLog, func(t *testing.T, c *testCluster) {
		c.put(0, "first")
		n := c.other(0)
		for round := range 6 {
			n.stop()
			c.fill(0, fmt.Sprint(round))
			limit := int64(10_000 * round)
			broken := 0
			c.net.body = func(r io.Reader) io.Reader {
				if broken++; broken > 2 {
					return r
				}
				return io.MultiReader(io.LimitReader(r, limit), errReader{})
			}
			n.start()
			before := n.list(0)
			c.sleep(300 * time.Millisecond)
			if round%2 == 1 {
				n.crash()
				n.start()
			}
			if l := n.list(0); broken < 2 && !slices.Equal(l, before) {
				t.Fatalf("round %d: after a broken stream the list has %d elements instead of %d", round, len(l), len(before))
			}
			if l := c.list(0); len(l) != 1+40*(round+1) {
				t.Fatalf("round %d: the list has %d elements", round, len(l))
			}
			if broken < 2 {
				t.Errorf("round %d: %d streams were broken", round, broken)
			}
		}
	})
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("the connection broke") }

// TestInstallIsOneStep loses power after every operation on the disk while a snapshot is
// installed: each time there is all of the old state or all of the new.
func TestInstallIsOneStep(t *testing.T) {
	mem := vfs.NewCrashableMem()
	var mu sync.Mutex
	var images []*vfs.MemFS
	watching := false
	watch := func(on bool) {
		mu.Lock()
		defer mu.Unlock()
		watching = on
	}
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if watching && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			images = append(images, mem.CrashClone(vfs.CrashCloneCfg{}))
		}
		return nil
	}))
	fail := func(err error) { t.Error(err) }
	s, err := openStore(fs, "state", 1<<20, testLogger(t), fail)
	if err != nil {
		t.Fatal(err)
	}
	fillStore(t, s, 1, 10, "old")
	fillStore(t, s, 2, 10, "other")
	if err := s.db.Flush(); err != nil { // one table, with the keys of both groups
		t.Fatal(err)
	}
	fillStore(t, s, 1, 20, "old") // and some in memory
	if err := s.barrier(); err != nil {
		t.Fatal(err)
	}
	if err := fs.MkdirAll(s.incomingDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	h := &Host{store: s, life: context.Background()}
	inst := &installation{head: snapshotHead{group: 1}}
	if err := inst.receive(context.Background(), h, &snapshotReader{r: newStateStream(t)}); err != nil {
		t.Fatal(err)
	}
	watch(true)
	if err := s.install(context.Background(), 1, inst.paths); err != nil {
		t.Fatal(err)
	}
	watch(false)
	images = append(images, mem.CrashClone(vfs.CrashCloneCfg{}))
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for i, image := range images {
		s, err := openStore(image, "state", 1<<20, testLogger(t), fail)
		if err != nil {
			t.Fatalf("image %d: %v", i, err)
		}
		seen[describeStore(t, s, 1)]++
		if d := describeStore(t, s, 2); d != "applied 10, 10 keys: other" {
			t.Errorf("image %d: the other group is %q", i, d)
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
	}
	const before, after = "applied 20, 20 keys: old", "applied 500, 3 keys: new"
	if seen[before] == 0 || seen[after] == 0 || len(seen) != 2 {
		t.Errorf("the states are %v", seen)
	}
}

// fillStore gives a group keys and says that it has applied as many entries.
func fillStore(t *testing.T, s *store, id groupID, n int, value string) {
	b := s.db.NewIndexedBatch()
	kv := batchWriter(b, id)
	for i := range n {
		kv.Set(fmt.Appendf(nil, "%04d", i), []byte(value))
	}
	st := groupState{applied: applied{uint64(n), 1}, members: *sampleMembership()}
	if err := st.put(b, id); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(nil); err != nil {
		t.Fatal(err)
	}
}

// newStateStream is the blocks of a snapshot with three keys at index 500.
func newStateStream(t *testing.T) io.Reader {
	st := groupState{applied: applied{500, 9}, members: *sampleMembership()}
	w := snapshotWriter{head: &snapshotHead{group: 1}}
	s, err := openStore(vfs.NewMem(), "s", 1<<20, testLogger(t), func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	fillStore(t, s, 1, 3, "new")
	b := s.db.NewBatch()
	if err := st.put(b, 1); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(nil); err != nil {
		t.Fatal(err)
	}
	it, err := s.db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		w.add(it.Key()[groupPrefixBytes:], it.Value())
	}
	if err := errors.Join(it.Close(), s.close()); err != nil {
		t.Fatal(err)
	}
	var stream strings.Builder
	w.finish(&stream)
	r := &snapshotReader{r: strings.NewReader(stream.String())}
	if _, err := r.head(); err != nil {
		t.Fatal(err)
	}
	return r.r
}

func describeStore(t *testing.T, s *store, id groupID) string {
	st, err := loadGroup(s.db, id)
	if err != nil {
		t.Fatal(err)
	}
	n, values := 0, map[string]bool{}
	r := newReader(s.db, id)
	r.Scan(nil, nil, func(_, v []byte) bool {
		n++
		values[string(v)] = true
		return true
	})
	var list []string
	for v := range values {
		list = append(list, v)
	}
	slices.Sort(list)
	return fmt.Sprintf("applied %d, %d keys: %s", st.applied.index, n, strings.Join(list, " "))
}

// TestSnapshotRate bounds what a snapshot takes of the network.
func TestSnapshotRate(t *testing.T) {
	inBubble(t, 3, 1, func(cfg *Config) {
		smallLog(cfg)
		cfg.SnapshotBytesPerSecond = 1 << 20
	}, func(t *testing.T, c *testCluster) {
		c.put(0, "first")
		n := c.other(0)
		n.stop()
		for i := range 10 {
			c.put(0, fmt.Sprintf("%d %0300000d", i, 0))
		}
		c.sleep(2 * trimInterval)
		start := time.Now()
		n.start()
		if l := c.list(0); len(l) != 11 {
			t.Fatalf("the list has %d elements", len(l))
		}
		if d := time.Since(start); d < 2*time.Second || d > 6*time.Second {
			t.Errorf("3 MB at 1 MiB a second took %v", d)
		}
	})
}

// TestTrimKeepsStuckGroup trims the journal under a group that cannot commit: its entries
// move, and it goes on when it can.
func TestTrimKeepsStuckGroup(t *testing.T) {
	inBubble(t, 3, 2, func(cfg *Config) {
		smallLog(cfg)
		cfg.ElectionTicks = 250 // the stuck leader leads on
	}, func(t *testing.T, c *testCluster) {
		var leader *testNode
		for leader == nil || c.leader(1) != leader {
			leader = c.leader(0)
			if c.leader(1) != leader {
				if err := c.leader(1).host.TransferLeadership(context.Background(), 1, leader.id); err != nil {
					t.Fatal(err)
				}
			}
		}
		stuck, _ := leader.host.group("", 1)
		c.net.mu.Lock()
		c.net.mute = map[groupID]bool{1: true}
		c.net.mu.Unlock()
		done := make(chan error, 1)
		go func() {
			_, err := leader.host.Propose(context.Background(), 1, []byte("patience"))
			done <- err
		}()
		for i := range 3 {
			c.fill(0, fmt.Sprint(i))
		}
		if b := leader.host.journal.Bytes(); b > 2*leader.host.cfg.LogBytes {
			t.Errorf("the stuck group holds %d bytes of the journal", b)
		}
		if stuck.appliedAt.Load() >= stuck.log.last {
			t.Error("the group was not stuck")
		}
		for _, n := range c.nodes {
			n.crash()
		}
		if err := <-done; err == nil {
			t.Error("it was acknowledged without a majority")
		}
		c.net.mu.Lock()
		c.net.mute = nil
		c.net.mu.Unlock()
		for _, n := range c.nodes {
			n.start()
		}
		c.put(0, "last")
		c.put(1, "last")
		if l := c.list(0); len(l) != 121 {
			t.Errorf("the list has %d elements", len(l))
		}
	})
}

// TestSnapshotOfLaterState lets a snapshot wait until others are sent, while commands are
// applied. The state that is sent then is ahead of what Raft was told when it asked for it: it
// says itself how far it has come, so that no command is applied twice.
func TestSnapshotOfLaterState(t *testing.T) {
	inBubble(t, 3, snapshotsMax+1, func(cfg *Config) {
		smallLog(cfg)
		cfg.SnapshotBytesPerSecond = 64 << 10
	}, func(t *testing.T, c *testCluster) {
		leader := c.leader(0)
		for _, g := range c.groups {
			for c.leader(g) != leader {
				_ = c.leader(g).host.TransferLeadership(context.Background(), g, leader.id)
			}
		}
		n := c.other(0)
		n.stop()
		for _, g := range c.groups {
			c.fill(g, "a")
		}
		n.start()
		for i := range 20 {
			for _, g := range c.groups {
				if _, err := leader.host.Propose(context.Background(), g, fmt.Append(nil, i)); err != nil {
					t.Fatal(err)
				}
			}
			c.sleep(100 * time.Millisecond)
		}
		for _, g := range c.groups {
			if l := c.list(g); len(l) != 60 {
				t.Errorf("the list of group %d has %d elements", g, len(l))
			}
			if m, _ := n.host.group("", g); m.log.base < 20 {
				t.Errorf("no snapshot was needed in group %d", g)
			}
		}
	})
}

// behind has a follower miss more than the log holds, and starts it again: it gets a snapshot, slowly.
// It returns the leader, and what counts the snapshots that were begun.
func behind(c *testCluster) (leader *testNode, streams *atomic.Int64) {
	streams = new(atomic.Int64)
	c.net.body = func(r io.Reader) io.Reader {
		streams.Add(1)
		return r
	}
	n := c.other(0)
	n.stop()
	c.fill(0, "a")
	n.start()
	for streams.Load() == 0 {
		c.sleep(10 * time.Millisecond)
	}
	return c.leader(0), streams
}

func slowSnapshots(cfg *Config) {
	smallLog(cfg)
	cfg.SnapshotBytesPerSecond = 24 << 10
}

// TestOneSnapshotIsEnough has more written while a follower gets a snapshot than the log holds
// otherwise: what it will need next is kept, and it goes on from there.
func TestOneSnapshotIsEnough(t *testing.T) {
	inBubble(t, 3, 1, slowSnapshots, func(t *testing.T, c *testCluster) {
		leader, streams := behind(c)
		for i := range 40 {
			c.put(0, fmt.Sprintf("b%d %02000d", i, 0))
			c.sleep(100 * time.Millisecond)
		}
		if l := c.list(0); len(l) != 80 {
			t.Errorf("the list has %d elements", len(l))
		}
		if n := streams.Load(); n != 1 {
			t.Errorf("the follower got %d snapshots, want 1", n)
		}
		c.put(0, "last")
		c.sleep(2 * trimInterval)
		if b := leader.host.journal.Bytes(); b > 2*leader.host.cfg.LogBytes {
			t.Errorf("the log has %d bytes when everybody has everything", b)
		}
	})
}

// TestSlowFollowerHoldsABoundedLog writes much more than the log may hold for a follower that gets a
// snapshot: the log is trimmed all the same, and the follower gets another one.
func TestSlowFollowerHoldsABoundedLog(t *testing.T) {
	inBubble(t, 3, 1, slowSnapshots, func(t *testing.T, c *testCluster) {
		leader, streams := behind(c)
		most := int64(0)
		for i := range 200 {
			c.put(0, fmt.Sprintf("b%d %02000d", i, 0))
			c.sleep(10 * time.Millisecond)
			most = max(most, leader.host.journal.Bytes())
		}
		size := leader.host.cfg.LogBytes
		if most <= 2*size || most > 2*holdFactor*size { // some more is written between two looks at it
			t.Errorf("the log had up to %d bytes; it is trimmed at %d", most, size)
		}
		c.sleep(time.Minute)
		if l := c.list(0); len(l) != 240 {
			t.Errorf("the list has %d elements", len(l))
		}
		if n := streams.Load(); n < 2 {
			t.Errorf("the follower got %d snapshots", n)
		}
	})
}
