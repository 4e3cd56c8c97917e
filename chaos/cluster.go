package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/cluster"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/rpc/route"
)

const (
	// startTime is how long a new cluster may take to be whole.
	startTime = time.Minute
	lookEvery = 50 * time.Millisecond
	// askTime bounds one question to a master.
	askTime = 2 * time.Second
	// copiesWanted is how many replicas of a chunk the masters want.
	copiesWanted = 3
	// silentMS is how long a chunk server may be silent in a cluster that is whole.
	silentMS = 2000
)

// ClusterConfig says what cluster is started. Program, Dir, Network and Clock must be set.
type ClusterConfig struct {
	// Program is the quarry binary that the processes run.
	Program string
	// Dir is the folder of everything: a folder and a log for each process.
	Dir string
	// Network is where the processes meet. It is not closed by the cluster.
	Network Network
	Clock   clock.Clock
	// Key is the cluster's key; nil: it has none, and all addresses are loopback.
	Key []byte
	// Masters and Servers are how many there are. Default: 3 and 4; less than 0 servers: none.
	Masters, Servers int
	// Shards is how many there are beside the root group. Default: cluster.DefaultShards.
	Shards int
	// MasterArgs and ServerArgs are further arguments of the processes.
	MasterArgs, ServerArgs []string
	// Died is told of a process that ends by itself, by a goroutine of its own; nil: nobody is.
	Died func(p *Process, how string)
}

// Cluster is a cluster of real processes on this machine. Safe for use by many goroutines.
type Cluster struct {
	Masters, Servers []*Process

	cfg     ClusterConfig
	conns   *rpc.Client
	routed  *route.Masters
	mu      sync.Mutex
	clients []string // nodes
}

// StartCluster starts a cluster on an empty folder and returns when it is whole. Its processes
// end with this one, or with Close.
func StartCluster(ctx context.Context, cfg ClusterConfig) (*Cluster, error) {
	if cfg.Masters == 0 {
		cfg.Masters = 3
	}
	if cfg.Servers == 0 {
		cfg.Servers = 4
	}
	cfg.Servers = max(cfg.Servers, 0)
	if cfg.Shards == 0 {
		cfg.Shards = cluster.DefaultShards
	}
	c := &Cluster{cfg: cfg, conns: rpc.NewClient(rpc.ClientConfig{
		Network: rpc.TCP, Clock: cfg.Clock, Key: cfg.Key,
		Identity: func() rpc.Identity { return rpc.Identity{Role: rpc.RoleClient, Release: cluster.Release} },
	})}
	ctx, cancel := cfg.Clock.WithTimeout(ctx, startTime)
	defer cancel()
	if err := c.start(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	var listen []string
	var err error
	keyed := []string{"--tls-cert", "", "--tls-key", "", "--tls-ca", ""} // whatever the environment names
	if c.cfg.Key != nil {
		name := filepath.Join(c.cfg.Dir, "cluster.key")
		if err := os.WriteFile(name, c.cfg.Key, 0o600); err != nil {
			return quarry.Errorf("start", quarry.Internal, name, "%w", err)
		}
		keyed = append(keyed, "--key-file", name)
	}
	prepare := func(role Role, n int, args ...string) (*Process, error) {
		name := fmt.Sprintf("%s-%d", role, n)
		at, address, err := c.cfg.Network.Add(name)
		if err != nil {
			return nil, err
		}
		dir := filepath.Join(c.cfg.Dir, name)
		listen = append(listen, at)
		args = append(append(args, "--dir", dir, "--listen", at, "--advertise", address), keyed...)
		return &Process{
			Name: name, Role: role, Address: address, Dir: dir, args: args, clk: c.cfg.Clock, died: c.cfg.Died, log: dir + ".log",
			command: func(args []string) *exec.Cmd { return c.cfg.Network.Command(name, c.cfg.Program, args...) },
		}, nil
	}
	for i := range c.cfg.Masters {
		p, err := prepare(RoleMaster, i+1, append([]string{"master"}, c.cfg.MasterArgs...)...)
		if err != nil {
			return err
		}
		c.Masters = append(c.Masters, p)
		if err := p.Start(); err != nil {
			return err
		}
	}
	if _, err := cluster.Init(ctx, c.conns, c.cfg.Clock, c.Addresses(), c.cfg.Shards); err != nil {
		return err
	}
	for i := range c.cfg.Servers {
		args := []string{"chunkserver", "--masters", strings.Join(c.Addresses(), ","), "--rack", fmt.Sprintf("rack-%d", i+1), "--idle-seal", idleSeal}
		p, err := prepare(RoleServer, i+1, append(args, c.cfg.ServerArgs...)...)
		if err != nil {
			return err
		}
		c.Servers = append(c.Servers, p)
		if err := p.Start(); err != nil {
			return err
		}
	}
	c.routed, err = route.New(route.Options{
		Addresses: c.Addresses(), Clock: c.cfg.Clock, Patience: askTime,
		Dial: func(a string) (quarry.Master, error) { return c.conns.Master(a), nil },
	})
	if err != nil {
		return err
	}
	return c.Whole(ctx)
}

// idleSeal is a time that passes often between two appends to a file, so that chunks are sealed
// and opened again while faults are done.
const idleSeal = "300ms"

// Addresses returns the addresses of the masters that clients are told.
func (c *Cluster) Addresses() (out []string) {
	for _, m := range c.Masters {
		out = append(out, m.Address)
	}
	return out
}

// Client returns a client that is a node of its own, of the given name. opts.Network is set.
func (c *Cluster) Client(ctx context.Context, name string, opts client.Options) (*client.FS, error) {
	var err error
	if opts.Network, err = c.cfg.Network.Client(name); err != nil {
		return nil, err
	}
	opts.Clock, opts.Key = c.cfg.Clock, c.cfg.Key
	opts.Hosts = []string{} // no replica is nearer than another one
	f, err := client.Open(ctx, c.Addresses(), opts)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clients = append(c.clients, name)
	return f, nil
}

// Clients returns the nodes of the clients.
func (c *Cluster) Clients() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.clients)
}

// Routed returns the masters as operators ask them: each call goes to the leader that it concerns.
func (c *Cluster) Routed() quarry.Master { return c.routed }

// processes returns all processes, masters first.
func (c *Cluster) processes() []*Process {
	return slices.Concat(c.Masters, c.Servers)
}

// Status asks the leaders of all groups how the cluster is. The reply is of the leader of the
// first shard, who hears from every chunk server.
func (c *Cluster) Status(ctx context.Context) (*quarry.StatusReply, error) {
	var last error = errors.New("no master leads the first shard")
	var first *quarry.StatusReply
	var all []*quarry.StatusReply
	for _, m := range c.Masters {
		if !m.Running() {
			continue
		}
		ask, cancel := c.cfg.Clock.WithTimeout(ctx, askTime)
		st, err := c.conns.Master(m.Address).Status(ask)
		cancel()
		if err != nil {
			last = err
			continue
		}
		all = append(all, st)
		for _, s := range st.Shards {
			if s.Shard == 1 && s.Leader == st.Node {
				first = st
			}
		}
	}
	if first == nil {
		return nil, quarry.Errorf("status", quarry.Unavailable, "", "the leader of the first shard does not tell: %w", last)
	}
	for _, st := range all {
		route.Better(first.Shards, st)
	}
	return first, nil
}

// Whole waits until nothing is missing: every process is heard from, every group has a leader,
// and every chunk has all its replicas. When ctx ends first, the error tells what is missing.
func (c *Cluster) Whole(ctx context.Context) error { return c.await(ctx, true) }

// Calm waits like Whole, but not for chunks that are being copied to have all their replicas: of
// some there is always one while clients work.
func (c *Cluster) Calm(ctx context.Context) error { return c.await(ctx, false) }

func (c *Cluster) await(ctx context.Context, whole bool) error {
	for {
		st, err := c.Status(ctx)
		if err == nil {
			err = c.missing(st, whole)
		}
		if err == nil {
			return nil
		}
		if e := c.cfg.Clock.Sleep(ctx, lookEvery); e != nil {
			return quarry.Errorf("wait", quarry.Unavailable, "", "the cluster is not whole: %w", err)
		}
	}
}

// missing tells what a cluster lacks. A chunk server that has lost its folder has come back as
// another one; nothing is expected of the one that it was.
func (c *Cluster) missing(st *quarry.StatusReply, whole bool) error {
	if len(c.Servers) < copiesWanted {
		whole = false // no chunk can ever have all its replicas
	}
	var wrong []string
	for _, m := range st.Masters {
		if !m.Alive {
			wrong = append(wrong, fmt.Sprintf("master %d is silent", m.Node))
		}
	}
	for _, s := range st.Shards {
		if s.Leader == 0 || s.Missing > 0 || whole && s.UnderCopied > 0 {
			wrong = append(wrong, fmt.Sprintf("shard %d: leader %d, %d chunks without a replica, %d with too few", s.Shard, s.Leader, s.Missing, s.UnderCopied))
		}
	}
	for _, p := range c.Servers {
		heard := false
		for _, s := range st.Servers {
			heard = heard || s.Address == p.Address && s.SilentMS >= 0 && s.SilentMS < silentMS && len(s.Disks) > 0 && s.Disks[0].Failed == ""
		}
		if !heard {
			wrong = append(wrong, p.Name+" is silent, or its disk has failed")
		}
	}
	if wrong == nil {
		return nil
	}
	return errors.New(strings.Join(wrong, "; "))
}

// Leader returns the process that leads the first shard, or nil.
func (c *Cluster) Leader(ctx context.Context) *Process {
	st, err := c.Status(ctx)
	if err != nil {
		return nil
	}
	for _, m := range st.Masters {
		if m.Node == st.Node {
			return c.At(m.Address)
		}
	}
	return nil
}

// At returns the process at an address, or nil.
func (c *Cluster) At(address string) *Process {
	for _, p := range c.processes() {
		if p.Address == address {
			return p
		}
	}
	return nil
}

// OpenChunk returns the processes of the members of an open chunk below a directory, the
// primary first; nil if there is none, or nobody can tell. pick chooses among several.
func (c *Cluster) OpenChunk(ctx context.Context, dir string, pick uint64) (members []*Process) {
	var tails []*quarry.Chunk
	err := c.walk(ctx, dir, func(e quarry.Attr) error {
		if !e.Open {
			return nil
		}
		st, err := c.routed.Stat(ctx, &quarry.StatRequest{Inode: e.Inode})
		if err == nil && st.Tail != nil && st.Tail.State == quarry.ChunkOpen {
			tails = append(tails, st.Tail)
		}
		return nil
	})
	if err != nil || len(tails) == 0 {
		return nil
	}
	for _, m := range tails[pick%uint64(len(tails))].Members {
		if p := c.At(m.Address); p != nil {
			members = append(members, p)
		}
	}
	return members
}

// Copies shows every chunk of the files below a directory, with the processes that run and have a
// replica of it.
func (c *Cluster) Copies(ctx context.Context, dir string, show func(chunk *quarry.Chunk, on []*Process)) error {
	return c.layouts(ctx, dir, func(chunk *quarry.Chunk) error {
		var on []*Process
		for _, m := range chunk.Members {
			if p := c.At(m.Address); p != nil && p.Running() {
				on = append(on, p)
			}
		}
		show(chunk, on)
		return nil
	})
}

// filesMax bounds the files that walk shows.
const filesMax = 10_000

// walk shows every file below a directory.
func (c *Cluster) walk(ctx context.Context, dir string, file func(quarry.Attr) error) error {
	found, err := c.routed.Lookup(ctx, &quarry.LookupRequest{From: quarry.RootInode, Path: strings.Trim(dir, "/")})
	if err != nil {
		return err
	}
	dirs, files := []quarry.Inode{found.Attr.Inode}, 0
	for len(dirs) > 0 && files < filesMax {
		d := dirs[0]
		dirs = dirs[1:]
		for after, more := "", true; more; {
			page, err := c.routed.List(ctx, &quarry.ListRequest{Dir: d, After: after, Max: quarry.ListMax})
			if quarry.KindOf(err) == quarry.NotFound { // it was removed meanwhile
				break
			}
			if err != nil {
				return err
			}
			for _, e := range page.Entries {
				after = e.Name
				if e.Attr.Kind == quarry.KindDir {
					dirs = append(dirs, e.Attr.Inode)
					continue
				}
				files++
				if err := file(e.Attr); err != nil {
					return err
				}
			}
			more = page.More && len(page.Entries) > 0
		}
	}
	return nil
}

// Close kills all processes.
func (c *Cluster) Close() {
	for _, p := range c.processes() {
		p.Kill()
	}
	if c.routed != nil {
		_ = c.routed.Close()
	}
	_ = c.conns.Close()
}
