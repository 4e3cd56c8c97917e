package meta

import (
	"errors"
	"strings"
	"testing"

	"github.com/quarryfs/quarry"
)

func TestMake(t *testing.T) {
	s := newShard(t)
	dir := s.mkdir(quarry.RootInode, "d")
	file := s.touch(dir, "f")
	if file.Slot() != dir.Slot() {
		t.Errorf("a file of %v got %v", dir, file)
	}
	other := s.ok(&Make{Parent: dir, Name: "e", Kind: quarry.KindDir, Slot: 99}).Attr
	if other.Inode.Slot() != 99 || other.Kind != quarry.KindDir || other.Links != 1 || other.Created != s.wall {
		t.Errorf("made %+v", other)
	}
	if again := s.ok(&Make{Parent: dir, Name: "f", Kind: quarry.KindFile, Existing: true}).Attr; again.Inode != file || again.Mode != 0o644 {
		t.Errorf("an existing file is %+v", again)
	}
	a, err := s.lookup("d")
	if err != nil || a.Entries != 2 || a.Modified == a.Created {
		t.Errorf("the directory is %+v, %v", a, err)
	}
	f := quarry.KindFile
	for _, test := range []struct {
		kind quarry.Kind
		c    Make
	}{
		{quarry.Exists, Make{Parent: dir, Name: "f", Kind: f}},
		{quarry.Exists, Make{Parent: dir, Name: "e", Kind: f, Existing: true}},
		{quarry.Exists, Make{Parent: dir, Name: "f", Kind: quarry.KindDir, Existing: true}},
		{quarry.NotFound, Make{Parent: 77, Name: "x", Kind: f}},
		{quarry.NotFound, Make{Name: "x", Kind: f}},
		{quarry.NotDir, Make{Parent: file, Name: "x", Kind: f}},
		{quarry.Invalid, Make{Parent: dir, Name: "", Kind: f}},
		{quarry.Invalid, Make{Parent: dir, Name: "a/b", Kind: f}},
		{quarry.Invalid, Make{Parent: dir, Name: "..", Kind: f}},
		{quarry.Invalid, Make{Parent: dir, Name: "x\x00", Kind: f}},
		{quarry.Invalid, Make{Parent: dir, Name: "x", Kind: 3}},
		{quarry.Invalid, Make{Parent: dir, Name: "x", Kind: f, Mode: 0o10000}},
		{quarry.Invalid, Make{Parent: dir, Name: "x", Kind: quarry.KindDir, Slot: 4096}},
	} {
		s.refused(test.kind, &test.c)
	}
	long := Command{Body: &Make{Name: strings.Repeat("x", 256)}}
	if _, err := long.Append(nil); !errors.Is(err, quarry.TooLarge) {
		t.Errorf("a name of 256 bytes: %v", err)
	}
}

func TestSlots(t *testing.T) {
	s := &shard{t: t, kv: NewMemory()}
	s.refused(quarry.WrongShard, &OpenSession{})
	for _, bad := range [][]quarry.SlotRange{
		nil, {{First: 5, Last: 4}}, {{First: 0, Last: 4096}}, {{First: 3, Last: 5}, {First: 5, Last: 6}},
	} {
		s.refused(quarry.Invalid, &Init{Slots: bad})
	}
	own := []quarry.SlotRange{{First: 10, Last: 19}, {First: 30, Last: 30}}
	s.ok(&Init{Slots: own})
	s.ok(&Init{Slots: own})
	s.refused(quarry.Exists, &Init{Slots: own[:1]})
	s.refused(quarry.WrongShard, &OpenSession{Slot: 20})
	s.session = s.ok(&OpenSession{Slot: 30}).Session
	s.refused(quarry.WrongShard, &Make{Parent: quarry.RootInode, Name: "x", Kind: quarry.KindFile})
	if _, err := s.lookup(""); !errors.Is(err, quarry.WrongShard) {
		t.Errorf("look-up in another shard's slot: %v", err)
	}
	if got := Slots(s.kv); len(got) != 2 || got[1] != own[1] {
		t.Errorf("slots %v", got)
	}
}

func TestRename(t *testing.T) {
	s := newShard(t)
	root := quarry.RootInode
	a, b := s.mkdir(root, "a"), s.mkdir(root, "b")
	c := s.mkdir(a, "c")
	f, g := s.touch(a, "f"), s.touch(b, "g")

	s.refused(quarry.NotFound, &Rename{Parent: a, Name: "x", ToParent: b, ToName: "y"})
	s.refused(quarry.NotFound, &Rename{Parent: a, Name: "f", ToParent: 999, ToName: "y"})
	s.refused(quarry.NotDir, &Rename{Parent: a, Name: "f", ToParent: g, ToName: "y"})
	s.refused(quarry.Exists, &Rename{Parent: a, Name: "f", ToParent: b, ToName: "g"})
	s.refused(quarry.IsDir, &Rename{Parent: a, Name: "f", ToParent: root, ToName: "b", Replace: true})
	s.refused(quarry.NotDir, &Rename{Parent: a, Name: "c", ToParent: b, ToName: "g", Replace: true})
	s.refused(quarry.Exists, &Rename{Parent: a, Name: "c", ToParent: root, ToName: "b", Replace: true})
	s.refused(quarry.Invalid, &Rename{Parent: root, Name: "a", ToParent: a, ToName: "x"})
	s.refused(quarry.Invalid, &Rename{Parent: root, Name: "a", ToParent: c, ToName: "x"})
	s.refused(quarry.Invalid, &Rename{Parent: a, Name: "f", ToParent: c, ToName: "."})

	if r := s.ok(&Rename{Parent: a, Name: "f", ToParent: a, ToName: "f"}); r.Attr.Inode != f {
		t.Errorf("a rename to the same name: %+v", r)
	}
	s.ok(&Rename{Parent: a, Name: "f", ToParent: a, ToName: "f2"})
	s.ok(&Rename{Parent: a, Name: "f2", ToParent: b, ToName: "g", Replace: true}) // g is gone
	if at, err := s.lookup("b/g"); err != nil || at.Inode != f {
		t.Errorf("b/g is %+v, %v", at, err)
	}
	if _, err := Stat(s.kv, &quarry.StatRequest{Inode: g}); !errors.Is(err, quarry.NotFound) {
		t.Errorf("the replaced file: %v", err)
	}
	s.ok(&Rename{Parent: root, Name: "a", ToParent: b, ToName: "deep"})
	if at, err := s.lookup("/b//deep/c/"); err != nil || at.Inode != c {
		t.Errorf("b/deep/c is %+v, %v", at, err)
	}
	if p := Path(s.kv, c); p != "/b/deep/c" {
		t.Errorf("its path is %q", p)
	}
	s.refused(quarry.Invalid, &Rename{Parent: root, Name: "b", ToParent: c, ToName: "x"})
	if n := Totals(s.kv); n.Dirs != 4 || n.Files != 1 || n.Removed != 1 {
		t.Errorf("counters %+v", n)
	}
}

func TestRemove(t *testing.T) {
	s := newShard(t)
	d := s.mkdir(quarry.RootInode, "d")
	s.touch(d, "f")
	s.refused(quarry.NotFound, &Remove{Parent: d, Name: "x"})
	s.refused(quarry.NotDir, &Remove{Parent: d, Name: "f", Dir: true})
	s.refused(quarry.IsDir, &Remove{Parent: quarry.RootInode, Name: "d"})
	s.refused(quarry.NotEmpty, &Remove{Parent: quarry.RootInode, Name: "d", Dir: true})
	s.refused(quarry.NotFound, &Remove{Parent: 55, Name: "d", Dir: true})
	before := s.kv.Len()
	s.ok(&Link{Parent: d, Name: "inline", Pieces: []quarry.LinkPiece{{Inline: []byte("few bytes")}}})
	s.ok(&Remove{Parent: d, Name: "inline", Now: true})
	s.ok(&Remove{Parent: d, Name: "f", Now: true})
	s.ok(&Remove{Parent: quarry.RootInode, Name: "d", Dir: true})
	s.refused(quarry.NotFound, &Make{Parent: d, Name: "x", Kind: quarry.KindFile})
	if n := Totals(s.kv); n.Files != 0 || n.Dirs != 1 || n.Removed != 0 {
		t.Errorf("counters %+v", n)
	}
	// What was kept for the names is gone; the results of the five operations since are not.
	if got, want := s.kv.Len(), before+5-4; got != want {
		t.Errorf("%d keys are left, want %d", got, want)
	}
}

func TestLookup(t *testing.T) {
	s := newShard(t)
	dir := quarry.RootInode
	for range quarry.PathPartsMax {
		dir = s.ok(&Make{Parent: dir, Name: "d", Kind: quarry.KindDir}).Attr.Inode
		s.time++
		s.log = nil
	}
	f := s.touch(quarry.RootInode, "f")
	deep := strings.Repeat("d/", quarry.PathPartsMax)
	if at, err := s.lookup(deep); err != nil || at.Inode != dir {
		t.Errorf("%d levels: %+v, %v", quarry.PathPartsMax, at, err)
	}
	for path, kind := range map[string]quarry.Kind{
		deep + "d": quarry.TooLarge, strings.Repeat("/", quarry.PathBytesMax+1): quarry.TooLarge,
		"d/x/y": quarry.NotFound, "f/x": quarry.NotDir, "d/../f": quarry.Invalid, "x": quarry.NotFound,
		"d/" + strings.Repeat("n", 256): quarry.Invalid,
	} {
		if _, err := s.lookup(path); !errors.Is(err, kind) {
			t.Errorf("%.40q: %v, want %v", path, err, kind)
		}
	}
	if _, err := s.lookup("d/x/y"); !strings.Contains(err.Error(), `"d/x"`) {
		t.Errorf("the error does not name what is missing: %v", err)
	}
	if at, err := s.lookup("//f"); err != nil || at.Inode != f {
		t.Errorf("f is %+v, %v", at, err)
	}
	if _, err := Lookup(s.kv, &quarry.LookupRequest{From: 12345}, nil); !errors.Is(err, quarry.NotFound) {
		t.Error(err)
	}
}

func TestList(t *testing.T) {
	s := newShard(t)
	d := s.mkdir(quarry.RootInode, "d")
	var names []string
	for _, n := range []string{"\x01", "a", "a ", "aa", "b", "\xff", "\xff\xff"} {
		s.touch(d, n)
		names = append(names, n)
	}
	s.touch(quarry.RootInode, "not in d")
	for size := 1; size <= len(names)+1; size++ {
		var got []string
		after, more := "", true
		for more {
			r, err := List(s.kv, &quarry.ListRequest{Dir: d, After: after, Max: size}, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range r.Entries {
				got = append(got, e.Name)
				if e.Attr.Kind != quarry.KindFile || e.Attr.Mode != 0o644 {
					t.Errorf("%q is %+v", e.Name, e.Attr)
				}
			}
			if more = r.More; more {
				after = r.Entries[len(r.Entries)-1].Name
			}
		}
		if strings.Join(got, "|") != strings.Join(names, "|") {
			t.Errorf("pages of %d: %q", size, got)
		}
	}
	for kind, req := range map[quarry.Kind]quarry.ListRequest{
		quarry.Invalid: {Dir: d}, quarry.NotFound: {Dir: 99, Max: 1}, quarry.NotDir: {Dir: s.touch(d, "f"), Max: 1},
	} {
		if _, err := List(s.kv, &req, nil); !errors.Is(err, kind) {
			t.Errorf("%+v: %v", req, err)
		}
	}
}
