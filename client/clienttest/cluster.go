package clienttest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc/route"
)

// Config says what a cluster is like; the zero value is right for most tests.
type Config struct {
	Clock   clock.Clock   // default clock.Simulated()
	Servers int           // chunk servers; default 4
	Copies  int           // of a chunk; default 3
	Delay   time.Duration // that each request to a chunk server takes
	Expiry  time.Duration // of sessions; default 1 min
	// Lease is how long a seal waits for a primary that does not answer. Default 2 s.
	Lease time.Duration
	// Reopen has a sealed tail opened again, if all of its replicas can, though its writer may
	// have given it up.
	Reopen bool
}

// Cluster is a cluster in memory. Safe for use by many goroutines.
type Cluster struct {
	config Config
	clock  clock.Clock
	id     quarry.ClusterID
	keys   quarry.Keys
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	servers []*Server

	mu       sync.Mutex
	inodes   map[quarry.Inode]*inode
	chunks   map[quarry.Handle]*chunk
	sessions map[quarry.SessionID]*session
	number   uint64 // last number given to an inode, handle or session
	turn     int    // whose turn it is to get a replica
	counts   map[string]int
	lose     map[string]int   // answers to lose, by operation
	fail     map[string]error // operations that fail
	reports  []quarry.ReportRequest
	down     bool

	owners     [quarry.Slots]quarry.ShardID
	mapVersion uint64
	trash      []removed // the last to be removed is the last
}

// masterAddress is where the one master listens.
const masterAddress = "master:7400"

// New starts a cluster. Close stops it.
func New(config Config) *Cluster {
	if config.Clock == nil {
		config.Clock = clock.Simulated()
	}
	if config.Servers == 0 {
		config.Servers = 4
	}
	if config.Copies == 0 {
		config.Copies = 3
	}
	if config.Expiry == 0 {
		config.Expiry = time.Minute
	}
	if config.Lease == 0 {
		config.Lease = 2 * time.Second
	}
	c := &Cluster{
		config: config, clock: config.Clock, id: quarry.ClusterID{1},
		keys:   quarry.Keys{{Number: 1, Secret: [32]byte{2}}},
		inodes: map[quarry.Inode]*inode{}, chunks: map[quarry.Handle]*chunk{}, sessions: map[quarry.SessionID]*session{},
		number: 1, counts: map[string]int{}, lose: map[string]int{}, fail: map[string]error{},
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	for s := range c.owners {
		c.owners[s] = quarry.ShardID(1 + 2*s/quarry.Slots)
	}
	c.mapVersion = 1
	c.inodes[quarry.RootInode] = newInode(quarry.RootInode, quarry.KindDir)
	for i := range config.Servers {
		c.servers = append(c.servers, newServer(c, quarry.ServerID(i+1)))
	}
	return c
}

// Close stops the cluster and waits for what it does in the background.
func (c *Cluster) Close() {
	c.cancel()
	c.work.Wait()
}

// Masters returns a router to the cluster's master, as real clients have.
func (c *Cluster) Masters() *route.Masters {
	m, err := route.New(route.Options{
		Addresses: []string{masterAddress}, Clock: c.clock,
		Dial: func(string) (quarry.Master, error) { return c.Master(), nil },
	})
	if err != nil {
		panic(err)
	}
	return m
}

// ChunkServer returns a member's server.
func (c *Cluster) ChunkServer(m quarry.Member) quarry.ChunkServer {
	return c.Server(m.Server)
}

// Client returns a client of the cluster, whose clock is the cluster's.
func (c *Cluster) Client(opts client.Options) *client.FS {
	opts.Clock = c.clock
	return client.New(c.Masters(), c.ChunkServer, opts)
}

// ID returns the cluster's identity.
func (c *Cluster) ID() quarry.ClusterID { return c.id }

// Clock returns the time that the cluster keeps.
func (c *Cluster) Clock() clock.Clock { return c.clock }

// Server returns a chunk server, 1 to Config.Servers.
func (c *Cluster) Server(id quarry.ServerID) *Server { return c.servers[id-1] }

// Servers returns all chunk servers.
func (c *Cluster) Servers() []*Server { return c.servers }

// LoseAnswers has the master carry out the next n calls of an operation, such as "make",
// and then fail them with Unavailable, as if the connection had been lost.
func (c *Cluster) LoseAnswers(op string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lose[op] = n
}

// Fail has the master refuse an operation with err until it is called with nil.
func (c *Cluster) Fail(op string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail[op] = err
}

// SetDown has the master be unreachable.
func (c *Cluster) SetDown(down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = down
}

// Count returns how often an operation was called at the master; "" counts all.
func (c *Cluster) Count(op string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if op != "" {
		return c.counts[op]
	}
	total := 0
	for _, n := range c.counts {
		total += n
	}
	return total
}

// Reports returns what the master was told of corrupt and silent replicas.
func (c *Cluster) Reports() []quarry.ReportRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]quarry.ReportRequest(nil), c.reports...)
}

// Sessions returns how many sessions are open.
func (c *Cluster) Sessions() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expire()
	return len(c.sessions)
}

// Unlinked returns how many chunks are kept for sessions that own them.
func (c *Cluster) Unlinked() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, k := range c.chunks {
		if k.owner != 0 && c.sessions[k.owner] != nil {
			n++
		}
	}
	return n
}

// LoseUnlinked loses every replica of the chunks that sessions own.
func (c *Cluster) LoseUnlinked() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.chunks {
		if k.owner != 0 {
			k.state = quarry.ChunkLost
		}
	}
}

// ExpireSessions ends all sessions, as if their clients had been away for too long.
func (c *Cluster) ExpireSessions() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.sessions)
	for _, k := range c.chunks {
		k.owner = 0
	}
}

// Tail returns the members of a file's open chunk, the primary first; nil if it has none.
func (c *Cluster) Tail(path string) []quarry.Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.walk(path)
	if n == nil || n.open() == nil {
		return nil
	}
	return n.open().members
}

// Chunks returns the chunks of a file in the order of its pieces.
func (c *Cluster) Chunks(path string) []quarry.Chunk {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []quarry.Chunk
	for _, p := range c.walk(path).pieces {
		if p.Kind == quarry.PieceChunk {
			out = append(out, c.tell(c.chunks[p.Handle]))
		}
	}
	return out
}

// Seal seals a file's open chunk, as the master does when a member is silent.
func (c *Cluster) Seal(path string) {
	c.mu.Lock()
	n := c.walk(path)
	open := n.open()
	c.mu.Unlock()
	if open != nil {
		if err := c.sealChunk(c.ctx, open); err != nil {
			panic(fmt.Sprintf("clienttest: seal: %v", err))
		}
	}
}

// background runs what does not belong to a request.
func (c *Cluster) background(f func()) {
	if c.ctx.Err() == nil {
		c.work.Go(f)
	}
}
