package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/quarryfs/quarry"
)

// Fault is a fault as it was done.
type Fault struct {
	Kind  Kind     `json:"kind"`
	Text  string   `json:"text"`  // what was done to whom, for people
	Nodes []string `json:"nodes"` // whom it befell
	// BeginMS and EndMS are counted from the start of the run; at the end what was done is
	// undone.
	BeginMS int64 `json:"begin_ms"`
	EndMS   int64 `json:"end_ms"`
	// Skipped says why it was not done; "" if it was.
	Skipped string `json:"skipped,omitempty"`
	// UnavailableMS is the longest time without any answer that overlaps with it.
	UnavailableMS int64 `json:"unavailable_ms"`
}

// injury is a fault under way.
type injury struct {
	text  string
	nodes []string
	end   func(ctx context.Context) error // undoes it; nil: it is over
}

// none says why a fault cannot be done now.
func none(format string, args ...any) error { return fmt.Errorf(format, args...) }

// inflict begins a fault. An error says why it cannot be done now.
func (r *run) inflict(ctx context.Context, e Event) (*injury, error) {
	if e.Do != nil {
		d, err := e.Do(ctx, r.cluster)
		if err != nil {
			return nil, err
		}
		return &injury{d.Text, d.Nodes, d.End}, nil
	}
	rng := rand.New(rand.NewPCG(e.Pick, 0x1))
	if e.Victim == AnyClient {
		names := r.cluster.Clients()
		if len(names) == 0 {
			return nil, none("there is no client")
		}
		return r.cut(e, rng, names[rng.IntN(len(names))], "")
	}
	who, what, err := r.victims(ctx, e, rng)
	if err != nil {
		return nil, err
	}
	switch e.Kind {
	case Kill, Power:
		return r.kill(who, what), nil
	case Restart:
		return r.restart(who, what)
	case Freeze:
		return r.freeze(who, what), nil
	case Partition, Slow, Reset:
		return r.cut(e, rng, who[0].Name, what)
	case Rot:
		return r.rot(ctx, who[0], rng)
	case Wipe:
		return r.wipe(ctx, who[0])
	case Full:
		return r.fill(who[0], rng)
	}
	return nil, none("there is no such fault")
}

// victims finds out whom a fault befalls, and what they are at this time. Who is ill already
// is left alone, and so are the other masters while one is: of three, one must stay out of it.
func (r *run) victims(ctx context.Context, e Event, rng *rand.Rand) (who []*Process, what string, err error) {
	c := r.cluster
	well := func(list []*Process) (out []*Process) {
		for _, p := range list {
			if !r.ill[p.Name] && p.Running() {
				out = append(out, p)
			}
		}
		return out
	}
	masters, servers := well(c.Masters), well(c.Servers)
	if len(masters) < len(c.Masters) && len(c.Masters) > 1 {
		masters = nil
	}
	some := func(list []*Process, n int, what string) ([]*Process, string, error) {
		if len(list) < n {
			return nil, "", none("too few are well")
		}
		rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		return list[:n], what, nil
	}
	switch e.Victim {
	case AnyMaster:
		return some(masters, 1, "")
	case AnyServer:
		return some(servers, 1, "")
	case TwoServers:
		return some(servers, 2, "two chunk servers")
	case Everybody:
		all := well(c.processes())
		return some(all, max(1, len(all)), "everything")
	case DamagedServer:
		return some(well([]*Process{c.Servers[r.damaged]}), 1, "")
	}
	var primary, secondary []*Process
	if e.Victim != Leader {
		members := c.OpenChunk(ctx, r.cfg.Workload.Root, e.Pick)
		if len(members) < 2 {
			return nil, "", none("no file was being written")
		}
		primary, secondary = well(members[:1]), well(members[1:])
	}
	var leader []*Process
	if p := c.Leader(ctx); p != nil && slices.Contains(masters, p) {
		leader = []*Process{p}
	}
	switch e.Victim {
	case Leader:
		return some(leader, 1, "the leader")
	case Primary:
		return some(primary, 1, "the primary of an open chunk")
	case Secondary:
		return some(secondary, 1, "a secondary of an open chunk")
	case LeaderAndPrimary:
		return some(slices.Concat(leader, primary), 2, "the leader and the primary of an open chunk")
	}
	return nil, "", none("there is no victim %q", e.Victim)
}

// named names processes and what they are.
func named(who []*Process, what string) string {
	names := strings.Join(namesOf(who), " and ")
	switch {
	case len(who) > 2:
		return what
	case what == "":
		return names
	}
	return names + " (" + what + ")"
}

func namesOf(who []*Process) (out []string) {
	for _, p := range who {
		out = append(out, p.Name)
	}
	slices.Sort(out)
	return out
}

// startAll starts processes.
func startAll(who []*Process, more ...string) error {
	for _, p := range who {
		if err := p.Start(more...); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) kill(who []*Process, what string) *injury {
	for _, p := range who {
		p.Kill()
	}
	return &injury{"SIGKILL of " + named(who, what), namesOf(who), func(context.Context) error { return startAll(who) }}
}

func (r *run) restart(who []*Process, what string) (*injury, error) {
	for _, p := range who {
		if err := p.stop(); err != nil {
			r.blame("a process does not stop", err.Error())
		}
	}
	return &injury{"planned stop of " + named(who, what), namesOf(who), func(context.Context) error { return startAll(who) }}, nil
}

func (r *run) freeze(who []*Process, what string) *injury {
	for _, p := range who {
		p.freeze()
	}
	return &injury{named(who, what) + " stands still", namesOf(who), func(context.Context) error {
		for _, p := range who {
			p.thaw()
		}
		return nil
	}}
}

// cut does something to the links of one node.
func (r *run) cut(e Event, rng *rand.Rand, name, what string) (*injury, error) {
	called := name
	if what != "" {
		called += " (" + what + ")"
	}
	if e.Kind == Reset {
		return r.resets(name, called)
	}
	others, whom := r.others(rng, name)
	link, how := Link{Block: true}, [3]string{"nothing gets through between %s and %s", "nothing that %s sends reaches %s", "nothing reaches %s from %s"}
	if e.Kind == Slow {
		link, how = slowness(rng)
	}
	ways := rng.IntN(6) // 1: what it sends, 2: what it gets; else both
	if ways > 2 {
		ways = 0
	}
	set := func(link Link) error {
		for _, o := range others {
			if ways != 2 {
				if err := r.net.Set(name, o, link); err != nil {
					return err
				}
			}
			if ways != 1 {
				if err := r.net.Set(o, name, link); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := set(link); err != nil {
		return nil, err
	}
	return &injury{fmt.Sprintf(how[ways], called, whom), []string{name}, func(context.Context) error { return set(Link{}) }}, nil
}

// others draws to whom the links of a node change.
func (r *run) others(rng *rand.Rand, name string) (others []string, whom string) {
	masters, servers, clients := namesOf(r.cluster.Masters), namesOf(r.cluster.Servers), r.cluster.Clients()
	switch rng.IntN(5) {
	case 0:
		others, whom = masters, "the masters"
	case 1:
		others, whom = servers, "the chunk servers"
	case 2:
		others, whom = clients, "the clients"
	}
	if others == nil || slices.Contains(clients, name) && whom == "the clients" { // clients have nothing to say to each other
		others, whom = slices.Concat(masters, servers, clients), "anybody"
	}
	return slices.DeleteFunc(slices.Clone(others), func(o string) bool { return o == name }), whom
}

// slowness draws how a link is slow, and how that is told: of both ways, of what a node sends,
// and of what it gets.
func slowness(rng *rand.Rand) (Link, [3]string) {
	if rng.IntN(2) == 0 {
		delay := time.Duration(10+rng.IntN(190)) * time.Millisecond
		took := fmt.Sprintf("takes %v to %v", delay, delay*3/2)
		return Link{Delay: delay, Jitter: delay / 2}, [3]string{
			"the way between %s and %s " + took, "the way from %s to %s " + took, "the way to %s from %s " + took}
	}
	rate := int64(64+rng.IntN(960)) << 10
	carries := fmt.Sprintf("carry %d KiB/s each", rate>>10)
	return Link{BytesPerSecond: rate}, [3]string{
		"connections between %s and %s " + carries, "connections from %s to %s " + carries, "connections to %s from %s " + carries}
}

// resetEvery is how often the connections of a node break.
const resetEvery = 150 * time.Millisecond

// resets breaks all connections of a node until its injury ends.
func (r *run) resets(name, called string) (*injury, error) {
	ctx, cancel := context.WithCancel(r.ctx)
	others := slices.Concat(namesOf(r.cluster.processes()), r.cluster.Clients())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			for _, o := range others {
				if o != name {
					_ = r.net.Reset(name, o) // a node that is gone has no connections
				}
			}
			_ = r.clk.Sleep(ctx, resetEvery) // the loop looks at ctx
		}
	}()
	return &injury{"all connections of " + called + " break every " + resetEvery.String(), []string{name}, func(context.Context) error {
		cancel()
		<-done
		return nil
	}}, nil
}

// errSpared says that something would be lost for good.
var errSpared = quarry.Errorf("fault", quarry.Invalid, "", "some bytes may have no other replica at this time")
