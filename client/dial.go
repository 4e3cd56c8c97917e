package client

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/rpc/route"
)

// contactMax is how long Open waits for a first answer.
const contactMax = 10 * time.Second

// Open connects to the cluster whose masters are at addrs, host:port. One that answers is
// enough, the others are learnt from it. It returns when one has answered, or with
// Unavailable after 10 s.
func Open(ctx context.Context, addrs []string, opts Options) (*FS, error) {
	opts.withDefaults()
	if opts.Hosts == nil {
		opts.Hosts = localHosts()
	}
	var cluster atomic.Pointer[quarry.ClusterID] // nil: any, until the masters have said which
	config := rpc.ClientConfig{
		Network: opts.Network, Clock: opts.Clock, Key: opts.Key, Logger: opts.Log,
		Identity: func() rpc.Identity {
			id := rpc.Identity{Role: rpc.RoleClient}
			if c := cluster.Load(); c != nil {
				id.Cluster = *c
			}
			return id
		},
	}
	connections := rpc.NewClient(config)
	masters, err := route.New(route.Options{
		Addresses: addrs, Clock: opts.Clock,
		Dial: func(address string) (quarry.Master, error) { return connections.Master(address), nil },
	})
	if err != nil {
		return nil, errors.Join(err, connections.Close())
	}
	topology, err := contact(ctx, opts.Clock, masters)
	if err != nil {
		return nil, errors.Join(err, masters.Close(), connections.Close())
	}
	cluster.Store(&topology.Cluster)
	f := New(masters, func(m quarry.Member) quarry.ChunkServer { return connections.ChunkServer(m.Address) }, opts)
	if config.Network = rpc.Beside(opts.Network); config.Network != nil && !opts.NetworkOnly {
		f.lend(rpc.NewClient(config))
	}
	f.release = func() {
		f.lent.Close()
		_ = masters.Close()
		_ = connections.Close() // nothing waits for it any more
	}
	f.background(func(ctx context.Context) { f.followMasters(ctx, masters) })
	return f, nil
}

// followEvery is how often a client asks who the masters are.
const followEvery = 5 * time.Second

// followMasters learns of masters that were added, also while the client does nothing or all goes
// well with the others: those that it began with may be removed one after the other, or fail when
// the ones that were added could go on. All are asked: one alone may be behind for good.
func (f *FS) followMasters(ctx context.Context, masters *route.Masters) {
	for f.clock.Sleep(ctx, followEvery) == nil {
		if err := masters.Refresh(ctx); err != nil {
			f.log.Debug("who the masters are is not known anew", "error", err)
		}
	}
}

func contact(ctx context.Context, c clock.Clock, masters *route.Masters) (*quarry.TopologyReply, error) {
	try, cancel := c.WithTimeout(ctx, contactMax)
	defer cancel()
	reply, err := masters.Topology(try)
	if err == nil || ctx.Err() != nil || !cancelled(err) {
		return reply, err
	}
	return nil, quarry.Errorf("open", quarry.Unavailable, "", "no master answered within %v; check the addresses and that the masters run: %w", contactMax, err)
}

// localHosts returns this machine's addresses.
func localHosts() []string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil // the masters' order will do
	}
	var hosts []string
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok {
			hosts = append(hosts, ip.IP.String())
		}
	}
	return hosts
}
