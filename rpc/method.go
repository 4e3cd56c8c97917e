package rpc

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// Op is the number of an operation. The numbers are never changed or used again. Package rpc
// knows those below OpRaw; the others belong to who registers them, see [RawOp].
type Op uint16

// OpRaw is the first number for operations whose contents package rpc does not know; the
// last one is 255.
const OpRaw Op = 128

const opMax = 256

const (
	// bodyBytesMax is the most that any frame's body may have.
	bodyBytesMax = 32 << 20
	// PayloadBytesMax is the most that any frame's payload may have.
	PayloadBytesMax = 64 << 20
	// smallBody is the limit for bodies that hold no list worth mentioning.
	smallBody = 64 << 10
)

// method is an operation: its number, the walks over its request and its reply, and how
// large they may be.
type method[Q, R any] struct {
	op      Op
	name    string
	request func(*wire.Walk, *Q)
	reply   func(*wire.Walk, *R)

	requestMax int // bytes of the request's body; 0: smallBody
	replyMax   int // bytes of the reply's body; 0: smallBody

	// requestPayload is the part of a request that travels as payload; nil: none.
	requestPayload    func(*Q) *[]byte
	requestPayloadMax int
	// replyPayload takes the part of a reply that travels as payload out of it; nil: none.
	replyPayload func(*R) payload
	// setPayload puts a received payload into the reply, and room says where it may be
	// received and how large it may be.
	setPayload func(*R, []byte)
	room       func(*Q) (into []byte, max int)
	// sink is who wants to be told of a reply's payload while it comes, and sums what it is to
	// be checked with; nil: nobody ever does.
	sink func(*Q) quarry.ReadSink
	sums func(*R) []uint32

	checksum bool // payloads have no checksums of their own: the frame's head has one
	parked   bool // the handler waits for something to happen; bounded apart from the others
}

// payload is what follows a reply's body: bytes, or a part of a file.
type payload struct {
	bytes   []byte
	file    *quarry.FileRange
	release func() // called when it has been sent; may be nil
}

func (p payload) size() int64 {
	if p.file != nil {
		return p.file.Length
	}
	return int64(len(p.bytes))
}

// nothing is the message of operations that need none.
type nothing struct{}

func nothingFields(*wire.Walk, *nothing) {}

func orSmall(n int) int64 {
	if n == 0 {
		return smallBody
	}
	return int64(n)
}
