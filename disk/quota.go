package disk

import (
	"path"
	"sync"
	"syscall"
)

// WithQuota returns fs as a disk of the given size: when the lengths of its files would
// exceed it, writes fail with ENOSPC. What is on fs already counts; other users of fs do
// not. Directories cost nothing.
func WithQuota(fs FS, bytes int64) (FS, error) {
	q := &quota{FS: fs, limit: bytes, files: map[string]*quotaNode{}}
	if err := q.count("."); err != nil {
		return nil, err
	}
	return q, nil
}

// quota is an FS that counts. MkdirAll, List, Size, SyncDir and
// Lock are those of the FS below.
type quota struct {
	FS
	limit int64

	mu    sync.Mutex
	used  int64
	files map[string]*quotaNode
}

// quotaNode is a file, however often it is open.
type quotaNode struct {
	mu      sync.Mutex // held while the length changes; before quota.mu
	size    int64      // what it counts; guarded by quota.mu
	removed bool       // it counts no more; guarded by quota.mu
}

// count takes the files below dir into account.
func (q *quota) count(dir string) error {
	names, err := q.FS.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		name = path.Join(dir, name)
		if _, err := q.FS.List(name); err == nil {
			if err := q.count(name); err != nil {
				return err
			}
			continue
		}
		size, err := q.FS.Size(name)
		if err != nil {
			return err
		}
		q.files[name] = &quotaNode{size: size}
		q.used += size
	}
	return nil
}

// resize counts a file's length, and refuses one that does not fit.
func (q *quota) resize(op, name string, n *quotaNode, size int64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n.removed {
		return nil
	}
	more := size - n.size
	if more > 0 && more > q.limit-q.used {
		return pathError(op, name, syscall.ENOSPC)
	}
	q.used += more
	n.size = size
	return nil
}

// Create implements FS.
func (q *quota) Create(name string) (File, error) { return q.open(name, q.FS.Create) }

// Open implements FS.
func (q *quota) Open(name string) (File, error) { return q.open(name, q.FS.Open) }

func (q *quota) open(name string, open func(string) (File, error)) (File, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	f, err := open(name)
	if err != nil {
		return nil, err
	}
	n := q.files[name]
	if n == nil {
		n = &quotaNode{}
		q.files[name] = n
	}
	return &quotaFile{File: f, quota: q, node: n, name: name}, nil
}

// Remove implements FS.
func (q *quota) Remove(name string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	err := q.FS.Remove(name)
	if err == nil {
		q.drop(name)
	}
	return err
}

// drop no longer counts the file that had the name.
func (q *quota) drop(name string) {
	if n := q.files[name]; n != nil {
		q.used -= n.size
		n.removed = true
		delete(q.files, name)
	}
}

// Rename implements FS.
func (q *quota) Rename(oldName, newName string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	err := q.FS.Rename(oldName, newName)
	if err != nil || oldName == newName {
		return err
	}
	q.drop(newName)
	if n := q.files[oldName]; n != nil {
		q.files[newName] = n
		delete(q.files, oldName)
	}
	return nil
}

// Usage implements FS.
func (q *quota) Usage() (total, free int64, err error) {
	_, below, err := q.FS.Usage()
	if err != nil {
		return 0, 0, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.limit, max(0, min(q.limit-q.used, below)), nil
}

// quotaFile is an open file; ReadAt, Close, Size, Sync, StartWriteback and Fd are those of
// the file below.
type quotaFile struct {
	File
	quota *quota
	node  *quotaNode
	name  string
}

// change sets the length that counts, and then runs what sets the length; if that fails,
// the length that there is counts.
func (f *quotaFile) change(op string, size func(before int64) int64, run func() error) error {
	f.node.mu.Lock()
	defer f.node.mu.Unlock()
	before, err := f.File.Size()
	if err != nil {
		return err
	}
	if err := f.quota.resize(op, f.name, f.node, size(before)); err != nil {
		return err
	}
	err = run()
	if err != nil {
		if now, sizeErr := f.File.Size(); sizeErr == nil {
			// The length is one that fitted, so this cannot fail.
			_ = f.quota.resize(op, f.name, f.node, now)
		}
	}
	return err
}

// WriteAt implements File.
func (f *quotaFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.change("write", func(before int64) int64 { return max(before, off+int64(len(p))) }, func() error {
		n, err = f.File.WriteAt(p, off)
		return err
	})
	return n, err
}

// Truncate implements File.
func (f *quotaFile) Truncate(size int64) error {
	return f.change("truncate", func(int64) int64 { return size }, func() error { return f.File.Truncate(size) })
}

// Allocate implements File.
func (f *quotaFile) Allocate(off, n int64) error {
	return f.change("allocate", func(before int64) int64 { return max(before, off+n) }, func() error { return f.File.Allocate(off, n) })
}

func (f *quotaFile) spoil() { spoil(f.File) }
