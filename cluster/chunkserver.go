package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/chunk"
	"github.com/quarryfs/quarry/chunkserver"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/rpc/route"
)

// ChunkServerOptions say how a chunk server process runs.
type ChunkServerOptions struct {
	Common
	// Dirs are the server's disks, a folder each; they are made if they are not there.
	Dirs []string
	// Quota bounds the bytes that the files of each disk may have; 0: the file system's own
	// space is the only bound.
	Quota int64
	// Masters are addresses of masters; one that answers is enough.
	Masters []string
	// Rack names the part of the site that fails together with this server.
	Rack string
	// SingleRecords and IdleAfter are as in chunkserver.Config.
	SingleRecords bool
	IdleAfter     time.Duration
	// ReserveBytes and JournalBytes are as in chunk.Options.
	ReserveBytes, JournalBytes int64
	// FilesMax is as in chunk.Options. Default: 256 to 2,048, the disks' share of half of the files
	// that the process may have open.
	FilesMax int
	// Observe, if set, stands between the network and the server.
	Observe func(quarry.ChunkServer) quarry.ChunkServer
}

// memberKeepAlive is the keep-alive interval between chunk servers: one that is frozen holds
// up its chain for at most four times as long.
const memberKeepAlive = 300 * time.Millisecond

// askEvery is how often a chunk server asks masters that do not answer.
const askEvery = 200 * time.Millisecond

// StartChunkServer starts a chunk server and returns when it is registered, which takes as
// long as the masters take to have a leader, and at most as ctx lasts.
func StartChunkServer(ctx context.Context, opts ChunkServerOptions) (*Process, error) {
	if err := opts.withDefaults(); err != nil {
		return nil, err
	}
	if opts.Observe == nil {
		opts.Observe = func(s quarry.ChunkServer) quarry.ChunkServer { return s }
	}
	if len(opts.Dirs) == 0 {
		return nil, quarry.Errorf("chunk server", quarry.Invalid, "", "no folder is given")
	}
	if opts.FilesMax == 0 {
		opts.FilesMax = filesShare(len(opts.Dirs))
	}
	l, address, err := listen(&opts.Common)
	if err != nil {
		return nil, err
	}
	listeners := []rpc.Listener{l}
	self := rpc.Identity{Role: rpc.RoleChunkServer, Release: Release}
	if near := rpc.Beside(opts.Network); near != nil {
		if l, err := near.Listen(""); err == nil {
			listeners = append(listeners, l)
			self.Socket = l.Address()
		} else {
			opts.Logger.Warn("clients on this machine will read over the network", "error", err)
		}
	}
	p, err := startChunkServer(ctx, &opts, address, &identity{id: self})
	for _, l := range listeners {
		if err != nil {
			l.Close()
		} else {
			p.run(l)
		}
	}
	return p, err
}

func startChunkServer(ctx context.Context, opts *ChunkServerOptions, address string, self *identity) (*Process, error) {
	client := rpc.NewClient(rpc.ClientConfig{
		Network: opts.Network, Clock: opts.Clock, Identity: self.get, Key: opts.Key, Logger: opts.Logger, KeepAlive: memberKeepAlive,
	})
	masters, err := route.New(route.Options{
		Addresses: opts.Masters, Clock: opts.Clock,
		Dial: func(address string) (quarry.Master, error) { return client.Master(address), nil },
	})
	if err != nil {
		client.Close()
		return nil, err
	}
	closeAll := func() {
		masters.Close()
		client.Close()
	}
	cluster, err := askCluster(ctx, opts, masters)
	if err != nil {
		closeAll()
		return nil, err
	}
	self.set(func(id *rpc.Identity) { id.Cluster = cluster })
	stores, err := openDisks(opts, cluster)
	if err != nil {
		closeAll()
		return nil, err
	}
	s, err := chunkserver.Open(ctx, chunkserver.Config{
		Cluster: cluster, Address: address, Boot: opts.Boot, Disks: stores, Masters: masters,
		Dial:  func(m quarry.Member) quarry.ChunkServer { return client.ChunkServer(m.Address) },
		Clock: opts.Clock, Rack: opts.Rack, Release: Release, Logger: opts.Logger, SingleRecords: opts.SingleRecords, IdleAfter: opts.IdleAfter,
	})
	if err != nil {
		closeStores(stores)
		closeAll()
		return nil, err
	}
	self.set(func(id *rpc.Identity) { id.Server, id.Incarnation = s.ID(), s.Incarnation() })
	p := &Process{Address: address, clock: opts.Clock, fail: make(chan struct{}), stop: make(chan struct{}), err: s.Err, stores: stores}
	p.server = rpc.NewServer(rpc.ServerConfig{
		Clock: opts.Clock, Identity: self.get, Key: opts.Key, Logger: opts.Logger, KeepAlive: memberKeepAlive,
	})
	rpc.ServeChunkServer(p.server, opts.Observe(s))
	rpc.ServeLender(p.server, s)
	p.serve.Go(func() {
		select {
		case <-s.Done():
			close(p.fail)
		case <-p.stop:
		}
	})
	p.close = func(context.Context) error {
		err := p.server.Close() // reads of the disks must have ended
		err = errors.Join(err, s.Close())
		closeAll()
		return err
	}
	return p, nil
}

// askCluster asks the masters which cluster they are, until there is one.
func askCluster(ctx context.Context, opts *ChunkServerOptions, masters *route.Masters) (quarry.ClusterID, error) {
	told := false
	for {
		t, err := masters.Topology(ctx)
		if err == nil {
			return t.Cluster, nil
		}
		switch kind := quarry.KindOf(err); {
		case ctx.Err() != nil:
			return quarry.ClusterID{}, quarry.Wrap("chunk server", "", err)
		case kind != quarry.Unavailable && kind != quarry.Busy && kind != quarry.NotLeader:
			return quarry.ClusterID{}, err
		}
		if !told {
			opts.Logger.Info("waiting for the masters", "error", err)
			told = true
		}
		if err := opts.Clock.Sleep(ctx, askEvery); err != nil {
			return quarry.ClusterID{}, quarry.Wrap("chunk server", "", err)
		}
	}
}

// openDisks opens the server's disks, and makes those that are new.
func openDisks(opts *ChunkServerOptions, cluster quarry.ClusterID) (stores []*chunk.Store, err error) {
	defer func() {
		if err != nil {
			closeStores(stores)
		}
	}()
	for _, dir := range opts.Dirs {
		var fsys disk.FS
		if fsys, err = opts.Folder(dir); err != nil {
			return stores, quarry.Errorf("folder", quarry.Invalid, dir, "it cannot be used: %w", err)
		}
		if opts.Quota > 0 {
			if fsys, err = disk.WithQuota(fsys, opts.Quota); err != nil {
				return stores, quarry.Wrap("folder", dir, err)
			}
		}
		id := chunk.Identity{Cluster: cluster}
		if _, err := chunk.ReadIdentity(fsys); errors.Is(err, quarry.NotFound) {
			rand.Read(id.Disk[:])
		}
		store, err := chunk.Open(fsys, chunk.Options{
			Identity: id, Now: opts.Clock.Wall(), ReserveBytes: opts.ReserveBytes, JournalBytes: opts.JournalBytes, FilesMax: opts.FilesMax,
		})
		if err != nil {
			return stores, quarry.Wrap("disk", dir, err)
		}
		stores = append(stores, store)
	}
	return stores, nil
}

// filesShare is how many files each of so many disks may keep open: with half of the descriptors that
// this process may have, because the other half is for connections and for all else.
func filesShare(disks int) int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return filesLeast
	}
	return int(min(max(limit.Cur/2/uint64(disks), filesLeast), filesMost))
}

// filesLeast and filesMost bound the files that a disk may keep open.
const (
	filesLeast = 256
	filesMost  = 2048
)

func closeStores(stores []*chunk.Store) {
	for _, s := range stores {
		s.Close()
	}
}
