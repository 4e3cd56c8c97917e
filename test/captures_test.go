package test

import (
	"fmt"
	"html"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/creack/pty"
)

const (
	captureWidth  = 96
	captureHeight = 16
	framesMax     = 48 // of a capture; of more only every second one, third one, … is kept
)

// TestCaptures does on a real terminal what people do, checks that they see what they should, and
// with -rewrite draws what was seen into docs/captures.
func TestCaptures(t *testing.T) {
	c := newDev(t)
	dir := t.TempDir()
	for i := range 24 {
		name := filepath.Join(dir, "photos", fmt.Sprintf("2026-%02d", 1+i/6), fmt.Sprintf("img_%04d.raw", 4711+7*i))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, make([]byte, 400_000+rand.IntN(2_600_000)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put := newTerminal(t, c, dir, "QUARRY_LIMIT=8M", "QUARRY_PARALLEL=6")
	put.say("quarry put -r photos /", `(?m)^24 files, [\d.]+ MiB in .*\n\$ $`)
	put.saw("a line for each file", `(?m)^.*img_\d+\.raw +\d+ % +[\d.]+ [KM]?i?B of [\d.]+ MiB +[\d.]+ .*/s`)
	put.saw("several files at once", `(?m)(^.*img_.*\n){3}`)
	put.saw("a line for all files", `(?m)^\d+ of 24 files +\d+ % .* left *$`)
	put.say("quarry ls /photos", `2026-04/\n\$ $`)
	if seen := put.seen(); strings.Contains(seen[len(seen)-1].text, " % ") {
		t.Errorf("the progress is left behind:\n%s", seen[len(seen)-1].text)
	}

	writer := newTerminal(t, c, dir)
	follower := newTerminal(t, c, dir)
	writer.say("echo 'crawler-1: it begins' | quarry append --create /crawl", `\n0\n\$ $`)
	follower.say("quarry tail -f /crawl", `it begins\n$`)
	for i, said := range []string{"crawler-1: 412 pages of example.org", "crawler-7: robots.txt of example.net keeps us out", "crawler-1: 838 pages of example.org"} {
		writer.say("echo '"+said+"' | quarry append /crawl", fmt.Sprintf(`(?s)(\n\d+\n\$ .*){%d}$`, i+2))
		follower.until("the record", regexp.QuoteMeta(said)+`\n$`)
	}
	follower.key("\x03", `interrupted\n\$ $`)

	if *rewrite {
		draw(t, "put.svg", titled{"a tree is stored", put})
		draw(t, "tail.svg", titled{"one who appends", writer}, titled{"one who follows", follower})
	}
}

// terminal is a shell on a pseudo-terminal, and all that was to be seen on it.
type terminal struct {
	t    *testing.T
	file *os.File

	mu     sync.Mutex
	screen screen
	frames []frame
}

// frame is what a terminal shows from some time on.
type frame struct {
	at   time.Time
	text string
}

// newTerminal starts a shell. It ends with the test.
func newTerminal(t *testing.T, c *dev, dir string, env ...string) *terminal {
	t.Helper()
	cmd := exec.Command("sh", "-i")
	cmd.Dir = dir
	cmd.Env = append([]string{
		"PATH=" + filepath.Dir(program) + string(filepath.ListSeparator) + os.Getenv("PATH"), "HOME=" + dir, "TZ=UTC", "TERM=xterm", "PS1=$ ", "QUARRY_MASTERS=" + c.masters,
	}, env...)
	file, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: captureHeight, Cols: captureWidth})
	if err != nil {
		t.Skipf("there are no pseudo-terminals: %v", err)
	}
	x := &terminal{t: t, file: file, screen: screen{lines: [][]rune{nil}}}
	read := make(chan struct{})
	go func() {
		defer close(read)
		b := make([]byte, 64<<10)
		for {
			n, err := file.Read(b)
			x.mu.Lock()
			x.screen.write(string(b[:n]))
			if text := x.screen.text(); len(x.frames) == 0 || x.frames[len(x.frames)-1].text != text {
				x.frames = append(x.frames, frame{time.Now(), text})
			}
			x.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // pty has made it the leader of a session
		_ = cmd.Wait()
		file.Close()
		<-read
	})
	x.until("a prompt", `^\$ $`)
	return x
}

// say types a command and waits until the screen is as it should be behind it.
func (x *terminal) say(command, want string) { x.t.Helper(); x.key(command+"\n", want) }

func (x *terminal) key(keys, want string) {
	x.t.Helper()
	if _, err := x.file.WriteString(keys); err != nil {
		x.t.Fatal(err)
	}
	x.until(fmt.Sprintf("%q to be done", keys), want)
}

func (x *terminal) until(what, want string) {
	x.t.Helper()
	form := regexp.MustCompile(want)
	text := ""
	(&system{t: x.t}).eventually(what, 2*time.Minute, func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		text = x.screen.text()
		return form.MatchString(text)
	}, func() string { return text })
}

// saw checks that the screen has been like something at some time.
func (x *terminal) saw(what, want string) {
	x.t.Helper()
	form, seen := regexp.MustCompile(want), x.seen()
	if !slices.ContainsFunc(seen, func(f frame) bool { return form.MatchString(f.text) }) {
		x.t.Errorf("%s was not to be seen in %d pictures; the last but one is\n%s", what, len(seen), seen[max(len(seen)-2, 0)].text)
	}
}

// seen returns what was to be seen so far.
func (x *terminal) seen() []frame {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.frames)
}

// screen is as much of a terminal as Quarry and a plain shell use: lines, and the sequences by which
// the progress is drawn anew. Colours are passed over.
type screen struct {
	lines    [][]rune
	row, col int
	rest     string // the beginning of a sequence whose end has not come yet
}

var control = regexp.MustCompile(`^\x1b\[([\d;]*)([A-Za-z])`)

// write shows what a program writes.
func (s *screen) write(text string) {
	text = s.rest + text
	s.rest = ""
	for len(text) > 0 {
		if text[0] == '\x1b' {
			m := control.FindStringSubmatch(text)
			if m == nil {
				s.rest = text
				return
			}
			text = text[len(m[0]):]
			s.control(m[1], m[2])
			continue
		}
		if !utf8.FullRuneInString(text) {
			s.rest = text
			return
		}
		r, bytes := utf8.DecodeRuneInString(text)
		text = text[bytes:]
		switch r {
		case '\n':
			s.row++
			for len(s.lines) <= s.row {
				s.lines = append(s.lines, nil)
			}
		case '\r':
			s.col = 0
		default:
			line := s.lines[s.row]
			for len(line) <= s.col {
				line = append(line, ' ')
			}
			line[s.col] = r
			s.lines[s.row] = line
			s.col++
		}
	}
}

func (s *screen) control(number, name string) {
	n := 1
	_, _ = fmt.Sscan(number, &n)
	switch name {
	case "A":
		s.row = max(s.row-n, 0)
	case "J":
		s.lines = s.lines[:s.row+1]
		s.lines[s.row] = s.lines[s.row][:min(s.col, len(s.lines[s.row]))]
	}
}

// text returns the lower part of what stands on the screen, as much as fits.
func (s *screen) text() string {
	var lines []string
	for _, l := range s.lines[max(len(s.lines)-captureHeight, 0):] {
		lines = append(lines, string(l))
	}
	return strings.Join(lines, "\n")
}

// Sizes in a drawing.
const (
	charWidth, lineHeight = 8, 17
	margin, barHeight     = 14, 26
	lastFrames            = 3 * time.Second // how long the last picture stands
)

// titled is a terminal in a drawing.
type titled struct {
	title string
	*terminal
}

// draw writes a drawing that moves of what terminals showed, one below the other. Where nothing moves,
// or the reader has asked for that, the last picture stands.
func draw(t *testing.T, name string, terminals ...titled) {
	t.Helper()
	const width = captureWidth*charWidth + 2*margin
	began, ended := terminals[0].seen()[0].at, time.Time{}
	for _, x := range terminals {
		seen := x.seen()
		if last := seen[len(seen)-1].at.Add(lastFrames); last.After(ended) {
			ended = last
		}
	}
	whole := ended.Sub(began)
	var css, body strings.Builder
	y := 0
	for n, x := range terminals {
		frames, rows := x.story()
		height := barHeight + margin + rows*lineHeight
		fmt.Fprintf(&body, `<g transform="translate(0,%d)"><rect width="%d" height="%d" rx="8" fill="#16191d"/>`+
			`<text x="%d" y="18" style="fill:#8b949e">%s</text>`+"\n", y, width, height, margin, html.EscapeString(x.title))
		for i, f := range frames {
			class := fmt.Sprintf("t%df%d", n, i)
			share := func(at time.Time) float64 { return max(at.Sub(began).Seconds()/whole.Seconds()*100, 0) }
			visibility, shown := "visible", ""
			if i < len(frames)-1 {
				visibility, shown = "hidden", fmt.Sprintf("%.2f%%{visibility:hidden}", share(frames[i+1].at))
			}
			fmt.Fprintf(&css, "@keyframes %s{0%%{visibility:hidden}%.2f%%{visibility:visible}%s}\n.%[1]s{animation:%[1]s %.1[4]fs step-end infinite}\n",
				class, share(f.at), shown, whole.Seconds())
			fmt.Fprintf(&body, `<g class="%s" visibility="%s">`, class, visibility)
			for row, line := range strings.Split(f.text, "\n") {
				if line = strings.TrimRight(line, " "); line != "" {
					fmt.Fprintf(&body, `<text x="%d" y="%d">%s</text>`, margin, barHeight+(row+1)*lineHeight-4, html.EscapeString(line))
				}
			}
			body.WriteString("</g>\n")
		}
		body.WriteString("</g>\n")
		y += height + margin/2
	}
	svg := fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d">
<style>
text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;white-space:pre;fill:#e6edf3}
%s@media (prefers-reduced-motion){g{animation:none!important}}
</style>
%s</svg>
`, width, y-margin/2, width, y-margin/2, css.String(), body.String())
	if err := os.WriteFile(filepath.Join("..", "docs", "captures", name), []byte(svg), 0o644); err != nil {
		t.Fatal(err)
	}
}

// story returns the frames to draw, and how many lines they have at most.
func (x *terminal) story() (out []frame, rows int) {
	seen := x.seen()
	every := (len(seen) + framesMax - 1) / framesMax
	for i, f := range seen {
		if i%every == 0 || i == len(seen)-1 {
			out = append(out, f)
			rows = max(rows, strings.Count(f.text, "\n")+1)
		}
	}
	return out, rows
}
