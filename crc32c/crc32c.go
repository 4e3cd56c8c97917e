// Package crc32c computes CRC32C (Castagnoli, RFC 3720 appendix B.4), the checksum of everything that Quarry
// stores or sends. It is hash/crc32 with that polynomial, and about twice as fast for long inputs
// where the processor multiplies without carry 64 bytes at a time (AVX-512 with VPCLMULQDQ).
// The way is that of Gopal and others, "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ
// Instruction" (Intel, 2009). All functions can be called at the same time.
package crc32c

import (
	"hash"
	"hash/crc32"
)

var table = crc32.MakeTable(crc32.Castagnoli)

// New returns a hash of what is written to it, piece by piece.
func New() hash.Hash32 { return crc32.New(table) }

// Checksum returns the checksum of b.
func Checksum(b []byte) uint32 { return Update(0, b) }

// Update returns the checksum of what crc is that of, with b behind it.
func Update(crc uint32, b []byte) uint32 {
	if n := len(b) &^ (foldBytes - 1); foldable && n >= foldMin {
		crc = ^fold(^crc, &b[0], n, &distances)
		b = b[n:]
	}
	return crc32.Update(crc, table, b)
}

const (
	// foldBytes is what is folded at a time.
	foldBytes = 64
	// foldMin is the size from which folding is faster; it is at least the 256 bytes that fold wants.
	foldMin = 1 << 10
)

// distances are, for each distance over which fold moves 16 bytes, the multipliers of their halves: of 256,
// of 64 and of 16 bytes.
var distances = [3][2]uint64{multipliers(256), multipliers(64), multipliers(16)}

// multipliers returns x^(d+63) and x^(d-1) modulo the polynomial, d being the distance in bits: by
// these the first and the second half of 16 bytes are multiplied. One power less than the distance,
// because a product of reflected operands is reflected with a bit to spare.
func multipliers(bytes int) [2]uint64 {
	d := 8 * bytes
	return [2]uint64{power(d + 63), power(d - 1)}
}

// power returns x^n modulo the polynomial, reflected, as 64 bits.
func power(n int) uint64 {
	r := uint32(1) << 31
	for range n {
		carry := r & 1
		r = r>>1 ^ crc32.Castagnoli&-carry
	}
	return uint64(r) << 32
}
