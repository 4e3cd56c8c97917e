package disk

import (
	"io"
	"io/fs"
	"syscall"
)

// fileOp is a write, or a change of the length.
type fileOp struct {
	off  int64
	data []byte // nil for a change of the length

	size int64 // the length behind a Truncate, the least length behind an Allocate
	cut  bool  // a Truncate

	certain bool // synced
	suspect bool // its sync failed: a later one does not make it certain
}

// apply performs the operation on a file's bytes, but for the sectors that lost says, which
// are counted from the one in which the operation begins.
func (op *fileOp) apply(b []byte, lost func(sector int64) bool) []byte {
	if op.data == nil {
		if op.cut && op.size < int64(len(b)) {
			return b[:op.size]
		}
		return grow(b, op.size)
	}
	if lost == nil {
		b = grow(b, op.off+int64(len(op.data)))
		copy(b[op.off:], op.data)
		return b
	}
	for at := op.off; at < op.off+int64(len(op.data)); {
		end := min((at/sectorBytes+1)*sectorBytes, op.off+int64(len(op.data)))
		if !lost(at/sectorBytes - op.off/sectorBytes) {
			b = grow(b, end)
			copy(b[at:end], op.data[at-op.off:])
		}
		at = end
	}
	return b
}

// sectors returns how many sectors the operation touches.
func (op *fileOp) sectors() int64 {
	if len(op.data) == 0 {
		return 1
	}
	return (op.off+int64(len(op.data))-1)/sectorBytes - op.off/sectorBytes + 1
}

// grow returns b with zeros behind it so that it has at least size bytes.
func grow(b []byte, size int64) []byte {
	if size <= int64(len(b)) {
		return b
	}
	if size <= int64(cap(b)) {
		clear(b[len(b):size])
		return b[:size]
	}
	g := make([]byte, size, max(size, min(2*int64(cap(b)), memFileBytes)))
	copy(g, b)
	return g
}

// memFile is an open file of a Mem.
type memFile struct {
	mem    *Mem
	name   string
	node   *node
	closed bool
}

// begin locks the file system; the caller unlocks it if there is no error.
func (f *memFile) begin(op string, off int64) error {
	f.mem.mu.Lock()
	var err error
	switch {
	case f.closed:
		err = fs.ErrClosed
	case off < 0:
		err = fs.ErrInvalid
	case off > memFileBytes:
		err = syscall.EFBIG
	}
	if err != nil {
		f.mem.mu.Unlock()
		return pathError(op, f.name, err)
	}
	return nil
}

// change performs an operation and logs it.
func (f *memFile) change(op fileOp) {
	f.node.data = op.apply(f.node.data, nil)
	f.node.ops = append(f.node.ops, op)
}

// ReadAt implements File.
func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.begin("read", min(off, memFileBytes)); err != nil {
		return 0, err
	}
	defer f.mem.mu.Unlock()
	if off >= int64(len(f.node.data)) && len(p) > 0 {
		return 0, io.EOF
	}
	n := copy(p, f.node.data[min(off, int64(len(f.node.data))):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements File.
func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	end := off
	if off >= 0 {
		end = off + int64(len(p))
	}
	if err := f.begin("write", end); err != nil {
		return 0, err
	}
	defer f.mem.mu.Unlock()
	if len(p) > 0 {
		f.change(fileOp{off: off, data: append([]byte(nil), p...)})
	}
	return len(p), nil
}

// Close implements File.
func (f *memFile) Close() error {
	if err := f.begin("close", 0); err != nil {
		return err
	}
	defer f.mem.mu.Unlock()
	f.closed = true
	return nil
}

// Size implements File.
func (f *memFile) Size() (int64, error) {
	if err := f.begin("size", 0); err != nil {
		return 0, err
	}
	defer f.mem.mu.Unlock()
	return int64(len(f.node.data)), nil
}

// Truncate implements File.
func (f *memFile) Truncate(size int64) error {
	if err := f.begin("truncate", size); err != nil {
		return err
	}
	defer f.mem.mu.Unlock()
	f.change(fileOp{size: size, cut: true})
	return nil
}

// Allocate implements File.
func (f *memFile) Allocate(off, n int64) error {
	if off < 0 || n <= 0 || off > memFileBytes {
		return pathError("allocate", f.name, fs.ErrInvalid)
	}
	if err := f.begin("allocate", off+min(n, memFileBytes+1)); err != nil {
		return err
	}
	defer f.mem.mu.Unlock()
	if off+n > int64(len(f.node.data)) {
		f.change(fileOp{size: off + n})
	}
	return nil
}

// Sync implements File. What an earlier failed sync has left suspect stays so, as it does
// on a system that takes failed pages for clean ones.
func (f *memFile) Sync() error {
	if err := f.begin("sync", 0); err != nil {
		return err
	}
	defer f.mem.mu.Unlock()
	n := f.node
	for i := range n.ops {
		n.ops[i].certain = !n.ops[i].suspect
	}
	for len(n.ops) > 0 && n.ops[0].certain {
		n.base = n.ops[0].apply(n.base, nil)
		n.ops = n.ops[1:]
	}
	if len(n.ops) == 0 {
		n.ops = nil
	}
	return nil
}

// spoil is a Sync that fails.
func (f *memFile) spoil() {
	f.mem.mu.Lock()
	defer f.mem.mu.Unlock()
	for i := range f.node.ops {
		f.node.ops[i].suspect = !f.node.ops[i].certain
	}
}

// StartWriteback implements File.
func (f *memFile) StartWriteback(off, n int64) {}

// Fd implements File.
func (f *memFile) Fd() (uintptr, bool) { return 0, false }
