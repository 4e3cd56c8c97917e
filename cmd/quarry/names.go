package main

import (
	"context"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry/client"
)

func mkdirCommand(o *options) *cobra.Command {
	var parents bool
	c := &cobra.Command{
		Use:   "mkdir PATH…",
		Short: "Make directories",
		Args:  args(1, -1, "at least one path"),
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
		Use:   "mv FROM TO",
		Short: "Give a file or directory another name",
		Long: `Gives a file or directory another name, in one step. A file that has the new name is
replaced. If TO ends with "/" or is a directory, the name is kept inside it.`,
		Args: args(2, 2, "two paths"),
		RunE: func(c *cobra.Command, args []string) error {
			return o.with(c, func(ctx context.Context, fs *client.FS) error {
				from, to := args[0], args[1]
				if info, err := fs.Stat(ctx, to); strings.HasSuffix(to, "/") || err == nil && info.IsDir() {
					to = path.Join(to, path.Base("/"+from))
				}
				return fs.Rename(ctx, from, to)
			})
		},
	}
}

func rmCommand(o *options) *cobra.Command {
	var all, now bool
	c := &cobra.Command{
		Use:   "rm PATH…",
		Short: "Remove files and empty directories",
		Long: `Removes files and empty directories; with --recursive, directories and everything in them.
Interrupted, that has removed a part; said again it goes on.

Removed files are kept for a time (24 hours, unless "quarry admin trash" says otherwise), in
which "quarry undelete" brings them back; then their space is freed. With --now they are not
kept: nobody can bring them back, and whoever still reads one may fail. The space of a file
that was appended to is then free when no client can ask any more what became of its records
(70 minutes, unless the masters were told otherwise), that of others within seconds.`,
		Args: args(1, -1, "at least one path"),
		RunE: func(c *cobra.Command, args []string) error {
			return o.with(c, func(ctx context.Context, fs *client.FS) error {
				remove := fs.Remove
				switch {
				case all && now:
					remove = fs.RemoveAllNow
				case all:
					remove = fs.RemoveAll
				case now:
					remove = fs.RemoveNow
				}
				for _, p := range args {
					if err := remove(ctx, p); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	c.Flags().BoolVarP(&all, "recursive", "r", false, "remove directories and everything in them")
	c.Flags().BoolVar(&now, "now", false, "do not keep the files: they cannot be brought back")
	return c
}
