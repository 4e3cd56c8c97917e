// Package image looks at the files of a chunk server's simulated disk from outside, by the
// layout of docs/formats.md: what a crash would leave of a record, and where a sealed chunk
// has bytes that can rot.
package image

import (
	"bytes"
	"math/rand/v2"
	"path"
	"strings"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/crc32c"
	"github.com/quarryfs/quarry/disk"
)

// Durable reports whether a crash at this moment would leave bytes of a chunk on the disk: in
// the chunk's file, or in the journal, which carries what is small.
func Durable(mem *disk.Mem, handle quarry.Handle, offset int64, data []byte) bool {
	file := handle.String()
	file = path.Join("chunks", file[len(file)-2:], file)
	if b := mem.Durable(file); offset+int64(len(data)) <= int64(len(b)) && bytes.Equal(b[offset:][:len(data)], data) {
		return true
	}
	segments, err := mem.List("journal")
	if err != nil {
		return false
	}
	for i := len(segments) - 1; i >= 0; i-- {
		if strings.HasSuffix(segments[i], ".journal") && bytes.Contains(mem.Durable(path.Join("journal", segments[i])), data) {
			return true
		}
	}
	return false
}

// Rot turns one bit of a sealed chunk over, durably, and returns where; "" if there is none.
func Rot(mem *disk.Mem, r *rand.Rand) (name string, bit int64) {
	var sealed []string
	dirs, _ := mem.List("chunks") // without the folder there are no chunks
	for _, dir := range dirs {
		files, _ := mem.List(path.Join("chunks", dir))
		for _, f := range files {
			name := path.Join("chunks", dir, strings.TrimSuffix(f, ".idx"))
			if size, err := mem.Size(name); strings.HasSuffix(f, ".idx") && err == nil && size > 0 {
				sealed = append(sealed, name)
			}
		}
	}
	if len(sealed) == 0 {
		return "", 0
	}
	name = sealed[r.IntN(len(sealed))]
	f, err := mem.Open(name)
	if err != nil {
		return "", 0
	}
	defer f.Close()
	size, _ := f.Size()
	bit = r.Int64N(8 * size)
	var b [1]byte
	_, _ = f.ReadAt(b[:], bit/8) // it is within the file
	b[0] ^= 1 << (bit % 8)
	_, _ = f.WriteAt(b[:], bit/8)
	_ = f.Sync() // all of a sealed chunk was synced before
	return name, bit
}

// Matches compares the bytes of a read, which begin at an offset of the chunk, with their
// checksums.
func Matches(reply *quarry.ReadReply, offset int64) bool {
	data, crcs := reply.Data, reply.CRCs
	for len(data) > 0 {
		n := min(int64(len(data)), quarry.BlockBytes-offset%quarry.BlockBytes)
		if len(crcs) == 0 || crc32c.Checksum(data[:n]) != crcs[0] {
			return false
		}
		data, crcs, offset = data[n:], crcs[1:], offset+n
	}
	return true
}
