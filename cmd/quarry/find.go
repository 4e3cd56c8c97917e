package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/transfer"
)

const findHelp = `Looks for files and directories at and below each PATH (default: the root) that all of the
flags mean, and prints their paths. Ages are of the last change; they are written 90s, 15m, 12h,
30d or 2w. Sizes are written 512, 64K, 1.5M or 2G; directories have none, so that --larger and
--smaller leave them out.

--exec runs a command for each path, whose {} is the path (without {}, it comes at the end); the
command is run without a shell. --print0 ends each path with a NUL, for xargs -0: any name comes
through.

` + globHelp

func findCommand(o *options) *cobra.Command {
	f := finder{o: o}
	c := &cobra.Command{
		Use:   "find [PATH…]",
		Short: "Look for files by name, size and age",
		Long:  findHelp,
		Example: `  quarry find /logs --name '*.gz' --older 30d
  quarry find / --larger 10G --type file
  quarry find /logs --older 30d --type file --print0 | xargs -0 quarry rm
  quarry find /in --name '*.tar' --exec 'quarry mv {} /done/'`,
		Args: args(0, -1, "paths"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := f.check(c); err != nil {
				return usageError{err}
			}
			return o.withPaths(c, orRoot(args), func(ctx context.Context, fs *client.FS, paths []string) error {
				q := transfer.Quarry{FS: fs}
				for _, p := range paths {
					err := transfer.Walk(ctx, q, p, func(e transfer.Entry, depth int) error { return f.visit(ctx, e, depth) })
					if err != nil {
						return err
					}
				}
				if f.failed > 0 {
					return fmt.Errorf("find: the command failed for %s", counted(f.failed, "path"))
				}
				return nil
			})
		},
	}
	v := c.Flags()
	v.StringVar(&f.name, "name", "", "the name matches a pattern")
	v.StringVar(&f.kind, "type", "", "file or directory (or f, d)")
	v.StringVar(&f.larger, "larger", "", "files of more bytes, such as 10M")
	v.StringVar(&f.smaller, "smaller", "", "files of fewer bytes, such as 64K")
	v.StringVar(&f.older, "older", "", "last changed longer ago, such as 30d")
	v.StringVar(&f.newer, "newer", "", "last changed less long ago, such as 12h")
	v.IntVarP(&f.depth, "depth", "d", -1, "go only so many levels down; -1: all the way")
	v.StringVar(&f.exec, "exec", "", "run a command for each")
	v.BoolVar(&f.print0, "print0", false, "end each path with a NUL instead of a line end")
	return c
}

// finder is what find looks for, and what it does with what it finds.
type finder struct {
	o                                         *options
	name, kind, larger, smaller, older, newer string
	exec                                      string
	depth                                     int
	print0                                    bool

	least, most   int64     // bytes
	before, after time.Time // zero: any
	command       []string
	failed        int64
}

// check reads the flags.
func (f *finder) check(c *cobra.Command) error {
	if _, err := path.Match(f.name, ""); err != nil {
		return fmt.Errorf("--name: %q is no pattern", f.name)
	}
	switch f.kind {
	case "", "file", "directory":
	case "f":
		f.kind = "file"
	case "d":
		f.kind = "directory"
	default:
		return fmt.Errorf("--type can be file or directory, not %q", f.kind)
	}
	var err error
	if f.least, err = parseBytes(f.larger); err != nil {
		return fmt.Errorf("--larger: %w", err)
	}
	if f.most, err = parseBytes(f.smaller); err != nil {
		return fmt.Errorf("--smaller: %w", err)
	}
	now := clock.System().Wall()
	if f.before, err = ago(now, f.older); err != nil {
		return fmt.Errorf("--older: %w", err)
	}
	if f.after, err = ago(now, f.newer); err != nil {
		return fmt.Errorf("--newer: %w", err)
	}
	if !c.Flags().Changed("exec") {
		return nil
	}
	if f.command = strings.Fields(f.exec); len(f.command) == 0 {
		return errors.New("--exec needs a command")
	}
	if f.print0 || f.o.json {
		return errors.New("--exec, --print0 and --json are for one each")
	}
	return nil
}

// ago returns the time an age before now; zero of "".
func ago(now time.Time, age string) (time.Time, error) {
	if age == "" {
		return time.Time{}, nil
	}
	d, err := time.ParseDuration(age)
	for unit, hours := range map[string]float64{"d": 24, "w": 7 * 24} {
		if number, ok := strings.CutSuffix(age, unit); ok {
			var n float64
			n, err = strconv.ParseFloat(number, 64)
			d = time.Duration(n * hours * float64(time.Hour))
		}
	}
	if err != nil || d < 0 {
		return time.Time{}, fmt.Errorf("%q is no age; write 90s, 15m, 12h, 30d or 2w", age)
	}
	return now.Add(-d), nil
}

// visit deals with what the walk comes to.
func (f *finder) visit(ctx context.Context, e transfer.Entry, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if f.means(e) {
		if err := f.act(ctx, e); err != nil {
			return err
		}
	}
	if f.depth >= 0 && depth >= f.depth {
		return transfer.ErrSkipDir
	}
	return nil
}

// means reports whether an entry is looked for.
func (f *finder) means(e transfer.Entry) bool {
	if f.name != "" {
		if ok, _ := path.Match(f.name, e.Name); !ok {
			return false
		}
	}
	switch {
	case f.kind != "" && f.kind != e.Kind.String(),
		(f.larger != "" || f.smaller != "") && e.Kind != transfer.File,
		f.larger != "" && e.Size <= f.least,
		f.smaller != "" && e.Size >= f.most,
		!f.before.IsZero() && !e.Modified.Before(f.before),
		!f.after.IsZero() && !e.Modified.After(f.after):
		return false
	}
	return true
}

// act does with a path what is to be done.
func (f *finder) act(ctx context.Context, e transfer.Entry) error {
	switch {
	case f.command != nil:
		return f.run(ctx, e.Path)
	case f.o.json:
		return printJSON(os.Stdout, found(e))
	case f.print0:
		_, err := fmt.Print(e.Path + "\x00")
		return err
	}
	_, err := fmt.Println(dirName(e.Path, false))
	return err
}

// run runs the command for a path. One that fails does not keep it from being run for others.
func (f *finder) run(ctx context.Context, p string) error {
	var words []string
	put := false
	for _, w := range f.command {
		put = put || strings.Contains(w, "{}")
		words = append(words, strings.ReplaceAll(w, "{}", p))
	}
	if !put {
		words = append(words, p)
	}
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &exit):
		f.failed++
		return nil
	}
	return err
}

// finding is what was found, for programs.
type finding struct {
	Path     string `json:"path"`
	Kind     string `json:"kind"`
	Size     int64  `json:"size"`
	Modified string `json:"modified"`
}

func found(e transfer.Entry) finding {
	return finding{Path: e.Path, Kind: e.Kind.String(), Size: e.Size, Modified: e.Modified.UTC().Format(time.RFC3339Nano)}
}
