package wire

import (
	"google.golang.org/protobuf/encoding/protowire"
)

// Uint is an integer field. A value that does not fit into T is refused.
func Uint[T Integer](w *Walk, num protowire.Number, v *T) {
	if w.writing {
		w.visit(num)
		if *v != 0 {
			w.tag(num, protowire.VarintType)
			w.buf = protowire.AppendVarint(w.buf, uint64(*v))
		}
		return
	}
	*v = 0
	if !w.seek(num, protowire.VarintType) {
		return
	}
	if *v = T(w.value); uint64(*v) != w.value {
		w.Fail("field %d is out of range: %d", num, w.value)
		return
	}
	w.taken(num)
}

// Bool is a truth value.
func Bool(w *Walk, num protowire.Number, v *bool) {
	if w.writing {
		w.visit(num)
		if *v {
			w.tag(num, protowire.VarintType)
			w.buf = append(w.buf, 1)
		}
		return
	}
	*v = false
	if w.seek(num, protowire.VarintType) {
		*v = w.value != 0
		w.taken(num)
	}
}

// String is a string of at most max bytes, which need not be UTF-8.
func String[T ~string](w *Walk, num protowire.Number, v *T, max int) {
	if w.writing {
		w.visit(num)
		if len(*v) > 0 && w.limit(num, "bytes", len(*v), max) {
			w.tag(num, protowire.BytesType)
			w.buf = protowire.AppendString(w.buf, string(*v))
		}
		return
	}
	*v = ""
	if w.seek(num, protowire.BytesType) && w.limit(num, "bytes", len(w.body), max) {
		*v = T(w.body)
		w.taken(num)
	}
}

// Bytes is a byte slice of at most max bytes. Empty slices are read as nil.
func Bytes[T ~[]byte](w *Walk, num protowire.Number, v *T, max int) {
	if w.writing {
		w.visit(num)
		if len(*v) > 0 && w.limit(num, "bytes", len(*v), max) {
			w.tag(num, protowire.BytesType)
			w.buf = protowire.AppendBytes(w.buf, *v)
		}
		return
	}
	*v = nil
	if w.seek(num, protowire.BytesType) && w.limit(num, "bytes", len(w.body), max) {
		*v = append(T(nil), w.body...)
		w.taken(num)
	}
}

// Fixed16 is an identifier of 16 bytes.
func Fixed16[T ~[16]byte](w *Walk, num protowire.Number, v *T) {
	if w.writing {
		w.visit(num)
		if [16]byte(*v) != [16]byte{} {
			writeFixed16(w, num, v)
		}
		return
	}
	*v = T{}
	if w.seek(num, protowire.BytesType) && readFixed16(w, num, v) {
		w.taken(num)
	}
}

// Fixed16s is a list of at most maxCount identifiers of 16 bytes.
func Fixed16s[T ~[16]byte](w *Walk, num protowire.Number, v *[]T, maxCount int) {
	if w.writing {
		w.visit(num)
		if w.limit(num, "elements", len(*v), maxCount) {
			for i := range *v {
				writeFixed16(w, num, &(*v)[i])
			}
		}
		return
	}
	*v = nil
	n := w.repeats(num, maxCount)
	if n == 0 {
		return
	}
	*v = make([]T, n)
	for i := range *v {
		if !w.seek(num, protowire.BytesType) || !readFixed16(w, num, &(*v)[i]) {
			return
		}
		w.next()
	}
}

func writeFixed16[T ~[16]byte](w *Walk, num protowire.Number, v *T) {
	w.tag(num, protowire.BytesType)
	w.buf = append(w.buf, 16)
	id := [16]byte(*v)
	w.buf = append(w.buf, id[:]...)
}

func readFixed16[T ~[16]byte](w *Walk, num protowire.Number, v *T) bool {
	if len(w.body) != 16 {
		w.Fail("field %d has %d bytes instead of 16", num, len(w.body))
		return false
	}
	*v = T(w.body)
	return true
}

// Uints is a list of at most maxCount integers.
func Uints[T Integer](w *Walk, num protowire.Number, v *[]T, maxCount int) {
	if w.writing {
		w.visit(num)
		if len(*v) > 0 && w.limit(num, "elements", len(*v), maxCount) {
			n := 0
			for _, e := range *v {
				n += protowire.SizeVarint(uint64(e))
			}
			w.tag(num, protowire.BytesType)
			w.buf = protowire.AppendVarint(w.buf, uint64(n))
			for _, e := range *v {
				w.buf = protowire.AppendVarint(w.buf, uint64(e))
			}
		}
		return
	}
	*v = nil
	if !w.seek(num, protowire.BytesType) {
		return
	}
	count := varints(w.body)
	if !w.limit(num, "elements", count, maxCount) {
		return
	}
	list := make([]T, 0, count)
	for b := w.body; len(b) > 0; {
		x, n := varint(b)
		if n < 0 {
			w.Fail("field %d is malformed or cut short", num)
			return
		}
		e := T(x)
		if uint64(e) != x {
			w.Fail("field %d is out of range: %d", num, x)
			return
		}
		list, b = append(list, e), b[n:]
	}
	if count > 0 {
		*v = list
	}
	w.taken(num)
}

// Strings is a list of at most maxCount strings of at most max bytes each.
func Strings[T ~string](w *Walk, num protowire.Number, v *[]T, maxCount, max int) {
	if w.writing {
		w.visit(num)
		if !w.limit(num, "elements", len(*v), maxCount) {
			return
		}
		for _, s := range *v {
			if !w.limit(num, "bytes", len(s), max) {
				return
			}
			w.tag(num, protowire.BytesType)
			w.buf = protowire.AppendString(w.buf, string(s))
		}
		return
	}
	*v = nil
	n := w.repeats(num, maxCount)
	if n == 0 {
		return
	}
	*v = make([]T, n)
	for i := range *v {
		if !w.seek(num, protowire.BytesType) || !w.limit(num, "bytes", len(w.body), max) {
			return
		}
		(*v)[i] = T(w.body)
		w.next()
	}
}

// Message is a message within the message; a zero one is not written.
func Message[M any](w *Walk, num protowire.Number, m *M, fields func(*Walk, *M)) {
	if w.writing {
		w.visit(num)
		mark := len(w.buf)
		writeMessage(w, num, m, fields)
		if len(w.buf) == mark+protowire.SizeTag(num)+1 { // a tag and the length 0
			w.buf = w.buf[:mark]
		}
		return
	}
	var zero M
	*m = zero
	if w.seek(num, protowire.BytesType) {
		readMessage(w, m, fields)
		w.taken(num)
	}
}

// Optional is a message within the message that may be absent, which is nil.
func Optional[M any](w *Walk, num protowire.Number, m **M, fields func(*Walk, *M)) {
	if w.writing {
		w.visit(num)
		if *m != nil {
			writeMessage(w, num, *m, fields)
		}
		return
	}
	*m = nil
	if w.seek(num, protowire.BytesType) {
		*m = new(M)
		readMessage(w, *m, fields)
		w.taken(num)
	}
}

// List is a list of at most maxCount messages.
func List[M any](w *Walk, num protowire.Number, v *[]M, maxCount int, fields func(*Walk, *M)) {
	if w.writing {
		w.visit(num)
		if w.limit(num, "elements", len(*v), maxCount) {
			for i := range *v {
				writeMessage(w, num, &(*v)[i], fields)
			}
		}
		return
	}
	*v = nil
	n := w.repeats(num, maxCount)
	if n == 0 {
		return
	}
	*v = make([]M, n)
	for i := range *v {
		if !w.seek(num, protowire.BytesType) {
			return
		}
		readMessage(w, &(*v)[i], fields)
		w.next()
	}
}

func writeMessage[M any](w *Walk, num protowire.Number, m *M, fields func(*Walk, *M)) {
	if start, ok := w.begin(num); ok {
		fields(w, m)
		w.end(num, start)
	}
}

func readMessage[M any](w *Walk, m *M, fields func(*Walk, *M)) {
	if outer, ok := w.enter(); ok {
		fields(w, m)
		w.leave(&outer)
	}
}

// repeats moves the cursor to field num and returns how often it comes; 0 after an error.
func (w *Walk) repeats(num protowire.Number, maxCount int) int {
	if !w.seek(num, protowire.BytesType) {
		return 0
	}
	tag := protowire.EncodeTag(num, protowire.BytesType)
	count := 1
	for b := w.buf; ; count++ {
		t, n := varint(b)
		if n < 0 || t != tag {
			break
		}
		length, m := varint(b[n:])
		if m < 0 || length > uint64(len(b)-n-m) {
			break // whoever reads this field will say so
		}
		b = b[n+m+int(length):]
	}
	if !w.limit(num, "elements", count, maxCount) {
		return 0
	}
	return count
}
