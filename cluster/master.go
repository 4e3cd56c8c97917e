package cluster

import (
	"context"
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/master"
	"github.com/quarryfs/quarry/rpc"
)

// MasterOptions say how a master process runs.
type MasterOptions struct {
	Common
	// Dir is the master's folder; it is made if it is not there.
	Dir string
	// State is the file system of the masters' state, which is in the folder Dir/state.
	// Default: the operating system's.
	State vfs.FS
	// LogBytes and CacheBytes are as in master.Config.
	LogBytes, CacheBytes int64
	// Observe, if set, stands between the network and the master.
	Observe func(quarry.Master) quarry.Master
	// DeadAfter, RepairBytesPerSecond, MergePieces, SessionExpiry and TrashKeep are as in
	// master.Config.
	DeadAfter            time.Duration
	RepairBytesPerSecond int64
	MergePieces          int
	SessionExpiry        time.Duration
	TrashKeep            time.Duration
}

// masterKeepAlive is the keep-alive interval between masters, and towards them.
const masterKeepAlive = time.Second

// StartMaster starts a master. With an empty folder it waits to be given a cluster.
func StartMaster(opts MasterOptions) (*Process, error) {
	if err := opts.withDefaults(); err != nil {
		return nil, err
	}
	if opts.State == nil {
		opts.State = vfs.Default
	}
	if opts.Observe == nil {
		opts.Observe = func(m quarry.Master) quarry.Master { return m }
	}
	fsys, err := opts.Folder(opts.Dir)
	if err != nil {
		return nil, quarry.Errorf("folder", quarry.Invalid, opts.Dir, "it cannot be used: %w", err)
	}
	lock, err := lockFolder(fsys, opts.Dir)
	if err != nil {
		return nil, err
	}
	l, address, err := listen(&opts.Common)
	if err != nil {
		lock.Close()
		return nil, err
	}
	p, err := startMaster(&opts, fsys, address)
	if err != nil {
		l.Close()
		lock.Close()
		return nil, quarry.Wrap("master", opts.Dir, err)
	}
	stop := p.close
	p.close = func(ctx context.Context) error {
		err := stop(ctx)
		lock.Close()
		return err
	}
	p.run(l)
	return p, nil
}

func startMaster(opts *MasterOptions, fsys disk.FS, address string) (*Process, error) {
	// The groups of a master begin to call others while it is still being opened: a connection
	// says who it comes from when that is known.
	var m *master.Master
	opened := make(chan struct{})
	self := func() rpc.Identity {
		<-opened
		if m == nil {
			return rpc.Identity{Role: rpc.RoleMaster, Release: Release}
		}
		return m.Identity()
	}
	client := rpc.NewClient(rpc.ClientConfig{
		Network: opts.Network, Clock: opts.Clock, Identity: self, Key: opts.Key, Logger: opts.Logger, KeepAlive: masterKeepAlive,
	})
	m, err := master.Open(master.Config{
		Folder: fsys, StateFS: opts.State, StateDir: filepath.Join(opts.Dir, "state"),
		Address: address, Client: client,
		Servers: func(member quarry.Member) quarry.ChunkServer { return client.ChunkServer(member.Address) },
		Clock:   opts.Clock, Release: Release, Logger: opts.Logger,
		DeadAfter: opts.DeadAfter, RepairBytesPerSecond: opts.RepairBytesPerSecond, MergePieces: opts.MergePieces,
		SessionExpiry: opts.SessionExpiry, TrashKeep: opts.TrashKeep, LogBytes: opts.LogBytes, CacheBytes: opts.CacheBytes,
	})
	close(opened)
	if err != nil {
		client.Close()
		return nil, err
	}
	p := &Process{Address: address, clock: opts.Clock, fail: make(chan struct{}), stop: make(chan struct{}), err: m.Err}
	p.server = rpc.NewServer(rpc.ServerConfig{
		Clock: opts.Clock, Identity: self, Key: opts.Key, Logger: opts.Logger, KeepAlive: masterKeepAlive,
	})
	m.Serve(p.server, opts.Observe(m))
	p.close = func(ctx context.Context) error {
		err := m.Close(ctx)
		client.Close()
		return err
	}
	p.serve.Go(func() {
		select {
		case <-m.Done():
			close(p.fail)
		case <-p.stop:
		}
	})
	return p, nil
}
