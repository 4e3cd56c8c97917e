package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/chaos"
	"github.com/quarryfs/quarry/clock"
)

func drillCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "drill", Short: "Do something to a cluster on purpose, and measure what its users notice"}
	c.AddCommand(drillFailoverCommand(o))
	return c
}

func drillFailoverCommand(o *options) *cobra.Command {
	var runs int
	var shard uint64
	var watch bool
	c := &cobra.Command{
		Use:   "failover",
		Short: "Measure how long clients notice a change of leader",
		Long: `Has four clients write small files all the time, hands the leadership of a shard over from
master to master, and measures for each handover the longest time in which no write was
accepted. It is meant for clusters in use: nothing is killed, other clients wait for no longer
than these, and at the end the first leader leads again.

With --watch it hands nothing over and waits for you to: kill the leader, pull its cable,
restart its machine. Each outage that clients notice is told when it is over, until Ctrl-C.

Every file that was acknowledged must be there: they are looked for, and removed, as it goes
on. They are in a directory of their own, /quarry-drill-…, which is removed at the end.

The exit code is 0 if nothing was lost, and 9 if something was.`,
		Example: "  quarry drill failover --runs 20\n  quarry drill failover --watch",
		Args:    args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, args []string) error {
			if runs < 1 || runs > 1000 {
				return usageError{fmt.Errorf("--runs is %d, it can be 1 to 1000", runs)}
			}
			return drillFailover(c.Context(), o, quarry.ShardID(shard), runs, watch)
		},
	}
	c.Flags().IntVar(&runs, "runs", 5, "how often the leadership is handed over")
	c.Flags().Uint64Var(&shard, "shard", 1, "the shard; 0 is the root group, which no write waits for")
	c.Flags().BoolVar(&watch, "watch", false, "hand nothing over: measure the outages that you make, until Ctrl-C")
	return c
}

func drillFailover(ctx context.Context, o *options, shard quarry.ShardID, runs int, watch bool) error {
	masters, end, err := o.route()
	if err != nil {
		return err
	}
	defer end()
	files, err := o.open(ctx)
	if err != nil {
		return err
	}
	defer files.Close()
	// A second interrupt ends it at once, when what was written cannot be looked at.
	context.AfterFunc(ctx, func() { signal.Reset(os.Interrupt, syscall.SIGTERM) })
	cfg := chaos.DrillConfig{Files: files, Masters: masters, Clock: clock.System(), Shard: shard, Runs: runs}
	do := chaos.Drill
	if watch {
		do = chaos.Watch
	}
	if !o.json {
		cfg.Tell = func(out chaos.Outage) { fmt.Println(outageText(out)) }
		if watch {
			fmt.Println("writing; make the leader fail, and end with Ctrl-C")
		}
	}
	drilled, err := do(ctx, cfg)
	if err != nil {
		return err
	}
	if o.json {
		err = printJSON(os.Stdout, drilled)
	} else {
		printDrilled(drilled)
	}
	if err == nil && len(drilled.Lost) > 0 {
		return verdictError{exitViolated}
	}
	return err
}

// outageText tells of one outage.
func outageText(o chaos.Outage) string {
	at := o.At.Format("15:04:05.000")
	if o.TransferMS > 0 {
		return fmt.Sprintf("%s  node %d to node %d, handed over in %.1f ms; longest time without an accepted write %.1f ms", at, o.From, o.To, o.TransferMS, o.PauseMS)
	}
	led := fmt.Sprintf("node %d led before and leads now", o.To)
	if o.From != o.To {
		led = fmt.Sprintf("node %d led before, node %d leads now", o.From, o.To)
	}
	return fmt.Sprintf("%s  no write was accepted for %.0f ms; %s", at, o.PauseMS, led)
}

func printDrilled(d *chaos.Drilled) {
	switch n := len(d.Outages); n {
	case 0:
		fmt.Println("\nno outage")
	default:
		fmt.Printf("\n%d times; without an accepted write: median %.1f ms, longest %.1f ms\n", n, d.MedianMS, d.LongestMS)
	}
	fmt.Printf("%s writes acknowledged, %d refused, %d of unknown outcome\n", chaos.Thousands(d.Acknowledged), d.Refused, d.Unknown)
	if len(d.Lost) == 0 {
		fmt.Println("every acknowledged file was there")
		return
	}
	fmt.Println("NOT AS IT SHOULD BE:")
	for _, l := range d.Lost {
		fmt.Println("  " + oneLine(l))
	}
}
