package journal

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/quarryfs/quarry/disk"
)

var rewrite = flag.Bool("rewrite", false, "write the expected bytes anew")

// TestFormat holds two segments against their golden bytes. A released format stays in
// testdata for ever, and every release opens it or refuses it by name.
func TestFormat(t *testing.T) {
	m := disk.NewMem()
	j, _ := open(t, m, small)
	j.opts.SegmentBytes = 320
	want := write(t, j, "one", "", "three")
	want = append(want, write(t, j, strings.Repeat("4", 200))...)
	closeJournal(t, j)
	for _, n := range []uint64{1, 2} {
		golden := "testdata/v1-" + segmentName(n) + ".hex"
		b := bytes.TrimRight(contents(t, m, segmentPath(n)), "\x00") // not what is written ahead
		b = append(b, make([]byte, -len(b)&(batchAlign-1))...)
		if *rewrite {
			if err := os.WriteFile(golden, []byte(hex.Dump(b)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		expected, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if hex.Dump(b) != string(expected) {
			t.Errorf("segment %d differs from %s", n, golden)
		}
	}

	read := disk.NewMem()
	if err := read.MkdirAll("j"); err != nil {
		t.Fatal(err)
	}
	for _, n := range []uint64{1, 2} {
		f, err := read.Create(segmentPath(n))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(readGolden(t, n), 0); err != nil {
			t.Fatal(err)
		}
	}
	j, got := open(t, read, Options{})
	wantEntries(t, got, want)
	closeJournal(t, j)
}

// readGolden returns the bytes of a dump.
func readGolden(t testing.TB, n uint64) []byte {
	t.Helper()
	dump, err := os.ReadFile("testdata/v1-" + segmentName(n) + ".hex")
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	for line := range strings.Lines(string(dump)) {
		if len(line) < 60 {
			continue // the last line is the length
		}
		part, err := hex.DecodeString(strings.ReplaceAll(line[10:59], " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, part...)
	}
	return b
}
