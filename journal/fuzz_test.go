package journal

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// FuzzOpen opens a journal whose only segment is whatever the fuzzer likes. With mend, the
// checksums that come first are made right, so that lengths and counts are believed.
func FuzzOpen(f *testing.F) {
	golden := readGolden(f, 1)
	f.Add(golden, false)
	f.Add(golden, true)
	f.Add(golden[:100], true)
	f.Add(append(slices.Clone(golden), make([]byte, 200)...), false)
	f.Add(append(slices.Clone(golden), "QJB1 and noise"...), false)
	for _, length := range []uint32{0, 8, batchHeaderBytes, 25, 1 << 31, 1<<32 - 1} {
		b := slices.Clone(golden)
		binary.LittleEndian.PutUint32(b[segmentHeaderBytes+4:], length)
		f.Add(b, true)
		b = slices.Clone(b)
		clear(b[segmentHeaderBytes+8:]) // and no records
		f.Add(b, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if mend {
			b = mended(b)
		}
		m := disk.NewMem()
		if err := m.MkdirAll("j"); err != nil {
			t.Fatal(err)
		}
		file, err := m.Create(segmentPath(1))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
		var first []entry
		j, err := Open(m, "j", small, func(p Position, b []byte) error {
			first = append(first, entry{p, string(b)})
			return nil
		})
		if err != nil {
			if k := quarry.KindOf(err); k != quarry.Corrupt && k != quarry.Unsupported {
				t.Fatalf("Open: %v", err)
			}
			return
		}
		if end := j.End(); end.Offset%batchAlign != 0 {
			t.Fatalf("the journal ends at %v", end)
		}
		for _, e := range first {
			if b, err := j.Read(e.at); err != nil || string(b) != e.data {
				t.Fatalf("Read(%v) = %q, %v; replayed was %q", e.at, b, err, e.data)
			}
		}
		first = append(first, write(t, j, "one more")...)
		closeJournal(t, j)
		j, second := open(t, m, small)
		wantEntries(t, second, first)
		closeJournal(t, j)
	})
}

// mended returns a segment with the given bytes whose segment header, first batch header
// and records are sound as far as their lengths reach.
func mended(b []byte) []byte {
	b = slices.Clone(b)
	h := segmentHeader{journal: small.id, number: 1}
	if len(b) < segmentHeaderBytes+batchHeaderBytes {
		return b
	}
	copy(b, h.encode())
	s, off := newSeed(h.journal, h.number), uint32(segmentHeaderBytes)
	batch := b[off:]
	for at := batchHeaderBytes; len(batch)-at >= recordHeaderBytes; {
		n := int64(binary.LittleEndian.Uint32(batch[at:]))
		if n > int64(len(batch)-at-recordHeaderBytes) {
			break
		}
		data := batch[at+recordHeaderBytes:][:n]
		binary.LittleEndian.PutUint32(batch[at+4:], s.record(off+uint32(at), data))
		at += recordHeaderBytes + int(n)
	}
	copy(batch, batchMagic)
	binary.LittleEndian.PutUint32(batch[12:], h.chain)
	binary.LittleEndian.PutUint32(batch[20:], s.batchHeader(off, batch))
	return b
}
