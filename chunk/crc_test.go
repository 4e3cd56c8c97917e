package chunk

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/crc32c"
)

func TestCombine(t *testing.T) {
	data := pattern(1, 300<<10)
	lengths := []int{0, 1, 2, 7, 8, 255, 256, 257, 4096, 65535, 65536, 65537, 131072, 200 << 10}
	r := rand.New(rand.NewPCG(2, 3))
	for range 200 {
		lengths = append(lengths, r.IntN(len(data)))
	}
	for _, n := range lengths {
		for _, cut := range []int{0, n / 2, n} {
			a, b := data[:cut], data[cut:n]
			got := combine(checksum(a), checksum(b), int64(len(b)))
			if want := crc32c.Checksum(data[:n]); got != want {
				t.Fatalf("combine(%d, %d bytes) = %08x, want %08x", len(a), len(b), got, want)
			}
		}
	}
}

// TestCombineLong compares lengths that need all four tables with zeros put behind.
func TestCombineLong(t *testing.T) {
	zeros := make([]byte, 1<<24+1<<16+1<<8+1)
	if got, want := combine(checksum([]byte("quarry")), checksum(zeros), int64(len(zeros))),
		crc32c.Update(checksum([]byte("quarry")), zeros); got != want {
		t.Fatalf("%08x, want %08x", got, want)
	}
}

func TestCutSegments(t *testing.T) {
	for _, off := range []int64{0, 1, 4096, 65535, 65536, 65537, 200_000} {
		for _, n := range []int{1, 100, 65535, 65536, 65537, 131072, 300_000} {
			data := pattern(uint64(n), n)
			before := pattern(9, int(off))
			s := sums{}
			for b := before; len(b) > 0; {
				k := min(len(b), quarry.BlockBytes)
				s.add(segment{checksum(b[:k]), int64(k)})
				b = b[k:]
			}
			segs, bad := cutSegments(nil, off, data, parts(data))
			if bad >= 0 {
				t.Fatalf("part %d of %d bytes at %d does not match", bad, n, off)
			}
			for _, g := range segs {
				s.add(g)
			}
			all := append(bytes.Clone(before), data...)
			if got, want := s.crcs, parts(all); !equal(got, want) || s.length != int64(len(all)) {
				t.Fatalf("%d bytes at %d: the blocks' checksums differ", n, off)
			}
			if s.whole() != checksum(all) {
				t.Fatalf("%d bytes at %d: the chunk's checksum differs", n, off)
			}
			for part := range parts(data) {
				data[part*quarry.BlockBytes] ^= 1
				if _, bad := cutSegments(nil, off, data, parts(pattern(uint64(n), n))); bad != part {
					t.Fatalf("%d bytes at %d: a flipped bit in part %d was seen in part %d", n, off, part, bad)
				}
				data[part*quarry.BlockBytes] ^= 1
			}
		}
	}
}

func equal(a, b []uint32) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestRuns(t *testing.T) {
	var runs []quarry.RecordRun
	type rec struct {
		session quarry.SessionID
		seq     quarry.Sequence
		length  int64
	}
	records := []rec{{1, 1, 10}, {1, 2, 10}, {1, 3, 10}, {2, 1, 10}, {1, 4, 10}, {1, 5, 20}, {1, 6, 20}, {1, 8, 20}}
	ends := []int64{0}
	for _, r := range records {
		off := ends[len(ends)-1]
		runs = addRun(runs, quarry.RecordRun{Session: r.session, Sequence: r.seq, Count: 1, Offset: off, Length: r.length})
		ends = append(ends, off+r.length)
	}
	if len(runs) != 5 {
		t.Fatalf("the records make %d runs, want 5", len(runs))
	}
	total := ends[len(ends)-1]
	for length := range total + 1 {
		want := false
		for _, e := range ends {
			want = want || e == length
		}
		if got := recordBoundary(runs, length); got != want {
			t.Errorf("recordBoundary(%d) = %v", length, got)
		}
	}
	for i, from := range ends {
		for k, to := range ends[i:] {
			cut := cutRuns(runs, from, to)
			packed, err := unpackRuns(packRuns(cut), from, to)
			if err != nil {
				t.Fatal(err)
			}
			var got []rec
			for _, r := range packed {
				for j := range r.Count {
					got = append(got, rec{r.Session, r.Sequence + quarry.Sequence(j), r.Length})
				}
			}
			if want := records[i : i+k]; len(got) != len(want) {
				t.Fatalf("[%d, %d) has %v, want %v", from, to, got, want)
			} else {
				for j := range want {
					if got[j] != want[j] {
						t.Fatalf("[%d, %d) has %v, want %v", from, to, got, want)
					}
				}
			}
		}
	}
}

func BenchmarkCombine(b *testing.B) {
	crc := checksum([]byte("quarry"))
	for b.Loop() {
		crc = combine(crc, 0x1234567, 4096)
	}
}

func BenchmarkCutSegments(b *testing.B) {
	data := pattern(1, 256<<10)
	crcs := parts(data)
	for _, off := range []int64{0, 4096} {
		name := map[int64]string{0: "aligned", 4096: "unaligned"}[off]
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			var segs []segment
			for b.Loop() {
				segs, _ = cutSegments(segs[:0], off, data, crcs)
			}
		})
	}
}
