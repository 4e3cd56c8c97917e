package disk

import (
	"fmt"
	"io"
)

// OpKind names an operation of FS or File.
type OpKind uint8

// The kinds of operations, in the order in which FS and File list them. Close, Fd and
// StartWriteback do not fail.
const (
	OpCreate OpKind = iota + 1
	OpOpen
	OpRemove
	OpRename
	OpMkdir
	OpList
	OpSize // of a name or of an open file
	OpSyncDir
	OpUsage
	OpLock
	OpRead
	OpWrite
	OpTruncate
	OpSync
	OpAllocate
)

var opNames = [...]string{OpCreate: "create", OpOpen: "open", OpRemove: "remove", OpRename: "rename",
	OpMkdir: "mkdir", OpList: "list", OpSize: "size", OpSyncDir: "syncdir", OpUsage: "usage", OpLock: "lock",
	OpRead: "read", OpWrite: "write", OpTruncate: "truncate", OpSync: "sync", OpAllocate: "allocate"}

// String returns the kind in one word.
func (k OpKind) String() string {
	if int(k) < len(opNames) && opNames[k] != "" {
		return opNames[k]
	}
	return fmt.Sprintf("operation %d", uint8(k))
}

// Op is an operation that is about to happen.
type Op struct {
	Kind    OpKind
	Name    string // of a file: the name under which it was made or opened
	NewName string // of a Rename
	Off, N  int64  // of a read, write or Allocate; the length of a Truncate is N
}

// String returns the operation as a line of a trace.
func (o Op) String() string {
	switch o.Kind {
	case OpRename:
		return fmt.Sprintf("%v %s %s", o.Kind, o.Name, o.NewName)
	case OpRead, OpWrite, OpAllocate:
		return fmt.Sprintf("%v %s %d+%d", o.Kind, o.Name, o.Off, o.N)
	case OpTruncate:
		return fmt.Sprintf("%v %s %d", o.Kind, o.Name, o.N)
	}
	return fmt.Sprintf("%v %s", o.Kind, o.Name)
}

// Fault is what goes wrong with an operation; the zero Fault is nothing.
type Fault struct {
	// Err fails the operation. After a Sync that fails so, a [Mem] below never makes the
	// file's unsynced bytes durable.
	Err error
	// Part is how many bytes of a write arrive all the same when Err fails it.
	Part int
	// Skip does nothing and reports success: a disk that lies. It is for Remove, Rename,
	// MkdirAll, SyncDir, WriteAt, Truncate, Sync and Allocate.
	Skip bool
	// Damage alters the bytes that a read returns or a write stores, unnoticed.
	Damage func(p []byte)
}

// Policy is asked before each operation what goes wrong with it. It is called by the
// goroutine of the operation, in many at once; while it waits the disk is slow. It sees the
// operations in their order, so it also serves to trace them, and to look at a [Mem] below
// between any two.
type Policy func(Op) Fault

// NewFaulty returns fs with the faults that the policy orders.
func NewFaulty(fs FS, policy Policy) FS { return &faulty{fs, policy} }

type faulty struct {
	fs     FS
	policy Policy
}

// do performs the operation with its fault.
func (d *faulty) do(op Op, run func() error) error {
	fault := d.policy(op)
	if fault.Err != nil || fault.Skip {
		return fault.Err
	}
	return run()
}

// Create implements FS.
func (d *faulty) Create(name string) (File, error) {
	return d.open(Op{Kind: OpCreate, Name: name}, d.fs.Create)
}

// Open implements FS.
func (d *faulty) Open(name string) (File, error) {
	return d.open(Op{Kind: OpOpen, Name: name}, d.fs.Open)
}

func (d *faulty) open(op Op, open func(string) (File, error)) (File, error) {
	if err := d.policy(op).Err; err != nil {
		return nil, err
	}
	f, err := open(op.Name)
	if err != nil {
		return nil, err
	}
	return &faultyFile{File: f, disk: d, name: op.Name}, nil
}

// Remove implements FS.
func (d *faulty) Remove(name string) error {
	return d.do(Op{Kind: OpRemove, Name: name}, func() error { return d.fs.Remove(name) })
}

// Rename implements FS.
func (d *faulty) Rename(oldName, newName string) error {
	return d.do(Op{Kind: OpRename, Name: oldName, NewName: newName}, func() error { return d.fs.Rename(oldName, newName) })
}

// MkdirAll implements FS.
func (d *faulty) MkdirAll(name string) error {
	return d.do(Op{Kind: OpMkdir, Name: name}, func() error { return d.fs.MkdirAll(name) })
}

// List implements FS.
func (d *faulty) List(dir string) ([]string, error) {
	if err := d.policy(Op{Kind: OpList, Name: dir}).Err; err != nil {
		return nil, err
	}
	return d.fs.List(dir)
}

// Size implements FS.
func (d *faulty) Size(name string) (int64, error) {
	if err := d.policy(Op{Kind: OpSize, Name: name}).Err; err != nil {
		return 0, err
	}
	return d.fs.Size(name)
}

// SyncDir implements FS.
func (d *faulty) SyncDir(dir string) error {
	return d.do(Op{Kind: OpSyncDir, Name: dir}, func() error { return d.fs.SyncDir(dir) })
}

// Usage implements FS.
func (d *faulty) Usage() (total, free int64, err error) {
	if err := d.policy(Op{Kind: OpUsage}).Err; err != nil {
		return 0, 0, err
	}
	return d.fs.Usage()
}

// Lock implements FS.
func (d *faulty) Lock(name string) (io.Closer, error) {
	if err := d.policy(Op{Kind: OpLock, Name: name}).Err; err != nil {
		return nil, err
	}
	return d.fs.Lock(name)
}

// faultyFile is an open file; Close, StartWriteback and Fd are those of the file below.
type faultyFile struct {
	File
	disk *faulty
	name string
}

// ReadAt implements File.
func (f *faultyFile) ReadAt(p []byte, off int64) (int, error) {
	fault := f.disk.policy(Op{Kind: OpRead, Name: f.name, Off: off, N: int64(len(p))})
	if fault.Err != nil {
		return 0, fault.Err
	}
	n, err := f.File.ReadAt(p, off)
	if fault.Damage != nil {
		fault.Damage(p[:n])
	}
	return n, err
}

// WriteAt implements File.
func (f *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	fault := f.disk.policy(Op{Kind: OpWrite, Name: f.name, Off: off, N: int64(len(p))})
	if fault.Damage != nil {
		p = append([]byte(nil), p...)
		fault.Damage(p)
	}
	switch {
	case fault.Err != nil:
		n, err := f.File.WriteAt(p[:min(fault.Part, len(p))], off)
		if err != nil {
			return n, err
		}
		return n, fault.Err
	case fault.Skip:
		return len(p), nil
	}
	return f.File.WriteAt(p, off)
}

// Size implements File.
func (f *faultyFile) Size() (int64, error) {
	if err := f.disk.policy(Op{Kind: OpSize, Name: f.name}).Err; err != nil {
		return 0, err
	}
	return f.File.Size()
}

// Truncate implements File.
func (f *faultyFile) Truncate(size int64) error {
	return f.disk.do(Op{Kind: OpTruncate, Name: f.name, N: size}, func() error { return f.File.Truncate(size) })
}

// Sync implements File.
func (f *faultyFile) Sync() error {
	fault := f.disk.policy(Op{Kind: OpSync, Name: f.name})
	if fault.Err != nil {
		f.spoil()
		return fault.Err
	}
	if fault.Skip {
		return nil
	}
	return f.File.Sync()
}

// Allocate implements File.
func (f *faultyFile) Allocate(off, n int64) error {
	return f.disk.do(Op{Kind: OpAllocate, Name: f.name, Off: off, N: n}, func() error { return f.File.Allocate(off, n) })
}

// spoil tells a Mem, through the wrappers above it, that a sync has failed.
func (f *faultyFile) spoil() { spoil(f.File) }

func spoil(f File) {
	if s, ok := f.(interface{ spoil() }); ok {
		s.spoil()
	}
}
