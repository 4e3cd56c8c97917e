package bench

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/cluster"
)

// Config says what is measured.
type Config struct {
	// Dir is where the embedded clusters and the bare programs keep their files; it is on the
	// disk that is measured, and emptied afterwards.
	Dir string
	// Clients is how many streams, appenders or callers there are. At least 1.
	Clients int
	// Runs is how many interleaved pairs are measured. At least 1; 7 for a figure to publish.
	Runs int
	// Bytes is how much each stream writes or reads in a run. Default 256 MiB.
	Bytes int64
	// Operations is how many appends or metadata operations a run has, of all clients
	// together. Default 2,000 for each client, at most 20,000.
	Operations int
	// RecordBytes is the size of an appended record. Default 4 KiB.
	RecordBytes int
	// Shards is how many shards the clusters of processes have, beside the root group. Default 4.
	Shards int
	// Kill is what failover kills: "master" (the default), "server" or "both".
	Kill string
	// Connections is how many clients clients has that look names up, each with connections of its
	// own; Writers is how many there are besides that make files. Default 2,000 and 200.
	Connections, Writers int
	// Duration is how long clients works. Default 20 s.
	Duration time.Duration
	// Files is how many files limits makes. Default 100,000.
	Files int
	// Local has read measure a client on the machine of the chunk servers, which reads from their
	// files. Default: it reads over the network, as one elsewhere would.
	Local bool
	// Log takes the servers' warnings. Default: nobody does.
	Log *slog.Logger
	// Progress is told what is being measured.
	Progress func(what string)
}

func (c *Config) withDefaults() {
	c.Clients, c.Runs = max(c.Clients, 1), max(c.Runs, 1)
	if c.Bytes <= 0 {
		c.Bytes = 256 << 20
	}
	if c.Operations <= 0 {
		c.Operations = min(2000*c.Clients, 20000)
	}
	if c.RecordBytes <= 0 {
		c.RecordBytes = 4 << 10
	}
	if c.Shards <= 0 {
		c.Shards = cluster.DefaultShards
	}
	if c.Kill == "" {
		c.Kill = killMaster
	}
	if c.Connections <= 0 {
		c.Connections = 2000
	}
	if c.Writers <= 0 {
		c.Writers = 200
	}
	if c.Duration <= 0 {
		c.Duration = 20 * time.Second
	}
	if c.Files <= 0 {
		c.Files = 100_000
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
}

// embedded is a cluster in this process, on real disks and loopback sockets, and a client.
type embedded struct {
	dir string
	dev *cluster.Dev
	fs  *client.FS
}

// start starts a cluster of three masters and three chunk servers, so that every replica
// set is the same. single switches group commit off.
func (c *Config) start(ctx context.Context, name string, single bool) (*embedded, error) {
	dir := filepath.Join(c.Dir, name)
	dev, err := cluster.StartDev(ctx, cluster.DevOptions{
		Common: cluster.Common{Listen: "127.0.0.1:0", Logger: c.Log}, Dir: dir, Masters: 3, Servers: 3, Shards: 1, SingleRecords: single,
	})
	if err != nil {
		return nil, err
	}
	fs, err := client.Open(ctx, dev.Masters, client.Options{Log: c.Log, NetworkOnly: !c.Local})
	if err != nil {
		dev.Close()
		return nil, err
	}
	return &embedded{dir, dev, fs}, nil
}

func (e *embedded) close() {
	e.fs.Close()
	e.dev.Close()
	os.RemoveAll(e.dir)
}

// pattern is a stream of bytes that do not compress, made once and repeated.
type pattern struct {
	block []byte
	left  int64
}

func newPattern(n int64, seed uint64) *pattern {
	p := &pattern{block: make([]byte, 1<<20), left: n}
	fillPattern(p.block, seed)
	return p
}

func (p *pattern) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(int64(len(b)), p.left)], p.block)
	p.left -= int64(n)
	return n, nil
}

// each runs f for every client, side by side.
func each(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for i := range n {
		g.Go(func() error { return f(ctx, i) })
	}
	return g.Wait()
}

func name(verb string, clients int, what string) string {
	return fmt.Sprintf("%s/%d/%s", verb, clients, what)
}
