package meta

import (
	"errors"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/move"
)

// newShardWithout returns a shard that has never had slots.
func newShardWithout(t testing.TB, now LogTime) *shard {
	return &shard{t: t, kv: NewMemory(), time: now, wall: 1e18}
}

// moving drives a move of slots between two shards, a step at a time.
type moving struct {
	id       move.ID
	from, to *shard
	slots    []quarry.SlotRange
	room     int // bytes of a batch
}

func (m *moving) begin() {
	m.from.t.Helper()
	m.from.ok(&BeginLeave{Move: m.id, To: 2, Slots: m.slots})
	m.to.ok(&BeginTake{Move: m.id, From: 1, Slots: m.slots, Time: m.from.time})
}

// batch sends the next batch, and reports whether there was one.
func (m *moving) batch() bool {
	m.from.t.Helper()
	b, err := NextBatch(m.from.kv, MovingOf(m.to.kv).Taking, m.room)
	if err != nil {
		m.from.t.Fatal(err)
	}
	if b == nil {
		return false
	}
	if r := m.to.ok(&Take{*b}); r.Count != 1 {
		m.from.t.Fatalf("batch %d was not taken", b.Number)
	}
	return true
}

func (m *moving) end() {
	m.from.t.Helper()
	m.from.ok(&CloseSlots{Move: m.id})
	m.from.ok(&Release{Move: m.id})
	for m.batch() {
	}
	a, err := Handover(m.from.kv, m.id, 1000)
	if err != nil {
		m.from.t.Fatal(err)
	}
	m.to.ok(a)
	m.from.ok(&LeaveOver{Move: m.id})
	for m.from.ok(&CleanSlots{Max: 3}).More {
	}
}

func (m *moving) whole() {
	m.from.t.Helper()
	m.begin()
	for m.batch() {
	}
	m.end()
}

func TestMoveOfAllSlots(t *testing.T) {
	a, b := newShard(t), newShardWithout(t, 77_000)
	d := a.mkdir(quarry.RootInode, "d")
	f := a.touch(d, "f")
	a.seal(a.openTail(f, 1, 2, 3), 100)
	a.openTail(f, 1, 2, 3)
	owned := a.owned(10, 1, 2)
	m := &moving{id: 1, from: a, to: b, slots: []quarry.SlotRange{{First: 0, Last: quarry.Slots - 1}}, room: 200}
	m.begin()
	m.batch()
	g := a.touch(d, "g")
	a.ok(&Remove{Parent: d, Name: "g"})
	h := a.touch(d, "h")
	m.end()
	if a.kv.Len() != 1 {
		t.Errorf("%d keys are left where all slots have gone", a.kv.Len())
	}
	b.session, b.seq = a.session, a.seq
	b.ok(&Link{Parent: d, Name: "linked", Mode: 0o644, Pieces: []quarry.LinkPiece{{Handle: owned, Length: 10}}})
	for _, path := range []string{"d/f", "d/h", "d/linked"} {
		if _, err := b.lookup(path); err != nil {
			t.Error(err)
		}
	}
	if n := b.touch(d, "n"); n <= h || h <= g {
		t.Errorf("inode %v after %v", n, h)
	}
}

// TestRefusedForGood: an operation that was refused because its directory lives on another shard
// is done there as another one; a late copy of its request does nothing when the slot is back.
func TestRefusedForGood(t *testing.T) {
	a, b := newShard(t), newShardWithout(t, 77_000)
	d := a.ok(&Make{Parent: quarry.RootInode, Name: "d", Kind: quarry.KindDir, Slot: a.session.Slot() + 1}).Attr.Inode
	there := []quarry.SlotRange{{First: d.Slot(), Last: d.Slot()}}
	(&moving{id: 1, from: a, to: b, slots: there, room: 1000}).whole()
	op := &Make{Parent: d, Name: "f", Kind: quarry.KindFile}
	a.refused(quarry.WrongShard, op)
	late := a.seq
	(&moving{id: 2, from: b, to: a, slots: there, room: 1000}).whole()
	if r := a.once(late, late, op); !errors.Is(r.Err, quarry.WrongShard) {
		t.Errorf("a late copy of a request that was refused has done %+v", r)
	}
}
