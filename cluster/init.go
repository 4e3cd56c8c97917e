package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc"
)

// DefaultShards is how many shards a cluster begins with, beside the root group: a few more than
// most clusters have masters, so that each of them leads some.
const DefaultShards = 4

// Init makes a cluster, with 1 to 256 shards beside the root group, of the masters at the given addresses, which wait for one, and
// returns when it answers. Masters that were made a cluster together before, even if the
// making was interrupted, are left as they are. Exists: some of them belong to another
// cluster, or to one of other masters.
func Init(ctx context.Context, client *rpc.Client, c clock.Clock, addresses []string, shards int) (quarry.ClusterID, error) {
	ids := make([]*quarry.IdentifyReply, len(addresses))
	for i, a := range addresses {
		id, err := identify(ctx, client, c, a)
		if err != nil {
			return quarry.ClusterID{}, err
		}
		ids[i] = id
	}
	for _, id := range ids {
		if id.Node != 0 {
			return resume(ctx, client, c, addresses, ids, id)
		}
	}
	req := &quarry.InitRequest{Shards: shards, Key: quarry.Key{Number: 1}}
	rand.Read(req.Cluster[:])
	rand.Read(req.Key.Secret[:])
	for i, id := range ids {
		req.Masters = append(req.Masters, quarry.MasterNode{Node: quarry.NodeID(i + 1), Disk: id.Disk, Address: id.Address})
	}
	for _, a := range addresses {
		if err := client.Master(a).Init(ctx, req); err != nil {
			return quarry.ClusterID{}, quarry.Wrap("init", a, err)
		}
	}
	return req.Cluster, answers(ctx, client, c, addresses)
}

// identify waits for a master that is starting.
func identify(ctx context.Context, client *rpc.Client, c clock.Clock, address string) (*quarry.IdentifyReply, error) {
	for {
		id, err := client.Master(address).Identify(ctx)
		if err == nil || !errors.Is(err, quarry.Unavailable) {
			return id, quarry.Wrap("init", address, err)
		}
		if c.Sleep(ctx, 20*time.Millisecond) != nil {
			return nil, quarry.Errorf("init", quarry.Unavailable, address, "the master does not answer; start it first: %w", err)
		}
	}
}

// resume waits for a cluster that has been made of just these masters, by which the ones
// that know of it tell the others.
func resume(ctx context.Context, client *rpc.Client, c clock.Clock, addresses []string, ids []*quarry.IdentifyReply, known *quarry.IdentifyReply) (quarry.ClusterID, error) {
	if known.Init == nil || len(known.Init.Masters) != len(ids) {
		return quarry.ClusterID{}, quarry.Errorf("init", quarry.Exists, known.Address, "this master belongs to a cluster of other masters already")
	}
	for i, id := range ids {
		if known.Init.Masters[i].Disk != id.Disk || id.Init != nil && id.Init.Cluster != known.Init.Cluster {
			return quarry.ClusterID{}, quarry.Errorf("init", quarry.Exists, addresses[i], "a cluster was made of other masters, or of these in another order, before")
		}
	}
	return known.Init.Cluster, answers(ctx, client, c, addresses)
}

// answers waits until the new cluster has a map that one of the masters tells.
func answers(ctx context.Context, client *rpc.Client, c clock.Clock, addresses []string) error {
	for i := 0; ; i++ {
		_, err := client.Master(addresses[i%len(addresses)]).Topology(ctx)
		if err == nil {
			return nil
		}
		if c.Sleep(ctx, 10*time.Millisecond) != nil {
			return quarry.Errorf("init", quarry.Unavailable, addresses[0], "the masters have been told, but have no leader yet: %w", err)
		}
	}
}
