package raft

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/journal"
)

// Config is what a Host needs. Zero values mean the defaults.
type Config struct {
	// Node, Cluster and Address say who this node is and where the others reach it. The
	// folder is tied to node and cluster when it is first opened.
	Node    quarry.NodeID
	Cluster quarry.ClusterID
	Address string

	// Log holds the identity, the lock and the Raft logs. State and StateDir are where the
	// state is. Both belong to the host alone.
	Log      disk.FS
	State    vfs.FS
	StateDir string

	// Transport carries messages to other nodes.
	Transport Transport
	// Clock drives elections; default clock.System.
	Clock clock.Clock
	// Logger hears of what an operator wants to know; default slog.Default.
	Logger *slog.Logger

	// Tick is the interval of heartbeats; default 50 ms.
	Tick time.Duration
	// ElectionTicks is after how many ticks of silence a follower campaigns, at least; it
	// waits for up to twice as many, at random. Default 10.
	ElectionTicks int
	// LogBytes is the size at which the Raft logs of all groups are trimmed, to about half; to
	// four times as much what followers need stays that are catching up. A follower that misses
	// more gets a snapshot. At least 32 KiB, default 64 MiB.
	LogBytes int64
	// CacheBytes is the memory for blocks of the state; default 64 MiB.
	CacheBytes int64
	// SnapshotBytesPerSecond bounds each snapshot that is sent; default 64 MiB.
	SnapshotBytesPerSecond int64

	// Changed, if set, hears of each change of a group's members that this node has applied, and
	// of each snapshot that it has installed, before anything later is applied. It must not block
	// for long, and not call the host.
	Changed func(id quarry.ShardID, c Changed)
}

func (c Config) withDefaults() Config {
	def := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	if c.Clock == nil {
		c.Clock = clock.System()
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Tick == 0 {
		c.Tick = 50 * time.Millisecond
	}
	if c.ElectionTicks == 0 {
		c.ElectionTicks = 10
	}
	def(&c.LogBytes, 64<<20)
	def(&c.CacheBytes, 64<<20)
	def(&c.SnapshotBytesPerSecond, 64<<20)
	return c
}

func (c Config) check() error {
	var err error
	switch {
	case c.Node == 0 || uint64(c.Node) > nodeIDMax:
		err = fmt.Errorf("%d cannot be the id of a node", c.Node)
	case c.Cluster.IsZero():
		err = fmt.Errorf("the cluster is not named")
	case c.Address == "" || len(c.Address) > addressBytesMax:
		err = fmt.Errorf("the address is %q", c.Address)
	case c.Log == nil || c.State == nil || c.Transport == nil:
		err = fmt.Errorf("the fields Log, State and Transport must be set")
	case c.Tick < time.Millisecond || c.ElectionTicks < 2:
		err = fmt.Errorf("the tick is %v and ElectionTicks %d; they are at least 1 ms and 2", c.Tick, c.ElectionTicks)
	case c.LogBytes < 32<<10 || c.LogBytes > 8<<30:
		err = fmt.Errorf("LogBytes is %d; it is 32 KiB to 8 GiB", c.LogBytes)
	case c.CacheBytes < 0 || c.SnapshotBytesPerSecond < 0:
		err = fmt.Errorf("CacheBytes and SnapshotBytesPerSecond must not be negative")
	default:
		return nil
	}
	return &quarry.Error{Op: "open", Kind: quarry.Invalid, Err: err}
}

// Host runs this node's members of many Raft groups. Safe for use by many goroutines.
type Host struct {
	cfg     Config
	self    Member
	id      identity
	lock    io.Closer
	journal *journal.Journal
	store   *store
	workers []*worker

	full       atomic.Bool  // no room for proposals
	cacheShare atomic.Int64 // bytes of cached values for each group
	peers      peers
	snapshots  snapshots
	notices    notices

	mu      sync.RWMutex
	groups  map[groupID]*group
	dormant map[groupID]*entryLog // recovered, and not added yet

	// use is held for reading by those outside of running that use the store, and for
	// writing when the store is closed.
	use sync.RWMutex

	life     context.Context // ends when the host stops
	endLife  context.CancelFunc
	stopMu   sync.Mutex
	err      error         // why it stopped; nil if it was told to
	stopping chan struct{} // closed when it begins to stop
	running  sync.WaitGroup
	closed   bool // use guards it
}

// Open opens the node's logs and state and checks them against each other. The groups in
// them do nothing before they are added: see Groups and AddGroup. Errors: Invalid for a bad
// Config or another node's folder, WrongCluster for another cluster's, Corrupt if log or
// state are damaged or one of them is lost, Unsupported for a later format, Busy if a process
// has the folder open.
func Open(cfg Config) (*Host, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	h := &Host{cfg: cfg, groups: map[groupID]*group{}, dormant: map[groupID]*entryLog{}, stopping: make(chan struct{})}
	h.life, h.endLife = context.WithCancel(context.Background())
	h.peers = peers{h: h, all: map[quarry.NodeID]*peer{}}
	h.snapshots = snapshots{h: h, sending: make(chan struct{}, snapshotsMax), receiving: make(chan struct{}, snapshotsMax)}
	h.notices.wake = make(chan struct{}, 1)
	if err := h.tryOpen(); err != nil {
		h.release()
		return nil, err
	}
	for range min(workersMax, runtime.GOMAXPROCS(0)) {
		h.workers = append(h.workers, newWorker(h))
	}
	for _, w := range h.workers {
		h.spawn(w.run)
	}
	h.spawn(h.runTicker)
	h.spawn(h.runTrimmer)
	h.spawn(h.runNotices)
	return h, nil
}

// tryOpen is open in a goroutine of its own, because Pebble may end the goroutine in which it
// finds that it cannot go on, see storeLogger. What the store has told in the meantime is the
// error, too: it names what is broken.
func (h *Host) tryOpen() error {
	result := make(chan error, 1)
	go func() {
		err := fmt.Errorf("the state cannot be opened")
		defer func() { result <- err }()
		err = h.open()
	}()
	err := <-result
	if told := h.Err(); told != nil {
		return told
	}
	return err
}

// open acquires what the host works with, and recovers.
func (h *Host) open() (err error) {
	if h.lock, err = h.cfg.Log.Lock(lockName); err != nil {
		return &quarry.Error{Op: "open", Kind: quarry.Busy, Subject: lockName, Err: err}
	}
	if h.id, err = loadIdentity(h.cfg.Log); err != nil {
		return err
	}
	if err := h.id.claim(h.cfg.Log, h.cfg.Node, h.cfg.Cluster); err != nil {
		return err
	}
	h.self = Member{Node: h.cfg.Node, Disk: h.id.disk, Address: h.cfg.Address}
	if h.store, err = openStore(h.cfg.State, h.cfg.StateDir, h.cfg.CacheBytes, h.cfg.Logger, h.fail); err != nil {
		return err
	}
	return h.recover()
}

// Self returns this node as it is named in the members of its groups.
func (h *Host) Self() Member { return h.self }

func (h *Host) runTicker() {
	t := h.cfg.Clock.NewTicker(h.cfg.Tick)
	defer t.Stop()
	for {
		select {
		case <-h.stopping:
			return
		case <-t.C():
		}
		for _, w := range h.workers {
			w.tick.Store(true)
			kick(w.wake)
		}
	}
}

// group returns a group of this node.
func (h *Host) group(op string, id groupID) (*group, error) {
	h.mu.RLock()
	g := h.groups[id]
	h.mu.RUnlock()
	if g == nil {
		return nil, quarry.Errorf(op, quarry.NotFound, fmt.Sprintf("group %d", id), "node %d has no such group", h.cfg.Node)
	}
	return g, nil
}

// allGroups returns the groups that were added, in ascending order.
func (h *Host) allGroups() []*group {
	h.mu.RLock()
	defer h.mu.RUnlock()
	list := slices.Collect(maps.Values(h.groups))
	slices.SortFunc(list, func(a, b *group) int { return int(int64(a.id - b.id)) })
	return list
}

// spawn runs f in a goroutine that the host waits for, unless it is stopping.
func (h *Host) spawn(f func()) {
	h.stopMu.Lock()
	defer h.stopMu.Unlock()
	select {
	case <-h.stopping:
		return
	default:
	}
	h.running.Add(1)
	go func() {
		defer h.running.Done()
		f()
	}()
}

// Done is closed when the host has begun to stop, by itself or by Stop or Close.
func (h *Host) Done() <-chan struct{} { return h.stopping }

// Err returns why the host has stopped by itself: a disk that fails, a log that was damaged,
// a node that the others refuse. It is nil before, and after Stop or Close. A host that has
// stopped by itself must be closed; whether the node may be opened again is for the error to
// say.
func (h *Host) Err() error {
	h.stopMu.Lock()
	defer h.stopMu.Unlock()
	return h.err
}

// stopCause is the reason for those who can no longer be served.
func (h *Host) stopCause() error {
	if err := h.Err(); err != nil {
		return err
	}
	return fmt.Errorf("the node is stopping")
}

// fail stops the host because of err, if it is not stopping already.
func (h *Host) fail(err error) {
	if h.beginStop(err) {
		h.cfg.Logger.Error("raft: the node stops", "err", err)
	}
}

func (h *Host) beginStop(err error) bool {
	h.stopMu.Lock()
	defer h.stopMu.Unlock()
	select {
	case <-h.stopping:
		return false
	default:
	}
	h.err = err
	close(h.stopping)
	h.endLife()
	return true
}

// refused notes that other nodes do not take this node for what it is. A node without any
// state has nothing else to wait for.
func (h *Host) refused(err error) {
	for _, g := range h.allGroups() {
		if g.appliedAt.Load() > 0 {
			h.cfg.Logger.Error("raft: refused", "err", err)
			return
		}
	}
	h.fail(err)
}

// contain makes a panic of a goroutine the end of the host instead of the process: a broken
// invariant stops the node, with everything one needs to know.
func (h *Host) contain(what string) {
	switch p := recover().(type) {
	case nil:
	case storeFailure:
		h.fail(disk.Wrap(what, "", p.err))
	case *quarry.Error: // of a state machine that cannot go on, with no lock of Pebble's held
		h.fail(p)
	case error: // Pebble leaves so when it cannot write, with its locks held
		h.store.broken.Store(true)
		h.fail(disk.Wrap(what, "", fmt.Errorf("panic: %w\n%s", p, debug.Stack())))
	default:
		h.store.broken.Store(true)
		h.fail(quarry.Errorf(what, quarry.Internal, "", "panic: %v\n%s", p, debug.Stack()))
	}
}

// Stop stops the host after it has handed its leaderships to others, so that nobody has to
// wait for an election. When ctx ends it stops without. The error is that of closing.
func (h *Host) Stop(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, g := range h.allGroups() {
		if g.leading.Load() && len(g.members.Load().voters) > 1 {
			wg.Go(func() {
				if err := h.TransferLeadership(ctx, g.id, 0); err != nil {
					h.cfg.Logger.Warn("raft: leadership not handed over", "group", uint64(g.id), "err", err)
				}
			})
		}
	}
	wg.Wait()
	return h.Close()
}

// Close stops the host at once. Calls under way end with Unknown or Unavailable. What was
// acknowledged is on disk. The error is that of closing, or Err.
func (h *Host) Close() error {
	h.beginStop(nil)
	h.awaitEnd()
	h.use.Lock()
	defer h.use.Unlock()
	if h.closed {
		return h.Err()
	}
	h.closed = true
	if err := h.release(); h.Err() == nil {
		return err
	}
	return h.Err()
}

// brokenWait is how long a host whose state is broken waits for its goroutines: some may be
// held up in Pebble for ever.
const brokenWait = 2 * time.Second

// awaitEnd returns when the host's goroutines have ended, as far as they can.
func (h *Host) awaitEnd() {
	ended := make(chan struct{})
	go func() {
		h.running.Wait()
		close(ended)
	}()
	patience := h.cfg.Clock.NewTicker(brokenWait)
	defer patience.Stop()
	for {
		select {
		case <-ended:
			return
		case <-patience.C():
			if h.store.broken.Load() {
				return
			}
		}
	}
}

// release closes what open has acquired.
func (h *Host) release() (err error) {
	if h.journal != nil {
		err = h.journal.Close()
	}
	if h.store != nil && !h.store.broken.Load() {
		if e := h.store.close(); err == nil {
			err = e
		}
	}
	if h.lock != nil {
		if e := h.lock.Close(); err == nil {
			err = e
		}
	}
	return err
}
