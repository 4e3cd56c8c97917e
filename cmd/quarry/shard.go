package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/cluster"
)

func shardAddCommand(o *options) *cobra.Command {
	var wait time.Duration
	c := &cobra.Command{
		Use:   "add",
		Short: "Add a shard to a cluster that is in use",
		Long: `Makes a further shard: a Raft group on all masters, which has no slots yet. Nothing waits
meanwhile. The command succeeds when the shard has a leader; the masters then move slots to it by
themselves, unless "quarry admin slot balance off" was said. "quarry admin slot list" shows it.`,
		Example: "  quarry admin shard add",
		Args:    args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, args []string) error {
			masters, end, err := o.route()
			if err != nil {
				return err
			}
			defer end()
			ctx, cancel := context.WithTimeout(c.Context(), wait)
			defer cancel()
			shard, err := cluster.AddShard(ctx, masters, clock.System())
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(os.Stdout, map[string]any{"shard": shard})
			}
			fmt.Printf("shard %d is there; slots are moved to it: see \"quarry admin slot list\"\n", shard)
			return nil
		},
	}
	c.Flags().DurationVar(&wait, "wait", 30*time.Second, "how long to wait for the shard's leader")
	return c
}
