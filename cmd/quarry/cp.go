package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/transfer"
)

func cpCommand(o *options) *cobra.Command {
	var t transfers
	c := &cobra.Command{
		Use:   "cp PATH… TARGET",
		Short: "Copy files and trees within the cluster",
		Long: `Copies files within the cluster; with --recursive, directories and everything in them. The bytes
go through this machine. A copy appears when it is whole, and replaces an old file of its name.

` + targetHelp + `

` + globHelp,
		Example: "  quarry cp /archive/big.tar /archive/big.copy\n  quarry cp -r '/logs/2026-*' /backup/",
		Args:    args(2, -1, "a path and a target"),
		RunE: func(c *cobra.Command, args []string) error {
			return o.withPaths(c, args[:len(args)-1], func(ctx context.Context, fs *client.FS, paths []string) error {
				q := transfer.Quarry{FS: fs}
				return t.copy(ctx, o, q, paths, q, args[len(args)-1])
			})
		},
	}
	t.register(c, o)
	c.Flags().BoolVarP(&t.keep, "no-clobber", "n", false, "fail if the target exists")
	return c
}
