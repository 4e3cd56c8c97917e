package verify

import (
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/crc32c"
)

// Every part of a block is compared, in however many steps the bytes come.
func TestCheckInSteps(t *testing.T) {
	data := make([]byte, 5*quarry.BlockBytes)
	for i := range data {
		data[i] = byte(i * 11)
	}
	for _, offset := range []int64{0, 1, quarry.BlockBytes - 1, 3*quarry.BlockBytes + 500} {
		for _, n := range []int{1, quarry.BlockBytes, quarry.BlockBytes + 1, len(data)} {
			var crcs []uint32
			for at := 0; at < n; {
				k := min(n-at, int(quarry.BlockBytes-(offset+int64(at))%quarry.BlockBytes))
				crcs = append(crcs, crc32c.Checksum(data[at:at+k]))
				at += k
			}
			for _, step := range []int{1000, quarry.BlockBytes, 256 << 10, len(data)} {
				run := func(crcs []uint32) Check {
					c := Check{Offset: offset}
					for k := min(step, n); ; k = min(k+step, n) {
						c.Step(crcs, data[:k], false)
						if k == n {
							break
						}
					}
					c.Step(crcs, data[:n], true)
					return c
				}
				if c := run(crcs); c.err != nil || c.done != n || c.blocks != len(crcs) {
					t.Errorf("%d bytes at %d by %d: %d bytes and %d checksums, %v", n, offset, step, c.done, c.blocks, c.err)
				}
				if c := run(crcs[:len(crcs)-1]); quarry.KindOf(c.err) != quarry.Corrupt {
					t.Errorf("%d bytes at %d by %d, without the last checksum: %v", n, offset, step, c.err)
				}
				for _, i := range []int{0, n / 2, n - 1} {
					data[i]++
					if c := run(crcs); quarry.KindOf(c.err) != quarry.Corrupt {
						t.Errorf("%d bytes at %d by %d, %d broken: %v", n, offset, step, i, c.err)
					}
					data[i]--
				}
			}
		}
	}
}
