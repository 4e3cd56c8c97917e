package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/cluster"
)

// devNodesMax is the most chunk servers of a cluster in one process.
const devNodesMax = 64

// devFlags are what dev is told.
type devFlags struct {
	dir         string
	port, nodes int
	fresh, keep bool
}

func devCommand(o *options) *cobra.Command {
	var f devFlags
	c := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole cluster in this process",
		Long: `Runs a whole cluster in this process: three masters and four chunk servers (--nodes), each in a rack
of its own, with four shards, on loopback addresses. The masters have the ports P, P+1 and P+2,
the chunk servers those behind them.

With --dir the data stay in a folder: started again on it, everything is there, also after kill -9;
with --fresh, nothing is, and what was there is deleted. Without --dir they are in a folder
for temporary files and deleted at the end, unless --keep is given.`,
		Example: "  quarry dev\n  quarry dev --dir /tmp/quarry --fresh --nodes 6",
		Args:    args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case f.nodes < 1 || f.nodes > devNodesMax:
				return usageError{fmt.Errorf("--nodes can be 1 to %d", devNodesMax)}
			case f.fresh && f.dir == "":
				return usageError{errors.New("--fresh is for a folder that is given by --dir; without one every cluster is new")}
			}
			return dev(c.Context(), o, f)
		},
	}
	c.Flags().StringVar(&f.dir, "dir", "", "the folder of everything; it is kept")
	c.Flags().IntVar(&f.port, "port", 7400, "the first port")
	c.Flags().IntVar(&f.nodes, "nodes", 4, fmt.Sprintf("how many chunk servers, 1 to %d", devNodesMax))
	c.Flags().BoolVar(&f.fresh, "fresh", false, "delete what an earlier cluster has left in the folder")
	c.Flags().BoolVar(&f.keep, "keep", false, "keep the folder for temporary files at the end")
	return c
}

// folder returns the folder of a cluster, and what is to be done with it at the end.
func (f devFlags) folder() (dir string, end func(), err error) {
	if f.dir != "" {
		if f.fresh {
			err = emptyDev(f.dir)
		}
		return f.dir, func() {}, err
	}
	if dir, err = os.MkdirTemp("", "quarry-dev-*"); err != nil {
		return "", nil, localError("dev", os.TempDir(), err)
	}
	return dir, func() {
		if f.keep {
			fmt.Fprintf(os.Stderr, "the data are in %s; quarry dev --dir %s goes on with them\n", dir, dir)
		} else {
			_ = os.RemoveAll(dir)
		}
	}, nil
}

// devFolder is what the folders in that of a cluster are called.
var devFolder = regexp.MustCompile(`^(master|server)-[0-9]+$`)

// emptyDev deletes what an earlier cluster has left in a folder. One with anything else in it is
// somebody's: nothing is deleted there.
func emptyDev(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return localError("dev", dir, err)
	}
	for _, e := range entries {
		if !devFolder.MatchString(e.Name()) || !e.IsDir() {
			return quarry.Errorf("dev", quarry.Exists, "local file "+filepath.Join(dir, e.Name()), "it is not of a cluster that dev made: --fresh deletes nothing here; give another folder")
		}
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return localError("dev", dir, err)
		}
	}
	return nil
}

func dev(ctx context.Context, o *options, f devFlags) error {
	common, err := o.common(net.JoinHostPort("127.0.0.1", strconv.Itoa(f.port)), "")
	if err != nil {
		return err
	}
	if !o.verbose {
		common.Logger = o.logger()
	}
	dir, end, err := f.folder()
	if err != nil {
		return err
	}
	defer end()
	began := clock.System().Now()
	d, err := cluster.StartDev(ctx, cluster.DevOptions{Common: common, Dir: dir, Servers: f.nodes})
	if err != nil {
		return err
	}
	if err := showDev(o, d, dir, clock.System().Now().Sub(began), f); err != nil {
		return errors.Join(err, d.Close())
	}
	select {
	case <-ctx.Done():
		fmt.Fprintln(os.Stderr, "stopping")
		return d.Close()
	case err := <-d.Failed():
		d.Close()
		return err
	}
}

// showDev says how to use what was started.
func showDev(o *options, d *cluster.Dev, dir string, took time.Duration, f devFlags) error {
	if o.json {
		return printJSON(os.Stdout, map[string]any{"dir": dir, "masters": d.Masters, "servers": d.Servers, "ready_ms": took.Milliseconds()})
	}
	setting := "    "
	if d.Masters[0] != defaultMasters {
		setting = "    export QUARRY_MASTERS=" + strings.Join(d.Masters, ",") + "\n    "
	}
	after := "the data stay in " + dir
	if f.dir == "" && !f.keep {
		after = "the data are deleted then (--dir and --keep keep them)"
	}
	_, err := fmt.Printf(`%d masters and %d chunk servers run in this process, ready after %v. In another terminal:

%squarry put -r DIRECTORY /       store files and trees
    quarry ls -l /                  see what is there
    quarry get /FILE .              read it back
    quarry sync DIR quarry:/DIR     copy what differs
    quarry append --create /log     append a record, and quarry tail -f /log follows
    quarry admin status             how the cluster is

Ctrl-C stops it; %s.
`, len(d.Masters), len(d.Servers), took.Round(time.Millisecond), setting, after)
	return err
}

func masterCommand(o *options) *cobra.Command {
	var opts cluster.MasterOptions
	var listen, advertise string
	c := &cobra.Command{
		Use:   "master",
		Short: "Run a master",
		Long: `Runs a master, which keeps names, layouts and the whereabouts of chunks. With an empty
folder it waits until "quarry admin init" makes a cluster of it and others, "quarry admin
master add" adds it to one, or "quarry admin master replace" puts it in the place of one that
is gone. A master that was removed from its cluster says so and ends.`,
		Example: "  quarry master --dir /var/lib/quarry --listen 10.0.0.1:7400 --key-file /etc/quarry/key",
		Args:    args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, args []string) error {
			var err error
			if opts.Common, err = o.common(listen, advertise); err != nil {
				return err
			}
			p, err := cluster.StartMaster(opts)
			if err != nil {
				return err
			}
			opts.Logger.Info("master", "address", p.Address, "dir", opts.Dir)
			return serve(c.Context(), p)
		},
	}
	f := c.Flags()
	f.StringVar(&opts.Dir, "dir", "", "the master's folder (required)")
	f.StringVar(&listen, "listen", defaultMasters, "the address it is reached at; without --key-file a loopback address")
	f.StringVar(&advertise, "advertise", "", "the address that others are told (default: that of --listen)")
	f.DurationVar(&opts.DeadAfter, "dead-after", 30*time.Second, "copy a chunk server's replicas elsewhere when it was silent for so long")
	opts.RepairBytesPerSecond = 200 << 20
	f.Var((*bytesValue)(&opts.RepairBytesPerSecond), "repair-bandwidth", "bytes per second for repairs, per shard")
	f.DurationVar(&opts.SessionExpiry, "session-expiry", time.Hour, "how long a client's session lives without a sign of life")
	f.DurationVar(&opts.TrashKeep, "trash-keep", 24*time.Hour, "how long removed files are kept, until \"quarry admin trash --keep\" says otherwise")
	_ = c.MarkFlagRequired("dir")
	return c
}

func chunkServerCommand(o *options) *cobra.Command {
	var opts cluster.ChunkServerOptions
	var listen, advertise string
	c := &cobra.Command{
		Use:   "chunkserver",
		Short: "Run a chunk server",
		Long: `Runs a chunk server, which keeps replicas of chunks on its disks, a folder each. It waits
for the masters (--masters) until there is a cluster, and then belongs to it.`,
		Example: `  quarry chunkserver --masters 10.0.0.1:7400,10.0.0.2:7400,10.0.0.3:7400 --key-file /etc/quarry/key \
    --listen 10.0.0.7:7410 --rack r2 --dir /disk1/quarry --dir /disk2/quarry`,
		Args: args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, args []string) error {
			var err error
			if opts.Common, err = o.common(listen, advertise); err != nil {
				return err
			}
			if opts.Masters, err = o.addresses(); err != nil {
				return err
			}
			p, err := cluster.StartChunkServer(c.Context(), opts)
			if err != nil {
				return err
			}
			opts.Logger.Info("chunk server", "address", p.Address, "dirs", opts.Dirs)
			return serve(c.Context(), p)
		},
	}
	f := c.Flags()
	f.StringArrayVar(&opts.Dirs, "dir", nil, "a disk's folder; may be given several times (required)")
	f.StringVar(&listen, "listen", "127.0.0.1:7410", "the address it is reached at; without --key-file a loopback address")
	f.StringVar(&advertise, "advertise", "", "the address that others are told (default: that of --listen)")
	f.StringVar(&opts.Rack, "rack", "", "the part of the site that fails together with this server")
	f.Var((*bytesValue)(&opts.Quota), "quota", "the most bytes that the files of each disk may have, such as 500G (default: as many as fit)")
	f.DurationVar(&opts.IdleAfter, "idle-seal", time.Minute, "seal a chunk to which nobody has written for so long; who writes on opens it again")
	_ = c.MarkFlagRequired("dir")
	return c
}

// serve runs a process until it is told to stop, or fails.
func serve(ctx context.Context, p *cluster.Process) error {
	select {
	case <-ctx.Done():
		return p.Close()
	case <-p.Failed():
		err := p.Err()
		p.Close()
		return err
	}
}
