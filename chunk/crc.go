package chunk

import (
	"hash/crc32"

	"github.com/quarryfs/quarry/crc32c"
)

// Checksums are CRC32C: fast in hardware, and linear, so that the checksum of two strings
// one behind the other follows from theirs without a look at the bytes. That is how the
// checksums of a client's record, which are cut at the record's own 64 KiB, become those of
// the chunk's blocks.
//
// The arithmetic is that of zlib's crc32_combine (Mark Adler, zlib 1.2.12, crc32.c:
// multmodp, x2nmodp): a checksum is a polynomial over GF(2) modulo the generator, bit 31 being
// x^0, and n more bytes multiply it by x^(8n). In place of zlib's powers x^(2^k), powers has
// an entry for each value of each byte of n, so that a round length takes one
// multiplication, and any length within a chunk at most four.

// powers[k][i] is x^(8·i·256^k).
var powers = makePowers()

func makePowers() *[4][256]uint32 {
	var p [4][256]uint32
	step := uint32(1) << (31 - 8) // x^8
	for k := range p {
		p[k][0] = 1 << 31
		for i := 1; i < 256; i++ {
			p[k][i] = multiply(p[k][i-1], step)
		}
		step = multiply(p[k][255], step)
	}
	return &p
}

// multiply returns a·b modulo the generator.
func multiply(a, b uint32) uint32 {
	var p uint32
	for range 32 {
		p ^= b & -(a >> 31)
		a <<= 1
		b = b>>1 ^ crc32.Castagnoli&-(b&1)
	}
	return p
}

// shift returns what a checksum of some bytes contributes to that of the same bytes with n
// more behind them, n below 2^32.
func shift(crc uint32, n int64) uint32 {
	for k := 0; n > 0; k, n = k+1, n>>8 {
		if i := n & 255; i != 0 {
			crc = multiply(powers[k][i], crc)
		}
	}
	return crc
}

// combine returns the checksum of two strings, one behind the other, from the checksums of
// both and the length of the second.
func combine(a, b uint32, n int64) uint32 { return shift(a, n) ^ b }

// checksum returns the checksum of data.
func checksum(data []byte) uint32 { return crc32c.Checksum(data) }
