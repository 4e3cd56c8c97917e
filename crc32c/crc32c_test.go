package crc32c

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

// TestAgainstStandard compares all lengths up to some, from all places in 64 bytes, and some long ones, with hash/crc32.
func TestAgainstStandard(t *testing.T) {
	if !foldable {
		t.Log("this processor does not fold: only the standard library is tested")
	}
	data := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{1}).Read(data)
	same := func(crc uint32, b []byte) {
		if got, want := Update(crc, b), crc32.Update(crc, table, b); got != want {
			t.Fatalf("%d bytes after %08x: %08x, not %08x", len(b), crc, got, want)
		}
	}
	for n := range 3000 {
		same(0, data[n%64:][:n])
		same(rand.Uint32(), data[n*7:][:n])
	}
	for range 200 {
		from := rand.IntN(len(data))
		same(rand.Uint32(), data[from:][:rand.IntN(len(data)-from)])
	}
	same(0, bytes.Repeat([]byte{0}, 1<<20))
	same(0, bytes.Repeat([]byte{0xff}, 1<<20))
}

// TestKnown has the examples of RFC 3720 and one that is folded.
func TestKnown(t *testing.T) {
	ascending := make([]byte, 32)
	for i := range ascending {
		ascending[i] = byte(i)
	}
	for _, c := range []struct {
		b    []byte
		want uint32
	}{
		{make([]byte, 32), 0x8a9136aa},
		{bytes.Repeat([]byte{0xff}, 32), 0x62a8ab43},
		{ascending, 0x46dd794e},
		{[]byte("123456789"), 0xe3069283},
	} {
		if got := Checksum(c.b); got != c.want {
			t.Errorf("%x: %08x, not %08x", c.b, got, c.want)
		}
	}
}

func FuzzUpdate(f *testing.F) {
	f.Add(uint32(0), []byte("quarry"), 300)
	f.Fuzz(func(t *testing.T, crc uint32, part []byte, times int) {
		b := bytes.Repeat(part, min(max(times, 0), 1<<16/max(len(part), 1)))
		if got, want := Update(crc, b), crc32.Update(crc, table, b); got != want {
			t.Fatalf("%08x, not %08x", got, want)
		}
	})
}

func BenchmarkChecksum(b *testing.B) {
	for _, n := range []int{512, 4 << 10, 64 << 10, 256 << 10, 1 << 20, 16 << 20} {
		data := make([]byte, n)
		b.Run(fmt.Sprintf("%d", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				Checksum(data)
			}
		})
		b.Run(fmt.Sprintf("%d/standard", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				crc32.Checksum(data, table)
			}
		})
	}
}
