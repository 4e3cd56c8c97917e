package meta

import (
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/attr"
)

// What is set is shown, what is not set stays, and nothing else changes, through renames, the trash
// and back; the next change of what is in it sets the time anew.
func TestSetAttr(t *testing.T) {
	s := newShard(t)
	dir := s.ok(&Make{Parent: quarry.RootInode, Name: "d", Kind: quarry.KindDir, Mode: 0o755, UID: 5, GID: 6}).Attr
	if dir.UID != 5 || dir.GID != 6 {
		t.Errorf("made %+v", dir)
	}
	file := s.ok(&Link{Parent: dir.Inode, Name: "f", Mode: 0o640, UID: 7, GID: 8, ModifiedNS: 99, Pieces: []quarry.LinkPiece{{Inline: []byte("x")}}}).Attr
	if file.Mode != 0o640 || file.UID != 7 || file.GID != 8 || file.Modified != 99 || file.Created != s.wall {
		t.Errorf("linked %+v", file)
	}
	set := func(want quarry.Attr, c attr.Change) quarry.Attr {
		t.Helper()
		c.Inode = want.Inode
		c.Op = quarry.Op{Session: 77, Sequence: 88} // the command has its own
		got := s.ok(&SetAttr{c}).Attr
		if got != want {
			t.Errorf("after %+v: %+v, want %+v", c, got, want)
		}
		return got
	}
	want := file
	want.Mode = 0o4711
	want = set(want, attr.Change{SetMode: true, Mode: 0o4711, UID: 1, GID: 1, ModifiedNS: 1})
	want.UID = 1<<32 - 1
	want = set(want, attr.Change{SetUID: true, UID: 1<<32 - 1})
	want.GID = 0
	want = set(want, attr.Change{SetGID: true})
	want.Modified = -5
	want = set(want, attr.Change{SetModified: true, ModifiedNS: -5})
	want = set(want, attr.Change{})
	s.ok(&Rename{Parent: dir.Inode, Name: "f", ToParent: quarry.RootInode, ToName: "g"})
	s.ok(&Remove{Parent: quarry.RootInode, Name: "g", Path: "/g"})
	s.refused(quarry.NotFound, &SetAttr{attr.Change{Inode: want.Inode, SetMode: true}})
	if back := s.ok(&Undelete{Parent: dir.Inode, Name: "f", Inode: want.Inode}).Attr; back != want {
		t.Errorf("back from the trash it is %+v, want %+v", back, want)
	}
	if now := s.ok(&SetAttr{attr.Change{Inode: want.Inode, SetModified: true}}).Attr; now.Modified != s.wall {
		t.Errorf("set to the present, it is %+v", now)
	}

	want, err := s.lookup("d")
	if err != nil {
		t.Fatal(err)
	}
	want.Modified = 12
	set(want, attr.Change{SetModified: true, ModifiedNS: 12})
	s.touch(dir.Inode, "more")
	if got, err := s.lookup("d"); err != nil || got.Modified != s.wall || got.UID != 5 {
		t.Errorf("a directory in which something was made is %+v, %v", got, err)
	}
	root := quarry.RootInode
	if got := s.ok(&SetAttr{attr.Change{Inode: root, SetMode: true, Mode: 0o700}}).Attr; got.Mode != 0o700 {
		t.Errorf("the root is %+v", got)
	}
	for kind, c := range map[quarry.Kind]attr.Change{
		quarry.NotFound: {Inode: 7777, SetMode: true},
		quarry.Invalid:  {Inode: root, SetMode: true, Mode: 0o10000},
	} {
		s.refused(kind, &SetAttr{c})
	}
}

// A shard sets attributes of what lives in its slots only, and a slot takes them with it.
func TestSetAttrElsewhere(t *testing.T) {
	s := &shard{t: t, kv: NewMemory()}
	s.ok(&Init{Slots: []quarry.SlotRange{{First: 0, Last: 9}}})
	s.session = s.ok(&OpenSession{}).Session
	r := s.refused(quarry.WrongShard, &SetAttr{attr.Change{Inode: quarry.MakeInode(10, 3), SetMode: true}})
	if slot, ok := RefusedSlot(r.Err); !ok || slot != 10 {
		t.Errorf("refused because of slot %v", slot)
	}
}

// Commands that carry what an earlier release does not know are proposed only when every master
// knows it.
func TestLevelOfAttributes(t *testing.T) {
	for _, b := range []Body{&SetAttr{}, &Make{UID: 1}, &Make{GID: 1}, &Link{UID: 1}, &Link{GID: 1}, &Link{ModifiedNS: 1}} {
		if c := (&Command{Body: b}); c.Level() != 2 {
			t.Errorf("%T %+v has level %d", b, b, c.Level())
		}
	}
	for _, b := range []Body{&Make{}, &Link{}} {
		if c := (&Command{Body: b}); c.Level() != 0 {
			t.Errorf("%T %+v has level %d", b, b, c.Level())
		}
	}
}
