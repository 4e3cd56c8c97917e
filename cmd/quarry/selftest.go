package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/chaos"
	"github.com/quarryfs/quarry/clock"
)

const selftestHelp = `Starts a throw-away cluster of real processes on this machine, has clients work on it, and
meanwhile does to it what machines do to clusters: processes are killed, frozen and
restarted, the network is cut, slowed down and reset, bits rot, a disk is lost or full. Then
everything is healed, and what the clients saw is checked against what Quarry promises.

It needs no rights and no set-up, uses loopback addresses and a temporary folder, and leaves
nothing behind but a page, one HTML file, that shows what happened. If a promise was broken,
the verdict shows the shortest history that proves it, and the folder stays, with the logs of
the processes and every operation in history.jsonl.

Clients append to logs that they share, follow and read them, replace whole files, and make,
rename, remove and list names. What is checked:

  append log  every acknowledged record is there once, at its offset, in real-time order;
              nobody read what was not there afterwards
  names       creating, renaming, removing and listing have happened in one order
  register    a file that is replaced is always one of its contents, whole, and never older
              than what somebody saw before
  replicas    at the end all replicas of a chunk have the same bytes, and rot was repaired
  recovery    no process ended by itself; afterwards the cluster became whole by itself

The faults, of which --faults chooses (default: all):

%s
The seed decides which faults there are, in which order, and what the clients do. When
exactly it happens depends on the machine, so the same seed makes a run like it, not the
same one. Ctrl-C ends the run early, with a verdict on what has been done; a second one ends
it at once.

The exit code is 0 if every promise was kept, 9 if one was broken, 10 if nothing was found
but not everything could be checked, and 1 if there was no run.`

const (
	exitViolated     = 9
	exitInconclusive = 10
)

// verdictError ends the process with the code of a verdict that has been printed.
type verdictError struct{ code int }

func (e verdictError) Error() string { return "the verdict is above" }

// selftestFlags are what the command is told.
type selftestFlags struct {
	cfg    chaos.Config
	faults string
	dir    string
	page   string
	keep   bool
	seed   uint64
}

func selftestCommand(o *options) *cobra.Command {
	var f selftestFlags
	var kinds strings.Builder
	for _, k := range chaos.Kinds() {
		fmt.Fprintf(&kinds, "  %-11s %s\n", k, k.About())
	}
	c := &cobra.Command{
		Use:     "selftest",
		Short:   "Break a throw-away cluster on this machine and check its promises",
		Long:    fmt.Sprintf(selftestHelp, kinds.String()),
		Example: "  quarry selftest\n  quarry selftest --duration 10m --seed 7\n  quarry selftest --faults kill,partition --json",
		Args:    args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, args []string) error {
			var err error
			if f.cfg.Kinds, err = chaos.ParseKinds(f.faults); err != nil {
				return usageError{err}
			}
			if err := f.check(); err != nil {
				return usageError{err}
			}
			return selftest(c.Context(), o, &f)
		},
	}
	fl := c.Flags()
	fl.DurationVar(&f.cfg.Duration, "duration", time.Minute, "how long clients work and faults are done")
	fl.Uint64Var(&f.seed, "seed", 0, "what is done follows from it (default: drawn, and shown)")
	fl.StringVar(&f.faults, "faults", "all", "which faults, with commas between, all or none")
	fl.IntVar(&f.cfg.Masters, "masters-count", 3, "how many masters: 1, 3 or 5")
	fl.IntVar(&f.cfg.Servers, "servers-count", 4, "how many chunk servers, 1 to 16")
	fl.IntVar(&f.cfg.Clients, "clients-count", 2, "how many clients, 1 to 16")
	fl.StringVar(&f.dir, "dir", "", "the folder of the cluster (default: a temporary one)")
	fl.StringVar(&f.page, "html", "", "where the page is written (default: quarry-selftest-SEED.html here)")
	fl.BoolVar(&f.keep, "keep", false, "keep the folder of the cluster")
	return c
}

// check refuses what cannot be run.
func (f *selftestFlags) check() error {
	c := &f.cfg
	switch {
	case c.Masters != 1 && c.Masters != 3 && c.Masters != 5:
		return fmt.Errorf("--masters-count is %d, there can be 1, 3 or 5", c.Masters)
	case c.Servers < 1 || c.Servers > 16 || c.Clients < 1 || c.Clients > 16:
		return fmt.Errorf("there can be 1 to 16 chunk servers and clients")
	case c.Duration < time.Second || c.Duration > 24*time.Hour:
		return fmt.Errorf("--duration is %v, it can be 1s to 24h", c.Duration)
	}
	return nil
}

func selftest(ctx context.Context, o *options, f *selftestFlags) error {
	cfg := f.cfg
	cfg.Clock = clock.System()
	if cfg.Seed = f.seed; cfg.Seed == 0 {
		cfg.Seed = uint64(rand.Uint32()) | 1 // short enough for every JSON reader, and to be typed
	}
	var err error
	if cfg.Program, err = os.Executable(); err != nil {
		return quarry.Errorf("selftest", quarry.Internal, "", "the program's own file is not known: %w", err)
	}
	if cfg.Dir, err = f.folder(); err != nil {
		return err
	}
	// A second interrupt ends everything at once: the processes do not outlive this one.
	context.AfterFunc(ctx, func() { signal.Reset(os.Interrupt, syscall.SIGTERM) })
	show := newSelftestProgress(o, os.Stderr, cfg)
	cfg.Progress = show.update
	show.begin()
	report, err := chaos.Run(ctx, cfg)
	show.end()
	if err != nil {
		return err
	}
	page := f.page
	if page == "" {
		page = fmt.Sprintf("quarry-selftest-%d.html", cfg.Seed)
	}
	if err := writeLocal(page, report.Page); err != nil {
		return err
	}
	kept := ""
	if f.keep || report.Verdict == chaos.Violated {
		kept = cfg.Dir
		if err := writeLocal(filepath.Join(kept, "history.jsonl"), report.WriteHistory); err != nil {
			return err
		}
	} else if err := os.RemoveAll(cfg.Dir); err != nil {
		return localError("selftest", cfg.Dir, err)
	}
	if o.json {
		if err := printJSON(os.Stdout, report); err != nil {
			return err
		}
	} else if err := printVerdict(os.Stdout, report, page, kept); err != nil {
		return err
	}
	switch report.Verdict {
	case chaos.Violated:
		return verdictError{exitViolated}
	case chaos.Inconclusive:
		return verdictError{exitInconclusive}
	}
	return nil
}

// folder returns the folder of the cluster, which is empty.
func (f *selftestFlags) folder() (string, error) {
	if f.dir == "" {
		dir, err := os.MkdirTemp("", "quarry-selftest-*")
		if err != nil {
			return "", localError("selftest", os.TempDir(), err)
		}
		return dir, nil
	}
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return "", localError("selftest", f.dir, err)
	}
	if names, err := os.ReadDir(f.dir); err != nil || len(names) > 0 {
		return "", quarry.Errorf("selftest", quarry.Exists, "local folder "+f.dir, "it must be empty: everything in it is removed at the end")
	}
	return filepath.Abs(f.dir)
}

// writeLocal writes a part of a report to a local file.
func writeLocal(name string, write func(io.Writer) error) error {
	out, err := os.Create(name)
	if err != nil {
		return localError("selftest", name, err)
	}
	err = write(out)
	if e := out.Close(); err == nil {
		err = e
	}
	if err != nil {
		return localError("selftest", name, err)
	}
	return nil
}

// printVerdict tells people what a run has come to.
func printVerdict(w io.Writer, r *chaos.Report, page, kept string) error {
	var b strings.Builder
	b.WriteString(r.Text())
	fmt.Fprintf(&b, "\nThe whole story: %s\n", page)
	if kept != "" {
		fmt.Fprintf(&b, "The folder of the cluster, with the processes' logs and the history: %s\n", kept)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// selftestProgress shows how far a run is: a few living lines on a terminal, a line every few
// seconds elsewhere, nothing with --json.
type selftestProgress struct {
	out    *os.File
	cfg    chaos.Config
	silent bool
	living bool
	lines  int // that are on the screen and are written over
	told   time.Duration
	phase  chaos.Phase
}

func newSelftestProgress(o *options, out *os.File, cfg chaos.Config) *selftestProgress {
	return &selftestProgress{out: out, cfg: cfg, silent: o.json && !onTerminal(out), living: onTerminal(out), told: -time.Hour}
}

func (p *selftestProgress) begin() {
	if p.silent {
		return
	}
	fmt.Fprintf(p.out, "quarry selftest: %d masters, %d chunk servers and %d clients, %v, seed %d\n",
		p.cfg.Masters, p.cfg.Servers, p.cfg.Clients, p.cfg.Duration, p.cfg.Seed)
}

// tellEvery is how often a line is written where none can be written over.
const tellEvery = 5 * time.Second

func (p *selftestProgress) update(s chaos.Progress) {
	if p.silent {
		return
	}
	if p.living {
		p.paint(s)
		return
	}
	if s.Phase == p.phase && s.Elapsed-p.told < tellEvery {
		return
	}
	p.phase, p.told = s.Phase, s.Elapsed
	line := string(s.Phase)
	if s.Phase == chaos.Working {
		line = fmt.Sprintf("%3.0fs  %s operations, %.0f/s, %d faults, longest without an answer %v", s.Elapsed.Seconds(),
			chaos.Thousands(s.Operations), s.PerSecond, s.Faults, s.Longest.Round(10*time.Millisecond))
		if len(s.Present) > 0 {
			line += "; now: " + strings.Join(s.Present, "; ")
		}
	}
	fmt.Fprintln(p.out, line)
}

// paint writes the living lines over those of before.
func (p *selftestProgress) paint(s chaos.Progress) {
	width, _, err := term.GetSize(int(p.out.Fd()))
	if err != nil || width < 20 {
		width = 80
	}
	lines := []string{string(s.Phase)}
	if s.Phase != chaos.Starting {
		const bar = 24
		done := min(1, s.Elapsed.Seconds()/p.cfg.Duration.Seconds())
		n := int(done * bar)
		lines = []string{
			fmt.Sprintf("%s%s %4.0f s  %s", strings.Repeat("█", n), strings.Repeat("░", bar-n), s.Elapsed.Seconds(), s.Phase),
			fmt.Sprintf("%s operations, %.0f/s; %d faults", chaos.Thousands(s.Operations), s.PerSecond, s.Faults),
			fmt.Sprintf("longest without any answer %v%s", s.Longest.Round(10*time.Millisecond), silence(s)),
		}
		for i := range 2 {
			now := ""
			if i < len(s.Present) {
				now = "⚡ " + s.Present[i]
			}
			lines = append(lines, now)
		}
	}
	var b strings.Builder
	if p.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.lines)
	}
	for _, l := range lines {
		if r := []rune(l); len(r) >= width {
			l = string(r[:width-2]) + "…"
		}
		b.WriteString("\r\x1b[2K" + l + "\n")
	}
	p.lines = len(lines)
	_, _ = io.WriteString(p.out, b.String()) // a terminal that is gone is no failure of the run
}

// silence tells of an outage of this moment.
func silence(s chaos.Progress) string {
	if s.Phase != chaos.Working || s.Silence < 300*time.Millisecond {
		return ""
	}
	return fmt.Sprintf(" (none for %v now)", s.Silence.Round(10*time.Millisecond))
}

// end takes the living lines away.
func (p *selftestProgress) end() {
	if !p.living || p.lines == 0 {
		return
	}
	fmt.Fprintf(p.out, "\x1b[%dA\x1b[J", p.lines)
}
