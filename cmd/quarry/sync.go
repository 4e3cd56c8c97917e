package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/transfer"
)

func syncCommand(o *options) *cobra.Command {
	var t transfers
	var s transfer.SyncOptions
	c := &cobra.Command{
		Use:   "sync FROM TO",
		Short: "Make one directory like another one",
		Long: `Makes the directory TO like the directory FROM: what is in it, not its name, whether or not
one of them ends with "/". What lies in the cluster is written quarry:/path, all else is local;
at least one of the two is in the cluster.

Only what differs is copied: files that are missing, that have another length, or that were
changed later than those in TO. A file in the cluster has the time at which it was stored; a
local one that was copied from there has the time of that one. So a file that is
replaced by an older one of the same length is not noticed, nor is one, when the clocks differ, that
was changed within their difference; --checksum compares every byte instead of times.

What is only in TO stays there, unless --delete is given: then it is removed at the end, if
nothing has failed before. From the cluster it goes into the trash. Interrupted, sync has done a
part, and no file is there in part; said again it goes on. With --resume it goes on within files of
64 MiB and more, too, as put and get do.`,
		Example: `  quarry sync photos quarry:/archive/photos
  quarry sync --delete --dry-run quarry:/archive/photos photos
  quarry sync --checksum quarry:/archive quarry:/copy`,
		Args: args(2, 2, "two directories, one of them as quarry:/path"),
		RunE: func(c *cobra.Command, args []string) error {
			return o.with(c, func(ctx context.Context, fs *client.FS) error {
				q, err := t.inCluster(fs)
				if err != nil {
					return err
				}
				from, source := side(q, args[0])
				to, target := side(q, args[1])
				if from == to {
					if _, local := from.(transfer.Local); local {
						return usageError{errors.New("sync: one of the directories must be in the cluster; write it as quarry:/path")}
					}
				}
				return t.run(ctx, o, false, func(opts transfer.Options) (transfer.Summary, error) {
					s.Options = opts
					if s.DryRun && !o.json {
						s.Report = showPlan
					}
					return transfer.Sync(ctx, from, to, source, target, s)
				})
			})
		},
	}
	t.registerRates(c, o)
	t.registerResume(c)
	c.Flags().BoolVar(&s.Delete, "delete", false, "remove what is only in TO")
	c.Flags().BoolVar(&s.DryRun, "dry-run", false, "show what would be done, and do nothing")
	c.Flags().BoolVar(&s.Checksum, "checksum", false, "compare the bytes of files that are as long as each other")
	return c
}

// side returns the tree that an argument of sync is in, and its path there.
func side(q transfer.Quarry, arg string) (transfer.Tree, string) {
	if path, ok := strings.CutPrefix(arg, "quarry:"); ok {
		return q, transfer.Clean(path)
	}
	return transfer.Local{}, arg
}

// showPlan prints what would be done.
func showPlan(e transfer.Event) {
	switch {
	case e.Err != nil:
		fmt.Fprintln(os.Stderr, "quarry: "+oneLine(e.Err.Error()))
	case e.Action == "copy":
		fmt.Printf("copy    %s (%s)\n", printable(e.To), bytesText(e.Size))
	case e.Action == "skip":
		fmt.Printf("skip    %s: %s\n", printable(e.From), e.Why)
	default:
		fmt.Printf("%-7s %s\n", e.Action, printable(e.To))
	}
}
