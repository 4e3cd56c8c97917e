// Package frame looks at the frames of a simulated connection, so that single requests and
// messages can be lost, doubled or held back. See rpc/frame.go for their layout.
package frame

import (
	"encoding/binary"
	"slices"

	"github.com/quarryfs/quarry/crc32c"
)

// The parts of a frame's head that are needed here.
const (
	headBytes = 44
	magic     = "QRPC"
	kindAt    = 5
	idAt      = 16
	bodyAt    = 24
	payloadAt = 28
	crcAt     = 40

	// Request and Message are the kinds of frames that something is done to.
	Request = 4
	Message = 8
)

// Cut cuts a piece of a connection into its frames, which share its bytes; false if it is not
// made of whole frames.
func Cut(piece []byte) (list [][]byte, whole bool) {
	for len(piece) > 0 {
		if len(piece) < headBytes || string(piece[:4]) != magic {
			return nil, false
		}
		n := headBytes + uint64(binary.LittleEndian.Uint32(piece[bodyAt:])) + uint64(binary.LittleEndian.Uint32(piece[payloadAt:]))
		if n > uint64(len(piece)) {
			return nil, false
		}
		list = append(list, piece[:n])
		piece = piece[n:]
	}
	return list, true
}

// Kind is the kind of a frame that Cut has found.
func Kind(frame []byte) byte { return frame[kindAt] }

// Again returns a copy of a request under an id that its client does not use, so that the
// second answer is nobody's. number tells the copies of a connection apart.
func Again(frame []byte, number uint64) []byte {
	frame = slices.Clone(frame)
	id := binary.LittleEndian.Uint64(frame[idAt:])
	binary.LittleEndian.PutUint64(frame[idAt:], id|1<<63|number<<40)
	binary.LittleEndian.PutUint32(frame[crcAt:], crc32c.Checksum(frame[:crcAt]))
	return frame
}
