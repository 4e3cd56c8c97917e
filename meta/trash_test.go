package meta

import (
	"fmt"
	"slices"
	"testing"

	"github.com/quarryfs/quarry"
)

// listed returns the paths in the trash, page by page.
func (s *shard) listed(path string, page int) (paths []string) {
	s.t.Helper()
	req := &quarry.RemovedRequest{Path: path, Max: page}
	for range 10_000 {
		r, err := Removed(s.kv, req)
		if err != nil || len(r.Files) > page {
			s.t.Fatalf("%d files, %v", len(r.Files), err)
		}
		for _, f := range r.Files {
			paths = append(paths, f.Path)
		}
		if !r.More {
			return paths
		}
		if r.After < req.After || r.After == req.After && r.AfterFile <= req.AfterFile {
			s.t.Fatalf("the page after %d, %v ends at %d, %v", req.After, req.AfterFile, r.After, r.AfterFile)
		}
		req.After, req.AfterFile = r.After, r.AfterFile
	}
	s.t.Fatal("the list has no end")
	return nil
}

func TestUndelete(t *testing.T) {
	s := newShard(t)
	root := quarry.RootInode
	d := s.mkdir(root, "d")
	f := s.touch(d, "f")
	h := s.openTail(f, 1, 2)
	s.seal(h, 100)
	tail := s.openTail(f, 1, 2)
	s.ok(&Remove{Parent: d, Name: "f", Path: "/d/f"})
	s.ok(&Remove{Parent: root, Name: "d", Dir: true})
	if n := Totals(s.kv); n.Removed != 1 || n.RemovedBytes != 100 || n.Files != 0 {
		t.Errorf("counters %+v", n)
	}
	r, err := Removed(s.kv, &quarry.RemovedRequest{Path: "/d/f", Max: 1})
	if err != nil || len(r.Files) != 1 || r.Files[0].Inode != f || r.Files[0].Length != 100 || r.Files[0].RemovedNS == 0 {
		t.Errorf("the trash has %+v, %v", r, err)
	}
	s.seal(tail, 20) // the orphan
	if n := Totals(s.kv); n.RemovedBytes != 120 {
		t.Errorf("counters %+v", n)
	}
	e := s.mkdir(root, "e")
	s.touch(e, "taken")
	s.refused(quarry.NotFound, &Undelete{Parent: d, Name: "f", Inode: f})
	s.refused(quarry.NotDir, &Undelete{Parent: s.touch(root, "file"), Name: "f", Inode: f})
	s.refused(quarry.Exists, &Undelete{Parent: e, Name: "taken", Inode: f})
	s.refused(quarry.NotFound, &Undelete{Parent: e, Name: "f", Inode: e})
	s.refused(quarry.NotFound, &Undelete{Parent: e, Name: "f", Inode: 77})
	s.refused(quarry.Invalid, &Undelete{Parent: e, Name: "..", Inode: f})
	back := s.ok(&Undelete{Parent: e, Name: "g", Inode: f}).Attr
	if at, err := s.lookup("e/g"); err != nil || at != back || at.Inode != f || at.Length != 120 || at.Links != 1 {
		t.Errorf("e/g is %+v, %v; the answer was %+v", at, err, back)
	}
	s.refused(quarry.NotFound, &Undelete{Parent: e, Name: "h", Inode: f}) // it is back already
	if n := Totals(s.kv); n.Removed != 0 || n.RemovedBytes != 0 || len(s.listed("/", 9)) != 0 {
		t.Errorf("counters %+v", n)
	}
	s.openTail(f, 1, 2) // it is a file like any other
	s.ok(&Rename{Parent: e, Name: "taken", ToParent: e, ToName: "g", Replace: true, ToPath: "/e/g"})
	s.ok(&Link{Parent: e, Name: "g", Replace: true, Path: "/e/g"})
	if got := s.listed("/e", 1); !slices.Equal(got, []string{"/e/g", "/e/g"}) {
		t.Errorf("replaced files: %q", got)
	}
}

// TestUndeleteWhileTheTailIsSealed brings a file back before its open chunk is sealed.
func TestUndeleteWhileTheTailIsSealed(t *testing.T) {
	s := newShard(t)
	f := s.touch(quarry.RootInode, "f")
	tail := s.openTail(f, 1, 2)
	s.ok(&Remove{Parent: quarry.RootInode, Name: "f", Path: "/f"})
	s.ok(&BeginSeal{Handle: tail, Version: 1})
	if a := s.ok(&Undelete{Parent: quarry.RootInode, Name: "f", Inode: f}).Attr; !a.Open {
		t.Errorf("the file is %+v", a)
	}
	s.ok(&Seal{Handle: tail, Version: 2, Length: 30, Members: verdicts(VerdictGood, 1, 2)})
	if at, err := s.lookup("f"); err != nil || at.Length != 30 || at.Open {
		t.Errorf("f is %+v, %v", at, err)
	}
	s.time += 1000
	if r := s.ok(&Collect{Max: 100}); r.Count != 0 {
		t.Errorf("collected %+v", r)
	}
}

// TestHalfFreedStaysGone has a file collected in several steps: after the first it cannot be
// brought back, and nothing of it is left in the end.
func TestHalfFreedStaysGone(t *testing.T) {
	s := newShard(t)
	f := s.touch(quarry.RootInode, "f")
	for range 5 {
		s.seal(s.openTail(f, 1, 2), 10)
	}
	s.ok(&Remove{Parent: quarry.RootInode, Name: "f", Path: "/f"})
	s.time += 100
	s.ok(&Collect{KeepMS: 100, Max: 2})
	s.refused(quarry.NotFound, &Undelete{Parent: quarry.RootInode, Name: "f", Inode: f})
	if got := s.listed("/", 9); len(got) != 0 {
		t.Errorf("the trash shows %q", got)
	}
	if n := Totals(s.kv); n.Removed != 1 || n.Doomed != 1 || n.DoomedBytes != 50 {
		t.Errorf("counters %+v", n)
	}
	for range 2 { // though the time for which files are kept was made longer meanwhile
		s.ok(&Collect{KeepMS: 1 << 40, SoonMS: 1 << 40, Max: 2})
	}
	if n := Totals(s.kv); n.Removed != 0 || n.RemovedBytes != 0 || n.Doomed != 0 || n.DoomedBytes != 0 || n.Garbage != 5 {
		t.Errorf("counters %+v", n)
	}
}

// TestFreedWithALostTail has files collected whose tails are lost, in steps of every size: one step
// ends just after the tail, and the next one does not look for it.
func TestFreedWithALostTail(t *testing.T) {
	for limit := 1; limit <= 6; limit++ {
		for _, now := range []bool{false, true} {
			s := newShard(t)
			f := s.touch(quarry.RootInode, "f")
			for range 3 {
				s.seal(s.openTail(f, 1, 2), 10)
			}
			tail := s.openTail(f, 1, 2)
			s.ok(&BeginSeal{Handle: tail, Version: 1})
			s.ok(&Seal{Handle: tail, Version: 2, Lost: true, Members: verdicts(VerdictGone, 1, 2)})
			s.ok(&Remove{Parent: quarry.RootInode, Name: "f", Path: "/f", Now: now})
			s.time += 1000
			steps := 1
			for s.ok(&Collect{KeepMS: 100, SoonMS: 100, Max: limit}).More {
				if steps++; steps > 10 {
					t.Fatalf("in steps of %d it is never free", limit)
				}
			}
			if n := Totals(s.kv); n.Removed != 0 || n.RemovedBytes != 0 || reading(s.kv).anyInode(f) != nil || reading(s.kv).chunk(tail) != nil {
				t.Errorf("in steps of %d: counters %+v", limit, n)
			}
		}
	}
}

// TestRemovedNow removes files that are not to be kept: what was put goes at once, what was
// appended to only when nobody asks for fates any more, and neither comes back.
func TestRemovedNow(t *testing.T) {
	s := newShard(t)
	root := quarry.RootInode
	h := s.owned(10, 1, 2)
	put := s.ok(&Link{Parent: root, Name: "put", Pieces: []quarry.LinkPiece{{Handle: h, Length: 10}}}).Attr.Inode
	log := s.touch(root, "log")
	tail := s.openTail(log, 1, 2)
	s.ok(&Link{Parent: root, Name: "small", Pieces: []quarry.LinkPiece{{Inline: []byte("few")}}})
	for _, name := range []string{"put", "log", "small"} {
		s.ok(&Remove{Parent: root, Name: name, Path: "/" + name, Now: true})
	}
	s.refused(quarry.NotFound, &Undelete{Parent: root, Name: "x", Inode: put})
	s.refused(quarry.NotFound, &Undelete{Parent: root, Name: "x", Inode: log})
	const day = 1 << 27
	if n := Totals(s.kv); n.Removed != 2 || n.Doomed != 2 || n.DoomedBytes != 10 || len(s.listed("/", 9)) != 0 {
		t.Errorf("counters %+v", n)
	}
	s.ok(&Collect{KeepMS: day, SoonMS: 1000, Max: 100})
	if !s.record(h).Doomed || s.record(tail).Doomed {
		t.Errorf("the put chunk is %+v, the appended one %+v", s.record(h), s.record(tail))
	}
	s.time += 1000
	s.ok(&Collect{KeepMS: day, SoonMS: 1000, Max: 100}) // its tail has yet to be sealed
	s.seal(tail, 10)
	s.time += 999
	s.ok(&Collect{KeepMS: day, SoonMS: 1000, Max: 100})
	if s.record(tail).Doomed {
		t.Error("the appended chunk is freed early")
	}
	s.time++
	s.ok(&Collect{KeepMS: day, SoonMS: 1000, Max: 100})
	if n := Totals(s.kv); !s.record(tail).Doomed || n.Removed != 0 || n.RemovedBytes != 0 || n.Doomed != 0 || n.DoomedBytes != 0 {
		t.Errorf("counters %+v", n)
	}
}

// TestRemovedPages lists a large trash in small pages, with chunks in between, and asks for parts
// of it; bad requests are refused.
func TestRemovedPages(t *testing.T) {
	s := newShard(t)
	s.quick = true
	var want, below []string
	for i := range 3 * removedScan / 2 {
		dir := []string{"/a", "/ab", "/a/b"}[i%3]
		name := fmt.Sprint(i)
		s.touch(quarry.RootInode, name)
		s.ok(&Remove{Parent: quarry.RootInode, Name: name, Path: dir + "/" + name})
		if want = append(want, dir+"/"+name); i%3 != 1 {
			below = append(below, dir+"/"+name)
		}
		if i%100 == 0 {
			s.ok(&OpenOwned{Chunks: []NewChunk{s.chunk(1)}})
		}
		if i%7 == 0 {
			s.time++
		}
	}
	byMark := s.listed("/", 100)
	slices.Sort(byMark)
	slices.Sort(want)
	if !slices.Equal(byMark, want) {
		t.Errorf("%d of %d files are listed", len(byMark), len(want))
	}
	got := s.listed("/a", quarry.RemovedMax)
	slices.Sort(got)
	slices.Sort(below)
	if !slices.Equal(got, below) {
		t.Errorf("%d of %d files below /a are listed", len(got), len(below))
	}
	// One request looks at many files, not only at as many as it may return.
	r, err := Removed(s.kv, &quarry.RemovedRequest{Path: "/ab/1000", Max: 1})
	if err != nil || len(r.Files) != 1 {
		t.Errorf("one of many files: %+v, %v", r, err)
	}
	if got := s.listed("/a/0", 3); !slices.Equal(got, []string{"/a/0"}) {
		t.Errorf("/a/0 is %q", got)
	}
	for _, req := range []*quarry.RemovedRequest{
		{}, {Max: quarry.RemovedMax + 1}, {Max: -1}, {Max: 1, Path: string(make([]byte, quarry.PathBytesMax+1))},
	} {
		if _, err := Removed(s.kv, req); quarry.KindOf(err) != quarry.Invalid {
			t.Errorf("%+v: %v", req, err)
		}
	}
	if r, err := Removed(s.kv, &quarry.RemovedRequest{Max: 1, After: ^uint64(0), AfterFile: ^quarry.Inode(0)}); err != nil || r.More {
		t.Errorf("beyond the end: %+v, %v", r, err)
	}
}

// TestRemovedBehindManyChunks lists the trash, page by page, where more chunks are garbage of one
// instant than one page looks at.
func TestRemovedBehindManyChunks(t *testing.T) {
	s := newShard(t)
	s.quick = true
	for _, name := range []string{"a", "b", "c", "d"} {
		s.touch(quarry.RootInode, name)
	}
	s.ok(&Remove{Parent: quarry.RootInode, Name: "a", Path: "/a"})
	s.time++
	const chunks = removedScan + removedScan/2
	s.ok(&ReserveHandles{Term: 1, Count: 2 * chunks})
	for range chunks {
		s.owned(10, 1)
	}
	s.ok(&Remove{Parent: quarry.RootInode, Name: "b", Path: "/b"})
	for s.ok(&CloseSession{Session: s.session}).More {
	}
	s.session = s.ok(&OpenSession{Slot: 7}).Session
	s.ok(&Remove{Parent: quarry.RootInode, Name: "c", Path: "/c"})
	s.time++
	s.ok(&Remove{Parent: quarry.RootInode, Name: "d", Path: "/d"})
	for page := 1; page <= 5; page++ {
		if got := s.listed("/", page); !slices.Equal(got, []string{"/a", "/b", "/c", "/d"}) {
			t.Errorf("in pages of %d the trash has %q", page, got)
		}
	}
}

// TestUnlinkedOnce removes a file that lives on another shard and brings it back; then the message
// that removed it comes once more. The file stays.
func TestUnlinkedOnce(t *testing.T) {
	near, far := twoShards(t)
	root := quarry.RootInode
	f := near.touch(root, "f")
	near.ok(&Rename{Parent: root, Name: "f", ToParent: root, ToName: "g"})
	// The file's name is moved into a directory of the other shard, so that this one removes it there.
	dir := far.mkdirFor(t, near, "d")
	r := near.ok(&Rename{Parent: root, Name: "g", ToParent: dir, ToName: "g"})
	commit(t, near, r.Tx, near, far)

	r = far.ok(&Remove{Parent: dir, Name: "g", Path: "/d/g"})
	x, _, _ := TransactionOf(far.kv, r.Tx)
	if !r.Decided || len(x.Parts) != 1 || x.Parts[0].Kind != PartUnlink || x.Parts[0].Path != "/d/g" {
		t.Fatalf("the removal is %+v", x)
	}
	late := &Finish{Tx: x.ID, Commit: true, Part: x.Parts[0]}
	near.ok(late)
	far.ok(&Forget{Tx: x.ID})
	if got := near.listed("/d", 9); !slices.Equal(got, []string{"/d/g"}) {
		t.Errorf("the trash has %q", got)
	}
	// It comes back where it was, by a transaction of the directory's shard.
	r = far.ok(&Undelete{Parent: dir, Name: "g", Inode: f})
	s := reading(near.kv)
	x, _, _ = TransactionOf(far.kv, r.Tx)
	part := x.Prepares()[0]
	first := near.ok(&Prepare{Tx: x.ID, Part: part})
	again := near.ok(&Prepare{Tx: x.ID, Part: part})
	if first.Attr.Links != 1 || first.Attr != again.Attr || *first.Part != *again.Part {
		t.Errorf("prepared: %+v, and again %+v", first, again)
	}
	near.time += 1000
	near.ok(&Collect{Max: 100}) // nobody collects it while it is being brought back
	near.refused(quarry.Busy, &Undelete{Parent: root, Name: "other", Inode: f})
	far.ok(&Decide{Tx: x.ID, Commit: true, Parts: []Part{*first.Part}, Attr: first.Attr})
	for range 2 {
		near.ok(&Finish{Tx: x.ID, Commit: true, Part: *first.Part})
	}
	near.ok(late)
	if i := s.inode(f); i == nil || i.Parent != dir {
		t.Fatalf("the file is %+v", i)
	}
	// Given up, it stays in the trash, removed when it was.
	r = far.ok(&Remove{Parent: dir, Name: "g", Path: "/d/g"})
	x, _, _ = TransactionOf(far.kv, r.Tx)
	near.ok(&Finish{Tx: x.ID, Commit: true, Part: x.Parts[0]})
	r = far.ok(&Undelete{Parent: dir, Name: "g", Inode: f})
	x, _, _ = TransactionOf(far.kv, r.Tx)
	first = near.ok(&Prepare{Tx: x.ID, Part: x.Prepares()[0]})
	far.ok(&Decide{Tx: x.ID, Err: quarry.Errorf("undelete", quarry.Unavailable, "", "given up")})
	was := reading(near.kv).anyInode(f).RemovedNS
	near.ok(&Finish{Tx: x.ID, Part: *first.Part})
	got, err := Removed(near.kv, &quarry.RemovedRequest{Path: "/d", Max: 9})
	if err != nil || len(got.Files) != 1 || got.Files[0].Path != "/d/g" || got.Files[0].RemovedNS != was || was == 0 {
		t.Errorf("removed at %d, the trash has %+v, %v", was, got, err)
	}
}

// mkdirFor makes a directory in this shard below the root, which another one has.
func (s *shard) mkdirFor(t *testing.T, near *shard, name string) quarry.Inode {
	t.Helper()
	r := near.ok(&Make{Parent: quarry.RootInode, Name: name, Kind: quarry.KindDir, Slot: quarry.Slots - 1})
	return commit(t, near, r.Tx, near, s)[0].Inode
}

// commit carries a transaction out, whose parts are this or that shard's.
func commit(t *testing.T, at *shard, id TxID, near, far *shard) (parts []Part) {
	t.Helper()
	shardOf := func(p Part) *shard {
		if p.Where() < quarry.Slots/2 {
			return near
		}
		return far
	}
	x, _, _ := TransactionOf(at.kv, id)
	for _, p := range x.Prepares() {
		parts = append(parts, *shardOf(p).ok(&Prepare{Tx: id, Part: p}).Part)
	}
	at.ok(&Decide{Tx: id, Commit: true, Parts: parts})
	for _, p := range parts {
		shardOf(p).ok(&Finish{Tx: id, Commit: true, Part: p})
	}
	at.ok(&Forget{Tx: id})
	return parts
}

// TestRefusedLinkTakesNoNumber replaces a file of another shard while no transaction more can
// begin: the command is refused and no inode number is lost.
func TestRefusedLinkTakesNoNumber(t *testing.T) {
	near, far := twoShards(t)
	near.touch(quarry.RootInode, "f")
	dir := far.mkdirFor(t, near, "d")
	commit(t, near, near.ok(&Rename{Parent: quarry.RootInode, Name: "f", ToParent: dir, ToName: "f"}).Tx, near, far)
	far.quick = true
	far.ok(&Make{Parent: dir, Name: "x", Kind: quarry.KindFile}) // the machine has a header
	before := far.m.header.NextInode
	far.m.header.Counters.Transactions = TransactionsMax
	if r := far.do(&Link{Parent: dir, Name: "f", Replace: true}); quarry.KindOf(r.Err) != quarry.Busy {
		t.Fatalf("the link: %v", r.Err)
	}
	if after := far.m.header.NextInode; after != before {
		t.Errorf("the next number was %d and is %d", before, after)
	}
}

// undelete brings a file back that was removed, wherever it lives, unless it is collected.
func (c *txClient) undelete(dir *node, name string, n *node) {
	w := c.w
	c.body = &Undelete{Parent: dir.inode, Name: name, Inode: n.inode}
	old := dir.children[name]
	at := w.shardOf(n.inode.Slot())
	st := reading(at.kv)
	i := st.anyInode(n.inode)
	c.want = reasons(
		dir.dirError() != 0, dir.dirError(), old != nil, quarry.Exists, !n.gone || n.kind == quarry.KindDir || i == nil && !w.moved, quarry.NotFound)
	// What was removed from another shard may not be told of it yet; and what is old may go meanwhile.
	if c.want[0] == 0 && (w.moved || i.Links > 0 || i.Removed+txKeepMS/4 < at.time) {
		c.want = append(c.want, quarry.NotFound)
	}
	c.done = func(r *Result) {
		if r.Attr.Inode != n.inode || r.Attr.Links != 1 {
			w.fatal("%v is back as %+v", n.inode, r.Attr)
		}
		if len(w.clients) == 1 {
			n.gone = false
			w.add(dir, name, n)
		}
	}
}

// txKeepMS is how long the collector lets files lie in the trash.
const txKeepMS = 2000

// reasons lists all kinds whose condition holds: one of them is the outcome.
func reasons(conditions ...any) (kinds []quarry.Kind) {
	for i := 0; i < len(conditions); i += 2 {
		if conditions[i].(bool) {
			kinds = append(kinds, conditions[i+1].(quarry.Kind))
		}
	}
	if kinds == nil {
		kinds = []quarry.Kind{0}
	}
	return kinds
}
