package chaos

import (
	"context"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/quarryfs/quarry"
)

// Kind is a kind of fault.
type Kind string

// The kinds of faults.
const (
	Kill      Kind = "kill"
	Restart   Kind = "restart"
	Freeze    Kind = "freeze"
	Partition Kind = "partition"
	Slow      Kind = "slow"
	Reset     Kind = "reset"
	Rot       Kind = "rot"
	Wipe      Kind = "wipe"
	Full      Kind = "full"
	Power     Kind = "power"
)

// kindInfo is what is to be known of a kind.
type kindInfo struct {
	kind     Kind
	about    string
	min, max time.Duration // how long it lasts
	alone    bool          // no other fault goes on beside it
	calm     bool          // it needs a cluster that has got over all before
	victims  []Victim      // whom it may befall; those named twice are twice as likely
}

var kinds = []kindInfo{
	{Kill, "processes end with SIGKILL and come back", 300 * time.Millisecond, 4 * time.Second, false, false,
		[]Victim{AnyMaster, AnyServer, Leader, Leader, Primary, Primary, Secondary, LeaderAndPrimary, TwoServers}},
	{Restart, "a process is told to stop, hands its work over, and comes back", 200 * time.Millisecond, 2 * time.Second, false, false,
		[]Victim{AnyMaster, AnyServer, Leader, Leader, Primary, Secondary}},
	{Freeze, "a process stands still (SIGSTOP), at times for longer than its leases last", time.Second, 12500 * time.Millisecond, false, false,
		[]Victim{AnyMaster, AnyServer, Leader, Leader, Primary, Primary, Secondary}},
	{Partition, "nothing gets through between some nodes, both ways or one way only", time.Second, 8 * time.Second, false, false,
		[]Victim{AnyMaster, AnyServer, Leader, Leader, Primary, Primary, Secondary, AnyClient}},
	{Slow, "what a node sends or gets is late, or comes in a trickle", time.Second, 6 * time.Second, false, false,
		[]Victim{AnyMaster, AnyServer, Leader, Primary, Secondary, AnyClient}},
	{Reset, "all connections of a node break, again and again", 500 * time.Millisecond, 2 * time.Second, false, false,
		[]Victim{AnyMaster, AnyServer, Leader, Primary, AnyClient}},
	{Rot, "bits of a replica at rest turn over", 500 * time.Millisecond, time.Second, true, true, []Victim{DamagedServer}},
	{Wipe, "a chunk server loses its disk and comes back with an empty one", 500 * time.Millisecond, 2 * time.Second, true, true, []Victim{DamagedServer}},
	{Full, "a chunk server's disk is full", 2 * time.Second, 5 * time.Second, true, false, []Victim{AnyServer}},
	{Power, "all processes end at once and come back", 200 * time.Millisecond, time.Second, true, false, []Victim{Everybody}},
}

// Kinds returns all kinds of faults.
func Kinds() (out []Kind) {
	for _, k := range kinds {
		out = append(out, k.kind)
	}
	return out
}

// About says in a few words what a kind of fault is.
func (k Kind) About() string { return k.info().about }

func (k Kind) info() *kindInfo {
	for i := range kinds {
		if kinds[i].kind == k {
			return &kinds[i]
		}
	}
	return &kindInfo{}
}

// ParseKinds reads a list such as "kill,partition". "all" is all of them, "none" none.
func ParseKinds(list string) ([]Kind, error) {
	var out []Kind
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		switch k := Kind(name); {
		case name == "all":
			out = append(out, Kinds()...)
		case name == "none" || name == "":
		case k.info().kind == k:
			out = append(out, k)
		default:
			return nil, quarry.Errorf("faults", quarry.Invalid, name, "there is no such fault; there are: all, none, %s", joinKinds(Kinds()))
		}
	}
	return out, nil
}

func joinKinds(list []Kind) string {
	var s []string
	for _, k := range list {
		s = append(s, string(k))
	}
	return strings.Join(s, ", ")
}

// Victim says whom a fault befalls. Who that is, is found out when the fault begins.
type Victim string

// The victims of faults. Primary and Secondary are members of a chunk that is being written;
// LeaderAndPrimary are two processes at once. DamagedServer is one chunk server of the run, the
// only one whose bytes are ever spoilt: of every chunk another replica is whole.
const (
	AnyMaster        Victim = "master"
	AnyServer        Victim = "server"
	AnyClient        Victim = "client"
	Leader           Victim = "leader"
	Primary          Victim = "primary"
	Secondary        Victim = "secondary"
	LeaderAndPrimary Victim = "leader and primary"
	TwoServers       Victim = "two servers"
	DamagedServer    Victim = "damaged server"
	Everybody        Victim = "everybody"
)

// Event is a fault that is to come.
type Event struct {
	At, For time.Duration // when it begins, since the start of the run, and how long it lasts
	Kind    Kind
	Victim  Victim
	Pick    uint64 // decides what Victim and Kind leave open
	// Do, if set, does the fault, and Kind only says what it is. An error says why it cannot
	// be done now.
	Do func(ctx context.Context, c *Cluster) (*Deed, error)
}

// Deed is a fault that an event's own function has begun.
type Deed struct {
	Text  string   // what was done to whom, for people
	Nodes []string // whom it befalls
	End   func(ctx context.Context) error
}

// ends returns when an event is over.
func (e Event) ends() time.Duration { return e.At + e.For }

// before returns when all of some events are over.
func before(events []Event) (end time.Duration) {
	for _, e := range events {
		end = max(end, e.ends())
	}
	return end
}

// Plan draws the faults of a run of length d from a seed. Each kind comes as often as the
// others; two faults may overlap, three do not. The last ones end before d.
func Plan(seed uint64, d time.Duration, use []Kind) []Event {
	if len(use) == 0 {
		return nil
	}
	r := rand.New(rand.NewPCG(seed, 0xfa017))
	between := func(a, b time.Duration) time.Duration { return a + time.Duration(r.Int64N(int64(b-a)+1)) }
	var plan []Event
	var deck []Kind
	at, busy, missed := min(d/10, 1500*time.Millisecond), time.Duration(0), 0 // busy: when all before are over
	for {
		if len(deck) == 0 {
			deck = append(deck, use...)
			r.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		k := deck[0].info()
		deck = deck[1:]
		longest := max(k.min, min(k.max, d/5))
		e := Event{Kind: k.kind, For: between(k.min, longest), Victim: k.victims[r.IntN(len(k.victims))], Pick: r.Uint64()}
		if r.IntN(2) == 0 { // half of them are short, so that there are more
			e.For = between(k.min, k.min+(longest-k.min)/3)
		}
		e.At = max(at, busy)
		if n := len(plan); n > 0 && !k.alone && !plan[n-1].Kind.info().alone && r.IntN(2) == 0 {
			if in := plan[n-1].At + plan[n-1].For/2; before(plan[:n-1]) <= in {
				e.At = in // two go on then
			}
		}
		if e.ends() > d {
			e.For = k.min
		}
		if e.ends() > d {
			if missed++; missed > len(use) {
				return plan
			}
			continue
		}
		missed = 0
		plan = append(plan, e)
		busy = max(busy, e.ends())
		at = busy + between(200*time.Millisecond, max(300*time.Millisecond, min(d/30, 1500*time.Millisecond)))
	}
}
