// Package verify takes checksums of bytes, and compares those that come from a chunk server with theirs. A [Check] is
// used for one reply, by one goroutine at a time.
package verify

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/crc32c"
)

// Sums returns the CRC32C of each block of a record.
func Sums(data []byte) []uint32 {
	crcs := make([]uint32, 0, quarry.Blocks(int64(len(data))))
	for len(data) > 0 {
		n := min(len(data), quarry.BlockBytes)
		crcs = append(crcs, crc32c.Checksum(data[:n]))
		data = data[n:]
	}
	return crcs
}

// Check compares the bytes of a reply with their checksums, one for each part of a block, in
// as many steps as one likes.
type Check struct {
	Handle quarry.Handle
	Offset int64 // in the chunk

	done   int   // bytes that match
	blocks int   // checksums that were used for them
	err    error // the first part that does not match
}

// Step compares the parts that end within data, a beginning of the reply; all of it if it is
// the whole.
func (c *Check) Step(crcs []uint32, data []byte, whole bool) {
	for c.err == nil && c.done < len(data) {
		at := c.Offset + int64(c.done)
		n := int(quarry.BlockBytes - at%quarry.BlockBytes)
		if n > len(data)-c.done {
			if !whole {
				return
			}
			n = len(data) - c.done
		}
		switch {
		case c.blocks >= len(crcs):
			c.err = quarry.Errorf("read", quarry.Corrupt, c.Handle.String(), "the bytes at %d have no checksum", at)
		case crc32c.Checksum(data[c.done:c.done+n]) != crcs[c.blocks]:
			c.err = quarry.Errorf("read", quarry.Corrupt, c.Handle.String(), "the bytes at %d do not match their checksum", at)
		default:
			c.done, c.blocks = c.done+n, c.blocks+1
		}
	}
}

// Matched returns how many bytes match, up to the first part that does not.
func (c *Check) Matched() int { return c.done }

// Err returns the first part that does not match, as an error of the kind Corrupt.
func (c *Check) Err() error { return c.err }
