package raft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/disk"
)

// testCluster is a cluster in a synctest bubble.
type testCluster struct {
	t      *testing.T
	rng    *rand.Rand
	groups []quarry.ShardID
	nodes  map[quarry.NodeID]*testNode
	net    *testNet
	config func(*Config)
	slow   bool // syncs of logs sometimes take long
}

type testNode struct {
	c     *testCluster
	id    quarry.NodeID
	log   *disk.Mem
	state *vfs.MemFS
	sync  func() error // called before each sync of the log
	host  *Host

	stopped *Host // of a test that wants it out of the way
}

var testClusterID = quarry.ClusterID{1}

// journalFS is the disk of a node's log: syncs take time, and may fail.
func (n *testNode) journalFS() disk.FS {
	return disk.NewFaulty(n.log, func(op disk.Op) disk.Fault {
		if op.Kind == disk.OpSync {
			d := 300 * time.Microsecond
			if n.c.slow && rand.IntN(4) == 0 {
				d = 20 * time.Millisecond
			}
			_ = clock.Simulated().Sleep(context.Background(), d)
			if n.sync != nil {
				return disk.Fault{Err: n.sync()}
			}
		}
		return disk.Fault{}
	})
}

func testLogger(t *testing.T) *slog.Logger {
	level := slog.LevelError
	if os.Getenv("RAFT_LOG") != "" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: level}))
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	_, _ = os.Stderr.Write(b)
	return len(b), nil
}

// inBubble runs a test over a cluster of n nodes with the given number of groups.
func inBubble(t *testing.T, n, groups int, config func(*Config), test func(t *testing.T, c *testCluster)) {
	synctest.Test(t, func(t *testing.T) {
		c := &testCluster{t: t, rng: rand.New(rand.NewPCG(1, 2)), nodes: map[quarry.NodeID]*testNode{}, config: config}
		c.net = newTestNet(t)
		for g := range groups {
			c.groups = append(c.groups, quarry.ShardID(g))
		}
		for i := 1; i <= n; i++ {
			c.addNode(quarry.NodeID(i))
		}
		var voters []Member
		for _, n := range c.nodes {
			voters = append(voters, n.host.Self())
		}
		for _, n := range c.nodes {
			for _, g := range c.groups {
				if err := n.host.Bootstrap(g, voters, &listMachine{}); err != nil {
					t.Fatal(err)
				}
			}
		}
		defer func() {
			for _, n := range c.nodes {
				n.stop()
			}
			c.net.close()
		}()
		test(t, c)
	})
}

// addNode starts a node with empty disks.
func (c *testCluster) addNode(id quarry.NodeID) *testNode {
	n := &testNode{c: c, id: id, log: disk.NewMem(), state: vfs.NewCrashableMem()}
	c.nodes[id] = n
	if err := n.open(); err != nil {
		c.t.Fatal(err)
	}
	return n
}

func (n *testNode) open() error {
	cfg := Config{
		Node: n.id, Cluster: testClusterID, Address: fmt.Sprintf("node%d:7400", n.id),
		Log: n.journalFS(), State: n.state, StateDir: "state",
		Clock: clock.Simulated(), Transport: n.c.net.transport(n.id), Logger: testLogger(n.c.t),
	}
	if n.c.config != nil {
		n.c.config(&cfg)
	}
	h, err := Open(cfg)
	if err != nil {
		return err
	}
	n.host = h
	n.c.net.attach(n.id, h)
	return nil
}

// start opens the node again, with its groups.
func (n *testNode) start() {
	n.c.t.Helper()
	if err := n.open(); err != nil {
		n.c.t.Fatal(err)
	}
	for _, g := range n.host.Groups() {
		if err := n.host.AddGroup(g, &listMachine{}); err != nil {
			n.c.t.Fatal(err)
		}
	}
}

// stop closes the node without a word to the others.
func (n *testNode) stop() {
	n.c.net.detach(n.id)
	if n.host != nil {
		_ = n.host.Close()
		n.host = nil
	}
}

// crash kills the node as a loss of power does.
func (n *testNode) crash() {
	n.c.net.detach(n.id) // nobody hears of what happens from here on
	log := n.log.Crash(n.c.rng)
	state := n.state.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: n.c.rng.IntN(101), RNG: n.c.rng})
	n.stop()
	n.log, n.state = log, state
}

// leader waits until a node leads the group and all live nodes know it.
func (c *testCluster) leader(g quarry.ShardID) *testNode {
	c.t.Helper()
	for range 2400 {
		var leader *testNode
		agreed, live := 0, 0
		for _, n := range c.nodes {
			if n.host == nil || c.net.cut(n.id) {
				continue
			}
			live++
			st, err := n.host.Status(g)
			if err == nil && st.Leader != 0 && (leader == nil || st.Leader == leader.id) {
				agreed++
				leader = c.nodes[st.Leader]
			}
		}
		if agreed == live && leader != nil && leader.host != nil && !c.net.cut(leader.id) {
			return leader
		}
		c.sleep(25 * time.Millisecond)
	}
	c.t.Fatalf("group %d has no leader", g)
	return nil
}

func (c *testCluster) sleep(d time.Duration) { _ = clock.Simulated().Sleep(context.Background(), d) }

// other returns a live node that does not lead the group.
func (c *testCluster) other(g quarry.ShardID) *testNode {
	leader := c.leader(g)
	for i := quarry.NodeID(1); ; i++ {
		if n := c.nodes[i]; n != nil && n != leader && n.host != nil {
			return n
		}
	}
}

// put adds an element to the group's list through whoever leads; it is sure of the outcome.
func (c *testCluster) put(g quarry.ShardID, element string) {
	c.t.Helper()
	for range 100 {
		leader := c.leader(g)
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		_, err := leader.host.Propose(ctx, g, []byte(element))
		cancel()
		if err == nil {
			return
		}
		if !errors.Is(err, quarry.NotLeader) && !errors.Is(err, quarry.Busy) {
			c.t.Fatalf("put %s: %v", element, err)
		}
		c.sleep(10 * time.Millisecond)
	}
	c.t.Fatalf("put %s: no leader takes it", element)
}

// list waits until all members of the group have applied all that is committed, and returns
// it. That they agree is not enough: after a restart they may agree on an old state.
func (c *testCluster) list(g quarry.ShardID) []string {
	c.t.Helper()
	var first []string
	told := "no leader confirms that it leads"
	for range 400 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		same := c.leader(g).host.ReadIndex(ctx, g) == nil
		cancel()
		var lists []string
		var applied uint64
		for _, n := range c.nodes {
			if n.host == nil {
				continue
			}
			st, err := n.host.Status(g)
			if err != nil {
				continue
			}
			l := n.list(g)
			if len(lists) == 0 {
				first, applied = l, st.Applied
			}
			lists = append(lists, fmt.Sprintf("node %d (applied %d): %v", n.id, st.Applied, clip(l)))
			same = same && slices.Equal(first, l) && st.Applied == applied
		}
		if same {
			return first
		}
		told = strings.Join(lists, "\n")
		c.sleep(25 * time.Millisecond)
	}
	c.t.Fatalf("group %d: the members do not agree:\n%s", g, told)
	return nil
}

func clip(l []string) []string { return l[max(0, len(l)-5):] }

func (n *testNode) list(g quarry.ShardID) (l []string) {
	n.c.t.Helper()
	err := n.host.View(g, func(kv Reader) error {
		l = readList(kv)
		return nil
	})
	if err != nil {
		n.c.t.Fatal(err)
	}
	return l
}

// listMachine is a state machine that keeps a list: each command is appended to it, and the
// result is its place. It shows lost, repeated and reordered commands.
type listMachine struct{}

var listLength = []byte("length")

func listKey(i uint64) []byte { return binary.BigEndian.AppendUint64([]byte("e"), i) }

func (m *listMachine) Apply(kv KV, index uint64, command []byte) []byte {
	n := uint64(0)
	if v, ok := kv.Get(listLength); ok {
		n = binary.BigEndian.Uint64(v)
	}
	kv.Set(listKey(n), command)
	n++
	v := binary.BigEndian.AppendUint64(nil, n)
	kv.Set(listLength, v)
	return v
}

func readList(kv Reader) (l []string) {
	kv.Scan([]byte("e"), []byte("f"), func(_, v []byte) bool {
		l = append(l, string(v))
		return true
	})
	if n, ok := kv.Get(listLength); ok && binary.BigEndian.Uint64(n) != uint64(len(l)) {
		panic(fmt.Sprintf("the list has %d elements and says %d", len(l), binary.BigEndian.Uint64(n)))
	}
	return l
}

// testNet carries batches between hosts: with a delay, in order, unless a link is cut.
type testNet struct {
	t      *testing.T
	mu     sync.Mutex
	hosts  map[quarry.NodeID]*Host
	lonely map[quarry.NodeID]bool // cut off from all others
	links  map[[2]quarry.NodeID]*testLink
	loss   float64
	rng    *rand.Rand
	wg     sync.WaitGroup
	done   chan struct{}
	// mute is a group whose messages are all lost.
	mute map[groupID]bool
	// body, if set, wraps a snapshot on its way.
	body func(io.Reader) io.Reader
	// refused are errors of Deliver.
	refused []error
	sent    atomic.Int64 // batches
}

type testLink struct{ queue chan []byte }

func newTestNet(t *testing.T) *testNet {
	return &testNet{
		t: t, hosts: map[quarry.NodeID]*Host{}, lonely: map[quarry.NodeID]bool{}, rng: rand.New(rand.NewPCG(3, 4)),
		links: map[[2]quarry.NodeID]*testLink{}, done: make(chan struct{}),
	}
}

func (n *testNet) attach(id quarry.NodeID, h *Host) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[id] = h
}

func (n *testNet) detach(id quarry.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.hosts, id)
}

// isolate cuts a node off from the others, or joins it to them again.
func (n *testNet) isolate(id quarry.NodeID, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lonely[id] = cut
}

func (n *testNet) cut(id quarry.NodeID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lonely[id]
}

func (n *testNet) close() {
	close(n.done)
	n.wg.Wait()
}

// receiver returns the host that gets what from sends to to, nil if nobody does.
func (n *testNet) receiver(from, to quarry.NodeID) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lonely[from] || n.lonely[to] || n.hosts[from] == nil {
		return nil
	}
	return n.hosts[to]
}

// muted returns the batch without the messages of groups that are mute.
func (n *testNet) muted(batch []byte) []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.mute) == 0 {
		return batch
	}
	e, rest, err := openBatch(batch)
	out := appendEnvelope(nil, &e)
	for err == nil && len(rest) > 0 {
		var body []byte
		before := rest
		if body, rest, err = nextMessage(rest); err == nil {
			if id, _, _ := decodeMessage(body, e.from.Node, e.to); !n.mute[id] {
				out = append(out, before[:len(before)-len(rest)]...)
			}
		}
	}
	sealBatch(out)
	return out
}

type testTransport struct {
	net  *testNet
	from quarry.NodeID
}

func (n *testNet) transport(from quarry.NodeID) Transport { return &testTransport{n, from} }

func (t *testTransport) Send(ctx context.Context, to Member, batch []byte) error {
	n := t.net
	n.sent.Add(1)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.loss > 0 && n.rng.Float64() < n.loss {
		return nil
	}
	key := [2]quarry.NodeID{t.from, to.Node}
	l := n.links[key]
	if l == nil {
		l = &testLink{queue: make(chan []byte, 4096)}
		n.links[key] = l
		n.wg.Add(1)
		go n.run(l, key)
	}
	select {
	case l.queue <- batch:
	default:
	}
	return nil
}

func (n *testNet) run(l *testLink, key [2]quarry.NodeID) {
	defer n.wg.Done()
	for {
		select {
		case <-n.done:
			return
		case batch := <-l.queue:
			n.mu.Lock()
			delay := time.Duration(50+n.rng.IntN(200)) * time.Microsecond
			n.mu.Unlock()
			_ = clock.Simulated().Sleep(context.Background(), delay)
			if h := n.receiver(key[0], key[1]); h != nil {
				if err := h.Deliver(n.muted(batch)); err != nil {
					n.mu.Lock()
					n.refused = append(n.refused, err)
					n.mu.Unlock()
				}
			}
		}
	}
}

func (t *testTransport) SendSnapshot(ctx context.Context, to Member, body io.Reader) error {
	h := t.net.receiver(t.from, to.Node)
	if h == nil {
		return quarry.Errorf("test", quarry.Unavailable, "", "no connection")
	}
	if t.net.body != nil {
		body = t.net.body(body)
	}
	return h.ReceiveSnapshot(ctx, body)
}
