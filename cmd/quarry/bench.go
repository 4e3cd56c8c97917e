package main

import (
	"errors"
	"fmt"
	"maps"
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
lists: each run then measures all points, one after the other. With --processes the clients
are in processes of their own, whose processor time is told apart, too. With --masters a
running cluster is measured in its place, in a directory of its own that is removed in the
end, and processor time is that of the clients. For the others masters and chunk servers are
processes of their own, without TLS; the first six are measured under it if --tls-cert and its
like are given.

Each figure is the median of several interleaved runs, with its spread, the other side's
median and the ratio. What counts is the ratio, and the processor time; an absolute rate is
a remark about this machine. p50 to max are how long single operations took: of each run a
percentile, of which the median is told. With clients the runs are the clients, or the masters; with
memory they are looks at a process while it works.

Several things can be named; each heeds those of the flags whose text names it. read-cold is
read with --cold, so read read-cold read-local random-cold measures all of them. --html draws
everything on one page: throughput against clients, chunk servers and record sizes, processor
time, how long operations took, and what was run on which machine.`

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

// benchSettings are what the command is told.
type benchSettings struct {
	cfg           bench.Config
	profile, page string
}

func benchCommand(o *options) *cobra.Command {
	var b benchSettings
	c := &cobra.Command{
		Use:       "bench " + strings.Join(bench.Names(), "|") + " …",
		Short:     "Measure a cluster against bare programs, and what limits it",
		Long:      fmt.Sprintf(benchLong, benchTable()),
		Example:   "  quarry bench write --clients 4\n  quarry bench read read-cold read-local random --clients 1,4,16\n  quarry bench write read append --clients 1,2,4,8,16 --html curves.html\n  quarry bench append --clients 1,16,128 --record 100,4096,1048576 --json\n  quarry bench read --masters host:7400 --clients 1,4,16\n  quarry bench failover --kill both --runs 20\n  quarry bench recovery --clients 4",
		ValidArgs: bench.Names(),
		Args:      args(1, len(bench.Verbs), "what to measure: "+strings.Join(bench.Names(), ", ")),
		RunE: func(c *cobra.Command, args []string) error {
			if err := benchHeeds(c, args); err != nil {
				return err
			}
			if dir := filepath.Dir(b.page); b.page != "" { // before hours of measuring, not after them
				if _, err := os.Stat(dir); err != nil {
					return localError("bench", dir, err)
				}
			}
			return b.run(c, o, args)
		},
	}
	c.AddCommand(&cobra.Command{Use: bench.WorkerArgs[1], Hidden: true, Args: args(0, 0, "no arguments"), RunE: func(c *cobra.Command, _ []string) error {
		return bench.Work(c.Context(), os.Stdin, os.Stdout)
	}})
	benchFlags(c, &b.cfg)
	c.Flags().StringVar(&b.profile, "cpu-profile", "", "write a profile of this process's processor time to this file")
	c.Flags().StringVar(&b.page, "html", "", "draw everything on a page, one HTML file, and write it to this file")
	return c
}

// run measures one verb after the other.
func (b *benchSettings) run(c *cobra.Command, o *options, verbs []string) error {
	dir, err := os.MkdirTemp(b.cfg.Dir, "quarry-bench-*")
	if err != nil {
		return localError("bench", b.cfg.Dir, err)
	}
	defer os.RemoveAll(dir)
	cfg := b.cfg
	cfg.Dir = filepath.Join(dir, "run")
	if c.Flags().Changed("masters") { // named on purpose: what the environment names is not put under load
		if cfg.Masters, err = o.addresses(); err != nil {
			return err
		}
		if cfg.Key, err = cluster.ReadKey(o.keyFile); err != nil {
			return err
		}
	}
	if c.Flags().Changed("masters") || c.Flags().Changed("tls-cert") { // nor is a cluster of its own under the environment's TLS
		cfg.TLS = o.tls
	}
	if o.verbose {
		cfg.Log = o.serverLogger()
	}
	end := func() {}
	if onTerminal(os.Stderr) {
		cfg.Progress = func(what string) { fmt.Fprintf(os.Stderr, "\r\x1b[K%s", what) }
		end = func() { fmt.Fprint(os.Stderr, "\r\x1b[K") }
	}
	if b.profile != "" {
		f, err := os.Create(b.profile)
		if err != nil {
			return localError("bench", b.profile, err)
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	report := bench.NewReport(strings.Join(append([]string{"quarry"}, os.Args[1:]...), " "), dir)
	for _, verb := range verbs {
		results, e := bench.Run(c.Context(), verb, cfg)
		end()
		if e == nil {
			report.Add(verb, results)
			e = printResults(o, results)
		}
		if err = e; err != nil {
			break
		}
	}
	report.End()
	if b.page != "" && len(report.Verbs) > 0 { // also of what there is when the last one failed
		err = errors.Join(err, writeLocal(b.page, report.Page))
	}
	return err
}

// benchHeeds refuses verbs that there are not, and flags that no verb heeds: they would seem to have
// been measured.
func benchHeeds(c *cobra.Command, verbs []string) error {
	heeded := map[string]bool{}
	for i, name := range verbs {
		v := bench.Find(name)
		if v == nil {
			return usageError{fmt.Errorf("%q cannot be measured; what can is %s", name, strings.Join(bench.Names(), ", "))}
		}
		if slices.Contains(verbs[:i], name) {
			return usageError{fmt.Errorf("%s is named twice", name)}
		}
		for _, s := range v.Settings {
			heeded[s] = true
		}
		if _, mode, _ := strings.Cut(name, "-"); mode != "" && (c.Flags().Changed("cold") || c.Flags().Changed("local")) {
			return usageError{fmt.Errorf("with %s, --cold and --local are ambiguous: say it by the names", name)}
		}
	}
	for _, other := range bench.Verbs {
		for _, s := range other.Settings {
			if c.Flags().Changed(s) && !heeded[s] {
				return usageError{fmt.Errorf("bench %s does not heed --%s; what it heeds is --%s, --runs, --dir, --html", strings.Join(verbs, " "), s, strings.Join(slices.Sorted(maps.Keys(heeded)), ", --"))}
			}
		}
	}
	return nil
}

func benchFlags(c *cobra.Command, cfg *bench.Config) {
	f, heeded := c.Flags(), map[string]bool{}
	f.IntSliceVar(&cfg.Clients, "clients", nil, "streams, appenders or callers at the same time (default: 1, beside 2, limits 64, recovery 4)")
	f.IntVar(&cfg.Processes, "processes", 0, "in how many processes of their own the clients are (default: in this one, with the cluster)")
	f.IntSliceVar(&cfg.Servers, "servers", nil, "chunk servers (default: 3, beside 1, recovery 4)")
	f.IntSliceVar(&cfg.RecordBytes, "record", nil, "bytes of a record, or of a read (default: 4096)")
	f.Int64Var(&cfg.Bytes, "bytes", 0, "bytes of each stream and run, or of the file to read (default: 268435456)")
	f.IntVar(&cfg.Operations, "operations", 0, "operations of a run (default: 2,000 a client, at most 20,000)")
	f.BoolVar(&cfg.Cold, "cold", false, "nothing of what is read is in the page cache when a run begins")
	f.BoolVar(&cfg.Local, "local", false, "read the replicas on this machine from their files, not over the network")
	f.IntVar(&cfg.Shards, "shards", 0, fmt.Sprintf("shards beside the root group (default: %d)", cluster.DefaultShards))
	f.StringVar(&cfg.Kill, "kill", "", "what is killed: master, server or both; or mute: a chunk server hears all others, and none hears it (default: master)")
	f.DurationVar(&cfg.DeadAfter, "dead-after", 0, "how long a lost chunk server is waited for (default: as long as masters do, 30s)")
	f.IntVar(&cfg.Connections, "connections", 0, "how many look names up, each with connections of its own (default: 2000)")
	f.IntVar(&cfg.Writers, "writers", 0, "how many make files besides (default: 200)")
	f.DurationVar(&cfg.Duration, "duration", 0, "how long a run works (default: 20s, mixed and beside 3s, recovery 5s before the loss)")
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
