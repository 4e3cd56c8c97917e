package main

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/transfer"
)

// globHelp is said of every command that takes patterns.
const globHelp = `A PATH may be a pattern, which Quarry expands (quote it, or the shell may do so first): *, ?,
[a-z] and [!a-z] stand for parts of names, ** for any number of directories. What exists under
exactly that name comes first; names that begin with a dot are meant only by patterns that do.`

func getCommand(o *options) *cobra.Command {
	var t transfers
	var force bool
	c := &cobra.Command{
		Use:   "get PATH… [LOCAL]",
		Short: "Read files and trees into local ones",
		Long: `Reads files into local ones, or one to standard output ("-"); with --recursive, directories
and everything in them. Every byte is compared with its checksum; a broken or missing replica
is replaced by another one on the way. A local file appears when it is complete, with the time
of the one in the cluster.

` + targetHelp + `
With one PATH alone the target is the present directory.

With --resume, what was read of a file of 64 MiB and more is kept when that is interrupted or
fails, under a hidden name beside the target (.NAME.part-…), and the same command goes on with
it, as long as the file in the cluster is the same one. To give it up, remove the hidden file.

` + globHelp,
		Example: `  quarry get /archive/big.tar
  quarry get '/logs/2026-*/*.log' logs/
  quarry get -r /archive/photos .
  quarry get /archive/src.tar - | tar x`,
		Args: args(1, -1, "a path and perhaps a local file"),
		RunE: func(c *cobra.Command, args []string) error {
			paths, local := args, "."
			if len(args) > 1 {
				paths, local = args[:len(args)-1], args[len(args)-1]
			}
			t.keep = !force
			return o.withPaths(c, paths, func(ctx context.Context, fs *client.FS, paths []string) error {
				q := transfer.Quarry{FS: fs}
				if local == "-" {
					return cat(ctx, fs, paths)
				}
				return t.copy(ctx, o, q, paths, transfer.Local{}, local)
			})
		},
	}
	t.register(c, o)
	t.registerResume(c)
	c.Flags().BoolVarP(&force, "force", "f", false, "replace local files that exist")
	return c
}

func catCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "cat PATH…",
		Short:   "Write files to standard output",
		Long:    "Writes files to standard output, one after the other.\n\n" + globHelp,
		Example: "  quarry cat '/logs/2026-11-*/errors' | sort",
		Args:    args(1, -1, "at least one path"),
		RunE: func(c *cobra.Command, args []string) error {
			return o.withPaths(c, args, cat)
		},
	}
}

func cat(ctx context.Context, fs *client.FS, paths []string) error {
	for _, p := range paths {
		if err := catOne(ctx, fs, p); err != nil {
			return err
		}
	}
	return nil
}

func catOne(ctx context.Context, fs *client.FS, p string) error {
	f, err := fs.Open(ctx, p)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(os.Stdout, f)
	return err
}
