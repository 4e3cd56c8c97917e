package meta

import (
	"bytes"
	"errors"
	"flag"
	"math/rand/v2"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/move"
)

var (
	moveSeeds = flag.Int("move.seeds", 25, "how many random runs TestMoves and TestMovedModel make")
	moveSeed  = flag.Uint64("move.seed", 0, "make only the random run with this seed")
)

// moveRuns calls fn with the seeds of the random runs.
func moveRuns(fn func(seed uint64)) {
	first, last := uint64(1), uint64(*moveSeeds)
	if *moveSeed != 0 {
		first, last = *moveSeed, *moveSeed
	}
	for seed := first; seed <= last; seed++ {
		fn(seed)
	}
}

// newShardWithout returns a shard that has never had slots.
func newShardWithout(t testing.TB, now LogTime) *shard {
	return &shard{t: t, kv: NewMemory(), time: now, wall: 1e18}
}

// allSlots is every slot.
var allSlots = []quarry.SlotRange{{First: 0, Last: quarry.Slots - 1}}

// moving drives a move of slots between two shards. It does what follows from their states, so
// it may be another driver at each step; what was sent may be sent again.
type moving struct {
	id        move.ID
	from, to  *shard
	slots     []quarry.SlotRange
	room      int // bytes of a batch
	rand      *rand.Rand
	cancelled bool
	sent      []sentMove
	seen      []*Memory // older states of from
}

type sentMove struct {
	to   *shard
	body Body
}

func newMoving(id move.ID, from, to *shard, slots []quarry.SlotRange, r *rand.Rand) *moving {
	return &moving{id: id, from: from, to: to, slots: slots, room: 100 + r.IntN(2000), rand: r}
}

func (m *moving) say(to *shard, b Body) *Result {
	m.from.t.Helper()
	m.sent = append(m.sent, sentMove{to, b})
	if m.rand.IntN(4) == 0 {
		to.m = Machine{} // nothing that a machine remembers may matter
	}
	return to.do(b)
}

// late sends something again, or a batch that a driver made who knows an older state.
func (m *moving) late() {
	to := MovingOf(m.to.kv).Taking
	if m.seen = append(m.seen, m.from.kv.Copy()); to != nil && to.Move == m.id && m.rand.IntN(2) == 0 {
		if b, err := NextBatch(pick(m.rand, m.seen), to, m.room); err == nil && b != nil {
			m.sent = append(m.sent, sentMove{m.to, &Take{*b}})
		}
	}
	if len(m.sent) == 0 {
		return
	}
	s := pick(m.rand, m.sent)
	before, over := s.to.kv.Copy(), m.over()
	s.to.do(s.body)
	if diff := difference(before, s.to.kv); over && diff != "" {
		m.from.t.Fatalf("after the move %T changed %s", s.body, diff)
	}
}

// over reports whether both shards know that the move is over.
func (m *moving) over() bool {
	return MovingOf(m.from.kv).LastLeave >= m.id && MovingOf(m.to.kv).LastTake >= m.id
}

// done reports whether the slots belong to the shard they were to go to.
func (m *moving) done() bool { return MovingOf(m.to.kv).LastTaken >= m.id }

// step does the next step.
func (m *moving) step() {
	from, to := MovingOf(m.from.kv), MovingOf(m.to.kv)
	switch l, k := from.Leaving, to.Taking; {
	case m.over():
	case m.done():
		m.say(m.from, &LeaveOver{Move: m.id})
	case m.cancelled && (l == nil || !l.Released):
		if r := m.say(m.from, &CancelLeave{Move: m.id}); r.Err == nil {
			m.say(m.to, &CancelTake{Move: m.id})
		}
	case l == nil:
		m.say(m.from, &BeginLeave{Move: m.id, To: 2, Slots: m.slots})
	case k == nil:
		m.to.ok(&CleanSlots{Max: 100})
		m.say(m.to, &BeginTake{Move: m.id, From: 1, Slots: m.slots, Time: m.from.time})
	default:
		m.copy(l, k)
	}
}

// copy does the next step of a move that both shards have begun.
func (m *moving) copy(l *move.Leaving, k *move.Taking) {
	b, err := NextBatch(m.from.kv, k, m.room)
	switch {
	case err != nil:
		m.from.t.Fatal(err)
	case b != nil:
		m.say(m.to, &Take{*b})
	case l.Released:
		a, err := Handover(m.from.kv, m.id, 1000)
		if err != nil {
			m.from.t.Fatal(err)
		}
		a.Time = m.from.time
		if r := m.say(m.to, a); r.Err != nil {
			m.from.t.Fatal(r.Err)
		}
	case !l.Closed:
		m.say(m.from, &CloseSlots{Move: m.id})
	case m.rand.IntN(3) == 0:
		m.say(m.from, &ForgetChanges{Move: m.id, Upto: k.Changes})
	default:
		m.say(m.from, &Release{Move: m.id})
	}
}

// finish takes all steps that are left.
func (m *moving) finish() {
	m.from.t.Helper()
	for i := 0; !m.over(); i++ {
		if m.step(); i > 10_000 {
			m.from.t.Fatalf("the move does not end: %+v", MovingOf(m.from.kv).Leaving)
		}
	}
	for m.from.ok(&CleanSlots{Max: 7}).More {
	}
}

// TestMoveOfAllSlots moves everything while it is changed. The shard that it leaves is empty.
func TestMoveOfAllSlots(t *testing.T) {
	a, b := newShard(t), newShardWithout(t, 77_000)
	d := a.mkdir(quarry.RootInode, "d")
	f := a.touch(d, "f")
	a.seal(a.openTail(f, 1, 2, 3), 100)
	a.openTail(f, 1, 2, 3)
	owned := a.owned(10, 1, 2)
	m := newMoving(1, a, b, allSlots, rand.New(rand.NewPCG(1, 1)))
	m.room = 200
	for range 4 {
		m.step()
	}
	g := a.touch(d, "g")
	removed := a.seq
	a.ok(&Remove{Parent: d, Name: "g", Path: "/d/g"})
	for _, now := range []bool{false, true} {
		log := a.touch(d, "log")
		a.openTail(log, 1, 2, 3)
		a.ok(&Remove{Parent: d, Name: "log", Path: "/d/log", Now: now})
	}
	h := a.touch(d, "h")
	m.finish()
	if a.kv.Len() != 1 || Totals(a.kv) != (Counters{}) {
		t.Errorf("%d keys are left where all slots have gone, which count %+v", a.kv.Len(), Totals(a.kv))
	}
	b.session, b.seq = a.session, a.seq
	b.ok(&Link{Parent: d, Name: "linked", Mode: 0o644, Pieces: []quarry.LinkPiece{{Handle: owned, Length: 10}}})
	for _, path := range []string{"d/f", "d/h", "d/linked"} {
		if _, err := b.lookup(path); err != nil {
			t.Error(err)
		}
	}
	if got := b.listed("/", 9); len(got) != 2 {
		t.Errorf("the trash has %q", got)
	}
	b.ok(&Undelete{Parent: d, Name: "g", Inode: g})
	if n := b.touch(d, "n"); n <= h || h <= g {
		t.Errorf("inode %v after %v", n, h)
	}
	again := b.send(b.encode(quarry.Op{Session: a.session, Sequence: removed, Oldest: removed}, &Make{Parent: d, Name: "g", Kind: quarry.KindFile}))
	if again.Err != nil || again.Attr.Inode != g {
		t.Errorf("an operation that was done before the move gives %+v", again)
	}
}

// TestMovedModel is TestModel for a shard whose slots move to another one and back, while the
// random commands go on.
func TestMovedModel(t *testing.T) {
	moveRuns(func(seed uint64) {
		m := newModel(t, seed)
		home := &movedModel{model: m, other: newShardWithout(t, 90_000)}
		for step := range *modelSteps {
			if m.rand.IntN(4) == 0 {
				home.move()
			} else {
				m.step()
			}
			if wrong := m.compare(); wrong != "" {
				last, _ := DecodeCommand(m.log[len(m.log)-1])
				t.Fatalf("step %d: %s\nafter %T %+v\nrepeat: go test ./meta -run TestMovedModel -move.seed %d", step, wrong, last.Body, last.Body, seed)
			}
		}
		for _, s := range []*shard{m.shard, home.other} {
			again := NewMemory()
			for _, command := range s.log {
				var fresh Machine
				fresh.Apply(again, command)
			}
			if !bytes.Equal(flatten(s.kv), flatten(again)) {
				t.Fatalf("the same commands gave two states\nrepeat: go test ./meta -run TestMovedModel -move.seed %d", seed)
			}
		}
	})
}

// movedModel is a model whose shard is one of two.
type movedModel struct {
	*model
	other *shard
	moves []*moving
}

// move lets the present move go on, or begins one.
func (h *movedModel) move() {
	h.other.time += LogTime(h.rand.IntN(30))
	if len(h.moves) == 0 || h.moves[len(h.moves)-1].over() {
		h.moves = append(h.moves, newMoving(move.ID(len(h.moves)+1), h.shard, h.other, allSlots, h.rand))
	}
	pick(h.rand, h.moves).late()
	m := h.moves[len(h.moves)-1]
	m.cancelled = m.cancelled || h.rand.IntN(60) == 0
	for range 1 + h.rand.IntN(6) {
		m.step()
	}
	if l := MovingOf(m.from.kv).Leaving; l != nil && l.Released && !m.done() {
		h.frozen()
	}
	for l := MovingOf(m.from.kv).Leaving; l != nil && l.Released && !m.over(); {
		pick(h.rand, h.moves).late()
		m.step()
	}
	if m.over() && m.done() && h.shard == m.from {
		h.swap()
	}
}

// frozen wants nobody to be answered while the slots belong to no shard.
func (h *movedModel) frozen() {
	for _, s := range []*shard{h.shard, h.other} {
		for _, n := range h.nodes {
			if _, err := Stat(s.kv, &quarry.StatRequest{Inode: n.inode}); !errors.Is(err, quarry.WrongShard) {
				h.t.Fatalf("while the slots belong to nobody: %v", err)
			}
		}
		if r := s.do(&KeepSessions{Sessions: []quarry.SessionID{h.session}}); !errors.Is(r.Err, quarry.WrongShard) {
			h.t.Fatalf("while the slots belong to nobody: %v", r.Err)
		}
	}
}

// swap goes on with the shard that the slots have come to. What its leader reserved before is
// worth nothing.
func (h *movedModel) swap() {
	h.model.shard, h.other = h.other, h.model.shard
	h.session, h.seq, h.older = h.other.session, h.other.seq, h.other.log
	for _, n := range h.nodes {
		n.removed = 0 // the other shard's log time is another one
	}
	floor := MovingOf(h.kv).HandleFloor
	c := NewChunk{Handle: quarry.MakeHandle(0, floor-1), Members: []NewMember{member(1)}, Wanted: 1}
	if r := h.want(quarry.Busy, &OpenOwned{Chunks: []NewChunk{c}}); r.HandleFloor != floor {
		h.t.Fatalf("the floor is %d, not %d", floor, r.HandleFloor)
	}
	h.handle = h.want(0, &ReserveHandles{Term: 1, Count: 1000}).Range.First
}

// TestRefusedForGood: an operation that was refused because its directory lives on another shard
// is done there as another one; a late copy of its request does nothing when the slot is back.
func TestRefusedForGood(t *testing.T) {
	a, b := newShard(t), newShardWithout(t, 77_000)
	d := a.ok(&Make{Parent: quarry.RootInode, Name: "d", Kind: quarry.KindDir, Slot: a.session.Slot() + 1}).Attr.Inode
	there := []quarry.SlotRange{{First: d.Slot(), Last: d.Slot()}}
	newMoving(1, a, b, there, rand.New(rand.NewPCG(1, 1))).finish()
	op := &Make{Parent: d, Name: "f", Kind: quarry.KindFile}
	a.refused(quarry.WrongShard, op)
	late := a.seq
	newMoving(2, b, a, there, rand.New(rand.NewPCG(1, 1))).finish()
	if r := a.once(late, late, op); !errors.Is(r.Err, quarry.WrongShard) {
		t.Errorf("a late copy of a request that was refused has done %+v", r)
	}
}
