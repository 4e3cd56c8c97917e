package master

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/rpc"
)

// testCluster is the masters of a cluster in a synctest bubble: real groups, on disks and a
// network in memory.
type testCluster struct {
	t     *testing.T
	net   *rpc.Memory
	nodes []*testNode // node 1 first
}

type testNode struct {
	c       *testCluster
	address string
	folder  *disk.Mem
	disrupt disk.Policy // of the folder; may be nil
	state   *vfs.MemFS
	level   atomic.Uint32                 // the feature level that it tells others
	joining atomic.Pointer[chan struct{}] // if it is set, it answers Join only when this is closed

	// snapshot, if it is set when the node starts, stands before streams.take.
	snapshot func(ctx context.Context, req *rpc.Raw) (*rpc.Raw, error)

	*Master                        // nil while it is stopped
	present atomic.Pointer[Master] // the same, for those who ask while it is stopped or started
	client  *rpc.Client
	server  *rpc.Server
	serving chan struct{}
}

// older is a master that tells others of another feature level, and may be slow to join.
type older struct {
	*Master
	node *testNode
}

func (o older) Join(ctx context.Context, req *quarry.JoinRequest) error {
	if wait := o.node.joining.Load(); wait != nil {
		<-*wait
	}
	return o.Master.Join(ctx, req)
}

func (o older) Identify(ctx context.Context) (*quarry.IdentifyReply, error) {
	id, err := o.Master.Identify(ctx)
	id.Level = o.node.level.Load()
	return id, err
}

const (
	testShards   = 2
	testLogBytes = 64 << 10 // who misses a little gets a snapshot
	testExpiry   = 8 * time.Second
)

// inBubble runs a test with a cluster of n masters and two shards, all of whose groups have
// leaders.
func inBubble(t *testing.T, n int, test func(t *testing.T, c *testCluster)) {
	t.Helper()
	synctestCluster(t, n, func(t *testing.T, c *testCluster) {
		c.init()
		test(t, c)
	})
}

// synctestCluster runs a test with n masters that wait.
func synctestCluster(t *testing.T, n int, test func(t *testing.T, c *testCluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &testCluster{t: t, net: rpc.NewMemory()}
		defer func() {
			for _, n := range c.nodes {
				n.stop()
			}
		}()
		for range n {
			c.add()
		}
		test(t, c)
	})
}

// add starts a master with empty disks, which waits.
func (c *testCluster) add() *testNode {
	n := &testNode{c: c, address: fmt.Sprintf("m%d:1", len(c.nodes)+1), folder: disk.NewMem(), state: vfs.NewMem()}
	n.level.Store(quarry.FeatureLevel)
	c.nodes = append(c.nodes, n)
	n.start()
	return n
}

// fault is what becomes of an operation on the folder.
func (n *testNode) fault(op disk.Op) disk.Fault {
	if n.disrupt == nil {
		return disk.Fault{}
	}
	return n.disrupt(op)
}

// init makes the nodes a cluster.
func (c *testCluster) init() {
	c.t.Helper()
	req := &quarry.InitRequest{Cluster: quarry.ClusterID{1}, Shards: testShards, Key: quarry.Key{Number: 1, Secret: [32]byte{9}}}
	for i, n := range c.nodes {
		req.Masters = append(req.Masters, quarry.MasterNode{Node: quarry.NodeID(i + 1), Disk: n.disk, Address: n.address})
	}
	for _, n := range c.nodes {
		if err := n.Init(c.t.Context(), req); err != nil {
			c.t.Fatal(err)
		}
	}
	for id := range quarry.ShardID(testShards + 1) {
		c.leader(id)
	}
}

func (n *testNode) start() {
	n.c.t.Helper()
	var m *Master
	opened := make(chan struct{})
	self := func() rpc.Identity {
		<-opened
		if m == nil {
			return rpc.Identity{Role: rpc.RoleMaster}
		}
		return m.Identity()
	}
	n.client = rpc.NewClient(rpc.ClientConfig{Network: n.c.net, Clock: clock.Simulated(), Identity: self})
	client := n.client
	m, err := Open(Config{
		Folder: disk.NewFaulty(n.folder, n.fault), StateFS: n.state, StateDir: "state", Address: n.address, Client: client,
		Servers: func(to quarry.Member) quarry.ChunkServer { return client.ChunkServer(to.Address) },
		Clock:   clock.Simulated(), Logger: slog.New(slog.DiscardHandler), LogBytes: testLogBytes, CacheBytes: 1 << 20, SessionExpiry: testExpiry,
	})
	close(opened)
	if err != nil {
		n.c.t.Fatal(err)
	}
	n.Master = m
	n.present.Store(m)
	n.server = rpc.NewServer(rpc.ServerConfig{Clock: clock.Simulated(), Identity: self})
	if n.snapshot == nil {
		m.Serve(n.server, older{m, n})
	} else {
		rpc.ServeMaster(n.server, older{m, n})
		n.server.HandleMessages(opRaft, func(_ context.Context, msg *rpc.Raw) { _ = m.host.Deliver(msg.Payload) })
		n.server.HandleRaw(opSnapshot, n.snapshot)
	}
	l, err := n.c.net.Listen(n.address)
	if err != nil {
		n.c.t.Fatal(err)
	}
	n.serving = make(chan struct{})
	go func(server *rpc.Server, done chan struct{}) {
		defer close(done)
		_ = server.Serve(l)
	}(n.server, n.serving)
}

// stop ends the node without a word to the others.
func (n *testNode) stop() {
	if n.Master == nil {
		return
	}
	_ = n.server.Close()
	<-n.serving
	hurry, cancel := context.WithCancel(context.Background())
	cancel()
	_ = n.Close(hurry)
	_ = n.client.Close()
	n.Master = nil
	n.present.Store(nil)
}

// leads reports whether the node is in office for a group.
func (n *testNode) leads(id quarry.ShardID) bool { return n.Master != nil && leads(n.Master, id) }

// leads reports whether a master is in office for a group.
func leads(m *Master, id quarry.ShardID) bool {
	if !m.started.Load() || m.root.known.Load() == nil {
		return false
	}
	if st, err := m.host.Status(id); err != nil || !st.Leading {
		return false
	}
	return id == quarry.RootShard || m.group(id) != nil && m.group(id).lead.Load() != nil
}

// leader waits until a node is in office for a group, and all voters that run know it.
func (c *testCluster) leader(id quarry.ShardID) *testNode {
	c.t.Helper()
	var leader *testNode
	c.until(fmt.Sprintf("group %d has no leader", id), func() bool {
		leader = nil
		for _, n := range c.nodes {
			if n.leads(id) {
				leader = n
			}
		}
		if leader == nil {
			return false
		}
		st, err := leader.host.Status(id)
		if err != nil {
			return false
		}
		for _, n := range c.nodes {
			if n.Master == nil || !n.started.Load() || !slices.Contains(st.Voters, n.node) {
				continue
			}
			if to, _ := n.leaderOf(id); to != leader.node || n.root.known.Load() == nil {
				return false
			}
		}
		return true
	})
	return leader
}

// follower returns a node that runs and does not lead the group.
func (c *testCluster) follower(id quarry.ShardID) *testNode {
	c.t.Helper()
	leader := c.leader(id)
	for _, n := range c.nodes {
		if n != leader && n.Master != nil && n.started.Load() {
			return n
		}
	}
	c.t.Fatalf("group %d has no follower", id)
	return nil
}

// until waits for at most a minute.
func (c *testCluster) until(what string, done func() bool) {
	c.t.Helper()
	for range 6000 {
		if done() {
			return
		}
		c.sleep(10 * time.Millisecond)
	}
	c.t.Fatal(what)
}

func (c *testCluster) sleep(d time.Duration) { _ = clock.Simulated().Sleep(context.Background(), d) }

// session opens a session at a shard.
func (c *testCluster) session(id quarry.ShardID) quarry.SessionID {
	c.t.Helper()
	reply, err := c.leader(id).Session(c.t.Context(), &quarry.SessionRequest{Shard: id})
	if err != nil {
		c.t.Fatal(err)
	}
	return reply.Session
}

// pointsAt fails the test unless err sends the caller to a node.
func pointsAt(t *testing.T, what string, err error, leader *testNode) {
	t.Helper()
	var to *quarry.NotLeaderError
	if quarry.KindOf(err) != quarry.NotLeader || !errors.As(err, &to) || to.Leader != leader.node || to.Address != leader.address {
		t.Errorf("%s: %v does not point at node %d", what, err, leader.node)
	}
}
