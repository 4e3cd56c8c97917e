package root

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/meta/slots"
)

type group struct {
	t   testing.TB
	kv  *meta.Memory
	log [][]byte
}

func (g *group) do(b Body) *Result {
	g.t.Helper()
	c := Command{WallNS: int64(len(g.log)), Body: b}
	command, err := c.Append(nil)
	if err != nil {
		g.t.Fatal(err)
	}
	g.log = append(g.log, command)
	r, err := DecodeResult(Apply(g.kv, command))
	if err != nil {
		g.t.Fatal(err)
	}
	return r
}

func (g *group) ok(b Body) *Result {
	g.t.Helper()
	r := g.do(b)
	if r.Err != nil {
		g.t.Fatalf("%T %+v: %v", b, b, r.Err)
	}
	return r
}

// refused wants the command to be refused with a kind and to change nothing.
func (g *group) refused(kind quarry.Kind, b Body) {
	g.t.Helper()
	before := flatten(g.kv)
	if r := g.do(b); !errors.Is(r.Err, kind) {
		g.t.Fatalf("%T %+v: %v, want %v", b, b, r.Err, kind)
	}
	if !bytes.Equal(before, flatten(g.kv)) {
		g.t.Fatalf("%T %+v was refused and changed the state", b, b)
	}
}

func flatten(m *meta.Memory) (out []byte) {
	m.Scan(nil, nil, func(key, value []byte) bool {
		out = append(append(append(out, key...), 0), value...)
		return true
	})
	return out
}

func disk(n byte) quarry.DiskID { return quarry.DiskID{n} }

func first() *Init {
	return &Init{
		Cluster: quarry.ClusterID{1}, Shards: 3, Key: quarry.Key{Number: 1, Secret: [32]byte{5}},
		Masters: []quarry.MasterNode{{Node: 1, Disk: disk(101), Address: "a:1"}, {Node: 2, Disk: disk(102), Address: "b:1"}},
	}
}

func newGroup(t testing.TB) *group {
	g := &group{t: t, kv: meta.NewMemory()}
	g.ok(first())
	return g
}

func TestInit(t *testing.T) {
	g := &group{t: t, kv: meta.NewMemory()}
	g.refused(quarry.Unavailable, &Register{Disks: []quarry.DiskID{disk(1)}})
	g.refused(quarry.Unavailable, &AddMaster{Master: quarry.MasterNode{Disk: disk(1)}})
	for _, change := range []func(*Init){
		func(c *Init) { c.Cluster = quarry.ClusterID{} }, func(c *Init) { c.Masters = nil }, func(c *Init) { c.Shards = 0 },
		func(c *Init) { c.Shards = quarry.Slots + 1 }, func(c *Init) { c.Key.Number = 0 }, func(c *Init) { c.Masters[1].Node = 1 },
		func(c *Init) { c.Masters[1].Disk = disk(101) }, func(c *Init) { c.Masters[0].Node = 0 }, func(c *Init) { c.Masters[0].Node = 1 << 63 },
	} {
		c := first()
		change(c)
		g.refused(quarry.Invalid, c)
	}
	g.ok(first())
	g.ok(first())
	other := first()
	other.Cluster[3] = 1
	g.refused(quarry.Exists, other)
	top := Topology(g.kv)
	if top.Cluster != first().Cluster || top.Version != 1 || !slices.Equal(top.Masters, first().Masters) || len(top.Shards) != 3 {
		t.Errorf("topology %+v", top)
	}
	if keys := Keys(g.kv); !slices.Equal(keys, quarry.Keys{first().Key}) {
		t.Errorf("keys %v", keys)
	}
}

func TestSplit(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 1000, quarry.Slots} {
		next := 0
		for _, r := range Split(n) {
			if size := int(r.Last) - int(r.First) + 1; int(r.First) != next || size < quarry.Slots/n || size > quarry.Slots/n+1 {
				t.Fatalf("%d shards: %v", n, r)
			}
			next = int(r.Last) + 1
		}
		if next != quarry.Slots {
			t.Errorf("%d shards have %d slots", n, next)
		}
	}
}

func TestRegister(t *testing.T) {
	g := newGroup(t)
	disks := func(n ...byte) (list []quarry.DiskID) {
		for _, d := range n {
			list = append(list, disk(d))
		}
		return list
	}
	a := g.ok(&Register{Disks: disks(1, 2), Boot: "x", Address: "h:1", Rack: "r"})
	b := g.ok(&Register{Disks: disks(3)})
	if a.Server != 1 || b.Server != 2 || a.Incarnation == 0 || b.Incarnation <= a.Incarnation || a.SameBoot {
		t.Errorf("registered %+v, %+v", a, b)
	}
	// The answer was lost: the disks say who it is.
	again := g.ok(&Register{Disks: disks(1, 2), Boot: "x"})
	if again.Server != a.Server || again.Incarnation <= b.Incarnation || !again.SameBoot {
		t.Errorf("registered again %+v", again)
	}
	g.ok(&Confirm{Server: 1, Incarnation: a.Incarnation}) // not the last one: ignored
	g.ok(&Confirm{Server: 1, Incarnation: again.Incarnation})
	g.refused(quarry.NotFound, &Confirm{Server: 9, Incarnation: 1})

	last := again.Incarnation
	g.refused(quarry.Corrupt, &Register{Server: 1, Disks: disks(1, 2), Last: last - 1}) // an old image of the disks
	g.refused(quarry.Corrupt, &Register{Server: 1, Disks: disks(1, 2), Last: last + 1}) // an old state of the masters
	g.refused(quarry.Corrupt, &Register{Server: 2, Disks: disks(3), Last: last})        // never issued to this server
	g.refused(quarry.Corrupt, &Register{Disks: disks(50), Last: 1000})
	g.refused(quarry.Invalid, &Register{Server: 1, Disks: disks(1, 3), Last: last})
	g.refused(quarry.Invalid, &Register{Disks: disks(1, 3), Last: last})
	g.refused(quarry.Invalid, &Register{Server: 1, Last: last})
	g.refused(quarry.Invalid, &Register{Server: 1, Disks: disks(1, 1), Last: last})
	g.refused(quarry.Invalid, &Register{Disks: disks(0)})
	g.refused(quarry.NotFound, &Register{Server: 9, Disks: disks(9)})

	r := g.ok(&Register{Server: 1, Disks: disks(2, 4), Last: last, Boot: "y", Address: "h:2", Rack: "s"})
	if !slices.Equal(r.Absent, disks(1)) || r.SameBoot {
		t.Errorf("registered %+v", r)
	}
	s, ok := ServerOf(g.kv, 1)
	if !ok || s.Address != "h:2" || s.Rack != "s" || s.Incarnation != r.Incarnation || s.Confirmed != last || len(s.Disks) != 3 {
		t.Errorf("server %+v", s)
	}
	// All disks were emptied: the server goes on with others, which have seen nothing.
	r = g.ok(&Register{Server: 1, Disks: disks(7)})
	if !slices.Equal(r.Absent, disks(1, 2, 4)) {
		t.Errorf("registered %+v", r)
	}
	g.ok(&ForgetServer{Server: 2})
	g.refused(quarry.NotFound, &ForgetServer{Server: 3})
	g.refused(quarry.NotFound, &Register{Server: 2, Disks: disks(3), Last: b.Incarnation})
	g.refused(quarry.NotFound, &Register{Disks: disks(3)})
	if list := Servers(g.kv); len(list) != 2 || !list[1].Forgotten {
		t.Errorf("servers %+v", list)
	}
}

// A process is registered once, however often its request is sent and however late it comes:
// otherwise the process that serves would be refused for an incarnation that nobody has.
func TestRegisterOnce(t *testing.T) {
	g := newGroup(t)
	process := func(n byte) *Register {
		return &Register{Disks: []quarry.DiskID{disk(1)}, Boot: "x", Address: "h:1", Process: quarry.ProcessID{n}}
	}
	first := g.ok(process(1))
	second := g.ok(process(2)) // the first one died before it had its answer
	if second.Server != first.Server || second.Incarnation <= first.Incarnation || !second.SameBoot {
		t.Fatalf("registered %+v, then %+v", first, second)
	}
	before := flatten(g.kv)
	if again := g.ok(process(2)); again.Server != second.Server || again.Incarnation != second.Incarnation || !again.SameBoot {
		t.Errorf("the same process registers as %+v and %+v", second, again)
	}
	g.refused(quarry.StaleVersion, process(1)) // its request was under way for long
	g.ok(&Confirm{Server: 1, Incarnation: second.Incarnation})
	if again := g.ok(process(2)); again.Incarnation != second.Incarnation {
		t.Errorf("after it has begun the process is registered as %+v", again)
	}
	if len(before) == 0 || len(Servers(g.kv)) != 1 {
		t.Errorf("servers %+v", Servers(g.kv))
	}
	for n := range byte(3 * beforeMax) {
		p := process(10 + n)
		p.Last = second.Incarnation
		g.ok(p)
	}
	if s, _ := ServerOf(g.kv, 1); len(s.Before) != beforeMax {
		t.Errorf("%d earlier processes are remembered", len(s.Before))
	}
}

func TestMasters(t *testing.T) {
	g := newGroup(t)
	add := func(n quarry.NodeID, d byte) *AddMaster {
		return &AddMaster{Master: quarry.MasterNode{Node: n, Disk: disk(d), Address: fmt.Sprint("m:", d)}}
	}
	g.refused(quarry.Exists, add(2, 103)) // a wiped master under its old number
	g.refused(quarry.Exists, add(1, 102)) // a disk that moved
	g.refused(quarry.Invalid, add(0, 0))
	g.refused(quarry.Invalid, add(1<<40, 103))
	r := g.ok(add(0, 103))
	if r.Node.Node != 3 {
		t.Errorf("added %+v", r.Node)
	}
	if again := g.ok(add(0, 103)); again.Node.Node != 3 {
		t.Errorf("added again %+v", again.Node)
	}
	g.ok(&RemoveMaster{Node: 2})
	g.ok(&RemoveMaster{Node: 2})
	g.refused(quarry.Invalid, add(2, 104)) // a number is never given again
	g.ok(&RemoveMaster{Node: 3})
	if r := g.ok(add(0, 104)); r.Node.Node != 4 {
		t.Errorf("added %+v", r.Node)
	}
	g.ok(&RemoveMaster{Node: 4})
	g.refused(quarry.Invalid, &RemoveMaster{Node: 1})
	if m := Topology(g.kv).Masters; len(m) != 1 || m[0].Node != 1 {
		t.Errorf("masters %v", m)
	}
	for i := byte(1); i < mastersMax; i++ {
		g.ok(add(0, 110+i))
	}
	g.refused(quarry.Busy, add(0, 250))
}

func TestKeys(t *testing.T) {
	g := newGroup(t)
	key := func(n uint32) *AddKey { return &AddKey{Key: quarry.Key{Number: n, Secret: [32]byte{byte(n)}}} }
	g.refused(quarry.Invalid, key(1)) // the same number with another secret
	g.refused(quarry.Invalid, key(3))
	g.refused(quarry.Invalid, &AddKey{})
	g.ok(key(2))
	g.ok(key(2))
	g.refused(quarry.Invalid, &RetireKey{Number: 2})
	g.ok(&RetireKey{Number: 1})
	g.ok(&RetireKey{Number: 1})
	if keys := Keys(g.kv); len(keys) != 1 || keys[0] != key(2).Key {
		t.Errorf("keys %v", keys)
	}
	for n := uint32(3); n <= keysMax+1; n++ {
		g.ok(key(n))
	}
	g.refused(quarry.Busy, key(keysMax+2))
	if keys := Keys(g.kv); len(keys) != keysMax || keys[keysMax-1].Number != keysMax+1 {
		t.Errorf("%d keys", len(keys))
	}
}

func TestErrorsNameTheCommand(t *testing.T) {
	g := newGroup(t)
	r := g.do(&ForgetServer{Server: 3})
	if want := "forget server: not found: server 3 is not known"; r.Err == nil || r.Err.Error() != want {
		t.Errorf("%v, want %s", r.Err, want)
	}
}

// A command of a later release stops the node, and so does a feature level that it does not
// speak: the other nodes go on to a state that it cannot come to.
func TestLaterRelease(t *testing.T) {
	g := newGroup(t)
	g.ok(&RaiseLevel{Level: quarry.FeatureLevel})
	g.ok(&RaiseLevel{Level: quarry.FeatureLevel - 1})
	if Level(g.kv) != quarry.FeatureLevel {
		t.Errorf("the level is %d", Level(g.kv))
	}
	raise := Command{Body: &RaiseLevel{Level: quarry.FeatureLevel + 1}}
	later, err := raise.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, command := range map[string][]byte{"an unknown kind": {8, 99}, "a later level": later} {
		func() {
			defer func() {
				if err, _ := recover().(error); !errors.Is(err, quarry.Unsupported) {
					t.Errorf("%s: %v", name, err)
				}
			}()
			Apply(g.kv, command)
		}()
	}
}

// script returns a log in which every verb comes.
func script(t testing.TB) *group {
	g := newGroup(t)
	r := g.ok(&Register{Disks: []quarry.DiskID{disk(1)}, Boot: "b", Address: "h:1", Rack: "r"})
	g.ok(&Confirm{Server: r.Server, Incarnation: r.Incarnation})
	g.ok(&Register{Disks: []quarry.DiskID{disk(2)}})
	g.ok(&ForgetServer{Server: 2})
	g.ok(&AddMaster{Master: quarry.MasterNode{Disk: disk(103), Address: "c:1"}})
	g.ok(&RemoveMaster{Node: 1})
	g.ok(&AddKey{Key: quarry.Key{Number: 2, Secret: [32]byte{6}}})
	g.ok(&AddKey{Key: quarry.Key{Number: 3, Secret: [32]byte{7}}})
	g.ok(&RetireKey{Number: 2})
	g.ok(&AddShard{Shard: Shards(g.kv)[len(Shards(g.kv))-1].Shard + 1, Founders: Topology(g.kv).Masters})
	for range 2 {
		g.ok(&BeginMove{From: 1, To: 2, Slots: []quarry.SlotRange{{First: 3, Last: 9}}})
	}
	g.ok(&EndMove{Move: 1, Done: true})
	g.ok(&BeginMove{From: 1, To: 3, Slots: []quarry.SlotRange{{First: 10, Last: 19}}})
	g.ok(&CancelMove{Move: 2})
	g.ok(&SetBalancer{On: false})
	g.ok(&TakeOrder{Tx: 7})
	g.ok(&EndOrder{Tx: 7})
	g.ok(&TakeOrder{Tx: 8})
	return g
}

// A shard is added once, with the next number and without slots, and the map's version grows.
func TestAddShard(t *testing.T) {
	g := newGroup(t)
	before := Topology(g.kv)
	next := before.Shards[len(before.Shards)-1].Shard + 1
	for _, bad := range []AddShard{
		{Shard: next}, {Shard: 0, Founders: before.Masters}, {Shard: next + 1, Founders: before.Masters},
		{Shard: next, Founders: append(before.Masters[:1:1], before.Masters[0])}, {Shard: next, Founders: []quarry.MasterNode{{Node: 1}}},
	} {
		g.refused(quarry.Invalid, &bad)
	}
	for range 2 {
		g.ok(&AddShard{Shard: next, Founders: before.Masters})
		after := Topology(g.kv)
		last := after.Shards[len(after.Shards)-1]
		if after.Version != before.Version+1 || len(after.Shards) != len(before.Shards)+1 || last.Shard != next || len(last.Slots) != 0 {
			t.Fatalf("%+v after %+v", after, before)
		}
	}
	if s := Shards(g.kv); !slices.Equal(s[len(s)-1].Founders, before.Masters) || len(s[0].Founders) != 0 {
		t.Errorf("%+v", s)
	}
	(&group{t: t, kv: meta.NewMemory()}).refused(quarry.Unavailable, &AddShard{Shard: 1, Founders: before.Masters})
}

var rewrite = flag.Bool("rewrite", false, "write the golden file, which has not been released")

// The file in testdata has the commands, one a line, and in its last line the state that they
// give. Once released it stays as it is, and the code must read it.
func TestGolden(t *testing.T) {
	const path = "testdata/v1.hex"
	if *rewrite {
		g := script(t)
		var text []byte
		for _, command := range g.log {
			text = fmt.Appendf(text, "%x\n", command)
		}
		if err := os.WriteFile(path, fmt.Appendf(text, "%x\n", flatten(g.kv)), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(text))
	kv := meta.NewMemory()
	for _, line := range lines[:len(lines)-1] {
		var command []byte
		if _, err := fmt.Sscanf(line, "%x", &command); err != nil {
			t.Fatal(err)
		}
		Apply(kv, command)
	}
	if got := fmt.Sprintf("%x", flatten(kv)); got != lines[len(lines)-1] {
		t.Errorf("the log gives state %s", got)
	}
}

func FuzzApply(f *testing.F) {
	for _, command := range script(f).log {
		f.Add(command)
	}
	f.Fuzz(func(t *testing.T, command []byte) {
		defer func() {
			if p := recover(); p != nil { // it stops the node
				if err, _ := p.(error); !errors.Is(err, quarry.Unsupported) {
					panic(p)
				}
			}
		}()
		g := newGroup(t)
		g.ok(&Register{Disks: []quarry.DiskID{disk(1)}})
		before := flatten(g.kv)
		r, err := DecodeResult(Apply(g.kv, command))
		if err != nil {
			t.Fatal(err)
		}
		if r.Err != nil && !bytes.Equal(before, flatten(g.kv)) {
			t.Fatalf("%x was refused with %v and changed the state", command, r.Err)
		}
		if top := Topology(g.kv); len(top.Masters) == 0 || len(Keys(g.kv)) == 0 || len(Servers(g.kv)) == 0 {
			t.Fatalf("%x took all masters or keys", command)
		}
	})
}

// One transaction at a time has the right to move a directory.
func TestOrder(t *testing.T) {
	g := newGroup(t)
	g.ok(&TakeOrder{Tx: 5})
	g.ok(&TakeOrder{Tx: 5})
	g.refused(quarry.Busy, &TakeOrder{Tx: 6})
	if r := g.do(&TakeOrder{Tx: 6}); r.Holder != 5 || OrderHolder(g.kv) != 5 {
		t.Errorf("%+v", r)
	}
	g.ok(&EndOrder{Tx: 6}) // it does not have it
	g.refused(quarry.Busy, &TakeOrder{Tx: 6})
	g.ok(&EndOrder{Tx: 5})
	g.ok(&EndOrder{Tx: 5})
	g.ok(&TakeOrder{Tx: 6})
	g.refused(quarry.Invalid, &TakeOrder{})
}

// Slots move from the shard that owns them to another one, and the map changes when that is done.
func TestMoves(t *testing.T) {
	g := newGroup(t)
	before := Topology(g.kv)
	own := before.Shards[0].Slots
	some := []quarry.SlotRange{{First: 1, Last: 2}, {First: 5, Last: 5}}
	for _, bad := range []BeginMove{
		{From: 1, To: 1, Slots: some}, {From: 2, To: 1, Slots: some}, {From: 1, To: 2},
		{From: 1, To: 2, Slots: []quarry.SlotRange{{First: 5, Last: 5}, {First: 1, Last: 2}}},
		{From: 1, To: 2, Slots: []quarry.SlotRange{{First: 1, Last: quarry.Slots}}},
	} {
		g.refused(quarry.Invalid, &bad)
	}
	g.refused(quarry.NotFound, &BeginMove{From: 1, To: 99, Slots: some})
	g.refused(quarry.NotFound, &BeginMove{From: 99, To: 1, Slots: some})
	g.refused(quarry.NotFound, &CancelMove{Move: 1})
	begin := &BeginMove{From: 1, To: 2, Slots: some}
	for range 2 {
		if r := g.ok(begin); r.Move != 1 {
			t.Fatalf("move %d", r.Move)
		}
	}
	// One at a time from a shard, and one to it.
	g.refused(quarry.Busy, &BeginMove{From: 1, To: 3, Slots: []quarry.SlotRange{{First: 7, Last: 7}}})
	g.refused(quarry.Busy, &BeginMove{From: 3, To: 2, Slots: before.Shards[2].Slots})
	back := g.ok(&BeginMove{From: 2, To: 1, Slots: before.Shards[1].Slots}).Move
	g.ok(&CancelMove{Move: back})
	if r := g.do(&BeginMove{From: 2, To: 1, Slots: before.Shards[1].Slots}); !errors.Is(r.Err, quarry.Busy) {
		t.Errorf("a cancelled move: %v", r.Err)
	}
	for range 2 {
		g.ok(&EndMove{Move: back})
	}
	if now := Topology(g.kv); now.Version != before.Version || !slices.Equal(now.Shards[0].Slots, own) {
		t.Errorf("the map has changed before a move was done: %+v", now)
	}
	if list := Moves(g.kv); len(list) != 1 || list[0].Move != 1 || list[0].Cancelled || !slices.Equal(list[0].Slots, some) {
		t.Errorf("moves %+v", list)
	}
	for range 2 {
		g.ok(&EndMove{Move: 1, Done: true})
	}
	now := Topology(g.kv)
	if now.Version != before.Version+1 || slots.Meet(now.Shards[0].Slots, some) || !slots.HasAll(now.Shards[1].Slots, some) ||
		!slots.HasAll(slots.Join(now.Shards[0].Slots, some), own) || len(Moves(g.kv)) != 0 {
		t.Errorf("the map is %+v", now)
	}
	g.refused(quarry.Invalid, begin)
	if r := g.ok(&BeginMove{From: 2, To: 1, Slots: some}); r.Move != 3 {
		t.Errorf("move %d follows move 2", r.Move)
	}
	if !Balancer(g.kv) {
		t.Error("the balancer is off at first")
	}
	g.ok(&SetBalancer{})
	if Balancer(g.kv) {
		t.Error("the balancer is on")
	}
}
