package chunk

import (
	"github.com/quarryfs/quarry"
)

// Verify reads the blocks of a replica's durable bytes from off on, for about n bytes, and
// compares them with their checksums; whoever scrubs chooses n and pauses between two
// calls. It returns where to go on; at the end that is the durable length, and done is set.
//
// An error of kind Corrupt names the block; next is then the offset behind it, so that the
// others can be verified as well, or off if it is the index that is broken. The replica is not
// marked: see MarkCorrupt.
func (s *Store) Verify(h quarry.Handle, off, n int64) (next int64, done bool, err error) {
	if off < 0 || n < 1 {
		return off, false, quarry.Errorf("verify", quarry.Invalid, h.String(), "%d bytes at %d cannot be verified", n, off)
	}
	off -= off % quarry.BlockBytes
	n = min(n, quarry.ChunkBytesMax)
	err = s.lookAt("verify", h, off, n, func(v *view) (err error) {
		if off == 0 && v.state.Sealed() {
			// The index that is in memory does not rot.
			if _, err := s.loadIndex(&v.state); err != nil {
				return err
			}
		}
		next, err = s.verifyBlocks(h, v, off, min(n, v.length-off))
		done = next >= v.length
		return err
	})
	return next, done, err
}

func (s *Store) verifyBlocks(h quarry.Handle, v *view, off, n int64) (next int64, err error) {
	if n <= 0 {
		return v.length, nil
	}
	f, err := s.files.get(h)
	if err != nil {
		return off, err
	}
	defer s.files.put(f)
	buf := blocks.Get().(*blockBuffer)
	defer blocks.Put(buf)
	for end := off + n; off < end; {
		block := off / quarry.BlockBytes
		off = min((block+1)*quarry.BlockBytes, v.length)
		if _, err := buf.load(f, block, v.length, v.crc(block)); err != nil {
			return off, err
		}
	}
	return off, nil
}
