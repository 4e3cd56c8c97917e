package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/transfer"
)

// transfers are the flags that put, get, cp and sync share, and what they do with them.
type transfers struct {
	parallel  int
	limit     string
	rate      int64 // what limit says
	recursive bool
	keep      bool
	preserve  bool
	resume    bool
}

func (t *transfers) register(c *cobra.Command, o *options) {
	t.registerRates(c, o)
	c.Flags().BoolVarP(&t.recursive, "recursive", "r", false, "copy directories and everything in them")
	c.Flags().BoolVar(&t.preserve, "preserve", false, "files keep their permissions, and in the cluster their times, too")
}

// registerRates adds the flags that do not say what is copied.
func (t *transfers) registerRates(c *cobra.Command, o *options) {
	c.Flags().IntVar(&t.parallel, "parallel", o.settings.parallel(), fmt.Sprintf("how many files are moved at a time, 1 to %d", transfer.ParallelMax))
	c.Flags().StringVar(&t.limit, "limit", o.settings["limit"], "the most bytes per second, of all files together, such as 10M")
	c.PreRunE = func(*cobra.Command, []string) error { return t.check() }
}

// check looks at the flags before anything is done.
func (t *transfers) check() (err error) {
	if t.rate, err = parseBytes(t.limit); err != nil {
		return usageError{fmt.Errorf("--limit: %w", err)}
	}
	if t.parallel < 1 || t.parallel > transfer.ParallelMax {
		return usageError{fmt.Errorf("--parallel can be 1 to %d", transfer.ParallelMax)}
	}
	return nil
}

// registerResume adds the flag of those that can go on.
func (t *transfers) registerResume(c *cobra.Command) {
	c.Flags().BoolVar(&t.resume, "resume", false, "keep what was moved of large files when that is interrupted, and go on with it")
}

// inCluster is the tree of a cluster as the target of transfers.
func (t *transfers) inCluster(fs *client.FS) (transfer.Quarry, error) {
	q := transfer.Quarry{FS: fs}
	if !t.resume {
		return q, nil
	}
	q.State = os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(q.State) { // as its specification says
		home, err := os.UserHomeDir()
		if err != nil {
			return q, fmt.Errorf("--resume notes what is stored in the user's folder, which is not known: %w; set XDG_STATE_HOME", err)
		}
		q.State = filepath.Join(home, ".local", "state")
	}
	q.State = filepath.Join(q.State, "quarry")
	return q, nil
}

// copy copies what the command line names.
func (t *transfers) copy(ctx context.Context, o *options, from transfer.Tree, sources []string, to transfer.Tree, target string) error {
	pairs, err := transfer.Targets(ctx, from, sources, to, target)
	if err != nil {
		return err
	}
	single := len(pairs) == 1 && pairs[0].From.Kind != transfer.Dir
	return t.run(ctx, o, single, func(opts transfer.Options) (transfer.Summary, error) {
		return transfer.Copy(ctx, from, to, pairs, opts)
	})
}

// run does transfers and shows how they go on. single says that there is one file, whose error
// need not be said twice.
func (t *transfers) run(ctx context.Context, o *options, single bool, do func(transfer.Options) (transfer.Summary, error)) error {
	opts := transfer.Options{
		Clock: clock.System(), Parallel: t.parallel, Limit: transfer.NewLimiter(clock.System(), t.rate),
		Recursive: t.recursive, Keep: t.keep, Preserve: t.preserve, Resume: t.resume,
	}
	show := newDisplay(o, single)
	if show != nil {
		opts.Progress = show
	}
	opts.Report = func(e transfer.Event) {
		switch {
		case o.json:
			_ = printJSON(os.Stdout, eventOf(e))
		case e.Err != nil && single || ctx.Err() != nil:
		case e.Err != nil:
			show.print("quarry: " + oneLine(e.Err.Error()))
		case e.Action == "anew":
			show.print("quarry: " + oneLine(e.From) + " is put from its beginning: " + e.Why)
		case e.Action == "skip":
			show.print("quarry: passed over " + oneLine(e.From) + ": " + e.Why)
		}
	}
	sum, err := do(opts)
	show.close(sum)
	if err != nil && sum.Failed > 0 && !single && !o.json && ctx.Err() == nil {
		err = failures{sum.Failed, err} // each was named when it happened
	}
	if o.json && !single {
		if jsonErr := printJSON(os.Stdout, map[string]any{"action": "sum", "sum": sum}); err == nil {
			err = jsonErr
		}
	}
	if err != nil && t.resume && !o.json {
		fmt.Fprintln(os.Stderr, "quarry: what was moved of large files is kept, in the cluster until its session expires; the same command goes on with it")
	}
	return err
}

// failures is the error of a command that has named every failure.
type failures struct {
	n     int64
	first error
}

func (f failures) Error() string { return counted(f.n, "failure") + ", named above" }
func (f failures) Unwrap() error { return f.first }

// event is something that was done, for programs.
type event struct {
	Action string `json:"action"`
	From   string `json:"from,omitempty"`
	To     string `json:"to,omitempty"`
	Size   *int64 `json:"size,omitempty"`
	Why    string `json:"why,omitempty"`
	Error  string `json:"error,omitempty"`
}

func eventOf(e transfer.Event) event {
	out := event{Action: e.Action, From: e.From, To: e.To, Why: e.Why}
	switch {
	case e.Err != nil:
		out.Error = e.Err.Error()
	case e.Action == "copy":
		out.Size = &e.Size
	}
	return out
}

// parseBytes reads a number of bytes such as 512, 64K, 1.5MiB or 2G; the units are powers of 1024.
// "" is 0.
func parseBytes(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	number := strings.TrimRight(s, "KMGTPEiBkmgtpeb")
	unit := strings.ToUpper(s[len(number):])
	unit = strings.TrimSuffix(strings.TrimSuffix(unit, "B"), "I")
	power := 0
	if unit != "" {
		if power = strings.Index("KMGTPE", unit) + 1; power == 0 || len(unit) > 1 {
			return 0, fmt.Errorf("%q is no number of bytes; write 512, 64K, 1.5M or 2G", s)
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if n *= math.Pow(1024, float64(power)); err != nil || !(n >= 0 && n < math.MaxInt64) {
		return 0, fmt.Errorf("%q is no number of bytes; write 512, 64K, 1.5M or 2G", s)
	}
	return int64(n), nil
}

// bytesValue is the value of a flag that is a number of bytes.
type bytesValue int64

func (b *bytesValue) Set(s string) error {
	n, err := parseBytes(s)
	if err == nil {
		*b = bytesValue(n)
	}
	return err
}

func (b *bytesValue) Type() string { return "bytes" }

// String returns the shortest text that is the same number.
func (b *bytesValue) String() string {
	n, unit := int64(*b), ""
	for i := 0; n > 0 && n%1024 == 0 && i < 6; i++ {
		n, unit = n/1024, "KMGTPE"[i:i+1]
	}
	return strconv.FormatInt(n, 10) + unit
}
