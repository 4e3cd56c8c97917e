package meta

import (
	"testing"

	"github.com/quarryfs/quarry"
)

// twoShards returns shards that own half of the slots each; the root directory is in the first.
func twoShards(t *testing.T) (near, far *shard) {
	half := func(first, last quarry.Slot) *shard {
		s := &shard{t: t, kv: NewMemory(), time: 1000, wall: 1e18, loose: true}
		s.ok(&Init{Slots: []quarry.SlotRange{{First: first, Last: last}}})
		s.session = s.ok(&OpenSession{Slot: first}).Session
		return s
	}
	return half(0, quarry.Slots/2-1), half(quarry.Slots/2, quarry.Slots-1)
}

// TestGivenUpKeepsOldResults has a transaction given up whose operation has taken the place of an
// older one's result: that one comes late a second time, and is not done a second time. The
// operation that was given up may be done after all.
func TestGivenUpKeepsOldResults(t *testing.T) {
	near, _ := twoShards(t)
	for _, name := range []string{"f", "g"} {
		near.ok(&Make{Parent: quarry.RootInode, Name: name, Kind: quarry.KindFile})
	}
	near.seq++
	old := quarry.Op{Session: near.session, Sequence: near.seq, Oldest: near.seq}
	late := near.encode(old, &Remove{Parent: quarry.RootInode, Name: "f"})
	if r := near.send(late); r.Err != nil {
		t.Fatal(r.Err)
	}
	f := near.ok(&Make{Parent: quarry.RootInode, Name: "f", Kind: quarry.KindFile}).Attr.Inode

	rename := &Rename{Parent: quarry.RootInode, Name: "g", ToParent: quarry.MakeInode(quarry.Slots-1, 9), ToName: "g"}
	for range 2 {
		near.seq = old.Sequence + WindowOps - 1
		r := near.ok(rename)
		if r.Tx == 0 {
			t.Fatal("the rename needs no transaction")
		}
		near.ok(&Decide{Tx: r.Tx, Err: quarry.Errorf("rename", quarry.Busy, "", "something is in the way")})
		if r := near.send(late); quarry.KindOf(r.Err) != quarry.Unknown {
			t.Errorf("the old operation came again: %v", r.Err)
		}
		s := reading(near.kv)
		if e, _ := s.entry(quarry.RootInode, "f"); e.Inode != f {
			t.Fatal("what has the name now was removed")
		}
	}
}

// TestRenameAfterAMove renames a directory of which only the entry is moved yet: it waits until
// the directory itself is, which would have the old name otherwise.
func TestRenameAfterAMove(t *testing.T) {
	near, far := twoShards(t)
	prepare := func(r *Result) (parts []Part) {
		x, _, _ := TransactionOf(near.kv, r.Tx)
		for _, p := range x.Prepares() {
			parts = append(parts, *far.ok(&Prepare{Tx: r.Tx, Part: p}).Part)
		}
		near.ok(&Decide{Tx: r.Tx, Commit: true, Parts: parts})
		return parts
	}
	finish := func(id TxID, p Part) { far.ok(&Finish{Tx: id, Commit: true, Part: p}) }
	var dirs []quarry.Inode
	for _, name := range []string{"d", "x"} {
		r := near.ok(&Make{Parent: quarry.RootInode, Name: name, Kind: quarry.KindDir, Slot: quarry.Slots - 1})
		parts := prepare(r)
		finish(r.Tx, parts[0])
		dirs = append(dirs, parts[0].Inode)
	}
	to, moved := dirs[0], dirs[1]
	r := near.ok(&Rename{Parent: quarry.RootInode, Name: "x", ToParent: to, ToName: "y"})
	parts := prepare(r)
	finish(r.Tx, parts[1]) // a reader has met the entry
	again := &Rename{Parent: to, Name: "y", ToParent: to, ToName: "z"}
	if r := far.refused(quarry.Busy, again); r.HeldUp() == nil {
		t.Error("the refusal does not say what is in the way")
	}
	finish(r.Tx, parts[0])
	far.ok(again)
	s := reading(far.kv)
	if i := s.inode(moved); i.Name != "z" || i.Parent != to {
		t.Errorf("the directory is %q in %v, want %q in %v", i.Name, i.Parent, "z", to)
	}
}

// TestLatePreparation has the preparation and the commit of a move come once more, when the file
// has been moved back: the commit names another preparation, and nothing is carried out.
func TestLatePreparation(t *testing.T) {
	near, far := twoShards(t)
	root := quarry.RootInode
	f := near.touch(root, "f")
	dir := far.mkdirFor(t, near, "d")
	r := near.ok(&Rename{Parent: root, Name: "f", ToParent: dir, ToName: "f"})
	x, _, _ := TransactionOf(near.kv, r.Tx)
	parts := commit(t, near, r.Tx, near, far)
	commit(t, far, far.ok(&Rename{Parent: dir, Name: "f", ToParent: root, ToName: "f"}).Tx, near, far)
	late := near.ok(&Prepare{Tx: x.ID, Part: x.Prepares()[0]}).Part
	near.ok(&Finish{Tx: x.ID, Commit: true, Part: parts[0]})
	if i := reading(near.kv).inode(f); i.Parent != root {
		t.Errorf("the file is of directory %v", i.Parent)
	}
	near.ok(&Finish{Tx: x.ID, Part: *late}) // its coordinator does not know the transaction
	if n := Totals(near.kv); n.Intents != 0 {
		t.Errorf("%d intents are left", n.Intents)
	}
}
