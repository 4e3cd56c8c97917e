// Package wire is the encoding of Quarry's messages, log entries and stored records: the
// wire format of Protocol Buffers, written and read by one and the same walk over a
// message's fields. A walk is a function
//
//	func fields(w *wire.Walk, m *Message) {
//		wire.Uint(w, 1, &m.Handle)
//		wire.String(w, 2, &m.Name, 255)
//		wire.List(w, 3, &m.Members, 8, memberFields)
//	}
//
// so what is written is what is read, each length has its limit beside it, and there is no
// generated code and no copy between two forms of one message. Zero values are not written,
// and a field that is absent is set to zero. Unknown fields are skipped, so messages may
// grow; a number, once given, is never used for something else.
//
// A walk visits its fields in ascending order of their numbers, and the reader wants them in
// that order, each once: every message has one encoding but for unknown fields, and it is
// read in one pass with a cursor. Protocol Buffers libraries write the same bytes for
//
//	Uint                  uint32, uint64, int32, int64, enum
//	Bool, String, Bytes   bool, string, bytes
//	Fixed16               bytes
//	Uints                 repeated uint64 and so on, packed
//	Strings, Fixed16s     repeated string, repeated bytes
//	Message, Optional     a message
//	List                  repeated message
//
// Reading is safe on hostile bytes: nesting is bounded by DepthMax, every length by the
// limit in the walk, and memory by a multiple of the input: the size of an element of a List
// for every two bytes. docs/design/001-wire.md has the reasons.
package wire

import (
	"fmt"
	"math/bits"
	"sync"

	"github.com/quarryfs/quarry"
	"google.golang.org/protobuf/encoding/protowire"
)

// DepthMax is how deep messages may be nested in each other.
const DepthMax = 32

// afterLast is larger than any field number; the cursor shows it at the end of a message.
const afterLast = protowire.MaxValidNumber + 1

// Walk is one pass over the fields of a message: it appends them to a buffer, or takes
// them from one. Not safe for concurrent use.
type Walk struct {
	buf     []byte // writing: what is written so far; reading: what follows the next field
	writing bool
	depth   int
	err     error // the first failure

	// num is the number of the field written last or, when reading, of the next field.
	num   protowire.Number
	typ   protowire.Type // reading: of the next field
	value uint64         // reading: its varint
	body  []byte         // reading: its length-delimited content
}

// Integer is any type whose values travel as variable-length integers. Negative values
// take ten bytes.
type Integer interface {
	~uint8 | ~uint16 | ~uint32 | ~uint64 | ~uint | ~int | ~int32 | ~int64
}

var walks = sync.Pool{New: func() any { return new(Walk) }}

// Append appends m's encoding to dst. It returns dst as it was and a TooLarge error if a
// field of m is beyond its limit.
func Append[M any](dst []byte, m *M, fields func(*Walk, *M)) ([]byte, error) {
	w := walks.Get().(*Walk)
	*w = Walk{buf: dst, writing: true}
	fields(w, m)
	buf, err := w.buf, w.err
	*w = Walk{}
	walks.Put(w)
	if err != nil {
		return dst, err
	}
	return buf, nil
}

// Marshal is Append for a message whose fields are known to be within their limits: it
// panics if they are not, because what it would write could never be read again.
func Marshal[M any](dst []byte, m *M, fields func(*Walk, *M)) []byte {
	buf, err := Append(dst, m, fields)
	if err != nil {
		panic(fmt.Sprintf("wire: %T: %v", m, err))
	}
	return buf
}

// Unmarshal reads src, which must be all of one encoded message, into m. Strings and slices
// are copied out of src. After an error, which is Invalid or, for a field beyond its limit,
// TooLarge, the contents of m are undefined.
func Unmarshal[M any](src []byte, m *M, fields func(*Walk, *M)) error {
	w := walks.Get().(*Walk)
	*w = Walk{buf: src}
	w.next()
	fields(w, m)
	w.finish()
	err := w.err
	*w = Walk{}
	walks.Put(w)
	return err
}

// Reading reports whether the walk reads; a walk may then check what it has taken.
func (w *Walk) Reading() bool { return !w.writing }

// Fail ends the walk with an Invalid error. A walk calls it for a value that breaks a rule.
func (w *Walk) Fail(format string, args ...any) { w.fail(quarry.Invalid, format, args...) }

func (w *Walk) fail(kind quarry.Kind, format string, args ...any) {
	if w.err == nil {
		op := "decode"
		if w.writing {
			op = "encode"
		}
		w.err = quarry.Errorf(op, kind, "", format, args...)
	}
	if !w.writing { // show the end of the message, so that the rest of the walk takes nothing
		w.buf, w.num = nil, afterLast
	}
}

// limit reports whether n is at most max, and fails the walk if not.
func (w *Walk) limit(num protowire.Number, what string, n, max int) bool {
	if n <= max {
		return true
	}
	w.fail(quarry.TooLarge, "field %d has %d %s, at most %d are allowed", num, n, what, max)
	return false
}

// visit notes that a writing walk has come to field num.
func (w *Walk) visit(num protowire.Number) {
	if num <= w.num {
		w.fail(quarry.Internal, "the walk visits field %d after field %d", num, w.num)
	}
	w.num = num
}

// tag appends the tag of a field.
func (w *Walk) tag(num protowire.Number, typ protowire.Type) {
	w.buf = protowire.AppendVarint(w.buf, protowire.EncodeTag(num, typ))
}

// next moves the cursor to the next field of the message.
func (w *Walk) next() {
	if len(w.buf) == 0 {
		w.num = afterLast
		return
	}
	tag, n := varint(w.buf)
	number := tag >> 3
	switch {
	case n < 0:
		w.Fail("a field's number is malformed")
		return
	case number == 0 || number > uint64(protowire.MaxValidNumber):
		w.Fail("%d is no field number", number)
		return
	case protowire.Number(number) < w.num:
		w.Fail("field %d comes after field %d", number, w.num)
		return
	}
	w.num, w.typ, w.buf = protowire.Number(number), protowire.Type(tag&7), w.buf[n:]
	switch w.typ {
	case protowire.VarintType:
		w.value, n = varint(w.buf)
	case protowire.BytesType:
		w.body, n = protowire.ConsumeBytes(w.buf)
	case protowire.Fixed32Type:
		_, n = protowire.ConsumeFixed32(w.buf)
	case protowire.Fixed64Type:
		_, n = protowire.ConsumeFixed64(w.buf)
	default:
		n = -1
	}
	if n < 0 {
		w.Fail("field %d is malformed or cut short", number)
		return
	}
	w.buf = w.buf[n:]
}

// varint is protowire.ConsumeVarint with a short way for one byte.
func varint(b []byte) (uint64, int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	return protowire.ConsumeVarint(b)
}

// seek moves the cursor to field num and reports whether it is there with the right type.
func (w *Walk) seek(num protowire.Number, typ protowire.Type) bool {
	for w.num < num {
		w.next()
	}
	if w.num != num {
		return false
	}
	if w.typ != typ {
		w.Fail("field %d has wire type %d instead of %d", num, w.typ, typ)
		return false
	}
	return true
}

// taken moves the cursor past field num, which must not come twice.
func (w *Walk) taken(num protowire.Number) {
	w.next()
	if w.num == num {
		w.Fail("field %d comes twice", num)
	}
}

// finish checks what follows the last field that the walk knows.
func (w *Walk) finish() {
	for w.num != afterLast {
		w.next()
	}
}

// enter begins to read a message within the message and returns the state to leave with.
func (w *Walk) enter() (outer Walk, ok bool) {
	if w.depth == DepthMax {
		w.fail(quarry.TooLarge, "messages are nested more than %d deep", DepthMax)
		return outer, false
	}
	outer = *w
	w.buf, w.num = w.body, 0
	w.depth++
	w.next()
	return outer, true
}

// leave ends what enter began.
func (w *Walk) leave(outer *Walk) {
	w.finish()
	err := w.err
	*w = *outer
	if err != nil {
		w.err, w.buf, w.num = err, nil, afterLast
	}
}

// begin starts to write a message within the message as field num; it returns where its
// content starts.
func (w *Walk) begin(num protowire.Number) (start int, ok bool) {
	if w.depth == DepthMax {
		w.fail(quarry.TooLarge, "messages are nested more than %d deep", DepthMax)
		return 0, false
	}
	w.depth++
	w.tag(num, protowire.BytesType)
	w.buf = append(w.buf, 0) // most lengths take one byte
	w.num = 0
	return len(w.buf), true
}

// end puts the length before the content that started at start.
func (w *Walk) end(num protowire.Number, start int) {
	w.depth--
	w.num = num
	n := len(w.buf) - start
	if n < 0x80 {
		w.buf[start-1] = byte(n)
		return
	}
	var length [10]byte
	l := protowire.AppendVarint(length[:0], uint64(n))
	w.buf = append(w.buf, l[1:]...)
	copy(w.buf[start-1+len(l):], w.buf[start:start+n])
	copy(w.buf[start-1:], l)
}

// varints returns how many varints end in b.
func varints(b []byte) (n int) {
	for ; len(b) >= 8; b = b[8:] {
		word := uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
			uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
		n += bits.OnesCount64(^word & 0x8080808080808080)
	}
	for _, c := range b {
		if c < 0x80 {
			n++
		}
	}
	return n
}
