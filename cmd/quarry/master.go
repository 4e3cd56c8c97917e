package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/cluster"
)

func masterReplaceCommand(o *options) *cobra.Command {
	var gone uint64
	var by string
	var wait time.Duration
	c := &cobra.Command{
		Use:   "replace --gone NODE --by ADDRESS",
		Short: "Put a new master in the place of one that is gone",
		Long: `Puts a master that was started with an empty folder and waits, in the place of one that is
gone for good or has lost its disk. The new one gets a number of its own. Interrupted, it
can simply be said again. "quarry admin status" shows the numbers.`,
		Example: "  quarry admin master replace --gone 2 --by 10.0.0.4:7400",
		Args:    args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, args []string) error {
			change := cluster.MasterChange{Gone: []quarry.NodeID{quarry.NodeID(gone)}, By: []string{by}}
			came, all, err := changeMasters(c.Context(), o, wait, change)
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(os.Stdout, mastersJSON(came)[0])
			}
			fmt.Printf("the master at %s is node %d, in the place of node %d\n", came[0].Address, came[0].Node, gone)
			printMasters(all)
			return nil
		},
	}
	c.Flags().Uint64Var(&gone, "gone", 0, "the number of the master that is gone (required)")
	c.Flags().StringVar(&by, "by", "", "the address of the master that takes its place (required)")
	c.Flags().DurationVar(&wait, "wait", 10*time.Minute, "how long to wait for it to catch up")
	_ = c.MarkFlagRequired("gone")
	_ = c.MarkFlagRequired("by")
	return c
}

func masterAddCommand(o *options) *cobra.Command {
	var by []string
	var wait time.Duration
	c := &cobra.Command{
		Use:   "add --by ADDRESS[,ADDRESS]",
		Short: "Add masters to a cluster that is in use",
		Long: `Makes masters that were started with empty folders, and wait, members of the cluster: of the
root group first, which numbers them, and then of every shard. Nothing waits meanwhile: the new
ones are told everything first, and get their votes when they have caught up, all of them in
one step. Some time later they lead their share of the shards. Clients and chunk servers that
run learn of them by themselves.

Three masters go on when one fails, five when two fail. An even number bears no more failures
than one master less, so add two at a time. When a master does not answer it is to be replaced
or removed first. Interrupted, the command can simply be said again; to give it up, remove the
new ones. "quarry admin status" shows how far they are.`,
		Example: "  quarry admin master add --by 10.0.0.4:7400,10.0.0.5:7400",
		Args:    args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, args []string) error {
			came, all, err := changeMasters(c.Context(), o, wait, cluster.MasterChange{By: by})
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(os.Stdout, map[string]any{"added": mastersJSON(came), "masters": mastersJSON(all)})
			}
			for _, n := range came {
				fmt.Printf("the master at %s is node %d\n", n.Address, n.Node)
			}
			printMasters(all)
			return nil
		},
	}
	c.Flags().StringSliceVar(&by, "by", nil, "the addresses of the new masters (required)")
	c.Flags().DurationVar(&wait, "wait", 10*time.Minute, "how long to wait for them to catch up")
	_ = c.MarkFlagRequired("by")
	return c
}

func masterRemoveCommand(o *options) *cobra.Command {
	var nodes []uint
	var wait time.Duration
	c := &cobra.Command{
		Use:   "remove --node NODE[,NODE]",
		Short: "Take masters out of a cluster that is in use",
		Long: `Takes masters out of every shard, and then out of the root group, which forgets them. What
they lead they hand over first, so that nothing waits. Those that are removed may be alive or
dead; all others must answer. A master that is removed says so and ends; it is never started
from its folder again, which can be deleted. Its number is not used again.

Refused is what leaves no master. Interrupted, the command can simply be said again. Clients
and chunk servers that run learn of it by themselves; those that start later must be given
addresses of masters that are left. "quarry admin status" shows the numbers.`,
		Example: "  quarry admin master remove --node 4,5",
		Args:    args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, args []string) error {
			change := cluster.MasterChange{}
			for _, n := range nodes {
				change.Gone = append(change.Gone, quarry.NodeID(n))
			}
			_, all, err := changeMasters(c.Context(), o, wait, change)
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(os.Stdout, map[string]any{"removed": change.Gone, "masters": mastersJSON(all)})
			}
			for _, n := range nodes {
				fmt.Printf("node %d is no master any more; its folder can be deleted when its process has ended\n", n)
			}
			printMasters(all)
			return nil
		},
	}
	c.Flags().UintSliceVar(&nodes, "node", nil, "the numbers of the masters to remove (required)")
	c.Flags().DurationVar(&wait, "wait", time.Minute, "how long to wait for the groups to agree")
	_ = c.MarkFlagRequired("node")
	return c
}

// changeMasters changes the masters of the cluster that the options name.
func changeMasters(ctx context.Context, o *options, wait time.Duration, change cluster.MasterChange) (came, all []quarry.MasterNode, err error) {
	client, addresses, err := o.connect()
	if err != nil {
		return nil, nil, err
	}
	defer client.Close()
	masters, err := newRoute(client, addresses, o.timeout)
	if err != nil {
		return nil, nil, err
	}
	defer masters.Close()
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return cluster.ChangeMasters(ctx, client, masters, clock.System(), change)
}

// masterJSON is a master as programs are told of it.
type masterJSON struct {
	Node    quarry.NodeID `json:"node"`
	Address string        `json:"address"`
}

func mastersJSON(nodes []quarry.MasterNode) []masterJSON {
	out := make([]masterJSON, 0, len(nodes))
	for _, n := range nodes {
		out = append(out, masterJSON{n.Node, n.Address})
	}
	return out
}

// printMasters tells which masters there are, and warns of a number that bears no more failures
// than a smaller one.
func printMasters(all []quarry.MasterNode) {
	var addresses []string
	for _, n := range all {
		addresses = append(addresses, n.Address)
	}
	fmt.Printf("the masters are %s\n", strings.Join(addresses, ","))
	switch n := len(all); {
	case n == 1:
		fmt.Fprintln(os.Stderr, "warning: one master tolerates no failure")
	case n == 2:
		fmt.Fprintln(os.Stderr, "warning: two masters tolerate no failure: when either fails nothing can be changed; add another one, or remove one")
	case n%2 == 0:
		fmt.Fprintf(os.Stderr, "warning: %d masters tolerate no more failures than %d; add another one, or remove one\n", n, n-1)
	}
}
