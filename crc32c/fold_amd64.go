package crc32c

import "golang.org/x/sys/cpu"

var foldable = cpu.X86.HasAVX512F && cpu.X86.HasAVX512VPCLMULQDQ && cpu.X86.HasSSE42

// fold returns the state of the checksum after n more bytes, at least 256 and a multiple of 64.
//
//go:noescape
func fold(state uint32, p *byte, n int, by *[3][2]uint64) uint32
