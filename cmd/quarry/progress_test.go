package main

import (
	"strings"
	"testing"

	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/transfer"
)

// TestDisplay draws transfers on a terminal that becomes narrower, and reads what stands there.
func TestDisplay(t *testing.T) {
	var out strings.Builder
	width := 100
	d := &display{out: &out, clock: clock.System(), stop: make(chan struct{}), size: func() (int, int) { return width, 24 }}
	d.Found(2, 3<<20)
	a := d.Begin("/a/very/long/"+strings.Repeat("path/", 30)+"file", 2<<20)
	b := d.Begin("/b\x1b[31m", 1<<20)
	d.draw()
	a.Add(1 << 20)
	d.draw()
	lines := strings.Split(screen(out.String()), "\n")
	if len(lines) != 3 || !strings.Contains(lines[0], "path/file   50 %     1.0 MiB of 2.0 MiB    10.0 MiB/s  0s left") ||
		!strings.HasPrefix(lines[1], "/b?[31m ") || !strings.HasPrefix(lines[2], "0 of 2 files  ") || !strings.Contains(lines[2], "33 %") {
		t.Errorf("the terminal shows\n%s", strings.Join(lines, "\n"))
	}
	for _, l := range lines {
		if n := len([]rune(l)); n >= width {
			t.Errorf("a line of %d", n)
		}
	}
	out.Reset()
	width = 60 // what stood there takes two rows for each line now
	d.draw()
	if !strings.HasPrefix(out.String(), "\r\x1b[5A\x1b[J") {
		t.Errorf("a narrower terminal is cleared by %q", out.String()[:16])
	}
	b.Add(1 << 20)
	b.End(nil)
	out.Reset()
	d.draw()
	if lines := strings.Split(screen(out.String()), "\n"); len(lines) != 2 || !strings.Contains(lines[1], "66 %") {
		t.Errorf("behind the end of one file\n%q", lines)
	}
	out.Reset()
	d.print("a message")
	if !strings.HasSuffix(out.String(), "\x1b[Ja message\n") {
		t.Errorf("a message is %q", out.String())
	}
	width = 21
	d.draw()
	out.Reset()
	d.close(transfer.Summary{Files: 2, Bytes: 3 << 20})
	if s := screen(out.String()); !strings.HasPrefix(s, "2 files, 3.0 MiB in ") {
		t.Errorf("at the end %q", s)
	}
}

// screen is what stands on a terminal behind the last time that it was cleared.
func screen(s string) string {
	if i := strings.LastIndex(s, "\x1b[J"); i >= 0 {
		s = s[i+len("\x1b[J"):]
	}
	return s
}

func TestParseBytes(t *testing.T) {
	for s, want := range map[string]int64{
		"": 0, "0": 0, "512": 512, "1K": 1024, "1.5M": 1572864, "2GiB": 2 << 30, "3kb": 3072, "10m": 10 << 20, "7B": 7,
		"x": -1, "-1": -1, "1X": -1, "1KM": -1, "9E": -1, "NaN": -1, "Inf": -1, "1e30": -1, "K": -1, "1 M": -1,
	} {
		n, err := parseBytes(s)
		if err != nil {
			n = -1
		}
		if n != want {
			t.Errorf("%q is %d, want %d", s, n, want)
		}
	}
}
