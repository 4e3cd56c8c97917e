package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/quarryfs/quarry"
	"google.golang.org/protobuf/encoding/protowire"
)

// sample has a field of every form.
type sample struct {
	Handle   quarry.Handle
	Offset   int64
	Small    uint8
	Signed   int32
	Yes      bool
	Name     string
	Data     []byte
	ID       quarry.DiskID
	IDs      []quarry.DiskID
	Sums     []uint32
	Names    []string
	Inner    inner
	Optional *inner
	List     []inner
}

type inner struct {
	Offset int64
	Text   string
	Deeper *inner
}

func sampleFields(w *Walk, m *sample) {
	Uint(w, 1, &m.Handle)
	Uint(w, 2, &m.Offset)
	Uint(w, 3, &m.Small)
	Uint(w, 4, &m.Signed)
	Bool(w, 5, &m.Yes)
	String(w, 6, &m.Name, 255)
	Bytes(w, 7, &m.Data, 1<<20)
	Fixed16(w, 8, &m.ID)
	Fixed16s(w, 9, &m.IDs, 8)
	Uints(w, 10, &m.Sums, 1024)
	Strings(w, 11, &m.Names, 16, 64)
	Message(w, 12, &m.Inner, innerFields)
	Optional(w, 13, &m.Optional, innerFields)
	List(w, 2000, &m.List, 4096, innerFields)
}

func innerFields(w *Walk, m *inner) {
	Uint(w, 1, &m.Offset)
	String(w, 2, &m.Text, 1000)
	Optional(w, 3, &m.Deeper, innerFields)
}

func fullSample() sample {
	return sample{
		Handle: quarry.MakeHandle(4095, 77), Offset: -1, Small: 255, Signed: -2, Yes: true,
		Name: "name\xff", Data: bytes.Repeat([]byte{7}, 200),
		ID: quarry.DiskID{1, 2, 3}, IDs: []quarry.DiskID{{}, {15: 9}},
		Sums: []uint32{0, 1, 127, 128, 1<<32 - 1}, Names: []string{"", "a", "bc"},
		Inner: inner{Text: "x"}, Optional: &inner{},
		List: []inner{{}, {Offset: 1 << 40, Text: strings.Repeat("t", 300), Deeper: &inner{Deeper: &inner{Offset: 3}}}},
	}
}

func TestRoundTrip(t *testing.T) {
	for _, m := range []sample{{}, fullSample(), {Inner: inner{Deeper: &inner{}}}} {
		b := Marshal([]byte("before"), &m, sampleFields)
		if string(b[:6]) != "before" {
			t.Fatalf("Marshal wrote over what was there: %q", b[:6])
		}
		got := fullSample() // every field must be set, absent ones to zero
		if err := Unmarshal(b[6:], &got, sampleFields); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, m) {
			t.Errorf("read %+v, wrote %+v", got, m)
		}
	}
	if b := Marshal(nil, &sample{}, sampleFields); len(b) != 0 {
		t.Errorf("a zero message takes %x", b)
	}
}

func TestCopiesOutOfSource(t *testing.T) {
	m := fullSample()
	b := Marshal(nil, &m, sampleFields)
	var got sample
	if err := Unmarshal(b, &got, sampleFields); err != nil {
		t.Fatal(err)
	}
	clear(b)
	if !reflect.DeepEqual(got, m) {
		t.Error("the message changed with the buffer it was read from")
	}
}

// The files in testdata are what the release that made them wrote; they stay as they are.
func TestGolden(t *testing.T) {
	full := fullSample()
	for name, m := range map[string]*sample{"full": &full, "zero-list": {List: make([]inner, 3)}} {
		path := filepath.Join("testdata", name+".hex")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
		if err != nil {
			t.Fatal(err)
		}
		if got := Marshal(nil, m, sampleFields); !bytes.Equal(got, want) {
			t.Errorf("%s: wrote %x, want %x", path, got, want)
		}
		var got sample
		if err := Unmarshal(want, &got, sampleFields); err != nil || !reflect.DeepEqual(&got, m) {
			t.Errorf("%s: read %+v, %v", path, got, err)
		}
	}
}

func TestUnknownFieldsAreSkipped(t *testing.T) {
	full := fullSample()
	known := Marshal(nil, &full, sampleFields)
	var b []byte
	for rest := known; len(rest) > 0; {
		num, _, n := protowire.ConsumeField(rest)
		b, rest = append(b, rest[:n]...), rest[n:]
		if num != 13 {
			continue
		}
		b = protowire.AppendVarint(protowire.AppendTag(b, 14, protowire.VarintType), 1<<63)
		b = protowire.AppendBytes(protowire.AppendTag(b, 15, protowire.BytesType), []byte("later"))
		b = protowire.AppendBytes(protowire.AppendTag(b, 15, protowire.BytesType), []byte("twice"))
		b = protowire.AppendFixed32(protowire.AppendTag(b, 16, protowire.Fixed32Type), 4)
	}
	b = protowire.AppendFixed64(protowire.AppendTag(b, 3000, protowire.Fixed64Type), 8)
	var got sample
	if err := Unmarshal(b, &got, sampleFields); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, full) {
		t.Errorf("read %+v", got)
	}
}

func TestRefused(t *testing.T) {
	tag := func(num protowire.Number, typ protowire.Type) []byte { return protowire.AppendTag(nil, num, typ) }
	str := func(num protowire.Number, s string) []byte {
		return protowire.AppendString(tag(num, protowire.BytesType), s)
	}
	num := func(n protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(tag(n, protowire.VarintType), v)
	}
	deep := func(levels int) []byte {
		var b []byte
		for range levels {
			b = str(3, string(b))
		}
		return str(13, string(b))
	}
	tests := []struct {
		name string
		b    []byte
		kind quarry.Kind
		text string
	}{
		{"field 0", []byte{0, 0}, quarry.Invalid, "0 is no field number"},
		{"huge field number", protowire.AppendVarint(nil, 1<<35), quarry.Invalid, "is no field number"},
		{"tag cut", []byte{0x80}, quarry.Invalid, "malformed"},
		{"value cut", []byte{8, 0x80}, quarry.Invalid, "field 1 is malformed"},
		{"value missing", []byte{8}, quarry.Invalid, "field 1 is malformed"},
		{"varint too long", append([]byte{8}, bytes.Repeat([]byte{0xff}, 11)...), quarry.Invalid, "malformed"},
		{"string cut", []byte{50, 3, 'a'}, quarry.Invalid, "field 6 is malformed"},
		{"length beyond all", append([]byte{50}, protowire.AppendVarint(nil, 1<<63)...), quarry.Invalid, "field 6"},
		{"group", []byte{6<<3 | 3, 6<<3 | 4}, quarry.Invalid, "field 6 is malformed"},
		{"unknown group", []byte{15<<3 | 3, 15<<3 | 4}, quarry.Invalid, "field 15 is malformed"},
		{"unknown cut", append(tag(100, protowire.BytesType), 9), quarry.Invalid, "field 100"},
		{"wrong type", str(1, "x"), quarry.Invalid, "field 1 has wire type 2"},
		{"number for string", num(6, 1), quarry.Invalid, "field 6 has wire type 0"},
		{"list of numbers", num(2000, 1), quarry.Invalid, "field 2000 has wire type 0"},
		{"out of order", append(num(2, 1), num(1, 1)...), quarry.Invalid, "field 1 comes after field 2"},
		{"unknown out of order", append(num(5000, 1), num(4000, 1)...), quarry.Invalid, "field 4000 comes after"},
		{"twice", append(num(1, 1), num(1, 2)...), quarry.Invalid, "field 1 comes twice"},
		{"message twice", append(str(12, ""), str(12, "")...), quarry.Invalid, "field 12 comes twice"},
		{"uint8", num(3, 256), quarry.Invalid, "field 3 is out of range: 256"},
		{"int32", num(4, 1<<31), quarry.Invalid, "field 4 is out of range"},
		{"packed out of range", str(10, "\xff\xff\xff\xff\xff\x01"), quarry.Invalid, "field 10 is out of range"},
		{"packed cut", str(10, "\x01\x80"), quarry.Invalid, "field 10 is malformed"},
		{"id of 15", str(8, strings.Repeat("x", 15)), quarry.Invalid, "field 8 has 15 bytes"},
		{"ids of 17", str(9, strings.Repeat("x", 17)), quarry.Invalid, "field 9 has 17 bytes"},
		{"long string", str(6, strings.Repeat("x", 256)), quarry.TooLarge, "field 6 has 256 bytes, at most 255"},
		{"long bytes", str(7, strings.Repeat("x", 1<<20+1)), quarry.TooLarge, "field 7"},
		{"many ids", bytes.Repeat(str(9, strings.Repeat("x", 16)), 9), quarry.TooLarge, "9 elements, at most 8"},
		{"many sums", str(10, strings.Repeat("x", 1025)), quarry.TooLarge, "1025 elements"},
		{"many strings", bytes.Repeat(str(11, ""), 17), quarry.TooLarge, "17 elements"},
		{"long element", str(11, strings.Repeat("x", 65)), quarry.TooLarge, "field 11 has 65 bytes"},
		{"many messages", bytes.Repeat(str(2000, ""), 4097), quarry.TooLarge, "4097 elements"},
		{"bad message", str(12, "\x08"), quarry.Invalid, "field 1 is malformed"},
		{"bad end of message", str(12, "\xa2\x06"), quarry.Invalid, "field 100 is malformed"},
		{"bad list element", append(str(2000, ""), str(2000, "\x12\x05x")...), quarry.Invalid, "field 2 is malformed"},
		{"list cut", append(str(2000, ""), tag(2000, protowire.BytesType)...), quarry.Invalid, "field 2000 is malformed"},
		{"too deep", deep(DepthMax), quarry.TooLarge, "nested more than"},
	}
	for _, test := range tests {
		var m sample
		err := Unmarshal(test.b, &m, sampleFields)
		if !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: %v, want %v with %q", test.name, err, test.kind, test.text)
		}
	}
	var m sample
	if err := Unmarshal(deep(DepthMax-1), &m, sampleFields); err != nil {
		t.Errorf("%d levels: %v", DepthMax, err)
	}
}

// A walk fails in the middle of a list or message, and nothing that follows hides it.
func TestFail(t *testing.T) {
	refuse := func(w *Walk, m *inner) {
		innerFields(w, m)
		if w.Reading() && m.Offset < 0 {
			w.Fail("offset %d is negative", m.Offset)
		}
	}
	list := func(w *Walk, m *[]inner) { List(w, 1, m, 10, refuse) }
	m := []inner{{Offset: 1}, {Offset: -1}, {Offset: 2}}
	var got []inner
	err := Unmarshal(Marshal(nil, &m, list), &got, list)
	if !errors.Is(err, quarry.Invalid) || !strings.Contains(err.Error(), "offset -1 is negative") {
		t.Error(err)
	}
}

func TestLimitsWhenWriting(t *testing.T) {
	for _, m := range []sample{
		{Name: strings.Repeat("x", 256)}, {Data: make([]byte, 1<<20+1)}, {IDs: make([]quarry.DiskID, 9)},
		{Sums: make([]uint32, 1025)}, {Names: make([]string, 17)}, {Names: []string{strings.Repeat("x", 65)}},
		{List: make([]inner, 4097)}, {List: []inner{{Text: strings.Repeat("x", 1001)}}}, {Optional: nested(DepthMax + 1)},
	} {
		b, err := Append([]byte("before"), &m, sampleFields)
		if !errors.Is(err, quarry.TooLarge) || string(b) != "before" {
			t.Errorf("%.80v: %q, %v", m, b, err)
		}
	}
	m := sample{Optional: nested(DepthMax)}
	if _, err := Append(nil, &m, sampleFields); err != nil {
		t.Error(err)
	}
	defer func() {
		if recover() == nil {
			t.Error("Marshal wrote what cannot be read")
		}
	}()
	Marshal(nil, &sample{Name: strings.Repeat("x", 256)}, sampleFields)
}

func nested(levels int) (m *inner) {
	for range levels {
		m = &inner{Deeper: m}
	}
	return m
}

func TestWalkOutOfOrder(t *testing.T) {
	_, err := Append(nil, &inner{}, func(w *Walk, m *inner) {
		String(w, 2, &m.Text, 10)
		Uint(w, 1, &m.Offset)
	})
	if !errors.Is(err, quarry.Internal) {
		t.Error(err)
	}
}

// Hostile bytes must not make the reader allocate much more than they take themselves.
func TestMemory(t *testing.T) {
	type wide struct{ A, B, C, D [8]uint64 } // 256 bytes for two
	walk := func(w *Walk, m *[]wide) { List(w, 1, m, 1000, func(*Walk, *wide) {}) }
	b := bytes.Repeat([]byte{10, 0}, 1_000_000) // beyond the limit: no memory at all
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var m []wide
	err := Unmarshal(b, &m, walk)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, quarry.TooLarge) {
		t.Error(err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("%d bytes were allocated for a list that is refused", n)
	}
}

func TestVarints(t *testing.T) {
	var b []byte
	for n := range 300 {
		if got := varints(b); got != n {
			t.Fatalf("%d varints counted as %d", n, got)
		}
		b = protowire.AppendVarint(b, uint64(n)<<(n%64))
	}
}

func FuzzUnmarshal(f *testing.F) {
	full := fullSample()
	f.Add(Marshal(nil, &full, sampleFields))
	f.Add(Marshal(nil, &sample{List: make([]inner, 3)}, sampleFields))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m sample
		if err := Unmarshal(b, &m, sampleFields); err != nil {
			if k := quarry.KindOf(err); k != quarry.Invalid && k != quarry.TooLarge {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		again, err := Append(nil, &m, sampleFields)
		if err != nil {
			t.Fatal(err)
		}
		var m2 sample
		if err := Unmarshal(again, &m2, sampleFields); err != nil || !reflect.DeepEqual(m, m2) {
			t.Fatalf("%+v became %+v, %v", m, m2, err)
		}
	})
}
