package client

import (
	"context"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client/attr"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/rpc/route"
)

// dialTimeMax bounds a connection attempt to a server that is too busy for handshakes.
const dialTimeMax = 12 * time.Second

// Open connects to the cluster whose masters are at addrs, host:port. One that answers is
// enough, the others are learnt from it. It returns when one has answered, or with Unavailable.
func Open(ctx context.Context, addrs []string, opts Options) (*FS, error) {
	told := opts.Patience
	opts.UID, opts.GID = attr.OrProcess(opts.UID, os.Getuid()), attr.OrProcess(opts.GID, os.Getgid())
	opts.withDefaults()
	if opts.Hosts == nil {
		opts.Hosts = localHosts()
	}
	var cluster atomic.Pointer[quarry.ClusterID] // nil: any, until the masters have said which
	config := rpc.ClientConfig{
		Network: opts.Network, Clock: opts.Clock, Key: opts.Key, Logger: opts.Log, DialTimeMax: dialTimeMax,
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
		Addresses: addrs, Clock: opts.Clock, Patience: opts.Patience,
		Dial: func(address string) (quarry.Master, error) { return connections.Master(address), nil },
	})
	if err != nil {
		return nil, errors.Join(err, connections.Close())
	}
	id, err := masters.Contact(ctx, told)
	if err != nil {
		return nil, errors.Join(err, masters.Close(), connections.Close())
	}
	cluster.Store(&id)
	f := New(masters, func(m quarry.Member) quarry.ChunkServer { return connections.ChunkServer(m.Address) }, opts)
	if config.Network = connections.Beside(); config.Network != nil && !opts.NetworkOnly {
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

// followEvery is how often a client asks who the masters are, at least.
const followEvery = 5 * time.Second

// followMasters learns of masters that were added, also while the client does nothing or all goes
// well with the others: those that it began with may be removed one after the other, or fail when
// the ones that were added could go on. One is asked at a time, in turn, because one alone may be
// behind for good; thousands of clients that began together do not ask together for ever.
func (f *FS) followMasters(ctx context.Context, masters *route.Masters) {
	const jitter = followEvery / 10
	who := uint64(f.clock.Now())
	for turn := who; f.clock.Sleep(ctx, followEvery-jitter*3/2+clock.Spread(jitter, who, 0, int(turn-who))) == nil; turn++ {
		if err := masters.RefreshNext(ctx, turn); err != nil {
			f.log.Debug("who the masters are is not known anew", "error", err)
		}
	}
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
