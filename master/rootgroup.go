package master

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/meta/root"
	"github.com/quarryfs/quarry/raft"
)

// rootGroup is the root group at this node: its state machine, and a copy in memory of what
// the shards need of its state, so that no data path waits for the group.
type rootGroup struct {
	master *Master
	known  atomic.Pointer[registry]
	added  chan struct{} // has a value: there may be a shard without a group here
	moving moving        // what the root group's leader knows of moves of slots

	mu        sync.Mutex
	confirmed map[quarry.ServerID]quarry.Incarnation // told to the log by this node
}

// registry is what the root group's state says, as this node has it. Never changed.
type registry struct {
	topology *quarry.TopologyReply
	shards   []root.Shard
	owners   [quarry.Slots]quarry.ShardID
	servers  map[quarry.ServerID]root.Server
	keys     quarry.Keys
	level    uint32 // that every master speaks
	moves    []root.Move
	sum      uint64 // of the masters' addresses; see quarry.SumMasters
	trashMS  int64  // how long removed files are kept; 0: as the masters were started
}

// Apply applies one command, and then looks at what has become of the state: it is small, and
// commands are rare.
func (g *rootGroup) Apply(kv raft.KV, _ uint64, command []byte) []byte {
	result := root.Apply(kv, command)
	g.learn(kv)
	return result
}

// Installed notes that the state was replaced.
func (g *rootGroup) Installed(kv raft.Reader) { g.learn(kv) }

// learn makes a new copy of what the state says.
func (g *rootGroup) learn(v meta.View) {
	t := root.Topology(v)
	if t.Cluster.IsZero() {
		return
	}
	r := &registry{topology: t, shards: root.Shards(v), servers: map[quarry.ServerID]root.Server{}, keys: root.Keys(v), level: root.Level(v), moves: root.Moves(v), trashMS: root.TrashMS(v)}
	for _, s := range root.Servers(v) {
		r.servers[s.Server] = s
	}
	addresses := make([]string, 0, len(t.Masters))
	for _, n := range t.Masters {
		addresses = append(addresses, n.Address)
	}
	r.sum = quarry.SumMasters(addresses)
	for _, shard := range t.Shards {
		for _, slots := range shard.Slots {
			for slot := int(slots.First); slot <= int(slots.Last) && slot < quarry.Slots; slot++ {
				r.owners[slot] = shard.Shard
			}
		}
	}
	g.known.Store(r)
	select {
	case g.added <- struct{}{}:
	default:
	}
	g.master.kickMovers()
}

// owner returns the shard that owns a slot.
func (g *rootGroup) owner(slot quarry.Slot) (quarry.ShardID, bool) {
	r := g.known.Load()
	if r == nil || slot >= quarry.Slots || r.owners[slot] == quarry.RootShard {
		return 0, false
	}
	return r.owners[slot], true
}

// keys returns the capability keys in force.
func (g *rootGroup) keys() quarry.Keys {
	if r := g.known.Load(); r != nil {
		return r.keys
	}
	return nil
}

// Lookup returns where a chunk server is; see chunks.Servers.
func (g *rootGroup) Lookup(id quarry.ServerID) (quarry.Member, bool) {
	r := g.known.Load()
	if r == nil {
		return quarry.Member{}, false
	}
	s, ok := r.servers[id]
	return quarry.Member{Server: id, Incarnation: s.Incarnation, Address: s.Address, Rack: s.Rack}, ok && !s.Forgotten
}

// List returns all servers that were not given up; see chunks.Servers.
func (g *rootGroup) List() []quarry.ServerID {
	r := g.known.Load()
	if r == nil {
		return nil
	}
	out := make([]quarry.ServerID, 0, len(r.servers))
	for id, s := range r.servers {
		if !s.Forgotten {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// Dial returns the server at a member's address; see chunks.Servers.
func (g *rootGroup) Dial(m quarry.Member) quarry.ChunkServer { return g.master.cfg.Servers(m) }

// leadership makes the cluster when this node leads the root group for the first time, and
// the group has no state; then it sees to the feature level, and to it that the shards are about
// equally full.
func (g *rootGroup) leadership(term uint64, leading bool) {
	if !leading {
		return
	}
	g.master.begin(func() {
		if g.make(g.master.ctx) {
			g.raiseLevel(g.master.ctx)
			g.balance(g.master.ctx, term)
		}
	})
}

// make makes the cluster unless it is made. It reports whether it is, as this node knows it.
func (g *rootGroup) make(ctx context.Context) bool {
	m := g.master
	o := m.originNow()
	for g.known.Load() == nil {
		if o == nil || o.Init == nil {
			return false
		}
		_, err := g.propose(ctx, &root.Init{Cluster: o.Init.Cluster, Masters: o.Init.Masters, Shards: o.Init.Shards, Key: o.Init.Key})
		if quarry.KindOf(err) == quarry.NotLeader {
			return false // left to the next leader
		}
		if err == nil {
			continue
		}
		m.cfg.Logger.Warn("the cluster could not be made", "error", err)
		if m.cfg.Clock.Sleep(ctx, officeRetry) != nil {
			return false
		}
	}
	return true
}

// propose has a command applied and returns its result.
func (g *rootGroup) propose(ctx context.Context, body root.Body) (*root.Result, error) {
	return g.proposeIn(ctx, 0, body)
}

// proposeIn is propose for who decides by what it has heard in a term of its leadership; 0: any.
func (g *rootGroup) proposeIn(ctx context.Context, term uint64, body root.Body) (*root.Result, error) {
	c := &root.Command{WallNS: g.master.cfg.Clock.Wall().UnixNano(), Body: body}
	command, err := c.Append(nil)
	if err != nil {
		return nil, err
	}
	encoded, err := g.master.host.ProposeIn(ctx, quarry.RootShard, term, command)
	if errors.Is(err, quarry.Unknown) {
		return nil, &quarry.Error{Op: "propose", Kind: quarry.Unavailable, Err: errors.New("the leader changed while the operation was under way; it can be sent again")}
	}
	if err != nil {
		return nil, err
	}
	result, err := root.DecodeResult(encoded)
	if err != nil {
		return nil, quarry.Errorf("propose", quarry.Internal, "", "the state machine's result cannot be read: %v", err)
	}
	return result, result.Err
}

// Register gives a chunk server's process its incarnation.
func (m *Master) Register(ctx context.Context, req *quarry.RegisterRequest) (*quarry.RegisterReply, error) {
	if !m.started.Load() {
		return nil, m.waiting("register")
	}
	body := &root.Register{Server: req.Server, Boot: req.Boot, Address: req.Address, Rack: req.Rack, Last: req.Last, Process: req.Process}
	for _, d := range req.Disks {
		body.Disks = append(body.Disks, d.Disk)
	}
	result, err := m.root.propose(ctx, body)
	if err != nil {
		return nil, quarry.Wrap("register", req.Address, err)
	}
	for _, d := range result.Absent {
		m.cfg.Logger.Warn("a chunk server came without a disk that it had", "server", uint64(result.Server), "disk", d)
	}
	return &quarry.RegisterReply{Server: result.Server, Incarnation: result.Incarnation, Keys: m.root.keys()}, nil
}

// confirm has the log note, once, that a process has taken its incarnation.
func (g *rootGroup) confirm(req *quarry.HeartbeatRequest) {
	r := g.known.Load()
	if r == nil {
		return
	}
	s, ok := r.servers[req.Server]
	g.mu.Lock()
	due := ok && s.Incarnation == req.Incarnation && s.Confirmed < req.Incarnation && g.confirmed[req.Server] < req.Incarnation
	if due {
		if g.confirmed == nil {
			g.confirmed = map[quarry.ServerID]quarry.Incarnation{}
		}
		g.confirmed[req.Server] = req.Incarnation
	}
	g.mu.Unlock()
	if !due {
		return
	}
	g.master.begin(func() {
		if _, err := g.propose(g.master.ctx, &root.Confirm{Server: req.Server, Incarnation: req.Incarnation}); err != nil {
			g.mu.Lock()
			delete(g.confirmed, req.Server) // the next heartbeat tries again
			g.mu.Unlock()
		}
	})
}
