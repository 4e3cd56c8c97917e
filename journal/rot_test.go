package journal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path"
	"strings"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/crc32c"
	"github.com/quarryfs/quarry/disk"
)

// change rewrites a file in place through edit, which may return more or fewer bytes.
func change(t *testing.T, m *disk.Mem, name string, edit func(b []byte) []byte) {
	t.Helper()
	f, err := m.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if err := readFull(f, b, 0); err != nil {
		t.Fatal(err)
	}
	b = edit(b)
	if err := f.Truncate(int64(len(b))); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
}

// flip flips a bit of a file.
func flip(t *testing.T, m *disk.Mem, name string, off uint32, bit int) {
	t.Helper()
	change(t, m, name, func(b []byte) []byte { b[off] ^= 1 << bit; return b })
}

func segmentPath(n uint64) string { return path.Join("j", segmentName(n)) }

// TestRotIsRefused flips a bit in every byte that was durable, of the closed journal and of
// an open one, whose last batch alone may pass for torn.
func TestRotIsRefused(t *testing.T) {
	m := disk.NewMem()
	j, _ := open(t, m, small)
	var batches [][]entry
	for i := range 12 {
		batches = append(batches, write(t, j, fmt.Sprintf("first %d", i), strings.Repeat("y", 700)))
	}
	running, end := m.Clone(), j.End()
	closeJournal(t, j)
	if end.Segment < 3 {
		t.Fatalf("the journal ends at %v: too few segments", end)
	}
	last := batches[len(batches)-1]
	start := Position{last[0].at.Segment, last[0].at.Offset - batchHeaderBytes}
	for segment := uint64(1); segment <= end.Segment; segment++ {
		size := end.Offset
		for _, b := range batches {
			if p := b[1].at; p.Segment == segment && segment < end.Segment {
				size = p.Offset + recordHeaderBytes + 700
			}
		}
		for off := uint32(0); off < size; off++ {
			at := Position{segment, off}
			image := m.Clone()
			flip(t, image, segmentPath(segment), off, int(off%8))
			_, err := Open(image, "j", small, nil)
			if kind := quarry.KindOf(err); kind != quarry.Corrupt && (kind != quarry.Unsupported || off < 8 || off > 11) {
				t.Fatalf("closed journal, bit flipped at %v: Open says %v", at, err)
			}
			image = running.Clone()
			flip(t, image, segmentPath(segment), off, int(off%8))
			if at.Before(start) {
				if _, err = Open(image, "j", small, nil); quarry.KindOf(err) != quarry.Corrupt && (off < 8 || off > 11) {
					t.Fatalf("running journal, bit flipped at %v: Open says %v", at, err)
				}
				continue
			}
			j, got := open(t, image, small)
			if len(got) != 2*len(batches)-2 {
				t.Fatalf("bit flipped in the last batch, at %v: %d records", at, len(got))
			}
			closeJournal(t, j)
		}
	}
}

func TestZeroedBatchIsRefused(t *testing.T) {
	m := disk.NewMem()
	j, _ := open(t, m, small)
	a := write(t, j, "one")[0].at
	b := write(t, j, "two")[0].at
	closeJournal(t, j)
	change(t, m, segmentPath(1), func(p []byte) []byte {
		clear(p[a.Offset-batchHeaderBytes : b.Offset-batchHeaderBytes])
		return p
	})
	_, err := Open(m, "j", small, nil)
	wantKind(t, "Open with a write that never arrived", err, quarry.Corrupt)
}

// contents returns the bytes of a file.
func contents(t *testing.T, m *disk.Mem, name string) (b []byte) {
	t.Helper()
	change(t, m, name, func(p []byte) []byte { b = bytes.Clone(p); return p })
	return b
}

// TestOtherHistoryIsRefused puts sound bytes of another history of the same journal in the
// place of its own, as a disk does that has lost a write or taken one for another place.
func TestOtherHistoryIsRefused(t *testing.T) {
	build := func(letter string) (*disk.Mem, []entry) {
		m := disk.NewMem()
		j, _ := open(t, m, small)
		var all []entry
		for i := range 6 {
			all = append(all, write(t, j, strings.Repeat(letter, 1000+i))...)
		}
		closeJournal(t, j)
		return m, all
	}
	m, ours := build("a")
	other, theirs := build("b")
	for i := range ours {
		if ours[i].at != theirs[i].at {
			t.Fatalf("the records stand at %v and %v", ours[i].at, theirs[i].at)
		}
	}
	last := ours[len(ours)-1].at
	splice := func(segment uint64, from, to uint32) *disk.Mem {
		image := m.Clone()
		their := contents(t, other, segmentPath(segment))
		change(t, image, segmentPath(segment), func(p []byte) []byte {
			copy(p[from:to], their[from:])
			return p
		})
		return image
	}
	size := uint32(len(contents(t, m, segmentPath(last.Segment))))
	for name, image := range map[string]*disk.Mem{
		"record":        splice(1, ours[1].at.Offset, ours[1].at.Offset+recordHeaderBytes+1001),
		"batch":         splice(1, ours[1].at.Offset-batchHeaderBytes, ours[2].at.Offset-batchHeaderBytes),
		"tail":          splice(last.Segment, last.Offset-batchHeaderBytes, size),
		"whole segment": splice(1, 0, uint32(len(contents(t, m, segmentPath(1))))),
	} {
		_, err := Open(image, "j", small, nil)
		wantKind(t, "Open with another history's "+name, err, quarry.Corrupt)
	}

	// A segment that says that the one before it ends where none of its batches does.
	image := m.Clone()
	change(t, image, segmentPath(2), func(p []byte) []byte {
		h, err := decodeSegmentHeader("", p)
		if err != nil {
			t.Fatal(err)
		}
		h.prevEnd -= batchAlign
		return append(h.encode(), p[segmentHeaderBytes:]...)
	})
	_, err := Open(image, "j", small, nil)
	wantKind(t, "Open with a wrong end of the segment before", err, quarry.Corrupt)
}

func TestTornTailIsCut(t *testing.T) {
	m := disk.NewMem()
	j, _ := open(t, m, small)
	kept := write(t, j, "kept")
	before := m.Clone()
	end := j.End()
	write(t, j, strings.Repeat("torn", 100), "torn, too")
	full := m.Clone()
	next := j.End()
	closeJournal(t, j)
	old, whole := contents(t, before, segmentPath(1)), contents(t, full, segmentPath(1))
	for name, edit := range map[string]func(p []byte) []byte{
		"start missing": func(p []byte) []byte { return append(p[:end.Offset+64], whole[end.Offset+64:]...) },
		"end missing":   func(p []byte) []byte { copy(p[end.Offset:next.Offset-64], whole[end.Offset:]); return p },
		"middle missing": func(p []byte) []byte {
			copy(p, whole)
			copy(p[end.Offset+100:end.Offset+200], old[end.Offset+100:])
			return p
		},
		"file short":   func(p []byte) []byte { return append(p[:0], whole[:next.Offset-3]...) },
		"header short": func(p []byte) []byte { return append(p[:0], whole[:end.Offset+5]...) },
		"noise":        func(p []byte) []byte { copy(p[end.Offset:], strings.Repeat("QJB1", 40)); return p },
	} {
		t.Run(name, func(t *testing.T) {
			image := before.Clone()
			change(t, image, segmentPath(1), edit)
			j, got := open(t, image, small)
			wantEntries(t, got, kept)
			if size, err := image.Size(segmentPath(1)); err != nil || j.End() != end || size != int64(end.Offset) {
				t.Errorf("the end is %v and the file has %d bytes, want %v (%v)", j.End(), size, end, err)
			}
			after := write(t, j, "x")
			closeJournal(t, j)
			j, got = open(t, image, small)
			wantEntries(t, got, append(kept[:1:1], after...))
			closeJournal(t, j)
		})
	}
}

func TestFolderIsChecked(t *testing.T) {
	m := disk.NewMem()
	j, _ := open(t, m, small)
	for range 12 {
		write(t, j, strings.Repeat("y", 1000))
	}
	closeJournal(t, j)
	other := disk.NewMem()
	opts := small
	opts.id++
	j, _ = open(t, other, opts)
	for range 12 {
		write(t, j, strings.Repeat("y", 1000))
	}
	closeJournal(t, j)
	for _, test := range []struct {
		name string
		kind quarry.Kind
		says string
		edit func(m *disk.Mem) error
	}{
		{"missing segment", quarry.Corrupt, "0002.journal: corrupt: the segment is missing", func(m *disk.Mem) error { return m.Remove(segmentPath(2)) }},
		{"segment under another name", quarry.Corrupt, "does not belong", func(m *disk.Mem) error { return m.Rename(segmentPath(4), segmentPath(1)) }},
		{"empty segment", quarry.Corrupt, "0 bytes", func(m *disk.Mem) error {
			change(t, m, segmentPath(1), func([]byte) []byte { return nil })
			return nil
		}},
		{"half a header", quarry.Corrupt, "40 bytes", func(m *disk.Mem) error {
			change(t, m, segmentPath(3), func(p []byte) []byte { return p[:40] })
			return nil
		}},
		{"segment of another journal", quarry.Corrupt, "does not belong", func(m *disk.Mem) error {
			change(t, m, segmentPath(2), func([]byte) []byte { return contents(t, other, segmentPath(2)) })
			return nil
		}},
		{"segment that is short", quarry.Corrupt, "segment 2 is behind it", func(m *disk.Mem) error {
			change(t, m, segmentPath(1), func(p []byte) []byte { return p[:1500] })
			return nil
		}},
		{"not a segment", quarry.Corrupt, "not a journal segment", func(m *disk.Mem) error {
			change(t, m, segmentPath(1), func(p []byte) []byte { return bytes.Repeat([]byte("x"), 4096) })
			return nil
		}},
		{"later format", quarry.Unsupported, "format version 2", func(m *disk.Mem) error {
			change(t, m, segmentPath(3), func(p []byte) []byte {
				binary.LittleEndian.PutUint32(p[8:], formatVersion+1)
				binary.LittleEndian.PutUint32(p[60:], crc32c.Checksum(p[:60]))
				return p
			})
			return nil
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			image := m.Clone()
			if err := test.edit(image); err != nil {
				t.Fatal(err)
			}
			_, err := Open(image, "j", small, nil)
			wantKind(t, "Open", err, test.kind)
			if err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("the error is %q and does not say %q", err, test.says)
			}
		})
	}
}

func TestForeignFilesAreLeftAlone(t *testing.T) {
	m := disk.NewMem()
	j, _ := open(t, m, small)
	want := write(t, j, "a")
	closeJournal(t, j)
	for _, name := range []string{"j/README", "j/1.journal", "j/000000000000000A.journal", "j/next.tmp"} {
		f, err := m.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	j, got := open(t, m, small)
	wantEntries(t, got, want)
	closeJournal(t, j)
	names, err := m.List("j")
	if err != nil || strings.Join(names, " ") != "0000000000000001.journal 000000000000000A.journal 1.journal README" {
		t.Errorf("the folder has %q, %v", names, err)
	}
}

func TestUnreadableDiskIsNotCorrupt(t *testing.T) {
	m := disk.NewMem()
	j, _ := open(t, m, small)
	write(t, j, "a")
	closeJournal(t, j)
	for _, kind := range []disk.OpKind{disk.OpMkdir, disk.OpList, disk.OpOpen, disk.OpSize, disk.OpRead, disk.OpWrite, disk.OpSync, disk.OpSyncDir} {
		image := m.Clone()
		d := disk.NewFaulty(image, func(op disk.Op) disk.Fault {
			if op.Kind == kind {
				return disk.Fault{Err: fmt.Errorf("no %v", kind)}
			}
			return disk.Fault{}
		})
		_, err := Open(d, "j", small, nil)
		wantKind(t, fmt.Sprintf("Open without %v", kind), err, quarry.Internal)
		j, got := open(t, image, small)
		if len(got) != 1 {
			t.Errorf("after a failing %v %d records are left", kind, len(got))
		}
		closeJournal(t, j)
	}
}
