package master

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/rpc"
)

// Config is what a master is made of. The fields above the blank line must be set.
type Config struct {
	// Folder keeps the master's identity and its Raft log.
	Folder disk.FS
	// StateFS and StateDir keep the state of its groups.
	StateFS  vfs.FS
	StateDir string
	// Address is where others reach the master, host:port.
	Address string
	// Client reaches the other masters.
	Client *rpc.Client
	// Servers returns a stub for a chunk server. It does not wait for a connection.
	Servers func(quarry.Member) quarry.ChunkServer
	// Clock is the only time the master knows.
	Clock clock.Clock

	// Release is shown to operators.
	Release string
	// Logger takes what an operator may want to know. Default: slog.Default().
	Logger *slog.Logger
	// DeadAfter is how long a chunk server may be silent before its replicas are copied
	// elsewhere. Default 30 s.
	DeadAfter time.Duration
	// RepairBytesPerSecond bounds the bandwidth of all repairs of a shard. Default 200 MiB/s.
	RepairBytesPerSecond int64
	// MergePieces is how many small pieces in a row of a file become one, in the background.
	// Default 8. It exists for simulations, which have little time.
	MergePieces int
	// SessionExpiry is how long a client's session lives without a sign of life, in log time.
	// Default 1 h.
	SessionExpiry time.Duration
	// TrashKeep is how long removed files and chunks are kept before their space is freed.
	// At least SessionExpiry. Default 24 h.
	TrashKeep time.Duration
	// LogBytes is the size at which the Raft logs are trimmed; a master that misses more gets
	// a snapshot. Default 64 MiB.
	LogBytes int64
	// CacheBytes is the memory for blocks of the state. Default 64 MiB.
	CacheBytes int64
}

func (c *Config) withDefaults() error {
	if c.Folder == nil || c.StateFS == nil || c.Address == "" || c.Client == nil || c.Servers == nil || c.Clock == nil {
		return fmt.Errorf("master: Folder, StateFS, Address, Client, Servers and Clock must be set")
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.DeadAfter <= 0 {
		c.DeadAfter = 30 * time.Second
	}
	if c.RepairBytesPerSecond <= 0 {
		c.RepairBytesPerSecond = 200 << 20
	}
	if c.SessionExpiry <= 0 {
		c.SessionExpiry = time.Hour
	}
	if c.TrashKeep <= 0 {
		c.TrashKeep = 24 * time.Hour
	}
	if c.TrashKeep < c.SessionExpiry {
		return fmt.Errorf("master: TrashKeep is %v, it cannot be less than SessionExpiry, %v: a session may still ask what became of its records", c.TrashKeep, c.SessionExpiry)
	}
	return nil
}
