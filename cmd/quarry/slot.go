package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/cluster"
	"github.com/quarryfs/quarry/meta/slots"
)

func slotCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "slot", Short: "See and change which shard keeps which part of the name space"}
	c.AddCommand(slotListCommand(o), slotMoveCommand(o), slotBalanceCommand(o))
	return c
}

func slotMoveCommand(o *options) *cobra.Command {
	var text string
	var to, cancel uint64
	var wait time.Duration
	c := &cobra.Command{
		Use:   "move",
		Short: "Move slots to a shard, while they are used",
		Long: `Moves slots to a shard, from wherever they are: everything in them is copied, then what has
changed since, and then the other shard answers for them; requests about them wait for some
tens of milliseconds. The command waits until all slots are there. Interrupted, the moves that have
begun go on; said again, it waits for them and begins what is left.

With --cancel a move that is under way is undone; one that is about to end may end all the same.
"quarry admin slot list" shows the moves under way. While "quarry admin slot balance" is on, the
masters may move slots away again from a shard that has too much.`,
		Example: "  quarry admin slot move --slots 0-1023 --to 2\n  quarry admin slot move --cancel 7",
		Args:    args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			masters, end, err := o.route()
			if err != nil {
				return err
			}
			defer end()
			if cancel != 0 {
				if text != "" {
					return quarry.Errorf("slot move", quarry.Invalid, "", "either --slots and --to, or --cancel")
				}
				if _, err := masters.MoveSlots(c.Context(), &quarry.MoveSlotsRequest{Cancel: cancel}); err != nil {
					return err
				}
				return o.say(map[string]any{"cancelled": cancel}, "move %d is being undone, unless it was about to end: see \"quarry admin slot list\"\n", cancel)
			}
			slots, err := parseSlots(text)
			if err != nil {
				return err
			}
			if to == 0 {
				return quarry.Errorf("slot move", quarry.Invalid, "", "say with --to which shard is to have the slots")
			}
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt)
			defer stop()
			ctx, done := context.WithTimeout(ctx, wait)
			defer done()
			return moveSlots(ctx, o, masters, quarry.ShardID(to), slots)
		},
	}
	c.Flags().StringVar(&text, "slots", "", "slots to move, such as 0-1023 or 5,17,100-200")
	c.Flags().Uint64Var(&to, "to", 0, "the shard that is to have them")
	c.Flags().Uint64Var(&cancel, "cancel", 0, "the number of a move that is to be undone")
	c.Flags().DurationVar(&wait, "wait", 24*time.Hour, "how long to wait until all slots are there")
	return c
}

// moveSlots moves slots and tells how that goes.
func moveSlots(ctx context.Context, o *options, masters quarry.Master, to quarry.ShardID, slots []quarry.SlotRange) error {
	shown := ""
	show := func(r *quarry.MoveSlotsReply) {
		line := fmt.Sprintf("%d slots to go", r.Left)
		for _, m := range r.Moves {
			line += fmt.Sprintf("; move %d from shard %d to shard %d: %v, %d records", m.Move, m.From, m.To, m.Step, m.Records)
		}
		if line != shown && !o.json && onTerminal(os.Stderr) {
			fmt.Fprintf(os.Stderr, "\r\x1b[K%s", line)
			shown = line
		}
	}
	ended, err := cluster.MoveSlots(ctx, masters, clock.System(), to, slots, show)
	if shown != "" {
		fmt.Fprintln(os.Stderr)
	}
	if err != nil {
		return err
	}
	if o.json {
		return printJSON(os.Stdout, map[string]any{"shard": to, "moves": movesJSON(ended)})
	}
	for _, m := range ended {
		pause := "not measured: a leader changed"
		if m.PauseUS > 0 {
			pause = (time.Duration(m.PauseUS) * time.Microsecond).Round(100 * time.Microsecond).String()
		}
		fmt.Printf("move %d: slots %s went from shard %d to shard %d; requests about them waited for %s\n", m.Move, slotsText(m.Slots), m.From, m.To, pause)
	}
	if len(ended) == 0 {
		fmt.Printf("slots %s are at shard %d\n", slotsText(slots), to)
	}
	return nil
}

func slotListCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Show which shard has which slots, and the moves under way",
		Long: `Shows which slots each shard has and how much is in them, the moves under way with their numbers,
and whether the masters move slots by themselves.`,
		Example: "  quarry admin slot list",
		Args:    args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			masters, end, err := o.route()
			if err != nil {
				return err
			}
			defer end()
			reply, err := masters.MoveSlots(c.Context(), &quarry.MoveSlotsRequest{})
			if err != nil {
				return err
			}
			topology, err := masters.Topology(c.Context())
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(os.Stdout, slotsJSON(topology, reply))
			}
			return printSlots(topology, reply)
		},
	}
}

func slotBalanceCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "balance on|off",
		Short: "Let the masters move slots by themselves, or not",
		Long: `While it is on, as it is at first, the masters move slots, a few at a time, from the shard that
has most files, directories and chunks to the one that has least, when they differ by more than a
fifth. A shard that is added is filled so. Moves that are under way go on when it is switched off.`,
		Args: args(1, 1, "on or off"),
		RunE: func(c *cobra.Command, args []string) error {
			way, ok := map[string]quarry.Switch{"on": quarry.SwitchOn, "off": quarry.SwitchOff}[args[0]]
			if !ok {
				return quarry.Errorf("slot balance", quarry.Invalid, args[0], "say on or off")
			}
			masters, end, err := o.route()
			if err != nil {
				return err
			}
			defer end()
			reply, err := masters.MoveSlots(c.Context(), &quarry.MoveSlotsRequest{Balance: way})
			if err != nil {
				return err
			}
			return o.say(map[string]any{"balance": reply.Balance}, "the masters move slots by themselves: %s\n", onOff(reply.Balance))
		},
	}
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// say prints what a command has done, as JSON or as a sentence.
func (o *options) say(v any, format string, args ...any) error {
	if o.json {
		return printJSON(os.Stdout, v)
	}
	_, err := fmt.Printf(format, args...)
	return err
}

// printSlots shows shards and moves to people.
func printSlots(topology *quarry.TopologyReply, reply *quarry.MoveSlotsReply) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "SHARD\tCOUNT\tWEIGHT\tSLOTS")
	for _, s := range topology.Shards {
		if s.Shard == quarry.RootShard {
			continue
		}
		weight := "-"
		if i := slices.IndexFunc(reply.Weights, func(x quarry.ShardWeight) bool { return x.Shard == s.Shard }); i >= 0 {
			weight = strconv.FormatInt(reply.Weights[i].Weight, 10)
		}
		fmt.Fprintf(w, "%d\t%d\t%s\t%s\n", s.Shard, slots.Count(s.Slots), weight, slotsText(s.Slots))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, m := range reply.Moves {
		fmt.Printf("move %d: slots %s from shard %d to shard %d: %v, %d records copied\n", m.Move, slotsText(m.Slots), m.From, m.To, m.Step, m.Records)
	}
	fmt.Printf("the masters move slots by themselves: %s\n", onOff(reply.Balance))
	return nil
}

// slotsJSON is the same for programs.
func slotsJSON(topology *quarry.TopologyReply, reply *quarry.MoveSlotsReply) map[string]any {
	shards := []map[string]any{}
	for _, s := range topology.Shards {
		if s.Shard != quarry.RootShard {
			shards = append(shards, map[string]any{"shard": s.Shard, "slots": slotsText(s.Slots), "count": slots.Count(s.Slots)})
		}
	}
	return map[string]any{"map": topology.Version, "shards": shards, "moves": movesJSON(reply.Moves), "ended": movesJSON(reply.Ended), "balance": reply.Balance}
}

func movesJSON(moves []quarry.SlotMove) []map[string]any {
	out := []map[string]any{}
	for _, m := range moves {
		out = append(out, map[string]any{
			"move": m.Move, "from": m.From, "to": m.To, "slots": slotsText(m.Slots),
			"step": m.Step.String(), "records": m.Records, "pause_us": m.PauseUS,
		})
	}
	return out
}

// slotsText is a set of slots as parseSlots reads it.
func slotsText(set []quarry.SlotRange) string {
	if len(set) == 0 {
		return "none"
	}
	var parts []string
	for _, r := range set {
		if r.First == r.Last {
			parts = append(parts, strconv.Itoa(int(r.First)))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", r.First, r.Last))
		}
	}
	return strings.Join(parts, ",")
}

// parseSlots reads slots such as 5,17,100-200, in any order.
func parseSlots(text string) ([]quarry.SlotRange, error) {
	bad := func(part string) error {
		return quarry.Errorf("slots", quarry.Invalid, strconv.Quote(part), "say slots from 0 to %d, such as 0-1023 or 5,17,100-200", quarry.Slots-1)
	}
	var set []quarry.SlotRange
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		a, errA := strconv.ParseUint(first, 10, 16)
		b, errB := strconv.ParseUint(last, 10, 16)
		if errA != nil || errB != nil || a > b || b >= quarry.Slots {
			return nil, bad(part)
		}
		set = slots.Join(set, []quarry.SlotRange{{First: quarry.Slot(a), Last: quarry.Slot(b)}})
	}
	return set, nil
}
