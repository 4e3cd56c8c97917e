package journal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/crc32c"
)

const (
	segmentMagic  = "QUARRYJL"
	formatVersion = 1
	batchMagic    = "QJB1"

	segmentHeaderBytes = 64
	batchHeaderBytes   = 24
	recordHeaderBytes  = 8
	batchAlign         = 8 // batches begin at offsets divisible by this
	batchBytesMax      = 256 << 20
	segmentBytesLimit  = 2 << 30 // no file of a journal is larger

	segmentSuffix = ".journal"
	tempName      = "next.tmp"
)

// segmentHeader is what a segment says of itself and of the segment before it.
type segmentHeader struct {
	journal   uint64
	number    uint64
	prevEnd   uint32
	prevChain uint32
	chain     uint32 // checksum of this header, where the chain of its batches begins
}

// segmentName returns the file name of a segment.
func segmentName(number uint64) string { return fmt.Sprintf("%016x%s", number, segmentSuffix) }

// parseSegmentName is the inverse of segmentName; false for other names.
func parseSegmentName(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(digits) != 16 {
		return 0, false
	}
	number, err := strconv.ParseUint(digits, 16, 64)
	return number, err == nil && segmentName(number) == name
}

// encode sets the header's chain and returns its bytes.
func (h *segmentHeader) encode() []byte {
	b := make([]byte, segmentHeaderBytes)
	copy(b, segmentMagic)
	binary.LittleEndian.PutUint32(b[8:], formatVersion)
	binary.LittleEndian.PutUint64(b[16:], h.journal)
	binary.LittleEndian.PutUint64(b[24:], h.number)
	binary.LittleEndian.PutUint32(b[32:], h.prevEnd)
	binary.LittleEndian.PutUint32(b[36:], h.prevChain)
	h.chain = crc32c.Checksum(b[:60])
	binary.LittleEndian.PutUint32(b[60:], h.chain)
	return b
}

// decodeSegmentHeader reads a header of segmentHeaderBytes. Another version is refused
// before anything else of the header is believed.
func decodeSegmentHeader(name string, b []byte) (segmentHeader, error) {
	if !bytes.HasPrefix(b, []byte(segmentMagic)) {
		return segmentHeader{}, quarry.Errorf("open journal", quarry.Corrupt, name, "this is not a journal segment")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != formatVersion {
		return segmentHeader{}, quarry.Errorf("open journal", quarry.Unsupported, name,
			"the segment has format version %d; this release reads version %d only: start a release that knows it", v, formatVersion)
	}
	sum := crc32c.Checksum(b[:60])
	if sum != binary.LittleEndian.Uint32(b[60:]) {
		return segmentHeader{}, quarry.Errorf("open journal", quarry.Corrupt, name, "the segment header does not match its checksum")
	}
	return segmentHeader{
		journal:   binary.LittleEndian.Uint64(b[16:]),
		number:    binary.LittleEndian.Uint64(b[24:]),
		prevEnd:   binary.LittleEndian.Uint32(b[32:]),
		prevChain: binary.LittleEndian.Uint32(b[36:]),
		chain:     sum,
	}, nil
}

// seed is the checksum of a journal's and a segment's number, with which the checksums of
// all records and batches of the segment begin.
type seed uint32

func newSeed(journal, segment uint64) seed {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], journal)
	binary.LittleEndian.PutUint64(b[8:], segment)
	return seed(crc32c.Checksum(b[:]))
}

// record returns the checksum of a record at off.
func (s seed) record(off uint32, data []byte) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint32(b[:], off)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(data)))
	return crc32c.Update(crc32c.Update(uint32(s), b[:]), data)
}

// batchHeader returns the checksum of a batch header at off.
func (s seed) batchHeader(off uint32, header []byte) uint32 {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], off)
	return crc32c.Update(crc32c.Update(uint32(s), b[:]), header[:20])
}

// batchHeader is the decoded head of a batch.
type batchHeader struct {
	length  uint32
	records uint32
	chain   uint32
	body    uint32
	sum     uint32
}

// decodeBatchHeader returns the header at off, and false if the bytes are not the sound
// header of a batch at this very place.
func decodeBatchHeader(s seed, off uint32, b []byte) (batchHeader, bool) {
	if len(b) < batchHeaderBytes || string(b[:4]) != batchMagic {
		return batchHeader{}, false
	}
	h := batchHeader{
		length:  binary.LittleEndian.Uint32(b[4:]),
		records: binary.LittleEndian.Uint32(b[8:]),
		chain:   binary.LittleEndian.Uint32(b[12:]),
		body:    binary.LittleEndian.Uint32(b[16:]),
		sum:     binary.LittleEndian.Uint32(b[20:]),
	}
	sound := h.sum == s.batchHeader(off, b) && h.length >= batchHeaderBytes &&
		h.length <= batchBytesMax && h.length%batchAlign == 0
	return h, sound
}

// checkBatch reports whether every record of the batch in b, which begins at off and is as
// long as its header says, is sound, and the padding is zero.
func checkBatch(s seed, off uint32, h batchHeader, b []byte) bool {
	at, body := batchHeaderBytes, uint32(0)
	for range h.records {
		if len(b)-at < recordHeaderBytes {
			return false
		}
		head := b[at : at+recordHeaderBytes]
		n := int64(binary.LittleEndian.Uint32(head))
		if int64(len(b)-at-recordHeaderBytes) < n {
			return false
		}
		data := b[at+recordHeaderBytes:][:n]
		if s.record(off+uint32(at), data) != binary.LittleEndian.Uint32(head[4:]) {
			return false
		}
		body = crc32c.Update(body, head)
		at += recordHeaderBytes + int(n)
	}
	return body == h.body && len(b)-at < batchAlign && bytes.Equal(b[at:], zeros[:len(b)-at])
}

// eachRecord calls f with the records of a sound batch at off.
func eachRecord(off uint32, h batchHeader, b []byte, f func(off uint32, data []byte) error) error {
	at := batchHeaderBytes
	for range h.records {
		n := int(binary.LittleEndian.Uint32(b[at:]))
		if err := f(off+uint32(at), b[at+recordHeaderBytes:][:n:n]); err != nil {
			return err
		}
		at += recordHeaderBytes + n
	}
	return nil
}
