package rpc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/quarryfs/quarry"
)

func testReader(r io.Reader) *frameReader { return newFrameReader(r, 4<<10, func() {}) }

func TestFramesOneAfterTheOther(t *testing.T) {
	var stream []byte
	var want []head
	var bodies, payloads [][]byte
	for i, size := range []int{0, 1, 100, 4<<10 - headBytes, 4 << 10, 4<<10 + 1, 300_000} {
		body := bytes.Repeat([]byte{byte(i + 1)}, size)
		payload := bytes.Repeat([]byte{byte(i + 101)}, size/2)
		h := head{version: 1, kind: kindRequest, op: Op(i), deadlineMS: uint32(i) * 10, id: 1 << 40, payload: uint32(len(payload))}
		if i%2 == 1 {
			h.flags, h.payloadCRC = flagPayloadCRC, crc(payload)
		}
		stream = append(appendRaw(stream, h, body), payload...)
		h.body, h.bodyCRC = uint32(size), crc(body)
		want, bodies, payloads = append(want, h), append(bodies, body), append(payloads, payload)
	}
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "one byte at a time": iotest.OneByteReader,
		"halves": iotest.HalfReader, "end with data": iotest.DataErrReader,
	} {
		r := testReader(wrap(bytes.NewReader(stream)))
		for i := range want {
			var h head
			if err := r.head(&h); err != nil || h != want[i] {
				t.Fatalf("%s: head %d is %+v, %v; want %+v", name, i, h, err, want[i])
			}
			body, err := r.body(&h)
			if err != nil || !bytes.Equal(body, bodies[i]) {
				t.Fatalf("%s: body %d: %d bytes, %v", name, i, len(body), err)
			}
			if i%3 == 2 {
				err = r.discard(int(h.payload))
			} else {
				payload := make([]byte, h.payload)
				err = errors.Join(r.payload(payload, 0), h.checkPayload(payload))
				if !bytes.Equal(payload, payloads[i]) {
					t.Fatalf("%s: payload %d differs", name, i)
				}
			}
			if err != nil {
				t.Fatalf("%s: payload %d: %v", name, i, err)
			}
		}
		if err := r.head(&head{}); err != io.EOF {
			t.Errorf("%s: %v after the last frame, want io.EOF", name, err)
		}
	}
	for cut := 1; cut < 400; cut++ { // an end within a frame is not io.EOF
		r := testReader(bytes.NewReader(stream[:cut]))
		var err error
		for err == nil {
			var h head
			if err = r.head(&h); err == nil {
				if _, err = r.body(&h); err == nil {
					err = r.discard(int(h.payload))
				}
			}
			if err == io.EOF && cut != headBytes && cut != 2*headBytes+1 && cut != 3*headBytes+1+100+50 {
				t.Fatalf("the stream was cut after %d bytes, and the reader says EOF", cut)
			}
		}
	}
}

func TestHeadsRefused(t *testing.T) {
	good := appendRaw(nil, head{version: 1, kind: kindReply, id: 5}, nil)
	tests := []struct {
		name   string
		change func(b []byte)
		text   string
	}{
		{"magic", func(b []byte) { copy(b, "HTTP") }, "does not speak"},
		{"checksum", func(b []byte) { b[20]++ }, "checksum"},
		{"kind 0", func(b []byte) { b[5] = 0; reseal(b) }, "unknown kind 0"},
		{"kind beyond", func(b []byte) { b[5] = 11; reseal(b) }, "unknown kind 11"},
		{"flag", func(b []byte) { b[6] = 2; reseal(b) }, "unknown flags"},
		{"zero", func(b []byte) { b[11] = 1; reseal(b) }, "unknown flags"},
		{"payload checksum", func(b []byte) { b[36] = 1; reseal(b) }, "payload checksum"},
	}
	for _, test := range tests {
		b := bytes.Clone(good)
		test.change(b)
		var h head
		if err := h.parse(b); err == nil || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: %v, want %q", test.name, err, test.text)
		}
	}
	for i := range headBytes * 8 { // every bit counts
		b := bytes.Clone(good)
		b[i/8] ^= 1 << (i % 8)
		var h head
		if err := h.parse(b); err == nil {
			t.Errorf("bit %d was turned over and nobody noticed", i)
		}
	}
}

// reseal makes the checksum of a head right again.
func reseal(b []byte) { binary.LittleEndian.PutUint32(b[40:], crc(b[:40])) }

func TestBrokenBodyAndPayload(t *testing.T) {
	frame := appendRaw(nil, head{version: 1, kind: kindReply}, []byte("the body"))
	frame[headBytes] ^= 1
	r := testReader(bytes.NewReader(frame))
	var h head
	if err := r.head(&h); err != nil {
		t.Fatal(err)
	}
	if _, err := r.body(&h); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("a broken body: %v", err)
	}
	h = head{flags: flagPayloadCRC, payloadCRC: crc([]byte("payload"))}
	if err := h.checkPayload([]byte("pay1oad")); !errors.Is(err, quarry.Corrupt) {
		t.Errorf("a broken payload: %v", err)
	}
}

// A head that promises a large body must not cost memory before the body comes.
func TestLargeBodyIsNotBelieved(t *testing.T) {
	frame := appendRaw(nil, head{version: 1, kind: kindReply}, make([]byte, 1000))
	binary.LittleEndian.PutUint32(frame[24:], bodyBytesMax)
	reseal(frame)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := testReader(bytes.NewReader(frame))
	var h head
	if err := r.head(&h); err != nil {
		t.Fatal(err)
	}
	if _, err := r.body(&h); err != io.ErrUnexpectedEOF {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	allocated := after.TotalAlloc - before.TotalAlloc
	if allocated > 1<<20 {
		t.Errorf("%d bytes were allocated for a body that never came", allocated)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(appendRaw(nil, head{version: 1, kind: kindRequest, op: opStat, id: 1}, []byte{8, 1}))
	f.Add(append(appendRaw(nil, head{version: 1, kind: kindReply, id: 1, payload: 3}, nil), "abc"...))
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := testReader(bytes.NewReader(stream))
		taken := 0
		for {
			var h head
			if r.head(&h) != nil {
				return
			}
			again := make([]byte, headBytes)
			h.put(again)
			if !bytes.Equal(again, stream[taken:taken+headBytes]) {
				t.Fatalf("%x was read and written as %x", stream[taken:taken+headBytes], again)
			}
			if h.body > bodyBytesMax || h.payload > PayloadBytesMax {
				return
			}
			body, err := r.body(&h)
			if err != nil || r.discard(int(h.payload)) != nil {
				return
			}
			taken += headBytes + len(body) + int(h.payload)
		}
	})
}
