package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/transfer"
)

func mkdirCommand(o *options) *cobra.Command {
	var parents bool
	c := &cobra.Command{
		Use:   "mkdir PATH…",
		Short: "Make directories",
		Long: `Makes directories, each in one step. The directory above must exist, and the name must be free,
unless --parents is given.`,
		Example: "  quarry mkdir /logs\n  quarry mkdir -p /logs/2026/11",
		Args:    args(1, -1, "at least one path"),
		RunE: func(c *cobra.Command, args []string) error {
			return o.with(c, func(ctx context.Context, fs *client.FS) error {
				for _, p := range args {
					make := fs.Mkdir
					if parents {
						make = fs.MkdirAll
					}
					if err := make(ctx, p); err != nil {
						return err
					}
					if err := o.done("mkdir", "", p); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	c.Flags().BoolVarP(&parents, "parents", "p", false, "make missing directories above it, and accept one that exists")
	return c
}

func mvCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "mv PATH… TARGET",
		Short: "Give files and directories other names",
		Long: `Gives files or directories other names, each in one step. A file that has the new name is
replaced.

` + targetHelp + `

` + globHelp,
		Example: "  quarry mv /new /current\n  quarry mv '/logs/2025-*' /old/",
		Args:    args(2, -1, "two paths"),
		RunE: func(c *cobra.Command, args []string) error {
			return o.withPaths(c, args[:len(args)-1], func(ctx context.Context, fs *client.FS, paths []string) error {
				q := transfer.Quarry{FS: fs}
				pairs, err := transfer.Targets(ctx, q, paths, q, args[len(args)-1])
				if err != nil {
					return err
				}
				for _, p := range pairs {
					if err := fs.Rename(ctx, p.From.Path, p.To); err != nil {
						return err
					}
					if err := o.done("rename", p.From.Path, p.To); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

// done tells programs what was done; people see that nothing failed.
func (o *options) done(action, from, to string) error {
	if !o.json {
		return nil
	}
	return printJSON(os.Stdout, event{Action: action, From: from, To: to})
}

func rmCommand(o *options) *cobra.Command {
	var r removal
	c := &cobra.Command{
		Use:   "rm PATH…",
		Short: "Remove files and empty directories",
		Long: `Removes files and empty directories; with --recursive, directories and everything in them.
Interrupted, that has removed a part; said again it goes on. A path that fails does not keep the
others from being removed.

Removed files are kept for a time (24 hours, unless "quarry admin trash" says otherwise), in
which "quarry undelete" brings them back; then their space is freed. With --now they are not
kept: nobody can bring them back, and whoever still reads one may fail. The space of a file
that was appended to is then free when no client can ask any more what became of its records
(70 minutes, unless the masters were told otherwise), that of others within seconds.

` + globHelp,
		Example: "  quarry rm /tmp/x\n  quarry rm '/logs/2025-*/*.log'\n  quarry rm -r /scratch",
		Args:    args(1, -1, "at least one path"),
		RunE: func(c *cobra.Command, args []string) error {
			return o.with(c, func(ctx context.Context, fs *client.FS) error { return r.run(ctx, o, fs, args) })
		},
	}
	c.Flags().BoolVarP(&r.all, "recursive", "r", false, "remove directories and everything in them")
	c.Flags().BoolVarP(&r.force, "force", "f", false, "what is not there is no error")
	c.Flags().BoolVar(&r.now, "now", false, "do not keep the files: they cannot be brought back")
	return c
}

// removal is how rm removes.
type removal struct{ all, now, force bool }

// removeParallel is how many paths of one command line are removed at a time.
const removeParallel = 16

func (r removal) run(ctx context.Context, o *options, fs *client.FS, patterns []string) error {
	remove := fs.Remove
	switch {
	case r.all && r.now:
		remove = fs.RemoveAllNow
	case r.all:
		remove = fs.RemoveAll
	case r.now:
		remove = fs.RemoveNow
	}
	var paths []string
	for _, p := range patterns {
		found, err := transfer.Glob(ctx, transfer.Quarry{FS: fs}, p)
		if err != nil && !(r.force && errors.Is(err, quarry.NotFound)) {
			return err // nothing is removed if one of the words is wrong
		}
		paths = append(paths, found...)
	}
	var mu sync.Mutex // guards what follows
	failed, first := 0, error(nil)
	var work errgroup.Group
	work.SetLimit(removeParallel)
	for _, p := range paths {
		if ctx.Err() != nil {
			break
		}
		work.Go(func() error {
			err := remove(ctx, p)
			if r.force && errors.Is(err, quarry.NotFound) {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				return o.done("remove", p, "")
			}
			if failed++; first == nil {
				first = err
			}
			if len(paths) > 1 && ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, "quarry: "+oneLine(err.Error()))
			}
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		return err
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case failed > 1:
		return fmt.Errorf("%d paths were not removed; the first: %w", failed, first)
	}
	return first
}
