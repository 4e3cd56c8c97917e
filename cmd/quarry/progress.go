package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/transfer"
)

const (
	drawEvery = 100 * time.Millisecond
	rateOver  = 50 // draws over which rates are taken
	barsMax   = 10 // lines of files; of more that are under way the first ones are shown
)

// display shows transfers on a terminal: a line for each file that is under way and one for all of
// them. A nil display shows nothing, but print writes to standard error all the same. Safe for use by many
// goroutines.
type display struct {
	out    io.Writer
	size   func() (width, height int)
	clock  clock.Clock
	single bool // there is one file: the line for all of them says nothing more
	began  clock.Instant
	stop   chan struct{}
	ended  sync.WaitGroup

	mu    sync.Mutex // guards what follows
	bars  []*bar
	total bar
	files int64 // that are known
	done  int64
	drawn []int // the length of each line that stands on the terminal
}

// bar is the progress of one file, or of all of them.
type bar struct {
	show  *display
	name  string
	size  int64 // bytes to come, as far as it is known
	moved int64
	past  []int64 // moved at each of the last draws
}

var _ transfer.Progress = (*display)(nil)

// newDisplay begins to show transfers if somebody looks at standard error.
func newDisplay(o *options, single bool) *display {
	if o.json || !onTerminal(os.Stderr) || os.Getenv("TERM") == "dumb" {
		return nil
	}
	d := &display{out: os.Stderr, clock: clock.System(), single: single, stop: make(chan struct{}), size: func() (int, int) {
		w, h, err := term.GetSize(int(os.Stderr.Fd()))
		if err != nil || w < 20 || h < 2 {
			return 80, 24
		}
		return w, h
	}}
	d.began = d.clock.Now()
	d.ended.Go(func() {
		tick := d.clock.NewTicker(drawEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C():
				d.draw()
			case <-d.stop:
				return
			}
		}
	})
	return d
}

// Found implements [transfer.Progress].
func (d *display) Found(files, bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files += files
	d.total.size += bytes
}

// Begin implements [transfer.Progress].
func (d *display) Begin(name string, size int64) transfer.Bar {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := &bar{show: d, name: name, size: size}
	d.bars = append(d.bars, b)
	return b
}

// Add implements [transfer.Bar].
func (b *bar) Add(n int) {
	b.show.mu.Lock()
	defer b.show.mu.Unlock()
	b.moved += int64(n)
	b.show.total.moved += int64(n)
}

// End implements [transfer.Bar].
func (b *bar) End(error) {
	d := b.show
	d.mu.Lock()
	defer d.mu.Unlock()
	d.done++
	d.total.size += b.moved - b.size // what it really was
	for i := range d.bars {
		if d.bars[i] == b {
			d.bars = append(d.bars[:i], d.bars[i+1:]...)
			break
		}
	}
}

// draw shows how far everything is.
func (d *display) draw() {
	d.mu.Lock()
	defer d.mu.Unlock()
	width, height := d.size()
	var lines []string
	for i, b := range d.bars {
		b.sample()
		if i < min(barsMax, height-2) {
			lines = append(lines, b.line(printableName(b.name), width))
		}
	}
	d.total.sample()
	if !d.single {
		lines = append(lines, d.total.line(fmt.Sprintf("%d of %d files", d.done, d.files), width))
	}
	d.replace(lines)
}

// replace puts lines in the place of those that stand on the terminal. mu is held.
func (d *display) replace(lines []string) {
	var b strings.Builder
	width, _ := d.size()
	rows := 0
	for _, n := range d.drawn { // a terminal that became narrower has wrapped them
		rows += max((n+width-1)/width, 1)
	}
	if rows > 0 {
		b.WriteString("\r")
		if rows > 1 {
			fmt.Fprintf(&b, "\x1b[%dA", rows-1)
		}
		b.WriteString("\x1b[J")
	}
	d.drawn = d.drawn[:0]
	for i, l := range lines {
		if i > 0 {
			b.WriteString("\n")
		}
		b.WriteString(l)
		d.drawn = append(d.drawn, len([]rune(l)))
	}
	_, _ = io.WriteString(d.out, b.String())
}

// print writes a line above those that move.
func (d *display) print(line string) {
	if d == nil {
		fmt.Fprintln(os.Stderr, line)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.replace(nil)
	_, _ = io.WriteString(d.out, line+"\n")
}

// close ends the display with one line that says what was done.
func (d *display) close(sum transfer.Summary) {
	if d == nil {
		return
	}
	close(d.stop)
	d.ended.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.replace(nil)
	if sum.Files == 0 {
		return
	}
	took := d.clock.Now().Sub(d.began)
	rate := int64(float64(sum.Bytes) / max(took.Seconds(), 0.001))
	fmt.Fprintf(d.out, "%s, %s in %v, %s/s\n", counted(sum.Files, "file"), bytesText(sum.Bytes), took.Round(100*time.Millisecond), bytesText(rate))
}

// counted is a number of things in words.
func counted(n int64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func (b *bar) sample() {
	b.past = append(b.past, b.moved)
	if len(b.past) > rateOver {
		b.past = b.past[1:]
	}
}

// line is what is said of a bar, in less than a terminal's width.
func (b *bar) line(name string, width int) string {
	rate := int64(0)
	if n := len(b.past) - 1; n > 0 {
		rate = (b.moved - b.past[0]) * int64(time.Second/drawEvery) / int64(n)
	}
	state := fmt.Sprintf("%10s", bytesText(b.moved))
	if b.size > 0 {
		state = fmt.Sprintf("%3d %%  %10s of %s", min(100*b.moved/b.size, 100), bytesText(b.moved), bytesText(b.size))
	}
	state += fmt.Sprintf("  %10s/s", bytesText(rate))
	if left := b.size - b.moved; rate > 0 && left > 0 {
		state += "  " + (time.Duration(float64(left)/float64(rate)) * time.Second).Round(time.Second).String() + " left"
	}
	room := width - 1 - len(state) - 2
	if room < 4 {
		return string([]rune(state)[:min(len(state), width-1)])
	}
	runes := []rune(name)
	if len(runes) > room { // the end of a path says more than its beginning
		runes = append([]rune("…"), runes[len(runes)-room+1:]...)
	}
	return fmt.Sprintf("%-*s  %s", room, string(runes), state)
}

// printableName is a name without what could disturb a terminal.
func printableName(name string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0xfffd {
			return '?'
		}
		return r
	}, name)
}
