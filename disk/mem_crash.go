package disk

import (
	"maps"
	"math/rand/v2"
	"path"
	"slices"
)

// sectorBytes is what a disk writes wholly or not at all.
const sectorBytes = 512

// Crash returns the disk after a crash at this moment. Of what was not synced, r decides for
// each operation whether it is kept, lost, or (a write) kept in some of its sectors.
func (m *Mem) Crash(r *rand.Rand) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.image(func(op *fileOp) outcome { return randomOutcome(r, op) }, func() bool { return r.IntN(2) == 0 })
}

// Clone returns the disk as another process finds it after this one was killed: everything
// written is there, and what was not synced can still be lost.
func (m *Mem) Clone() *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	nodes := map[*node]*node{nil: nil}
	clone := func(n *node) *node {
		if nodes[n] == nil && n != nil {
			nodes[n] = &node{dir: n.dir, data: slices.Clone(n.data), base: slices.Clone(n.base), ops: slices.Clone(n.ops)}
		}
		return nodes[n]
	}
	c := &Mem{names: map[string]*node{}, base: map[string]*node{}, locked: map[string]bool{}}
	for name, n := range m.names {
		c.names[name] = clone(n)
	}
	for name, n := range m.base {
		c.base[name] = clone(n)
	}
	for _, op := range m.nameOps {
		op.node = clone(op.node)
		c.nameOps = append(c.nameOps, op)
	}
	return c
}

// Images calls f with every disk that a crash at this moment may leave, where a torn write
// has lost its first sector, its last one, or all but the first; true. When these are more
// than limit, f sees limit of them, chosen the same way each time; false. f must not use m.
func (m *Mem) Images(limit int, f func(*Mem)) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	choices := m.choices()
	total := 1
	for _, c := range choices {
		if total *= c.ways; total > limit {
			break
		}
	}
	r := rand.New(rand.NewPCG(0, 0))
	for i := range min(total, limit) {
		way, at := map[any]int{}, i
		for _, c := range choices {
			way[c.op], at = at%c.ways, at/c.ways
		}
		names := 0
		f(m.image(func(op *fileOp) outcome {
			if total > limit {
				return randomOutcome(r, op)
			}
			return op.outcomes()[way[op]]
		}, func() bool {
			if total > limit {
				return r.IntN(2) == 0
			}
			names++
			return way[names-1] == 0
		}))
	}
	return total <= limit
}

// choice is an uncertain operation and the number of ways in which a crash may leave it.
type choice struct {
	op   any // a *fileOp, or the number of the uncertain nameOp
	ways int
}

// choices lists the uncertain operations. Those of files that have no name in any image
// make no difference and are left out.
func (m *Mem) choices() []choice {
	var list []choice
	nodes := map[*node]bool{}
	var order []*node
	see := func(n *node) {
		if !nodes[n] {
			nodes[n] = true
			order = append(order, n)
		}
	}
	names := 0
	for _, op := range m.nameOps {
		if !op.certain {
			list = append(list, choice{names, 2})
			names++
		}
		see(op.node)
	}
	for _, name := range slices.Sorted(maps.Keys(m.base)) {
		see(m.base[name])
	}
	for _, n := range order {
		for i := range n.ops {
			if op := &n.ops[i]; !op.certain {
				list = append(list, choice{op, len(op.outcomes())})
			}
		}
	}
	return list
}

// outcome says which sectors of a write a crash takes.
type outcome func(sector int64) bool

func kept(int64) bool { return false }
func lost(int64) bool { return true }

// outcomes are the ways in which Images lets a crash leave the operation.
func (op *fileOp) outcomes() []outcome {
	last := op.sectors() - 1
	all := []outcome{kept, lost}
	if last > 0 {
		all = append(all, func(s int64) bool { return s == 0 }, func(s int64) bool { return s == last })
	}
	if last > 1 {
		all = append(all, func(s int64) bool { return s > 0 })
	}
	return all
}

// randomOutcome keeps, loses or tears an operation, one as likely as the other.
func randomOutcome(r *rand.Rand, op *fileOp) outcome {
	switch n := r.IntN(3); {
	case n == 0:
		return kept
	case n == 1 || op.sectors() == 1:
		return lost
	}
	return func(int64) bool { return r.IntN(2) == 0 }
}

// image returns the disk that is left when each uncertain operation comes out as told.
func (m *Mem) image(write func(*fileOp) outcome, keepName func() bool) *Mem {
	names := maps.Clone(m.base)
	for _, op := range m.nameOps {
		if op.certain || keepName() {
			op.apply(names)
		}
	}
	c := NewMem()
	nodes := map[*node]*node{}
	for _, name := range slices.Sorted(maps.Keys(names)) { // parents come first
		n := names[name]
		if parent := c.names[path.Dir(name)]; name == "." || parent == nil || !parent.dir {
			continue // what was in a removed directory went with it
		}
		if nodes[n] == nil {
			nodes[n] = n.image(write)
		}
		c.names[name], c.base[name] = nodes[n], nodes[n]
	}
	return c
}

// image returns the file that is left.
func (n *node) image(write func(*fileOp) outcome) *node {
	b := slices.Clone(n.base)
	for i := range n.ops {
		op := &n.ops[i]
		switch {
		case op.certain:
			b = op.apply(b, nil)
		case op.data != nil:
			b = op.apply(b, write(op))
		case !write(op)(0):
			b = op.apply(b, nil)
		}
	}
	return &node{dir: n.dir, data: b, base: slices.Clone(b)}
}

// Durable returns the bytes of a file that no crash at this moment would take; nil if the name
// could be lost. They must not be changed.
func (m *Mem) Durable(name string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.base[name]
	for _, op := range m.nameOps {
		switch {
		case op.to == name && op.certain:
			n = op.node
		case op.from == name || op.to == name:
			n = nil // it may be gone, or another file may have it
		}
	}
	if n == nil || n.dir {
		return nil
	}
	if len(n.ops) == 0 {
		return n.base
	}
	b := slices.Clone(n.base)
	for i := range n.ops {
		if op := &n.ops[i]; op.certain {
			b = op.apply(b, nil)
		}
	}
	return b
}
