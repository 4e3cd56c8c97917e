package chunk

import "github.com/quarryfs/quarry"

// segment is a part of what is written that crosses neither a border of the chunk's blocks
// nor one of the record's 64 KiB parts.
type segment struct {
	crc    uint32
	length int64
}

// sums is the checksums of a chunk's blocks up to some length; the last block may be
// partial.
type sums struct {
	length int64
	crcs   []uint32
}

// add extends the checksums by a segment.
func (s *sums) add(g segment) {
	if s.length%quarry.BlockBytes == 0 {
		s.crcs = append(s.crcs, g.crc)
	} else {
		last := &s.crcs[len(s.crcs)-1]
		*last = combine(*last, g.crc, g.length)
	}
	s.length += g.length
}

// last returns the checksum of the last block; 0 if there is none.
func (s *sums) last() uint32 {
	if len(s.crcs) == 0 {
		return 0
	}
	return s.crcs[len(s.crcs)-1]
}

// whole returns the checksum of all bytes.
func (s *sums) whole() uint32 {
	var crc uint32
	for i, c := range s.crcs {
		n := min(quarry.BlockBytes, s.length-int64(i)*quarry.BlockBytes)
		crc = combine(crc, c, n)
	}
	return crc
}

// cutSegments computes the checksums of the segments of data, which is to stand at off in
// the chunk, and compares them with crcs, the checksums of data's own 64 KiB parts. The
// bytes are read once, while they are hot from the network. It returns the number of the
// first part that is wrong, or -1.
func cutSegments(dst []segment, off int64, data []byte, crcs []uint32) (segments []segment, bad int) {
	for part := 0; len(data) > 0; part++ {
		n := min(quarry.BlockBytes, len(data))
		crc, rest := uint32(0), data[:n]
		for len(rest) > 0 {
			k := min(int64(len(rest)), quarry.BlockBytes-off%quarry.BlockBytes)
			g := segment{checksum(rest[:k]), k}
			crc = combine(crc, g.crc, k)
			dst, rest, off = append(dst, g), rest[k:], off+k
		}
		if crc != crcs[part] {
			return dst, part
		}
		data = data[n:]
	}
	return dst, -1
}
