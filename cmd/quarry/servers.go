package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/cluster"
)

func devCommand(o *options) *cobra.Command {
	var dir string
	var port int
	c := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole cluster in this process",
		Long: `Runs a whole cluster in this process, on one folder: three masters and four chunk servers,
each in a rack of its own, with four shards, on loopback addresses. The masters have the ports P, P+1 and
P+2, the chunk servers the four behind them. Started again on the same folder, everything
is there, also after kill -9.`,
		Args: args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, args []string) error {
			return dev(c.Context(), o, dir, port)
		},
	}
	c.Flags().StringVar(&dir, "dir", ".quarry-dev", "the folder of everything")
	c.Flags().IntVar(&port, "port", 7400, "the first port")
	return c
}

func dev(ctx context.Context, o *options, dir string, port int) error {
	common, err := o.common(net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), "")
	if err != nil {
		return err
	}
	if !o.verbose {
		common.Logger = o.logger()
	}
	began := clock.System().Now()
	d, err := cluster.StartDev(ctx, cluster.DevOptions{Common: common, Dir: dir})
	if err != nil {
		return err
	}
	setting := ""
	if d.Masters[0] != defaultMasters {
		setting = "export QUARRY_MASTERS=" + strings.Join(d.Masters, ",") + "\n  "
	}
	fmt.Printf(`A cluster is running on %s, ready after %v.
masters        %s
chunk servers  %s

In another terminal:
  %squarry put FILE /file    store a file
  quarry ls -l /            see it
  quarry get /file copy     read it back
  quarry admin status       how the cluster is

Ctrl-C stops it; the data stays in %s.
`, dir, clock.System().Now().Sub(began).Round(time.Millisecond), strings.Join(d.Masters, " "), strings.Join(d.Servers, " "), setting, dir)
	select {
	case <-ctx.Done():
		fmt.Fprintln(os.Stderr, "stopping")
		return d.Close()
	case err := <-d.Failed():
		d.Close()
		return err
	}
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
		Args: args(0, 0, "no arguments"),
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
	f.Int64Var(&opts.RepairBytesPerSecond, "repair-bandwidth", 200<<20, "bytes per second for repairs, per shard")
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
	f.Int64Var(&opts.Quota, "quota", 0, "the most bytes that the files of each disk may have (0: as many as fit)")
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
