package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/rpc"
)

// DevOptions say what a whole cluster in one process is like.
type DevOptions struct {
	Common // Listen is the address of the first master; the other ports follow from it
	// Dir is the folder of everything.
	Dir string
	// Masters and Servers are how many there are. Default: 3 and 4, each server in a rack of
	// its own.
	Masters, Servers int
	// Shards is how many shards there are beside the root group. Default: DefaultShards.
	Shards int
	// State is as in MasterOptions, the same for all masters: each has a folder in it.
	State vfs.FS
	// Quota, SingleRecords and IdleAfter are as in ChunkServerOptions.
	Quota         int64
	SingleRecords bool
	IdleAfter     time.Duration
}

// Dev is a whole cluster in one process. Its parts talk over the network like any others.
type Dev struct {
	// Masters are the addresses of the masters.
	Masters []string
	// Servers are the addresses of the chunk servers.
	Servers []string

	mu        sync.Mutex
	processes []*Process
	client    *rpc.Client
}

// StartDev starts a cluster on a folder, makes it if the folder is empty, and returns when
// it can be written to. The masters have the ports P, P+1, …, the chunk servers those behind
// them; with port 0 all take free ones, so such a cluster cannot be started again on its
// folder.
func StartDev(ctx context.Context, opts DevOptions) (*Dev, error) {
	if err := opts.withDefaults(); err != nil {
		return nil, err
	}
	if opts.Masters == 0 {
		opts.Masters = 3
	}
	if opts.Servers == 0 {
		opts.Servers = 4
	}
	if opts.Shards == 0 {
		opts.Shards = DefaultShards
	}
	d := &Dev{client: rpc.NewClient(rpc.ClientConfig{
		Network: opts.Network, Clock: opts.Clock, Key: opts.Key, Logger: opts.Logger,
		Identity: func() rpc.Identity { return rpc.Identity{Role: rpc.RoleClient, Release: Release} },
	})}
	err := d.start(ctx, &opts)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Dev) start(ctx context.Context, opts *DevOptions) error {
	for i := range opts.Masters {
		common, err := opts.at(i)
		if err != nil {
			return err
		}
		p, err := StartMaster(MasterOptions{Common: common, Dir: filepath.Join(opts.Dir, fmt.Sprintf("master-%d", i+1)), State: opts.State})
		if err != nil {
			return err
		}
		d.processes = append(d.processes, p)
		d.Masters = append(d.Masters, p.Address)
	}
	if _, err := Init(ctx, d.client, opts.Clock, d.Masters, opts.Shards); err != nil {
		return err
	}
	return d.startServers(ctx, opts)
}

// startServers starts the chunk servers, side by side.
func (d *Dev) startServers(ctx context.Context, opts *DevOptions) error {
	errs := make([]error, opts.Servers)
	servers := make([]*Process, opts.Servers)
	var wg sync.WaitGroup
	for i := range opts.Servers {
		wg.Go(func() {
			common, err := opts.at(opts.Masters + i)
			if err != nil {
				errs[i] = err
				return
			}
			servers[i], errs[i] = StartChunkServer(ctx, ChunkServerOptions{
				Common: common, Dirs: []string{filepath.Join(opts.Dir, fmt.Sprintf("server-%d", i+1))},
				Masters: d.Masters, Rack: fmt.Sprintf("rack-%d", i+1), Quota: opts.Quota, SingleRecords: opts.SingleRecords, IdleAfter: opts.IdleAfter,
				FilesMax: filesShare(opts.Servers),
			})
		})
	}
	wg.Wait()
	for _, p := range servers {
		if p != nil {
			d.processes = append(d.processes, p)
			d.Servers = append(d.Servers, p.Address)
		}
	}
	return errors.Join(errs...)
}

// at returns what the i-th process is told.
func (o *DevOptions) at(i int) (Common, error) {
	c := o.Common
	host, port, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return c, quarry.Errorf("dev", quarry.Invalid, o.Listen, "the address must be host:port")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || int(n)+i > 65535 {
		return c, quarry.Errorf("dev", quarry.Invalid, o.Listen, "the ports %s to %d are needed", port, int(n)+o.Masters+o.Servers-1)
	}
	if n != 0 {
		n += uint64(i)
	}
	c.Listen = net.JoinHostPort(host, strconv.FormatUint(n, 10))
	c.Logger = o.Logger.With("process", i+1)
	return c, nil
}

// MakeRoom has the chunk servers remove what was dropped, the oldest first, until each of their disks has n
// bytes for new chunks. It reports whether all have.
func (d *Dev) MakeRoom(ctx context.Context, n int64) (made bool, err error) {
	d.mu.Lock()
	processes := d.processes
	d.mu.Unlock()
	made = true
	for _, p := range processes {
		for _, store := range p.stores {
			has, failed := store.MakeRoom(ctx, n)
			made, err = made && has, errors.Join(err, failed)
		}
	}
	return made, err
}

// Failed returns a channel that gets a value when a part of the cluster has failed by itself.
func (d *Dev) Failed() <-chan error {
	out := make(chan error, len(d.processes))
	for _, p := range d.processes {
		go func() {
			select {
			case <-p.Failed():
				out <- p.Err()
			case <-p.Stopped():
			}
		}()
	}
	return out
}

// Close stops all parts: the chunk servers first, because they need the masters.
func (d *Dev) Close() error { return d.end((*Process).Close) }

// Abort ends all parts, none of which hands over or waits for anything; see [Process.Abort].
func (d *Dev) Abort() error { return d.end((*Process).Abort) }

func (d *Dev) end(end func(*Process) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for i := len(d.processes) - 1; i >= 0; i-- {
		errs = append(errs, end(d.processes[i]))
	}
	d.processes = nil
	return errors.Join(append(errs, d.client.Close())...)
}
