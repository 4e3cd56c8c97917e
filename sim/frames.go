package sim

import (
	"encoding/binary"
	"hash/crc32"
	"slices"
)

// What a network does to single requests and messages. TCP loses and doubles nothing, but what
// is sent over it comes twice when a client repeats a request whose answer was lost with its
// connection, and comes late; a message of Raft, which nobody answers, is lost with it. To see
// that often, without a connection that breaks each time, the frames of a piece are looked at
// (see rpc/frame.go for their layout): some requests are given again to the server, under
// another id, some time later; some messages are lost, doubled or held back.

// The parts of a frame's head that are needed here.
const (
	frameHeadBytes   = 44
	frameMagic       = "QRPC"
	frameKindAt      = 5
	frameIDAt        = 16
	frameBodyAt      = 24
	framePayloadAt   = 28
	frameCRCAt       = 40
	frameKindRequest = 4
	frameKindMessage = 8

	// stashMax bounds the bytes of a connection that are held back.
	stashMax = 1 << 20
)

// frames cuts a piece into its frames; false if it is not made of whole frames.
func frames(piece []byte) (list [][]byte, whole bool) {
	for len(piece) > 0 {
		if len(piece) < frameHeadBytes || string(piece[:4]) != frameMagic {
			return nil, false
		}
		n := frameHeadBytes + uint64(binary.LittleEndian.Uint32(piece[frameBodyAt:])) + uint64(binary.LittleEndian.Uint32(piece[framePayloadAt:]))
		if n > uint64(len(piece)) {
			return nil, false
		}
		list = append(list, piece[:n])
		piece = piece[n:]
	}
	return list, true
}

// again returns a copy of a request under an id that its client does not use, so that the
// second answer is nobody's.
func again(frame []byte, number uint64) []byte {
	frame = slices.Clone(frame)
	id := binary.LittleEndian.Uint64(frame[frameIDAt:])
	binary.LittleEndian.PutUint64(frame[frameIDAt:], id|1<<63|number<<40)
	binary.LittleEndian.PutUint32(frame[frameCRCAt:], crc32.Checksum(frame[:frameCRCAt], castagnoli))
	return frame
}

// meddle returns what arrives instead of a piece; mu is held.
func (p *pipe) meddle(l Link, piece []byte) []byte {
	list, whole := frames(piece)
	if !whole {
		p.broken = true // from here on it is not known where frames begin
	}
	if p.broken {
		return piece
	}
	out := make([]byte, 0, len(piece)+len(p.stash))
	late := p.stash
	p.stash = nil
	r := p.n.w.chance("frames", p.key, uint64(p.sent))
	for _, f := range list {
		kind := f[frameKindAt]
		x := r.Float64()
		switch {
		case kind == frameKindMessage && x < l.Drop:
			p.n.log.Count("message lost")
			continue
		case kind == frameKindMessage && x < l.Drop+l.Late && len(p.stash)+len(f) < stashMax:
			p.n.log.Count("message late")
			p.stash = append(p.stash, f...)
			continue
		case kind == frameKindMessage && x < l.Drop+l.Late+l.Twice && len(p.stash)+len(f) < stashMax:
			p.n.log.Count("message twice")
			p.stash = append(p.stash, f...)
		case kind == frameKindRequest && x < l.Twice && len(p.stash)+len(f) < stashMax:
			p.n.log.Count("request twice")
			p.doubled++
			if copied := again(f, p.doubled); r.IntN(2) == 0 {
				f = append(slices.Clone(f), copied...)
			} else {
				p.stash = append(p.stash, copied...)
			}
		}
		out = append(out, f...)
	}
	return append(out, late...)
}
