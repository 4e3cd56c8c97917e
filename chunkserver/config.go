package chunkserver

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/chunk"
	"github.com/quarryfs/quarry/clock"
)

// Config is what a chunk server is made of. The fields above the blank line must be set.
type Config struct {
	// Cluster is the cluster that the server belongs to.
	Cluster quarry.ClusterID
	// Address is where others reach the server, host:port.
	Address string
	// Boot is the host's boot id; it tells the masters that an older process of the same
	// boot, which held the same folder's lock, is gone.
	Boot string
	// Disks are the server's opened disks, at least one. The server closes them.
	Disks []*chunk.Store
	// Masters routes calls to the leaders of the shards.
	Masters Masters
	// Dial returns a stub for another chunk server. It does not wait for a connection.
	Dial func(quarry.Member) quarry.ChunkServer
	// Clock is the only time the server knows.
	Clock clock.Clock

	// Rack names the part of the site that fails together with this server. Default: none.
	Rack string
	// Release is shown to operators.
	Release string
	// Logger takes what an operator may want to know. Default: slog.Default().
	Logger *slog.Logger
	// HeartbeatEvery is the time between heartbeats. Default 500 ms; leases last 2 s.
	HeartbeatEvery time.Duration
	// MemoryBytes bounds the bytes of records that are in memory, received and not yet
	// committed; beyond it appends are refused with Busy. Default 256 MiB.
	MemoryBytes int64
	// ScrubBytesPerSecond is the rate at which replicas at rest are checked. Default 8 MiB/s.
	ScrubBytesPerSecond int64
	// IdleAfter is how long nobody writes to an open chunk before its primary has it sealed, so
	// that its space, its lease and the watch over it end. Who writes on opens it again.
	// Default 60 s.
	IdleAfter time.Duration
	// SingleRecords has every record wait until the one before is committed, without group
	// commit. It exists for benchmarks.
	SingleRecords bool
}

// Masters is what the server needs to know of the masters' client; see route.Masters.
type Masters interface {
	quarry.Master
	// Addresses returns the addresses of all masters known.
	Addresses() []string
	// Node returns the stub of one master.
	Node(address string) (quarry.Master, error)
	// Learn takes what one master tells of the cluster, if that is newer than what is known.
	Learn(ctx context.Context, address string) error
}

func (c *Config) withDefaults() error {
	switch {
	case c.Cluster.IsZero():
		return fmt.Errorf("chunkserver: no cluster is given")
	case len(c.Disks) == 0:
		return fmt.Errorf("chunkserver: no disk is given")
	case c.Address == "" || c.Masters == nil || c.Dial == nil || c.Clock == nil:
		return fmt.Errorf("chunkserver: Address, Masters, Dial and Clock must be set")
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.HeartbeatEvery <= 0 {
		c.HeartbeatEvery = 500 * time.Millisecond
	}
	if c.MemoryBytes <= 0 {
		c.MemoryBytes = 256 << 20
	}
	if c.IdleAfter <= 0 {
		c.IdleAfter = time.Minute
	}
	if c.ScrubBytesPerSecond <= 0 {
		c.ScrubBytesPerSecond = 8 << 20
	}
	return nil
}
