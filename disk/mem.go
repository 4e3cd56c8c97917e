package disk

import (
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
)

const (
	memBytes     = 1 << 40 // what Usage says a Mem has in all
	memFileBytes = 4 << 30 // a longer file is refused, lest a wild offset takes all memory
)

// Mem is a file system in memory that knows what is durable: [Mem.Crash] and [Mem.Images]
// make the disks that a crash at this moment may leave, [Mem.Clone] the one that another
// process finds when this one is killed. All three leave the Mem as it is, and the copies
// have no locks and no open files.
//
// Files and names have what is durable as their base and behind it a log of operations;
// a sync makes operations certain, a crash takes any of those that are not. A rename is one
// operation, certain when either of its directories is synced. A directory's own making is
// durable when MkdirAll returns.
type Mem struct {
	mu      sync.Mutex
	names   map[string]*node // by path; "." is the root
	base    map[string]*node // the durable names
	nameOps []nameOp
	locked  map[string]bool
}

var _ FS = (*Mem)(nil)

// node is a file or a directory.
type node struct {
	dir  bool
	data []byte // what readers see
	base []byte // the durable bytes
	ops  []fileOp
}

// nameOp is the making (from empty), removal (to empty) or renaming of a name.
type nameOp struct {
	from, to string
	node     *node
	certain  bool
}

// apply performs the operation on a set of names.
func (op nameOp) apply(names map[string]*node) {
	if op.from != "" && names[op.from] == op.node {
		delete(names, op.from)
	}
	if op.to != "" {
		names[op.to] = op.node
	}
}

// touches reports whether the operation changed a name in dir.
func (op nameOp) touches(dir string) bool {
	return op.from != "" && path.Dir(op.from) == dir || op.to != "" && path.Dir(op.to) == dir
}

// NewMem returns an empty file system.
func NewMem() *Mem {
	root := &node{dir: true}
	return &Mem{
		names:  map[string]*node{".": root},
		base:   map[string]*node{".": root},
		locked: map[string]bool{},
	}
}

// change performs an operation on names and logs it.
func (m *Mem) change(op nameOp) {
	op.apply(m.names)
	m.nameOps = append(m.nameOps, op)
}

// checkParent says why no name can be made in the directory of name.
func (m *Mem) checkParent(op, name string) error {
	for dir := path.Dir(name); ; dir = path.Dir(dir) {
		n := m.names[dir]
		if n != nil && !n.dir {
			return pathError(op, name, syscall.ENOTDIR)
		}
		if n != nil && dir == path.Dir(name) {
			return nil
		}
		if n != nil {
			return pathError(op, name, fs.ErrNotExist)
		}
	}
}

// file returns the file with the name.
func (m *Mem) file(op, name string) (*node, error) {
	n := m.names[name]
	if n == nil {
		if err := m.checkParent(op, name); err != nil {
			return nil, err
		}
		return nil, pathError(op, name, fs.ErrNotExist)
	}
	if n.dir {
		return nil, pathError(op, name, syscall.EISDIR)
	}
	return n, nil
}

// Create implements FS.
func (m *Mem) Create(name string) (File, error) {
	if err := check("create", name); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names[name] != nil {
		return nil, pathError("create", name, fs.ErrExist)
	}
	if err := m.checkParent("create", name); err != nil {
		return nil, err
	}
	n := &node{}
	m.change(nameOp{to: name, node: n})
	return &memFile{mem: m, name: name, node: n}, nil
}

// Open implements FS.
func (m *Mem) Open(name string) (File, error) {
	if err := check("open", name); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.file("open", name)
	if err != nil {
		return nil, err
	}
	return &memFile{mem: m, name: name, node: n}, nil
}

// Remove implements FS.
func (m *Mem) Remove(name string) error {
	if err := check("remove", name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.names[name]
	switch {
	case n == nil:
		return pathError("remove", name, fs.ErrNotExist)
	case name == ".":
		return pathError("remove", name, fs.ErrInvalid)
	case n.dir && len(m.list(name)) > 0:
		return pathError("remove", name, syscall.ENOTEMPTY)
	}
	m.change(nameOp{from: name, node: n})
	return nil
}

// Rename implements FS.
func (m *Mem) Rename(oldName, newName string) error {
	if err := check("rename", oldName); err != nil {
		return err
	}
	if err := check("rename", newName); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.file("rename", oldName)
	if err != nil {
		return err
	}
	if err := m.checkParent("rename", newName); err != nil {
		return err
	}
	if target := m.names[newName]; target != nil && target.dir {
		return pathError("rename", newName, syscall.EISDIR)
	}
	if oldName != newName {
		m.change(nameOp{from: oldName, to: newName, node: n})
	}
	return nil
}

// MkdirAll implements FS.
func (m *Mem) MkdirAll(name string) error {
	if err := check("mkdir", name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mkdirAll(name)
}

func (m *Mem) mkdirAll(name string) error {
	if n := m.names[name]; n != nil {
		if !n.dir {
			return pathError("mkdir", name, syscall.ENOTDIR)
		}
		return nil
	}
	if err := m.mkdirAll(path.Dir(name)); err != nil {
		return err
	}
	m.change(nameOp{to: name, node: &node{dir: true}})
	m.syncDir(path.Dir(name))
	return nil
}

// List implements FS.
func (m *Mem) List(dir string) ([]string, error) {
	if err := m.checkDir("list", dir); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.list(dir), nil
}

func (m *Mem) list(dir string) []string {
	var names []string
	for name := range m.names {
		if name != "." && path.Dir(name) == dir {
			names = append(names, path.Base(name))
		}
	}
	slices.Sort(names)
	return names
}

// checkDir refuses what is not a directory.
func (m *Mem) checkDir(op, dir string) error {
	if err := check(op, dir); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.names[dir]
	switch {
	case n == nil:
		return pathError(op, dir, fs.ErrNotExist)
	case !n.dir:
		return pathError(op, dir, syscall.ENOTDIR)
	}
	return nil
}

// Size implements FS.
func (m *Mem) Size(name string) (int64, error) {
	if err := check("size", name); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.file("size", name)
	if err != nil {
		return 0, err
	}
	return int64(len(n.data)), nil
}

// SyncDir implements FS.
func (m *Mem) SyncDir(dir string) error {
	if err := m.checkDir("sync", dir); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.syncDir(dir)
	return nil
}

// syncDir makes the operations in dir certain, and the certain ones at the log's start a
// part of the base.
func (m *Mem) syncDir(dir string) {
	for i := range m.nameOps {
		if m.nameOps[i].touches(dir) {
			m.nameOps[i].certain = true
		}
	}
	for len(m.nameOps) > 0 && m.nameOps[0].certain {
		m.nameOps[0].apply(m.base)
		m.nameOps = m.nameOps[1:]
	}
}

// Usage implements FS.
func (m *Mem) Usage() (total, free int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var used int64
	for n := range maps.Values(m.names) {
		used += int64(len(n.data))
	}
	return memBytes, memBytes - used, nil
}

// Lock implements FS.
func (m *Mem) Lock(name string) (io.Closer, error) {
	if err := check("lock", name); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names[name] == nil {
		if err := m.checkParent("lock", name); err != nil {
			return nil, err
		}
		m.change(nameOp{to: name, node: &node{}})
	}
	if m.locked[name] {
		return nil, inUse("memory:" + strings.TrimPrefix(path.Dir(name), "."))
	}
	m.locked[name] = true
	return &memLock{m, name}, nil
}

type memLock struct {
	mem  *Mem
	name string
}

func (l *memLock) Close() error {
	l.mem.mu.Lock()
	defer l.mem.mu.Unlock()
	delete(l.mem.locked, l.name)
	return nil
}
