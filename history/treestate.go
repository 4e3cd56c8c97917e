package history

import (
	"encoding/binary"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// treeState is what a tree of names may be at an instant, and which directories have been
// found by operations under way. It never changes; equal states have equal keys.
type treeState struct {
	nodes []node          // the tree: each directory before what is in it, names ascending; 0 is the top
	found []found         // by operation and side
	trash []trashed       // by value
	asked map[uint64]bool // the values that somebody asks the trash for: no others are kept there
	ended bool            // every operation whose outcome is known is over
	key   string
	hash  uint64
}

// node is a file or directory.
type node struct {
	name   string
	parent int
	dir    bool
	value  uint64
	mode   uint32
}

// trashed is a file in the trash.
type trashed struct {
	value uint64
	since clock.Instant // when whoever removed it was called
	mode  uint32
}

// found is the directory that an operation has found for one of its paths.
type found struct {
	op    int    // number of the operation
	side  int    // 0: of Path; 1: of To
	node  int    // or gone
	value uint64 // of the node, if it is a file: it may come back from the trash
}

// Instead of a node: what went wrong on the way to it.
const (
	gone     = -1 // it was found, and was removed since
	notThere = -2
	notDir   = -3
)

// newTree returns an empty tree on which there are some operations.
func newTree(ops []*Op) *treeState {
	t := &treeState{nodes: []node{{dir: true, parent: -1, mode: modeDir}}, asked: map[uint64]bool{}}
	for _, op := range ops {
		if op.Kind == KindUndelete {
			t.asked[op.Value] = true
		}
	}
	return t.sealed()
}

// sealed puts the nodes in order and makes the key.
func (t *treeState) sealed() *treeState {
	order := make([]int, 0, len(t.nodes))
	var visit func(at int)
	visit = func(at int) {
		order = append(order, at)
		var children []int
		for i := range t.nodes {
			if t.nodes[i].parent == at {
				children = append(children, i)
			}
		}
		slices.SortFunc(children, func(a, b int) int { return strings.Compare(t.nodes[a].name, t.nodes[b].name) })
		for _, i := range children {
			visit(i)
		}
	}
	visit(0)
	place := make([]int, len(t.nodes))
	for i := range place {
		place[i] = gone
	}
	for i, at := range order {
		place[at] = i
	}
	nodes := make([]node, len(order))
	for i, at := range order {
		nodes[i] = t.nodes[at]
		if at != 0 {
			nodes[i].parent = place[nodes[i].parent]
		}
	}
	t.nodes = nodes
	for i := range t.found {
		if t.found[i].node >= 0 {
			t.found[i].node = place[t.found[i].node]
		}
	}
	t.makeKey()
	return t
}

func (t *treeState) makeKey() {
	b := make([]byte, 0, 16*len(t.nodes)+4*len(t.found)+1)
	if t.ended {
		b = append(b, 'e')
	}
	for i := range t.nodes {
		n := &t.nodes[i]
		b = append(b, n.name...)
		b = append(b, '/')
		b = binary.AppendVarint(b, int64(n.parent))
		b = binary.AppendUvarint(b, uint64(n.mode))
		if !n.dir {
			b = binary.AppendUvarint(append(b, '='), n.value)
		}
	}
	for _, f := range t.found {
		b = binary.AppendUvarint(append(b, '>'), uint64(f.op)<<1|uint64(f.side))
		b = binary.AppendVarint(b, int64(f.node))
		b = binary.AppendUvarint(b, f.value)
	}
	for _, r := range t.trash {
		b = binary.AppendUvarint(append(b, '-'), r.value)
		b = binary.AppendVarint(b, int64(r.since))
		b = binary.AppendUvarint(b, uint64(r.mode))
	}
	h := fnv.New64a()
	h.Write(b)
	t.key, t.hash = string(b), h.Sum64()
}

// edit returns a copy that may be changed and must be sealed.
func (t *treeState) edit() *treeState {
	return &treeState{nodes: slices.Clone(t.nodes), found: slices.Clone(t.found), trash: slices.Clone(t.trash), asked: t.asked, ended: t.ended}
}

// child returns the node of a name in a directory; -1 if there is none.
func (t *treeState) child(dir int, name string) int {
	for i := dir + 1; i < len(t.nodes); i++ {
		if t.nodes[i].parent == dir && t.nodes[i].name == name {
			return i
		}
	}
	return -1
}

// entries counts what is in a directory.
func (t *treeState) entries(dir int) (n int64) {
	for i := range t.nodes {
		if t.nodes[i].parent == dir {
			n++
		}
	}
	return n
}

// within reports whether a node is dir or is below it.
func (t *treeState) within(at, dir int) bool {
	for ; at >= 0; at = t.nodes[at].parent {
		if at == dir {
			return true
		}
	}
	return false
}

// Modes of what is made.
const (
	modeFile = 0o644
	modeDir  = 0o755
)

// reach returns what one of an operation's paths leads to, or why it leads nowhere: a directory,
// unless the operation is about what has the path itself.
func (t *treeState) reach(op *Op, path string) int {
	if op.Kind != KindChmod && (op.Kind != KindStat || op.Found == 0) {
		return t.walk(path)
	}
	if path == "" {
		return 0
	}
	dir, name := cutPath(path)
	at := t.walk(dir)
	if why(at) != 0 {
		return at
	}
	if at = t.child(at, name); at < 0 {
		return notThere
	}
	return at
}

// walk returns the directory that a path leads to, or why it leads to none.
func (t *treeState) walk(path string) int {
	at := 0
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue
		}
		if !t.nodes[at].dir {
			return notDir
		}
		if at = t.child(at, name); at < 0 {
			return notThere
		}
	}
	if !t.nodes[at].dir {
		return notDir
	}
	return at
}

// names returns what a list of a directory shows.
func (t *treeState) names(dir int) []string {
	var names []string
	for i := range t.nodes {
		if n := &t.nodes[i]; n.parent == dir {
			name := n.name
			if n.dir {
				name += "/"
			}
			names = append(names, name)
		}
	}
	return names
}

// String lists the tree's paths.
func (t *treeState) String() string {
	var all []string
	for i := range t.nodes {
		if i > 0 {
			all = append(all, t.path(i))
		}
	}
	if len(all) == 0 {
		return "empty"
	}
	return strings.Join(all, " ")
}

// path returns the path of a node below the top; that of a directory ends with '/'.
func (t *treeState) path(at int) string {
	n := &t.nodes[at]
	path := n.name
	if n.dir {
		path += "/"
	}
	if n.parent > 0 {
		path = t.path(n.parent) + path
	}
	return path
}

// cutPath returns the directory that a path's last name is in, and the name.
func cutPath(path string) (dir, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

// why returns the error of a walk that led nowhere; 0 if it led to a directory.
func why(at int) quarry.Kind {
	switch at {
	case gone, notThere:
		return quarry.NotFound
	case notDir:
		return quarry.NotDir
	}
	return 0
}
