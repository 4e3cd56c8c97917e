package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry/bench"
	"github.com/quarryfs/quarry/cluster"
)

// benchLong is what "quarry help bench" says around the table of what can be measured.
const benchLong = `Starts a cluster, on real disks and loopback sockets, and measures it in turn with what is in
the second column, which is the least that the same work could cost here, or the same work
without what is measured:

%s
For the first six the cluster is in this process, and --clients, --servers and --record can be
lists: each run then measures all points, one after the other. With --masters a running cluster
is measured in its place, in a directory of its own that is removed in the end, and processor
time is that of the clients. For the others masters and chunk servers are processes of their own.

Each figure is the median of several interleaved runs, with its spread, the other side's
median and the ratio. What counts is the ratio, and the processor time; an absolute rate is
a remark about this machine. p50 to max are how long single operations took: of each run a
percentile, of which the median is told. With clients the runs are the clients, or the masters.`

// benchTable is what can be measured, and beside it what that is compared with.
func benchTable() string {
	const about, bare = 44, 36 // columns
	var b strings.Builder
	for _, v := range bench.Verbs {
		left, right := wrap(v.About, about), wrap(v.Bare, bare)
		for i := range max(len(left), len(right)) {
			line := func(column []string) string {
				if i < len(column) {
					return column[i]
				}
				return ""
			}
			name := v.Name
			if i > 0 {
				name = ""
			}
			b.WriteString(strings.TrimRight(fmt.Sprintf("  %-8s  %-*s  %s", name, about, line(left), line(right)), " ") + "\n")
		}
	}
	return b.String()
}

// wrap breaks a text into lines of at most n bytes, as far as its words allow.
func wrap(text string, n int) (lines []string) {
	for _, word := range strings.Fields(text) {
		if last := len(lines) - 1; last >= 0 && len(lines[last])+1+len(word) <= n {
			lines[last] += " " + word
		} else {
			lines = append(lines, word)
		}
	}
	return lines
}

func benchCommand(o *options) *cobra.Command {
	var cfg bench.Config
	var profile string
	c := &cobra.Command{
		Use:       "bench " + strings.Join(bench.Names(), "|"),
		Short:     "Measure a cluster against bare programs, and what limits it",
		Long:      fmt.Sprintf(benchLong, benchTable()),
		Example:   "  quarry bench write --clients 4\n  quarry bench append --clients 1,16,128 --record 100,4096,1048576 --json\n  quarry bench read --masters host:7400 --clients 1,4,16\n  quarry bench failover --kill both --runs 20",
		ValidArgs: bench.Names(),
		Args:      args(1, 1, "what to measure: "+strings.Join(bench.Names(), ", ")),
		RunE: func(c *cobra.Command, args []string) error {
			if err := benchHeeds(c, args[0]); err != nil {
				return err
			}
			dir, err := os.MkdirTemp(cfg.Dir, "quarry-bench-*")
			if err != nil {
				return localError("bench", cfg.Dir, err)
			}
			defer os.RemoveAll(dir)
			run := cfg
			run.Dir = filepath.Join(dir, "run")
			if c.Flags().Changed("masters") { // named on purpose: what the environment names is not put under load
				if run.Masters, err = o.addresses(); err != nil {
					return err
				}
				if run.Key, err = cluster.ReadKey(o.keyFile); err != nil {
					return err
				}
			}
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

// benchHeeds refuses flags that a verb does not heed: they would seem to have been measured.
func benchHeeds(c *cobra.Command, verb string) error {
	v := bench.Find(verb)
	if v == nil {
		return usageError{fmt.Errorf("%q cannot be measured; what can is %s", verb, strings.Join(bench.Names(), ", "))}
	}
	for _, other := range bench.Verbs {
		for _, s := range other.Settings {
			if c.Flags().Changed(s) && !v.Takes(s) {
				return usageError{fmt.Errorf("bench %s does not heed --%s; what it heeds is --%s, --runs, --dir", verb, s, strings.Join(v.Settings, ", --"))}
			}
		}
	}
	return nil
}

func benchFlags(c *cobra.Command, cfg *bench.Config) {
	f, heeded := c.Flags(), map[string]bool{}
	f.IntSliceVar(&cfg.Clients, "clients", nil, "streams, appenders or callers at the same time (default: 1, limits 64)")
	f.IntSliceVar(&cfg.Servers, "servers", nil, "chunk servers (default: 3)")
	f.IntSliceVar(&cfg.RecordBytes, "record", nil, "bytes of a record, or of a read (default: 4096)")
	f.Int64Var(&cfg.Bytes, "bytes", 0, "bytes of each stream and run, or of the file to read (default: 268435456)")
	f.IntVar(&cfg.Operations, "operations", 0, "operations of a run (default: 2,000 a client, at most 20,000)")
	f.BoolVar(&cfg.Cold, "cold", false, "nothing of what is read is in the page cache when a run begins")
	f.BoolVar(&cfg.Local, "local", false, "read the replicas on this machine from their files, not over the network")
	f.IntVar(&cfg.Shards, "shards", 0, fmt.Sprintf("shards beside the root group (default: %d)", cluster.DefaultShards))
	f.StringVar(&cfg.Kill, "kill", "", "what is killed: master, server or both (default: master)")
	f.IntVar(&cfg.Connections, "connections", 0, "how many look names up, each with connections of its own (default: 2000)")
	f.IntVar(&cfg.Writers, "writers", 0, "how many make files besides (default: 200)")
	f.DurationVar(&cfg.Duration, "duration", 0, "how long a run works (default: 20s, mixed 3s)")
	f.IntVar(&cfg.Files, "files", 0, "how many files one master is given (default: 100000), or records are appended to (1)")
	for _, v := range slices.Backward(bench.Verbs) { // each flag's text begins with those that heed it
		for _, s := range v.Settings {
			flag, between := f.Lookup(s), ", "
			if flag == nil { // --masters is everybody's
				continue
			}
			if !heeded[s] {
				between = ": "
			}
			heeded[s] = true
			flag.Usage = v.Name + between + flag.Usage
		}
	}
	f.IntVar(&cfg.Runs, "runs", 7, "interleaved runs")
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
