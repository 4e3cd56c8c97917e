package master

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/meta/root"
	"github.com/quarryfs/quarry/raft"
	"github.com/quarryfs/quarry/rpc"
)

// Master is one master process. All methods may be called by many goroutines.
type Master struct {
	cfg     Config
	disk    quarry.DiskID
	ctx     context.Context // ends with the master
	stop    context.CancelFunc
	work    sync.WaitGroup
	workMu  sync.Mutex // held while work is begun, and while the master begins to stop
	streams streams
	failed  chan struct{} // closed when the host has stopped by itself

	started atomic.Bool // host and node below are set, and do not change any more
	host    *raft.Host
	node    quarry.NodeID
	groups  atomic.Pointer[map[quarry.ShardID]*shard] // replaced when a shard is added; see setGroup
	root    rootGroup
	turns   turns

	failpoint atomic.Pointer[func(point string)]                 // told of the steps of transactions, moves and changes of masters; see OnStep
	onMembers atomic.Pointer[func(quarry.ShardID, raft.Changed)] // see OnMembers

	leadMu    sync.Mutex
	renounced map[quarry.ShardID]bool // groups that this node was told to hand over

	pulseMu sync.Mutex
	pulses  map[quarry.ServerID]pulse

	begun    atomic.Pointer[origin] // what the folder says; nil while the master waits to be given a cluster
	changing chan struct{}          // has one place: changes of the masters and of the shards, one at a time
	turn     chan struct{}          // has one place: what starts or stops the master, which may wait for its disk, is in it
}

var _ quarry.Master = (*Master)(nil)

// Open opens a master's folder. With an empty folder the master waits: it serves Identify,
// Init and Join only. Busy: another process has the folder open.
func Open(cfg Config) (*Master, error) {
	if err := cfg.withDefaults(); err != nil {
		return nil, err
	}
	m := &Master{cfg: cfg, failed: make(chan struct{}), turn: make(chan struct{}, 1), changing: make(chan struct{}, 1), pulses: map[quarry.ServerID]pulse{}}
	m.ctx, m.stop = context.WithCancel(context.Background())
	m.streams = streams{master: m, open: map[streamKey]*stream{}}
	m.root.master, m.root.added = m, make(chan struct{}, 1)
	var err error
	if m.disk, _, _, err = raft.DiskIdentity(cfg.Folder); err != nil {
		return nil, err
	}
	o, err := loadOrigin(cfg.Folder)
	if err != nil {
		return nil, err
	}
	switch {
	case o == nil:
		cfg.Logger.Info("waiting to be given a cluster: run \"quarry admin init\", or \"quarry admin master add\" or \"replace\"", "address", cfg.Address)
		return m, nil
	case o.Removed:
		m.stop()
		return nil, o.removedError(cfg.Address)
	}
	m.begun.Store(o)
	m.turn <- struct{}{}
	defer func() { <-m.turn }()
	if err := m.start(o); err != nil {
		m.stop()
		return nil, err
	}
	return m, nil
}

// start opens the host and its groups. The turn is the caller's.
func (m *Master) start(o *origin) error {
	transport := &peers{client: m.cfg.Client, clock: m.cfg.Clock}
	host, err := raft.Open(raft.Config{
		Node: o.Node, Cluster: o.cluster(), Address: m.cfg.Address,
		Log: m.cfg.Folder, State: m.cfg.StateFS, StateDir: m.cfg.StateDir,
		Transport: transport, Clock: m.cfg.Clock, Logger: m.cfg.Logger,
		LogBytes: m.cfg.LogBytes, CacheBytes: m.cfg.CacheBytes, Changed: m.membersChanged,
	})
	if err != nil {
		return err
	}
	transport.lost = host.PeerLost
	m.host, m.node = host, o.Node
	m.groups.Store(&map[quarry.ShardID]*shard{})
	ids, members := o.groups()
	for _, id := range ids {
		if err := m.startGroup(id, members); err != nil {
			host.Close()
			return err
		}
	}
	m.started.Store(true)
	m.begin(m.watch)
	if o.Init != nil {
		m.begin(func() { m.spread(o.Init) })
	}
	for id, sh := range *m.groups.Load() {
		if err := host.OnLeadership(id, sh.leadership); err != nil {
			return err
		}
	}
	if err := host.OnLeadership(quarry.RootShard, m.root.leadership); err != nil {
		return err
	}
	m.begin(m.grow)
	m.begin(m.lead)
	m.begin(m.attend)
	return nil
}

// startGroup starts one group: one that the folder has, a new one of these members, or an
// empty one that its leader will fill.
func (m *Master) startGroup(id quarry.ShardID, members []raft.Member) (err error) {
	var machine raft.StateMachine = &m.root
	if id != quarry.RootShard {
		machine = &shardMachine{}
		defer func() {
			if err == nil {
				m.setGroup(id, &shard{master: m, id: id})
			}
		}()
	}
	if members != nil { // also if there is a log: a crash may have come between that and the state
		if err := m.host.Bootstrap(id, members, machine); !errors.Is(err, quarry.Exists) {
			return err
		}
	}
	if err := m.host.AddGroup(id, machine); err != nil || id != quarry.RootShard {
		return err
	}
	return m.host.View(id, func(kv raft.Reader) error {
		if level := root.Level(kv); level > quarry.FeatureLevel {
			return quarry.Errorf("open", quarry.Unsupported, m.cfg.Address, "the cluster uses feature level %d, this release speaks level %d: start a later release", level, quarry.FeatureLevel)
		}
		m.root.learn(kv)
		return nil
	})
}

// watch notes when the host stops by itself.
func (m *Master) watch() {
	select {
	case <-m.ctx.Done():
	case <-m.host.Done():
		if m.host.Err() != nil {
			close(m.failed)
		}
	}
}

// Done is closed when the master has stopped by itself; Err says why.
func (m *Master) Done() <-chan struct{} { return m.failed }

// Err returns why the master has stopped by itself.
func (m *Master) Err() error {
	if !m.started.Load() {
		return nil
	}
	return m.host.Err()
}

// Close stops the master. Leadership is handed over first, for as long as ctx lasts, so that
// nobody notices.
func (m *Master) Close(ctx context.Context) error {
	m.turn <- struct{}{}
	defer func() { <-m.turn }()
	var err error
	if m.started.Load() {
		err = m.host.Stop(ctx)
	}
	m.workMu.Lock()
	m.stop()
	m.workMu.Unlock()
	m.work.Wait()
	return err
}

// begin runs a job beside the requests, unless the master is stopping. Close waits for it.
func (m *Master) begin(job func()) bool {
	m.workMu.Lock()
	defer m.workMu.Unlock()
	if m.ctx.Err() != nil {
		return false
	}
	m.work.Go(job)
	return true
}

// Serve makes the master's calls known to an rpc.Server: those of quarry.Master, which go
// through calls, the master itself or what stands before it, and those between masters.
func (m *Master) Serve(srv *rpc.Server, calls quarry.Master) {
	rpc.ServeMaster(srv, calls)
	srv.HandleMessages(opRaft, func(ctx context.Context, msg *rpc.Raw) {
		if peer, ok := rpc.PeerFrom(ctx); !ok || peer.Role != rpc.RoleMaster || !m.started.Load() {
			return
		}
		if err := m.host.Deliver(msg.Payload); err != nil {
			m.cfg.Logger.Warn("messages of a master were refused", "error", err)
		}
	})
	srv.HandleRaw(opSnapshot, func(ctx context.Context, req *rpc.Raw) (*rpc.Raw, error) {
		if peer, ok := rpc.PeerFrom(ctx); !ok || peer.Role != rpc.RoleMaster || !m.started.Load() {
			return nil, quarry.Errorf("snapshot", quarry.Permission, "", "only masters of the cluster send snapshots")
		}
		return m.streams.take(ctx, req)
	})
	srv.HandleRaw(opAsk, m.serveAsk)
}

// Identity is what the process says of itself to others.
func (m *Master) Identity() rpc.Identity {
	id := rpc.Identity{Role: rpc.RoleMaster, Disk: m.disk, Release: m.cfg.Release}
	if o := m.begun.Load(); o != nil {
		id.Cluster, id.Node = o.cluster(), o.Node
	}
	return id
}

// waiting is the error of a master that belongs to no cluster.
func (m *Master) waiting(op string) error {
	return quarry.Errorf(op, quarry.Unavailable, m.cfg.Address, "the master waits to be given a cluster: run \"quarry admin init\"")
}

// shard returns a shard of this node.
func (m *Master) shard(op string, id quarry.ShardID) (*shard, error) {
	if !m.started.Load() {
		return nil, m.waiting(op)
	}
	if sh := m.group(id); sh != nil {
		return sh, nil
	}
	return nil, quarry.Errorf(op, quarry.WrongShard, "", "node %d has no shard %d", m.node, id)
}

// wrongShard tells the caller of a request which slot map this node has, if the shard has
// refused the request because the slot is not its own.
func (m *Master) wrongShard(op string, err error) error {
	known := m.root.known.Load()
	slot, ok := meta.RefusedSlot(err)
	if !ok || known == nil {
		return quarry.Wrap(op, "", err)
	}
	return &quarry.Error{Op: op, Kind: quarry.WrongShard, Err: &quarry.WrongShardError{Slot: slot, Map: known.topology.Version}}
}

// home returns the slot by which a change finds its shard: that of its session, because only
// there it is known whether the change was made before. The shard refuses it with WrongShard if
// it does not own what is to be changed.
func home(once quarry.Op, slot quarry.Slot) quarry.Slot {
	if once.Session != 0 {
		return once.Session.Slot()
	}
	return slot
}

// shardOf returns the shard that owns a slot.
func (m *Master) shardOf(op string, slot quarry.Slot) (*shard, error) {
	if !m.started.Load() {
		return nil, m.waiting(op)
	}
	id, ok := m.root.owner(slot)
	if !ok {
		return nil, quarry.Errorf(op, quarry.Unavailable, "", "this master has not learnt yet where slot %d lives", slot)
	}
	return m.shard(op, id)
}

// termOf returns the present term of the shard that owns a slot, if this node leads it.
func (m *Master) termOf(op string, slot quarry.Slot) (*term, error) {
	sh, err := m.shardOf(op, slot)
	if err != nil {
		return nil, err
	}
	return sh.present(op)
}

// leaderOf returns who leads a group, as far as this node knows.
func (m *Master) leaderOf(id quarry.ShardID) (quarry.NodeID, string) {
	st, err := m.host.Status(id)
	if err != nil || st.Leader == 0 {
		return 0, ""
	}
	for _, member := range st.Members {
		if member.Node == st.Leader {
			return st.Leader, member.Address
		}
	}
	return st.Leader, ""
}

// firstSlot returns the first slot that the shard owns.
func (s *shard) firstSlot() quarry.Slot {
	var first quarry.Slot
	_ = s.local(func(v meta.View) error {
		if slots := meta.Slots(v); len(slots) > 0 {
			first = slots[0].First
		}
		return nil
	})
	return first
}
