package history

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// simulate has some workers do random operations on a tree, each of whose steps happens at
// some instant of its own, so that the history is right. Of some, nobody knows the outcome.
func simulate(r *rand.Rand, workers, count int) []Op {
	type running struct {
		op       Op
		inodes   []*inode
		finished bool
	}
	root := &inode{entries: map[string]*inode{}, dir: true, trash: map[uint64]*inode{}, mode: modeDir}
	var puts []uint64
	busy := make([]*running, workers)
	var ops []Op
	for now := clock.Instant(1); len(ops) < count; now++ {
		w := r.IntN(workers)
		x := busy[w]
		switch {
		case x == nil:
			x = &running{op: randomName(r, int32(w))}
			x.op.Call = now
			switch {
			case x.op.Kind == KindPut:
				puts = append(puts, x.op.Value)
			case x.op.Kind == KindUndelete && len(puts) > 0:
				x.op.Value = puts[r.IntN(len(puts))]
			case x.op.Kind == KindUndelete:
				continue
			}
			busy[w] = x
		case x.inodes == nil:
			x.inodes = x.op.find(root)
		case !x.finished:
			x.op.apply(x.inodes)
			x.finished = true
		default:
			x.op.Return = now
			if x.op.Kind.mutates() && r.IntN(40) == 0 {
				x.op.Outcome, x.op.Error = Unknown, quarry.Unknown
			}
			ops = append(ops, x.op)
			busy[w] = nil
		}
	}
	for _, x := range busy { // at the end some have been called and have not returned
		if x != nil && x.op.Kind.mutates() {
			x.op.Outcome, x.op.Error, x.op.Return = Unknown, 0, Open
			ops = append(ops, x.op)
		}
	}
	slices.SortStableFunc(ops, func(a, b Op) int { return int(a.Call - b.Call) })
	return ops
}

// inode is a file or directory of simulate, written another way than the checker's.
type inode struct {
	dir     bool
	value   uint64
	entries map[string]*inode
	gone    bool
	trash   map[uint64]*inode // of a directory: the tree's
	mode    uint32
}

// remove takes a file that has no name any more.
func (n *inode) remove(file *inode, now bool) {
	if file == nil {
		return
	}
	file.gone = true
	if file.value != 0 && !now {
		n.trash[file.value] = file
	}
}

func randomName(r *rand.Rand, w int32) Op {
	path := func() string {
		p := outerNames[r.IntN(3)]
		if r.IntN(2) == 0 {
			p += "/" + innerNames[r.IntN(2)]
		}
		return p
	}
	kinds := []Kind{KindMkdir, KindCreate, KindPut, KindRename, KindRename, KindRemove, KindRemove, KindList, KindRead, KindStat, KindUndelete, KindChmod}
	op := name(kinds[r.IntN(len(kinds))], path())
	op.Worker, op.Value = w, 0
	switch op.Kind {
	case KindPut:
		op.Value = r.Uint64N(1<<40) + 1
	case KindRemove:
		op.Now = r.IntN(4) == 0
	case KindUndelete:
		op.KeepNS = 1 << 40
	case KindRename:
		op.To = path()
	case KindChmod:
		op.Mode = 1 + r.Uint32N(4)
	case KindList:
		op.Path = []string{"", "a", "b"}[r.IntN(3)]
	}
	return op
}

// find walks to the directories of an operation; nil elements say why not.
func (o *Op) find(root *inode) []*inode {
	var found []*inode
	for _, dir := range dirsOf(o) {
		if o.Error != 0 {
			break // a client does not go on then
		}
		at := root
		for _, part := range strings.Split(dir, "/") {
			if part == "" || at == nil {
				continue
			}
			if !at.dir {
				o.Error = quarry.NotDir
				at = nil
				continue
			}
			if at = at.entries[part]; at == nil {
				o.Error = quarry.NotFound
			}
		}
		if at != nil && !at.dir && o.Kind != KindChmod {
			o.Error = quarry.NotDir
			at = nil
		}
		found = append(found, at)
	}
	return found
}

// apply does the work of an operation in the directories that it found.
func (o *Op) apply(dirs []*inode) {
	o.Outcome = Done
	if o.Error == 0 {
		for _, dir := range dirs {
			if dir.gone {
				o.Error = quarry.NotFound
			}
		}
	}
	if o.Error == 0 {
		o.Error = o.applyIn(dirs)
	}
	if o.Error != 0 {
		o.Outcome = Failed
	}
}

func (o *Op) applyIn(dirs []*inode) quarry.Kind {
	dir := dirs[0]
	if o.Kind == KindChmod {
		dir.mode = o.Mode
		return 0
	}
	if o.Kind == KindList {
		for name, n := range dir.entries {
			if n.dir {
				name += "/"
			}
			o.Names = append(o.Names, name)
		}
		slices.Sort(o.Names)
		return 0
	}
	_, base := cutPath(o.Path)
	n := dir.entries[base]
	switch {
	case o.Kind == KindCreate || o.Kind == KindMkdir:
		if n != nil {
			return quarry.Exists
		}
		made := &inode{dir: o.Kind == KindMkdir, entries: map[string]*inode{}, trash: dir.trash, mode: modeFile}
		if made.dir {
			made.mode = modeDir
		}
		dir.entries[base] = made
		return 0
	case o.Kind == KindPut:
		if n != nil && n.dir {
			return quarry.IsDir
		}
		dir.remove(n, false)
		dir.entries[base] = &inode{value: o.Value, mode: modeFile}
		return 0
	case o.Kind == KindUndelete && n != nil:
		return quarry.Exists
	case o.Kind == KindUndelete && dir.trash[o.Value] == nil:
		return quarry.NotFound
	case o.Kind == KindUndelete:
		back := dir.trash[o.Value]
		delete(dir.trash, o.Value)
		back.gone = false
		dir.entries[base] = back
		return 0
	case n == nil:
		return quarry.NotFound
	case o.Kind == KindRemove:
		if len(n.entries) > 0 {
			return quarry.NotEmpty
		}
		delete(dir.entries, base)
		dir.remove(n, o.Now)
		n.gone = true
		return 0
	case o.Kind == KindRename:
		return o.applyRename(n, dir, dirs[1], base)
	case o.Kind == KindRead && n.dir:
		return quarry.IsDir
	}
	if o.Kind == KindRead {
		o.Value = n.value
		return 0
	}
	o.Found, o.Mode = FoundFile, n.mode
	if n.dir {
		o.Found, o.Length = FoundDir, int64(len(n.entries))
	}
	return 0
}

func (o *Op) applyRename(n, dir, to *inode, base string) quarry.Kind {
	_, name := cutPath(o.To)
	old := to.entries[name]
	switch {
	case old == n:
		return 0
	case n.dir && n.has(to):
		return quarry.Invalid
	case old != nil && old.dir && n.dir:
		return quarry.Exists
	case old != nil && old.dir:
		return quarry.IsDir
	case old != nil && n.dir:
		return quarry.NotDir
	}
	to.remove(old, false)
	delete(dir.entries, base)
	to.entries[name] = n
	return 0
}

func (n *inode) has(other *inode) bool {
	if n == other {
		return true
	}
	for _, child := range n.entries {
		if child.dir && child.has(other) {
			return true
		}
	}
	return false
}

// Histories of a tree that is right are found right, by porcupine and by the frontier; and of
// those that were spoilt both say the same.
func TestNamesAgainstSimulation(t *testing.T) {
	violated := 0
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 3))
		ops := simulate(r, 1+r.IntN(5), 60)
		spoilt := seed%2 == 1
		if spoilt {
			spoil(r, ops)
		}
		known := evidence(ops)
		verdict := usual.names(known)
		f := newFrontier(known, usual)
		possible := f.advance()
		switch {
		case verdict == Inconclusive || f.given:
			t.Errorf("seed %d: %s, given up %v", seed, verdict, f.given)
		case (verdict == Passed) != possible:
			t.Errorf("seed %d: porcupine says %s, the frontier that it is possible: %v", seed, verdict, possible)
		case !spoilt && verdict != Passed:
			v, _ := checkNames(testTree, ops, usual)
			t.Errorf("seed %d: %v", seed, v)
			_ = v.Explain(t.Output())
		}
		if verdict != Violated {
			continue
		}
		violated++
		v, _ := checkNames(testTree, ops, usual)
		if again, _ := checkNames(testTree, v.Ops, usual); again == nil {
			t.Errorf("seed %d: what is shown can be explained: %v", seed, v)
		}
	}
	if violated < 30 {
		t.Errorf("only %d of 100 spoilt histories are violations", violated)
	}
}

// spoil changes the result of one operation.
func spoil(r *rand.Rand, ops []Op) {
	for {
		op := &ops[r.IntN(len(ops))]
		switch {
		case op.Outcome == Unknown:
			continue
		case op.Outcome == Failed:
			op.Outcome, op.Error = Done, 0
		case op.Kind == KindList && len(op.Names) > 0:
			op.Names = op.Names[1:]
		case op.Kind.mutates():
			op.Outcome, op.Error = Failed, quarry.NoSpace
		default:
			continue
		}
		return
	}
}

// A violation among ten thousand operations is shown by a handful.
func TestShortestNames(t *testing.T) {
	var ops []Op
	for i := range 5000 {
		from := clock.Instant(20 * i)
		path := outerNames[i%3]
		ops = append(ops, between(from, from+15, create(path)), between(from+16, from+19, remove(path)))
	}
	wrong := between(20*3000+15, 20*3000+16, list("", "a", "b"))
	ops = append(ops, wrong)
	slices.SortStableFunc(ops, func(a, b Op) int { return int(a.Call - b.Call) })
	v, _ := checkNames(testTree, ops, usual)
	if v == nil || len(v.Ops) > 5 {
		t.Fatalf("%d operations: %v", len(v.Ops), v)
	}
	if !strings.Contains(v.Text, "the tree was") {
		t.Errorf("it does not say what the tree was: %v", v)
	}
}
