package chunk

import (
	"io"
	"slices"
	"sync"

	"github.com/quarryfs/quarry"
)

// blockBuffer has room for one block.
type blockBuffer struct{ b [quarry.BlockBytes]byte }

var blocks = sync.Pool{New: func() any { return new(blockBuffer) }}

// load reads a block of a chunk of length bytes and compares it with its checksum. The
// result is valid until the next load.
func (buf *blockBuffer) load(f io.ReaderAt, block, length int64, crc uint32) ([]byte, error) {
	start := block * quarry.BlockBytes
	b := buf.b[:min(quarry.BlockBytes, length-start)]
	if n, err := f.ReadAt(b, start); n < len(b) {
		return nil, corrupt("block %d cannot be read: %v", block, err)
	}
	if checksum(b) != crc {
		return nil, corrupt("block %d, at byte %d, does not match its checksum", block, start)
	}
	return b, nil
}

// view is what must be known of a replica to read a range of it.
type view struct {
	state   State
	length  int64 // durable bytes of the replica
	first   int64 // block of crcs[0]
	crcs    []uint32
	r       *replica
	edition uint64
}

// suspect reports whether some bytes of the replica are known to be broken.
func (v *view) suspect() bool { return v.state.Status == quarry.ReplicaCorrupt }

// crc returns the checksum of a block.
func (v *view) crc(block int64) uint32 { return v.crcs[block-v.first] }

// look returns the view of the range [off, off+n), cut at the durable length; it may be
// empty. The checksums of a sealed replica are not in it yet.
func (s *Store) look(op string, h quarry.Handle, off, n int64) (view, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return view{}, s.failed
	}
	r := s.replica(h)
	v := view{state: r.state, length: r.state.Length, r: r, edition: r.edition, first: off / quarry.BlockBytes}
	if g, end := r.growth, v.end(off+n); g != nil && v.first < end {
		v.crcs = slices.Clone(g.sums.crcs[v.first:end])
		if end == quarry.Blocks(v.length) {
			v.crcs[len(v.crcs)-1] = g.durableTail
		}
	}
	return v, r.state.usable(op)
}

// end returns the block behind the range that ends at off.
func (v *view) end(off int64) int64 { return quarry.Blocks(min(off, v.length)) }

// changed reports whether bytes have gone away since the view was made, so that what was
// read with it may not match.
func (s *Store) changed(v *view) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return v.r.edition != v.edition
}

// lookAt calls f with a view of a range, and again with another one if f fails and the replica
// has changed meanwhile: then the bytes were not broken, but cut, dropped or copied anew.
// Busy if that does not end.
func (s *Store) lookAt(op string, h quarry.Handle, off, n int64, f func(*view) error) error {
	for range 3 {
		v, err := s.look(op, h, off, n)
		if err != nil {
			return err
		}
		if end := v.end(off + n); v.state.Sealed() && v.first < end {
			var x *Index
			if x, err = s.index(&v.state); err == nil {
				v.crcs = x.CRCs[v.first:end]
			}
		}
		if err == nil {
			err = f(&v)
		}
		if err == nil || !s.changed(&v) {
			return quarry.Wrap(op, h.String(), err)
		}
	}
	return quarry.Errorf(op, quarry.Busy, h.String(), "the replica changes again and again")
}

// Read returns up to n durable bytes from off, fewer where the durable bytes end, or none
// beyond; n is at most ReadBytesMax. The caller lowers n to what is committed.
//
// Checksums of whole blocks are the stored ones, and their bytes are not looked at: whoever
// gets them compares. Of a block that is read in part, all bytes are read and verified, and
// the checksum of the part computed; so no byte leaves without one. If the range has whole
// blocks and the disk has file descriptors, the reply names the place in the file in place of the
// bytes, to be sent by the system; Release must then be called. Not if into has room for
// the bytes: they are put there.
//
// Errors are NotFound, Unavailable if the replica or the disk is lost, and Corrupt.
func (s *Store) Read(h quarry.Handle, off, n int64, into []byte) (*quarry.ReadReply, error) {
	if off < 0 || n < 1 || n > quarry.ReadBytesMax {
		return nil, quarry.Errorf("read", quarry.Invalid, h.String(), "%d bytes at %d cannot be read at once", n, off)
	}
	reply := &quarry.ReadReply{}
	err := s.lookAt("read", h, off, n, func(v *view) error {
		n := min(n, v.length-off)
		if n <= 0 {
			*reply = quarry.ReadReply{}
			return nil
		}
		f, err := s.files.get(h)
		if err != nil {
			return err
		}
		fd, ok := f.Fd()
		if !ok || v.suspect() || int64(cap(into)) >= n || !v.hasWhole(off, n) {
			defer s.files.put(f)
			return v.readBytes(reply, f, off, n, into)
		}
		if err := v.readSums(reply, f, off, n); err != nil {
			s.files.put(f)
			return err
		}
		reply.File = &quarry.FileRange{FD: fd, Offset: off, Length: n}
		reply.Release = sync.OnceFunc(func() { s.files.put(f) })
		return nil
	})
	if err != nil {
		return nil, err
	}
	return reply, nil
}

// part is what a range has of one block.
type part struct {
	block    int64
	off, end int64 // in the chunk
	whole    bool  // it is all that the replica has of the block
}

// parts cuts [off, off+n) at the borders of blocks.
func (v *view) parts(off, n int64) func(yield func(part) bool) {
	return func(yield func(part) bool) {
		for end := off + n; off < end; {
			block := off / quarry.BlockBytes
			start, stop := block*quarry.BlockBytes, min((block+1)*quarry.BlockBytes, v.length)
			p := part{block: block, off: off, end: min(stop, end)}
			p.whole = p.off == start && p.end == stop
			if !yield(p) {
				return
			}
			off = p.end
		}
	}
}

// hasWhole reports whether a range has a whole block.
func (v *view) hasWhole(off, n int64) bool {
	for p := range v.parts(off, n) {
		if p.whole {
			return true
		}
	}
	return false
}

// readSums fills in the checksums of a range.
func (v *view) readSums(reply *quarry.ReadReply, f io.ReaderAt, off, n int64) error {
	buf := blocks.Get().(*blockBuffer)
	defer blocks.Put(buf)
	reply.CRCs = reply.CRCs[:0]
	for p := range v.parts(off, n) {
		crc := v.crc(p.block)
		if !p.whole {
			b, err := buf.load(f, p.block, v.length, crc)
			if err != nil {
				return err
			}
			start := p.block * quarry.BlockBytes
			crc = checksum(b[p.off-start : p.end-start])
		}
		reply.CRCs = append(reply.CRCs, crc)
	}
	return nil
}

// readBytes fills in the checksums and the bytes of a range. Blocks of a suspect replica are
// verified even if they are read as a whole: it may be the last replica, and most of it sound.
func (v *view) readBytes(reply *quarry.ReadReply, f io.ReaderAt, off, n int64, into []byte) error {
	data := into
	if int64(cap(into)) < n {
		data = make([]byte, n)
	}
	data = data[:n]
	buf := blocks.Get().(*blockBuffer)
	defer blocks.Put(buf)
	reply.CRCs = reply.CRCs[:0]
	for p := range v.parts(off, n) {
		crc, dst := v.crc(p.block), data[p.off-off:p.end-off]
		if p.whole && !v.suspect() {
			if k, err := f.ReadAt(dst, p.off); k < len(dst) {
				return corrupt("block %d cannot be read: %v", p.block, err)
			}
		} else {
			b, err := buf.load(f, p.block, v.length, crc)
			if err != nil {
				return err
			}
			start := p.block * quarry.BlockBytes
			copy(dst, b[p.off-start:p.end-start])
			crc = checksum(dst)
		}
		reply.CRCs = append(reply.CRCs, crc)
	}
	reply.Data = data
	return nil
}
