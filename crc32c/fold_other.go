//go:build !amd64

package crc32c

const foldable = false

func fold(uint32, *byte, int, *[3][2]uint64) uint32 { panic("crc32c: cannot fold") }
