package raft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/disk/crashtest"
)

// A node has two disks that fail together: that of its log, of which every choice of unsynced
// writes can be made, and that of its state, where Pebble's MemFS chooses for each name and
// each 4 KiB of a file whether it is there; a name that was removed and not synced is always
// back.

// crashedNode is what a crash leaves of a node.
type crashedNode struct {
	log   *disk.Mem
	state *vfs.MemFS
}

// nodeCrasher crashes both disks of a node at once before each operation on either of them
// that changes something.
type nodeCrasher struct {
	t     *testing.T
	syncs *crashtest.Syncs
	node  crashedNode
	every int
	what  string

	// judge recovers a crashed node and says what is wrong. It is called with mu held.
	judge func(n crashedNode, what string) error

	mu    sync.Mutex // held while something becomes a promise
	looks int
	crashtest.Result
}

func newNodeCrasher(t *testing.T, syncs *crashtest.Syncs, every int) *nodeCrasher {
	return &nodeCrasher{t: t, syncs: syncs, every: every, node: crashedNode{disk.NewMem(), vfs.NewCrashableMem()}}
}

// config is that of a host on the watched disks.
func (c *nodeCrasher) config() Config {
	cfg := c.node.config()
	cfg.Log = disk.NewFaulty(c.node.log, func(op disk.Op) disk.Fault {
		switch op.Kind {
		case disk.OpRead, disk.OpSize, disk.OpList, disk.OpOpen, disk.OpUsage:
			return disk.Fault{}
		}
		c.look("log: " + op.String())
		return c.syncs.Fault(op)
	})
	cfg.State = &watchedFS{c.node.state, c}
	return cfg
}

// config is that of a host on the disks as they are.
func (n crashedNode) config() Config {
	return Config{
		Node: 1, Cluster: testClusterID, Address: "node1:1", Log: n.log, State: n.state, StateDir: "state",
		Tick: time.Millisecond, ElectionTicks: 2, LogBytes: 32 << 10, Transport: &direct{}, Logger: slog.New(slog.DiscardHandler),
	}
}

// look crashes the node before an operation.
func (c *nodeCrasher) look(op string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looks++
	if c.looks%c.every != 0 && op != "after a promise" || c.syncs.Enough(c.Lost) {
		return
	}
	r := rand.New(rand.NewPCG(uint64(c.looks), 3))
	var logs []*disk.Mem
	c.node.log.Images(2, func(m *disk.Mem) { logs = append(logs, m) })
	logs = append(logs, c.node.log.Crash(r))
	for i, log := range logs {
		state := c.node.state.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 100, 50}[i%3], RNG: r})
		c.Images++
		what := fmt.Sprintf("%slook %d, image %d, before %s", c.what, c.looks, i, op)
		if err := c.judge(crashedNode{log, state}, what); err != nil {
			if c.Lost++; c.First == "" {
				c.First = what + ": " + err.Error()
			}
		}
	}
}

// promise makes a change to what the node has promised.
func (c *nodeCrasher) promise(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// watchedFS is the disk of a state.
type watchedFS struct {
	vfs.FS
	c *nodeCrasher
}

type watchedFile struct {
	vfs.File
	c    *nodeCrasher
	name string
}

func (fs *watchedFS) wrap(f vfs.File, name string, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &watchedFile{f, fs.c, name}, nil
}

func (fs *watchedFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	fs.c.look("state: create " + name)
	f, err := fs.FS.Create(name, category)
	return fs.wrap(f, name, err)
}

func (fs *watchedFS) ReuseForWrite(from, name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	fs.c.look("state: reuse " + name)
	f, err := fs.FS.ReuseForWrite(from, name, category)
	return fs.wrap(f, name, err)
}

func (fs *watchedFS) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := fs.FS.OpenReadWrite(name, category, opts...)
	return fs.wrap(f, name, err)
}

func (fs *watchedFS) OpenDir(name string) (vfs.File, error) {
	f, err := fs.FS.OpenDir(name)
	return fs.wrap(f, name+"/", err)
}

func (fs *watchedFS) Link(from, to string) error {
	fs.c.look("state: link " + to)
	return fs.FS.Link(from, to)
}

func (fs *watchedFS) Remove(name string) error {
	fs.c.look("state: remove " + name)
	return fs.FS.Remove(name)
}

func (fs *watchedFS) Rename(from, to string) error {
	fs.c.look("state: rename " + from)
	return fs.FS.Rename(from, to)
}

func (f *watchedFile) Write(p []byte) (int, error) {
	f.c.look("state: write " + f.name)
	return f.File.Write(p)
}

// Sync and SyncData are told apart by what they sync: Pebble calls them from goroutines of its
// own.
func (f *watchedFile) Sync() error {
	if f.c.looksAway(f.name) {
		return nil
	}
	return f.File.Sync()
}

func (f *watchedFile) SyncData() error {
	if f.c.looksAway(f.name) {
		return nil
	}
	return f.File.SyncData()
}

// looksAway crashes before a sync of the state, and reports whether it is to be left out.
func (c *nodeCrasher) looksAway(name string) bool {
	c.look("state: sync " + name)
	kind := "table"
	switch base := path.Base(name); {
	case strings.HasSuffix(name, "/"):
		kind = "folder"
	case strings.HasSuffix(base, ".log"):
		kind = "write-ahead log"
	case strings.HasPrefix(base, "MANIFEST"):
		kind = "manifest"
	case strings.HasPrefix(base, "OPTIONS"):
		kind = "options"
	case strings.HasPrefix(base, "marker"):
		kind = "marker"
	}
	return c.syncs.Note("Pebble's sync of its " + kind)
}

// appender is a node of a group of one, to which a workload appends.
type appender struct {
	c            *nodeCrasher
	identity     identity // as far as others may know it
	founded      bool
	asked, acked map[string]bool
	deep         int // how many crashes in recovery are left to look at
	every        int
	n            int
}

// put proposes an element until the node leads.
func put(h *Host, e string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute) // looking takes its time
	defer cancel()
	for {
		_, err := h.Propose(ctx, 0, []byte(e))
		if !errors.Is(err, quarry.NotLeader) {
			return err
		}
		if err := clock.System().Sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
}

// judge opens a crashed node, which must have the acknowledged elements, and no others than
// those asked for, and goes on. Now and then it is crashed again meanwhile.
func (a *appender) judge(n crashedNode, what string) error {
	cfg := n.config()
	var inner *nodeCrasher
	if a.deep > 0 && a.c.Images%a.every == 0 {
		inner = &nodeCrasher{t: a.c.t, syncs: a.c.syncs, node: n, every: 5, what: what + ", and again: "}
		again := &appender{c: inner, identity: a.identity, founded: a.founded, asked: a.asked, acked: a.acked}
		inner.judge = again.judge
		cfg = inner.config()
	}
	err := a.recover(cfg)
	if inner != nil {
		a.c.Images += inner.Images
		if a.c.Lost += inner.Lost; a.c.First == "" {
			a.c.First = inner.First
		}
	}
	return err
}

func (a *appender) recover(cfg Config) error {
	id, err := loadIdentity(cfg.Log)
	if err != nil {
		return err
	}
	if was := a.identity; !was.disk.IsZero() && (id.disk != was.disk || was.node != 0 && id.node != was.node || was.used && !id.used) {
		return fmt.Errorf("the identity is %v, it was %v", id, was)
	}
	h, err := Open(cfg)
	if err != nil {
		return err
	}
	defer h.Close()
	if len(h.Groups()) == 0 {
		if a.founded {
			return errors.New("the group is gone")
		}
		return nil
	}
	if err := h.Bootstrap(0, []Member{h.Self()}, &listMachine{}); err != nil {
		if err := h.AddGroup(0, &listMachine{}); err != nil {
			return err
		}
	} else if a.founded {
		return errors.New("the group could be founded twice")
	}
	if err := put(h, "again"); err != nil {
		return err
	}
	return h.View(0, func(kv Reader) error {
		seen := map[string]bool{}
		list := readList(kv)
		for _, e := range list {
			if e != "again" && (seen[e] || !a.asked[e]) {
				return fmt.Errorf("%.20s was never asked for, or is there twice", e)
			}
			seen[e] = true
		}
		for e := range a.acked {
			if !seen[e] {
				return fmt.Errorf("%.20s was acknowledged and is lost; %d of %d are there", e, len(list)-1, len(a.acked))
			}
		}
		return nil
	})
}

// append appends n elements at once, and waits.
func (a *appender) append(h *Host, n int) {
	var wg sync.WaitGroup
	for range n {
		a.n++
		e := fmt.Sprintf("%d %0*d", a.n, 100+a.n*397%3000, 0)
		a.c.promise(func() { a.asked[e] = true })
		wg.Go(func() {
			if err := put(h, e); err != nil {
				a.c.t.Error(err)
				return
			}
			a.c.promise(func() { a.acked[e] = true })
		})
	}
	wg.Wait()
}

// run founds a group, appends, trims the log, writes the state to tables, and opens the node
// again, twice.
func (a *appender) run() {
	t := a.c.t
	know := func() {
		id, err := loadIdentity(a.c.config().Log)
		if err != nil {
			t.Error(err)
		}
		a.c.promise(func() { a.identity = id })
		a.c.look("after a promise")
	}
	know()
	for life := range 2 {
		h, err := Open(a.c.config())
		if err != nil {
			t.Fatal(err)
		}
		know()
		if life == 0 {
			if err := h.Bootstrap(0, []Member{h.Self()}, &listMachine{}); err != nil {
				t.Fatal(err)
			}
			a.c.promise(func() { a.founded = true })
			know()
		} else if err := h.AddGroup(0, &listMachine{}); err != nil {
			t.Fatal(err)
		}
		for round := range 4 {
			a.append(h, 3)
			a.append(h, 1)
			if round%2 == 1 {
				if err := h.trim(); err != nil {
					t.Error(err)
				}
			}
			if round == 2 {
				if err := h.store.db.Flush(); err != nil {
					t.Error(err)
				}
			}
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
	a.c.look("the end")
}

// TestCrashTogether crashes log and state of a node together, with all syncs and without those
// of each place.
func TestCrashTogether(t *testing.T) {
	every := 3
	if os.Getenv("QUARRY_LONG") != "" {
		every = 2
	}
	crashtest.Table(t, implied, func(t *testing.T, syncs *crashtest.Syncs) crashtest.Result {
		c := newNodeCrasher(t, syncs, every)
		a := &appender{c: c, asked: map[string]bool{}, acked: map[string]bool{}, deep: 8, every: 16}
		c.judge = a.judge
		a.run()
		return c.Result
	})
}

// implied are syncs that others of a run imply, or that another room's test shows to be needed.
var implied = map[string]string{
	"sync in journal.(*scanner).settle by journal.(*Journal).recoverSegment": "seldom seen here; room journal shows it",
	"syncdir in journal.(*Journal).recover by journal.Open":                  "seldom seen here; room journal shows it",
	"syncdir in raft.identity.save by raft.(*identity).claim":                "the folder of the log is made next, which syncs the same folder",
}
