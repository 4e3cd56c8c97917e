package rpc

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/crc32c"
	"github.com/quarryfs/quarry/wire"
)

// A frame is a head of 44 bytes, a body, and a payload. Numbers are little-endian.
//
//	 0  magic           4  "QRPC"
//	 4  version         1  0 in the handshake, then the version that was agreed on
//	 5  kind            1  what sort of frame it is
//	 6  flags           2
//	 8  operation       2  of a request, a reply or a message
//	10  zero            2
//	12  deadline        4  of a request: ms from its sending on; 0: none
//	16  id              8  joins a request with its reply and its cancellation
//	24  body length     4
//	28  payload length  4
//	32  body CRC        4  CRC32C of the body
//	36  payload CRC     4  CRC32C of the payload if flag 1 is set, else 0
//	40  head CRC        4  CRC32C of the bytes 0 to 40
//	44  body               a message of package wire
//	    payload            raw bytes; those of chunks have checksums of their own in the body
//
// The head is checked before its lengths are believed. A broken head, body or checksum ends
// the connection, because nothing that follows can be trusted to begin where it should.
const (
	headBytes = 44
	magic     = "QRPC"

	// flagPayloadCRC says that the head has a checksum of the payload.
	flagPayloadCRC = 1
	flagsKnown     = flagPayloadCRC
)

// frameKind is the sort of a frame; the numbers are never changed or used again.
type frameKind uint8

const (
	kindHello     frameKind = 1  // both ways: who is there
	kindProof     frameKind = 2  // client to server: it knows the cluster's key
	kindWelcome   frameKind = 3  // server to client: the handshake is done
	kindRequest   frameKind = 4  // client to server
	kindReply     frameKind = 5  // server to client: the reply's message
	kindError     frameKind = 6  // server to client: an error instead of a reply
	kindCancel    frameKind = 7  // client to server: the caller has gone, no reply is needed
	kindMessage   frameKind = 8  // client to server: no reply is wanted
	kindKeepAlive frameKind = 9  // both ways, when there is nothing else to send
	kindGoAway    frameKind = 10 // server to client: send no more requests here
)

// crc is the checksum of heads, bodies and payloads.
func crc(b []byte) uint32 { return crc32c.Checksum(b) }

// head is a frame's head but for the checksum of the head itself.
type head struct {
	version    uint8
	kind       frameKind
	flags      uint16
	op         Op
	deadlineMS uint32
	id         uint64
	body       uint32 // length
	payload    uint32 // length
	bodyCRC    uint32
	payloadCRC uint32
}

// put writes the head into the first headBytes of b.
func (h *head) put(b []byte) {
	_ = b[headBytes-1]
	copy(b, magic)
	b[4], b[5] = h.version, byte(h.kind)
	binary.LittleEndian.PutUint16(b[6:], h.flags)
	binary.LittleEndian.PutUint16(b[8:], uint16(h.op))
	binary.LittleEndian.PutUint16(b[10:], 0)
	binary.LittleEndian.PutUint32(b[12:], h.deadlineMS)
	binary.LittleEndian.PutUint64(b[16:], h.id)
	binary.LittleEndian.PutUint32(b[24:], h.body)
	binary.LittleEndian.PutUint32(b[28:], h.payload)
	binary.LittleEndian.PutUint32(b[32:], h.bodyCRC)
	binary.LittleEndian.PutUint32(b[36:], h.payloadCRC)
	binary.LittleEndian.PutUint32(b[40:], crc(b[:40]))
}

// parse reads a head from the first headBytes of b and checks everything but the lengths.
func (h *head) parse(b []byte) error {
	_ = b[headBytes-1]
	if string(b[:4]) != magic {
		return fmt.Errorf("a frame begins with %q: the other side does not speak Quarry's protocol", b[:4])
	}
	if got, want := binary.LittleEndian.Uint32(b[40:]), crc(b[:40]); got != want {
		return fmt.Errorf("a frame's head has checksum %08x instead of %08x", got, want)
	}
	*h = head{
		version:    b[4],
		kind:       frameKind(b[5]),
		flags:      binary.LittleEndian.Uint16(b[6:]),
		op:         Op(binary.LittleEndian.Uint16(b[8:])),
		deadlineMS: binary.LittleEndian.Uint32(b[12:]),
		id:         binary.LittleEndian.Uint64(b[16:]),
		body:       binary.LittleEndian.Uint32(b[24:]),
		payload:    binary.LittleEndian.Uint32(b[28:]),
		bodyCRC:    binary.LittleEndian.Uint32(b[32:]),
		payloadCRC: binary.LittleEndian.Uint32(b[36:]),
	}
	switch {
	case h.kind < kindHello || h.kind > kindGoAway:
		return fmt.Errorf("a frame has the unknown kind %d", h.kind)
	case h.flags&^flagsKnown != 0 || b[10] != 0 || b[11] != 0:
		return fmt.Errorf("a frame has the unknown flags %#x %02x%02x", h.flags, b[10], b[11])
	case h.flags&flagPayloadCRC == 0 && h.payloadCRC != 0:
		return fmt.Errorf("a frame has a payload checksum but not its flag")
	}
	return nil
}

// appendFrame appends a frame's head and body to dst; the payload of h.payload bytes is to
// follow it. With flagPayloadCRC set, h.payloadCRC must be.
func appendFrame[M any](dst []byte, h head, m *M, fields func(*wire.Walk, *M)) ([]byte, error) {
	start := len(dst)
	b := append(dst, make([]byte, headBytes)...)
	if m != nil {
		var err error
		if b, err = wire.Append(b, m, fields); err != nil {
			return dst, err
		}
	}
	return sealFrame(b, start, h), nil
}

// appendRaw is appendFrame for a body that is encoded already.
func appendRaw(dst []byte, h head, body []byte) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, headBytes)...)
	return sealFrame(append(dst, body...), start, h)
}

// sealFrame fills in the head at start of a frame whose body ends b.
func sealFrame(b []byte, start int, h head) []byte {
	body := b[start+headBytes:]
	h.body, h.bodyCRC = uint32(len(body)), crc(body)
	h.put(b[start:])
	return b
}

// frameReader takes frames from a connection. Its buffer begins small and grows while what comes
// fills it, because most of the connections of a server with thousands of clients carry one small
// request at a time. Not safe for concurrent use.
type frameReader struct {
	conn       io.Reader
	buf        []byte
	most       int    // bytes that the buffer may have
	start, end int    // what has been received and not yet taken
	received   func() // called when bytes have come
}

func newFrameReader(conn io.Reader, bufferBytes int, received func()) *frameReader {
	return &frameReader{conn: conn, buf: make([]byte, bufferBytes), most: bufferBytes, received: received}
}

// grow makes the buffer at least n bytes large; n is at most r.most.
func (r *frameReader) grow(n int) {
	size := len(r.buf)
	for size < n {
		size *= 2
	}
	buf := make([]byte, min(size, r.most))
	r.end = copy(buf, r.buf[r.start:r.end])
	r.start, r.buf = 0, buf
}

// need waits until n bytes, at most len(buf), are in the buffer.
func (r *frameReader) need(n int) error {
	if r.end-r.start >= n {
		return nil
	}
	if r.end == len(r.buf) && len(r.buf) < r.most { // more had come than it could take
		r.grow(len(r.buf) + 1)
	}
	if r.start+n > len(r.buf) || r.start == r.end {
		r.end = copy(r.buf, r.buf[r.start:r.end])
		r.start = 0
	}
	for r.end-r.start < n {
		k, err := r.conn.Read(r.buf[r.end:])
		if k > 0 {
			r.received()
		}
		r.end += k
		if err != nil && r.end-r.start < n {
			if err == io.EOF && r.end > r.start {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// head takes the head of the next frame. io.EOF: the connection ended between two frames.
func (r *frameReader) head(h *head) error {
	if err := r.need(headBytes); err != nil {
		return err
	}
	err := h.parse(r.buf[r.start:])
	r.start += headBytes
	return err
}

// body takes the body of the frame whose head was taken, after the caller has checked its
// length. It is valid until the next call of head, body or discard.
func (r *frameReader) body(h *head) ([]byte, error) {
	n := int(h.body)
	var body []byte
	if n > len(r.buf) && n <= r.most {
		r.grow(n)
	}
	if n <= len(r.buf) {
		if err := r.need(n); err != nil {
			return nil, noEOF(err)
		}
		body = r.buf[r.start : r.start+n]
		r.start += n
	} else {
		// A large body is believed only as far as it has come.
		for len(body) < n {
			step := min(n-len(body), max(len(body), 256<<10))
			body = append(body, make([]byte, step)...)
			if err := r.payload(body[len(body)-step:], n-len(body)); err != nil {
				return nil, err
			}
		}
	}
	if got := crc(body); got != h.bodyCRC {
		return nil, fmt.Errorf("a frame's body has checksum %08x instead of %08x", got, h.bodyCRC)
	}
	return body, nil
}

// payload fills b with the next bytes, directly from the connection but for those that
// have come already. At least more bytes follow them in the same frame.
func (r *frameReader) payload(b []byte, more int) error {
	n := copy(b, r.buf[r.start:r.end])
	r.start += n
	if f, ok := r.conn.(fullReceiver); ok && len(b)-n >= fillBytes {
		return noEOF(f.Fill(b[n:], more, r.received))
	}
	for n < len(b) {
		k, err := r.conn.Read(b[n:])
		if k > 0 {
			r.received()
		}
		n += k
		if err != nil && n < len(b) {
			return noEOF(err)
		}
	}
	return nil
}

// fillBytes is the size from which a payload is received by Fill, if the connection has it.
const fillBytes = 32 << 10

// discard skips n bytes.
func (r *frameReader) discard(n int) error {
	for n > 0 {
		if err := r.need(1); err != nil {
			return noEOF(err)
		}
		k := min(n, r.end-r.start)
		r.start += k
		n -= k
	}
	return nil
}

// noEOF is for an end that comes in the middle of a frame.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// checkPayload compares a payload with the checksum in its head, if there is one.
func (h *head) checkPayload(payload []byte) error {
	if h.flags&flagPayloadCRC == 0 {
		return nil
	}
	if got := crc(payload); got != h.payloadCRC {
		return quarry.Errorf("receive", quarry.Corrupt, "", "a payload has checksum %08x instead of %08x", got, h.payloadCRC)
	}
	return nil
}
