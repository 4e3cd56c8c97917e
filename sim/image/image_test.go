package image

import (
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/crc32c"
)

// Bytes that rot on a disk and go with the checksums they had are not shown to anybody.
func TestRottenReadIsNoAnswer(t *testing.T) {
	data := []byte("abcdef")
	reply := &quarry.ReadReply{Data: data, CRCs: []uint32{crc32c.Checksum(data[:4]), crc32c.Checksum(data[4:])}}
	at := int64(quarry.BlockBytes - 4)
	if !Matches(reply, at) {
		t.Error("bytes that match are refused")
	}
	for i := range data {
		data[i] ^= 4
		if Matches(reply, at) {
			t.Errorf("byte %d is wrong and passes", i)
		}
		data[i] ^= 4
	}
}
