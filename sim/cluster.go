package sim

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/cluster"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/rpc/route"
	"github.com/quarryfs/quarry/sim/fleet"
)

// Sizes and times that are small, so that a short simulation sees what takes a real cluster
// days.
const (
	raftLogBytes = 32 << 10 // a master that was away for a while needs a snapshot
	cacheBytes   = 1 << 20
	journalBytes = 256 << 10 // checkpoints come often
	reserveBytes = 16 << 20
	deadAfter    = 8 * time.Second
	mergePieces  = 3
	sessionLife  = 9 * time.Second // clients are cut off for longer
	trashLife    = 10 * time.Second
)

// idleAfter are the times, chosen by the seed, after which nobody writes to a chunk any more:
// some in which chunks are sealed and opened again all the time, and one in which never.
var idleAfter = [...]time.Duration{700 * time.Millisecond, 2 * time.Second, 10 * time.Minute}

// Cluster is the servers of a simulation.
type Cluster struct {
	w       *World
	net     *Network
	key     []byte
	Masters []*Host // all machines that are masters at some time; see masters
	Servers []*Host
	admin   *Host
	shards  int // beside the root group

	connections *rpc.Client // the operator's
	operator    *route.Masters

	log   *Log
	watch *observer

	fleet *fleet.Fleet[*Host] // the masters among them, and those that may be some
}

// NewCluster makes the hosts of a cluster; Start starts it.
func NewCluster(w *World, masters, servers int, log *Log) *Cluster {
	c := &Cluster{w: w, net: newNetwork(w, log), key: []byte("the key of a simulated cluster"), log: log}
	c.shards = 1 + int(w.seed/3%4)
	c.net.SetAll(Link{Delay: 50 * time.Microsecond, Jitter: 300 * time.Microsecond})
	c.watch = newObserver(log)
	c.watch.host = c.net.host
	for i := range masters + spareMachines {
		h := c.host(fmt.Sprintf("m%d", i+1), 1+i)
		h.state = vfs.NewCrashableMem()
		h.run = func(ctx context.Context, p *process) (closer, error) { return c.startMaster(p) }
		c.Masters = append(c.Masters, h)
	}
	for i := range servers {
		h := c.host(fmt.Sprintf("s%d", i+1), 101+i)
		h.run = func(ctx context.Context, p *process) (closer, error) { return c.startServer(ctx, p) }
		c.Servers = append(c.Servers, h)
	}
	c.fleet = fleet.New(c.Masters, masters, w.Now())
	c.watch.masters, c.watch.shards = c.Masters, c.shards
	c.admin = c.host("admin", 201)
	return c
}

func (c *Cluster) host(name string, number int) *Host {
	h := newHost(c.net, name, number)
	h.log = slog.New(c.log.handler(h))
	h.disk.Set(healthyDisk)
	return h
}

func (c *Cluster) common(p *process, port string) cluster.Common {
	h := p.host
	return cluster.Common{
		Listen: h.name + ":" + port, Key: c.key, Logger: h.log, Clock: h.clock, Network: c.net.of(h, p), Boot: h.boot(),
		Folder: func(string) (disk.FS, error) { return h.disk.open(p) },
	}
}

func (c *Cluster) startMaster(p *process) (closer, error) {
	h := p.host
	h.mu.Lock()
	state := h.state
	h.mu.Unlock()
	return cluster.StartMaster(cluster.MasterOptions{
		Common: c.common(p, "7400"), Dir: "/", State: state, LogBytes: raftLogBytes, CacheBytes: cacheBytes, MergePieces: mergePieces,
		DeadAfter: deadAfter, SessionExpiry: sessionLife, TrashKeep: trashLife, Observe: c.watch.master(p),
	})
}

func (c *Cluster) startServer(ctx context.Context, p *process) (closer, error) {
	return cluster.StartChunkServer(ctx, cluster.ChunkServerOptions{
		Common: c.common(p, "7500"), Dirs: []string{"/"}, Masters: c.addresses(), Rack: "rack-" + p.host.name,
		ReserveBytes: reserveBytes, JournalBytes: journalBytes, Observe: c.watch.server(p),
		IdleAfter: idleAfter[c.w.seed%uint64(len(idleAfter))], FilesMax: 256, // whatever the machine allows
	})
}

// Start starts all servers and makes them a cluster.
func (c *Cluster) Start(ctx context.Context) error {
	for _, h := range c.masters() {
		h.Start()
	}
	c.connections = rpc.NewClient(rpc.ClientConfig{
		Network: c.net.of(c.admin, &process{host: c.admin}), Clock: c.admin.clock, Key: c.key, Logger: c.admin.log,
		Identity: func() rpc.Identity { return rpc.Identity{Role: rpc.RoleClient} },
	})
	var err error
	c.operator, err = route.New(route.Options{
		Addresses: c.addresses(), Clock: c.admin.clock,
		Dial: func(address string) (quarry.Master, error) { return c.connections.Master(address), nil },
	})
	if err != nil {
		return err
	}
	if _, err := cluster.Init(ctx, c.connections, c.admin.clock, c.addresses(), c.shards); err != nil {
		return err
	}
	for _, h := range c.Servers {
		h.Start()
	}
	return nil
}

// Hosts returns the masters and the chunk servers.
func (c *Cluster) Hosts() []*Host { return append(c.masters(), c.Servers...) }

// Close ends everything at once, and returns when nothing runs any more.
func (c *Cluster) Close() {
	_ = c.operator.Close()
	_ = c.connections.Close()
	all := slices.Concat(c.Masters, c.Servers, []*Host{c.admin})
	for _, h := range all {
		h.Kill()
	}
	for _, h := range all {
		h.work.Wait()
	}
}

// ailing tells what the cluster lacks, "" if nothing.
func (c *Cluster) ailing(ctx context.Context) string {
	st, err := c.operator.Status(ctx)
	if err != nil {
		return err.Error()
	}
	for _, s := range st.Shards {
		if s.Missing > 0 || s.UnderCopied > 0 || s.Repairing > 0 {
			return fmt.Sprintf("of shard %d %d chunks are missing, %d have too few replicas, %d are under repair", s.Shard, s.Missing, s.UnderCopied, s.Repairing)
		}
	}
	alive := 0
	for _, s := range st.Servers {
		if s.SilentMS < 0 || s.SilentMS > 1500 {
			continue // a server that came back under another id is listed twice
		}
		for _, d := range s.Disks {
			if d.Failed != "" {
				return fmt.Sprintf("the disk of server %d has failed", s.Server)
			}
		}
		alive++
	}
	if alive < len(c.Servers) {
		return fmt.Sprintf("%d of %d servers are heard of", alive, len(c.Servers))
	}
	return ""
}

// moveLeadership asks for a master to lead a group.
func (c *Cluster) moveLeadership(shard quarry.ShardID, to *Host) {
	ctx, cancel := c.admin.clock.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	err := c.operator.Transfer(ctx, &quarry.TransferRequest{Shard: shard, To: c.fleet.Number(to)})
	c.log.Printf("sim  leadership of group %d to %s: %v", shard, to.name, err)
}
