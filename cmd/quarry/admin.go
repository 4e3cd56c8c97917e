package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/cluster"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/rpc/route"
)

func adminCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "admin", Short: "Make, watch and change a cluster"}
	m := &cobra.Command{Use: "master", Short: "Change the masters of a cluster"}
	m.AddCommand(masterAddCommand(o), masterRemoveCommand(o), masterReplaceCommand(o), masterLeadCommand(o))
	s := &cobra.Command{Use: "shard", Short: "Change the shards of a cluster"}
	s.AddCommand(shardAddCommand(o))
	c.AddCommand(initCommand(o), statusCommand(o), adminTrashCommand(o), m, s, slotCommand(o))
	return c
}

// connect returns connections for operators' calls.
func (o *options) connect() (*rpc.Client, []string, error) {
	addresses, err := o.addresses()
	if err != nil {
		return nil, nil, err
	}
	key, err := cluster.ReadKey(o.keyFile)
	if err != nil {
		return nil, nil, err
	}
	network, err := o.network()
	if err != nil {
		return nil, nil, err
	}
	return rpc.NewClient(rpc.ClientConfig{
		Network: network, Clock: clock.System(), Key: key, Logger: o.logger(),
		Identity: func() rpc.Identity { return rpc.Identity{Role: rpc.RoleClient, Release: cluster.Release} },
	}), addresses, nil
}

func initCommand(o *options) *cobra.Command {
	var wait time.Duration
	var shards int
	c := &cobra.Command{
		Use:   "init",
		Short: "Make a cluster of masters that wait for one",
		Long: `Makes a cluster of the masters that --masters names: one, three or five, which were started
with empty folders and wait. The order of the addresses numbers them. The slots of the name
space are split evenly over the shards, whose leaders are spread over the masters. Said
again, also after an interruption, it changes nothing and succeeds when the cluster answers.`,
		Example: "  quarry admin init --masters 10.0.0.1:7400,10.0.0.2:7400,10.0.0.3:7400",
		Args:    args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, args []string) error {
			client, addresses, err := o.connect()
			if err != nil {
				return err
			}
			defer client.Close()
			ctx, cancel := context.WithTimeout(c.Context(), wait)
			defer cancel()
			id, err := cluster.Init(ctx, client, clock.System(), addresses, shards)
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(os.Stdout, map[string]string{"cluster": id.String()})
			}
			fmt.Printf("cluster %s is made; start chunk servers with: quarry chunkserver --masters %s --dir DIR\n", id, strings.Join(addresses, ","))
			return nil
		},
	}
	c.Flags().DurationVar(&wait, "wait", 30*time.Second, "how long to wait for the masters")
	c.Flags().IntVar(&shards, "shards", cluster.DefaultShards, "how many shards the cluster begins with, 1 to 256, beside the root group")
	return c
}

func statusCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show how the cluster is",
		Long: `Shows the masters, every shard and the chunk servers, and what is missing and why. It asks
the leader of each shard. One that no master leads has NONE for a leader, and figures that may be
old. The exit code is 0 if nothing is missing, and 1 if something is.`,
		Example: "  quarry admin status\n  until quarry admin status --json > status.json; do sleep 1; done",
		Args:    args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, args []string) error {
			client, addresses, err := o.connect()
			if err != nil {
				return err
			}
			defer client.Close()
			st, err := status(c.Context(), client, addresses, cmp.Or(o.timeout, statusMax))
			if err != nil {
				return err
			}
			out := io.Writer(os.Stdout)
			if o.json {
				if err := printJSON(os.Stdout, st); err != nil {
					return err
				}
				out = io.Discard
			}
			wrong, err := printStatus(out, st)
			if err == nil && wrong > 0 {
				err = verdictError{exitFailed}
			}
			return err
		},
	}
}

// statusMax is how long status waits for an answer, unless --timeout says otherwise.
const statusMax = 10 * time.Second

// status asks the leaders of all groups.
func status(ctx context.Context, client *rpc.Client, addresses []string, timeout time.Duration) (*quarry.StatusReply, error) {
	masters, err := newRoute(client, addresses, timeout)
	if err != nil {
		return nil, err
	}
	defer masters.Close()
	return masters.Status(ctx)
}

// route returns a way to the leaders of all groups, and what ends it.
func (o *options) route() (masters *route.Masters, end func(), err error) {
	client, addresses, err := o.connect()
	if err != nil {
		return nil, nil, err
	}
	if masters, err = newRoute(client, addresses, o.timeout); err != nil {
		client.Close()
		return nil, nil, err
	}
	return masters, func() {
		masters.Close()
		client.Close()
	}, nil
}

// newRoute has masters asked for so long; 0: for 30 s.
func newRoute(client *rpc.Client, addresses []string, timeout time.Duration) (*route.Masters, error) {
	return route.New(route.Options{
		Addresses: addresses, Clock: clock.System(), Patience: timeout,
		Dial: func(a string) (quarry.Master, error) { return client.Master(a), nil },
	})
}

// printStatus says how a cluster is, and returns how many things are not as they should be.
func printStatus(out io.Writer, st *quarry.StatusReply) (wrong int, err error) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "cluster %s, as node %d sees it\n\n", st.Cluster, st.Node)
	fmt.Fprintln(w, "MASTER\tADDRESS\tSTATE\tLEADS")
	for _, m := range st.Masters {
		state := "alive"
		if !m.Alive {
			state, wrong = "SILENT", wrong+1
		}
		var leads []string
		for _, s := range st.Shards {
			if s.Leader == m.Node {
				leads = append(leads, shardName(s.Shard))
			}
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", m.Node, m.Address, state, strings.Join(leads, " "))
	}
	fmt.Fprintln(w, "\nSHARD\tLEADER\tTERM\tSLOTS\tINODES\tCHUNKS\tOPEN\tUNDER-COPIED\tMISSING\tREPAIRING\tSUSPECT")
	for _, s := range st.Shards {
		if s.Leader == 0 || s.Missing > 0 || s.UnderCopied > 0 {
			wrong++
		}
		leader := "NONE"
		if s.Leader != 0 {
			leader = strconv.FormatUint(uint64(s.Leader), 10)
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", shardName(s.Shard), leader, s.Term, s.Slots, s.Inodes, s.Chunks, s.OpenChunks, s.UnderCopied, s.Missing, s.Repairing, s.Suspect)
	}
	fmt.Fprintln(w, "\nSERVER\tADDRESS\tRACK\tLAST HEARD\tCHUNKS\tUSED\tFREE\tSTATE")
	for _, s := range st.Servers {
		if !printServer(w, &s) {
			wrong++
		}
	}
	if err := w.Flush(); err != nil {
		return wrong, err
	}
	printLacking(out, st.Shards)
	wrong += printMembers(out, st)
	if t := trashTotals(st); t.Files+t.Freeing > 0 {
		fmt.Fprintf(out, "\nThe trash holds %s; what is removed is kept for %v%s.\n", filesText(t.Files, t.Bytes), time.Duration(t.KeepMS)*time.Millisecond, t.freeing())
	}
	switch wrong {
	case 0:
		_, err = fmt.Fprintln(out, "\nEverything is there.")
	case 1:
		_, err = fmt.Fprintln(out, "\nOne thing is not as it should be; see above.")
	default:
		_, err = fmt.Fprintf(out, "\n%d things are not as they should be; see above.\n", wrong)
	}
	return wrong, err
}

// printLacking tells of each shard some of the chunks that have too few replicas, and why.
func printLacking(out io.Writer, shards []quarry.ShardStatus) {
	for _, s := range shards {
		if len(s.Lacking) == 0 {
			continue
		}
		fmt.Fprintf(out, "\nShard %s lacks replicas:\n", shardName(s.Shard))
		for _, c := range s.Lacking {
			fmt.Fprintf(out, "  chunk %s has %d of %d: %s\n", c.Handle, c.Copies, c.Wanted, oneLine(c.Why))
		}
		if more := s.Missing + s.UnderCopied - int64(len(s.Lacking)); more > 0 {
			fmt.Fprintf(out, "  and %d more\n", more)
		}
	}
}

// printMembers tells of each group that does not have just the cluster's masters for voters who is
// coming or going, and returns how many such groups there are.
func printMembers(out io.Writer, st *quarry.StatusReply) (wrong int) {
	var all []quarry.NodeID
	for _, m := range st.Masters {
		all = append(all, m.Node)
	}
	for _, s := range st.Shards {
		voters := slices.Sorted(slices.Values(s.Voters))
		if len(voters) == 0 || slices.Equal(voters, all) && len(s.Learners) == 0 && !s.Changing {
			continue
		}
		if wrong++; wrong == 1 {
			fmt.Fprintln(out, "\nThe masters are being changed. If nobody is at it, say the command again.")
		}
		fmt.Fprintf(out, "  shard %s: %s vote", shardName(s.Shard), nodesText(voters))
		for _, l := range s.Learners {
			if l.Lag < 0 {
				fmt.Fprintf(out, "; node %d gets all of it", l.Node)
			} else {
				fmt.Fprintf(out, "; node %d lacks %d entries", l.Node, l.Lag)
			}
		}
		if s.Changing {
			fmt.Fprint(out, "; the votes are passing over")
		}
		fmt.Fprintln(out)
	}
	return wrong
}

func nodesText(nodes []quarry.NodeID) string {
	if len(nodes) == 1 {
		return fmt.Sprintf("node %d alone has the", nodes[0])
	}
	text := make([]string, len(nodes))
	for i, n := range nodes {
		text[i] = fmt.Sprint(uint64(n))
	}
	return "nodes " + strings.Join(text, ", ")
}

func shardName(id quarry.ShardID) string {
	if id == quarry.RootShard {
		return "root"
	}
	return fmt.Sprint(uint64(id))
}

// printServer prints a chunk server's line and reports whether all is well with it.
func printServer(w *tabwriter.Writer, s *quarry.ServerStatus) bool {
	state, heard := "alive", fmt.Sprintf("%d ms ago", s.SilentMS)
	switch {
	case s.SilentMS < 0:
		state, heard = "SILENT", "never"
	case s.SilentMS > 3000:
		state, heard = "SILENT", (time.Duration(s.SilentMS)*time.Millisecond).Round(time.Second).String()+" ago"
	}
	if s.Leaseless {
		state = fmt.Sprintf("CLOCK DRIFTS %.1f %%: no lease", float64(s.DriftPPM)/1e4)
	}
	var chunks, total, free int64
	for _, d := range s.Disks {
		chunks, total, free = chunks+d.Chunks, total+d.Total, free+d.Free
		if d.Failed != "" {
			state = "DISK FAILED: " + oneLine(d.Failed)
		}
	}
	fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", s.Server, s.Address, s.Rack, heard, chunks, bytesText(max(total-free, 0)), bytesText(free), state)
	return state == "alive"
}

func masterLeadCommand(o *options) *cobra.Command {
	var shard uint64
	var to uint64
	c := &cobra.Command{
		Use:   "lead --node NODE",
		Short: "Have another master lead a shard",
		Long: `Moves the leadership of a shard, or of the root group (shard 0), to another master, as before
work on the machine of the one that leads. Clients wait for a moment; nothing is lost.
"quarry admin status" shows the numbers and who leads. Said again, it changes nothing.`,
		Example: "  quarry admin master lead --node 2\n  quarry admin master lead --shard 0 --node 2",
		Args:    args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, args []string) error {
			masters, end, err := o.route()
			if err != nil {
				return err
			}
			defer end()
			req := &quarry.TransferRequest{Shard: quarry.ShardID(shard), To: quarry.NodeID(to)}
			if err := masters.Transfer(c.Context(), req); err != nil {
				return err
			}
			if o.json {
				return printJSON(os.Stdout, map[string]any{"shard": shard, "leader": to})
			}
			fmt.Printf("node %d leads shard %s\n", to, shardName(req.Shard))
			return nil
		},
	}
	c.Flags().Uint64Var(&shard, "shard", 1, "the shard; 0 is the root group")
	c.Flags().Uint64Var(&to, "node", 0, "the number of the master that is to lead (required)")
	_ = c.MarkFlagRequired("node")
	return c
}
