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
	var all bool
	c := &cobra.Command{
		Use:   "rm PATH…",
		Short: "Remove files and empty directories",
		Long: `Removes files and empty directories; with --recursive, directories and everything in them.
Interrupted, that has removed a part; said again it goes on. The space of a file is freed
after the time for which the masters keep removed files (24 hours, unless they were told
otherwise).`,
		Args: args(1, -1, "at least one path"),
		RunE: func(c *cobra.Command, args []string) error {
			return o.with(c, func(ctx context.Context, fs *client.FS) error {
				remove := fs.Remove
				if all {
					remove = fs.RemoveAll
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
	return c
}
