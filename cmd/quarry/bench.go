package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry/bench"
	"github.com/quarryfs/quarry/cluster"
)

// benchLong is what "quarry help bench" says.
const benchLong = `Starts a cluster, on real disks and loopback sockets, and measures it in turn with what is in
the second column, which is the least that the same work could cost here, or the same work
without what is measured:

  write    Put of streams, three replicas      bare: one process writes three local copies
  read     warm sequential reads               bare: a framed copy over TCP by sendfile
           with --local, of files on this
           machine                             bare: pread of the same bytes
  append   durable records to one file         bare: the same cluster with batches of one
  meta     create, stat, list, move, remove    bare: a cluster with one shard
           of files, with --shards shards; a
           move is between two shards
  limits   creates in one directory            bare: in a directory for each caller
           appends to one file                 bare: to eight files
           moves of directories                bare: moves of files
           --files files at one master: time, memory, disk
  clients  --connections clients that look names up and --writers that make files, none
           sharing a connection: rates, waits, memory of each master
  failover from SIGKILL of the master that leads most groups, of the primary of an open
           chunk, or of both (--kill), to the first accepted write: in each group, in a
           file of each shard (--runs 20)

For write, read and append the cluster is in this process; for the others its masters and
chunk servers are processes of their own.

Each figure is the median of several interleaved runs, with its spread, the other side's
median and the ratio. What counts is the ratio, and the processor time; an absolute rate is
a remark about this machine. With clients the runs are the clients, or the masters.`

func benchCommand(o *options) *cobra.Command {
	var cfg bench.Config
	var profile string
	c := &cobra.Command{
		Use:       "bench " + strings.Join(bench.Verbs, "|"),
		Short:     "Measure a cluster against bare programs, and what limits it",
		Long:      benchLong,
		Example:   "  quarry bench write --clients 4\n  quarry bench append --clients 128 --json\n  quarry bench failover --kill both --runs 20",
		ValidArgs: bench.Verbs,
		Args:      args(1, 1, "what to measure: "+strings.Join(bench.Verbs, ", ")),
		RunE: func(c *cobra.Command, args []string) error {
			dir, err := os.MkdirTemp(cfg.Dir, "quarry-bench-*")
			if err != nil {
				return localError("bench", cfg.Dir, err)
			}
			defer os.RemoveAll(dir)
			run := cfg
			run.Dir = filepath.Join(dir, "run")
			if o.verbose {
				run.Log = o.serverLogger()
			}
			if onTerminal(os.Stderr) {
				run.Progress = func(what string) { fmt.Fprintf(os.Stderr, "\r\x1b[K%s", what) }
				defer fmt.Fprint(os.Stderr, "\r\x1b[K")
			}
			if profile != "" {
				f, err := os.Create(profile)
				if err != nil {
					return localError("bench", profile, err)
				}
				defer f.Close()
				if err := pprof.StartCPUProfile(f); err != nil {
					return err
				}
				defer pprof.StopCPUProfile()
			}
			results, err := bench.Run(c.Context(), args[0], run)
			if err != nil {
				return err
			}
			return printResults(o, results)
		},
	}
	benchFlags(c, &cfg)
	c.Flags().StringVar(&profile, "cpu-profile", "", "write a profile of this process's processor time to this file")
	return c
}

func benchFlags(c *cobra.Command, cfg *bench.Config) {
	f := c.Flags()
	f.IntVar(&cfg.Clients, "clients", 1, "streams, appenders or callers at the same time")
	f.IntVar(&cfg.Runs, "runs", 7, "interleaved runs")
	f.Int64Var(&cfg.Bytes, "bytes", 256<<20, "bytes of each stream and run")
	f.IntVar(&cfg.Operations, "operations", 0, "operations of a run (default: 2,000 a client, at most 20,000)")
	f.IntVar(&cfg.RecordBytes, "record", 4<<10, "bytes of an appended record")
	f.BoolVar(&cfg.Local, "local", false, "read: read the replicas on this machine from their files, not over the network")
	f.IntVar(&cfg.Shards, "shards", cluster.DefaultShards, "meta, limits, clients, failover: shards beside the root group")
	f.StringVar(&cfg.Kill, "kill", "master", "failover: what is killed: master, server or both")
	f.IntVar(&cfg.Connections, "connections", 2000, "clients: how many look names up, each with connections of its own")
	f.IntVar(&cfg.Writers, "writers", 200, "clients: how many make files besides")
	f.DurationVar(&cfg.Duration, "duration", 20*time.Second, "clients: how long they work")
	f.IntVar(&cfg.Files, "files", 100_000, "limits: how many files one master is given")
	f.StringVar(&cfg.Dir, "dir", "", "a folder on the disk to be measured (default: that of temporary files)")
}

func printResults(o *options, results []bench.Result) error {
	if o.json {
		for _, r := range results {
			if err := printJSON(os.Stdout, r); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "figure\tmedian\tmin\tmax\tbare\tratio\tunit\truns\t")
	for _, r := range results {
		bare, ratio := "-", "-"
		if r.Bare != 0 {
			bare, ratio = fmt.Sprintf("%.4g", r.Bare), fmt.Sprintf("%.2f", r.Ratio)
		}
		fmt.Fprintf(w, "%s\t%.4g\t%.4g\t%.4g\t%s\t%s\t%s\t%d\t\n", r.Name, r.Value, r.Min, r.Max, bare, ratio, r.Unit, r.Runs)
	}
	return w.Flush()
}
