package test

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "write into docs/tour.md and testdata/cli what is seen")

const (
	tourPage  = "../docs/tour.md"
	tourPorts = "127.0.0.1:74" // how the addresses on the page begin
	tourMax   = 8 * time.Minute
)

// TestTour does what docs/tour.md says, command by command, in one shell in an empty folder, and
// compares all that is seen. The commands are those behind "$ " in blocks of the language "console";
// each has to succeed. The page begins before a block with <!-- until REGEXP --> if its reader is to
// look until something is so: the block's one command is run again until its output matches.
//
// What differs from run to run is known by its form (normal). Ports are mapped to free ones and back.
func TestTour(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(tourPage)
	if err != nil {
		t.Fatal(err)
	}
	steps, err := readTour(string(page))
	if err != nil {
		t.Fatal(err)
	}
	sh := newShell(t)
	differs := false
	for i := range steps {
		s := &steps[i]
		got := sh.run(s)
		if normal(got) == normal(s.output) {
			continue
		}
		differs = true
		if !*rewrite {
			t.Errorf("%s, line %d: $ %s\nhas written\n%s\nand not\n%s\n"+
				"if that is right: go test ./test -run Tour -rewrite", tourPage, s.line, s.command, normal(got), normal(s.output))
		}
		s.output = got
	}
	if *rewrite && differs {
		if err := os.WriteFile(tourPage, []byte(writeTour(string(page), steps)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// tourStep is one command of the page.
type tourStep struct {
	line     int // where the command is
	command  string
	output   string
	from, to int            // the lines of the output
	until    *regexp.Regexp // nil: it is run once
}

var (
	untilComment = regexp.MustCompile(`^<!-- until (.+) -->$`)
	consoleBlock = "```console"
)

// readTour returns the commands of a page.
func readTour(page string) (steps []tourStep, err error) {
	var until *regexp.Regexp
	inside := false
	for i, line := range strings.Split(page, "\n") {
		comment := untilComment.FindStringSubmatch(line)
		switch {
		case inside && line == "```":
			inside, until = false, nil
		case inside && strings.HasPrefix(line, "$ "):
			if until != nil && len(steps) > 0 && steps[len(steps)-1].until == until {
				return nil, fmt.Errorf("line %d: a block that is looked at again has one command", i+1)
			}
			steps = append(steps, tourStep{line: i + 1, command: line[2:], from: i + 1, to: i + 1, until: until})
		case inside && len(steps) == 0:
			return nil, fmt.Errorf("line %d: output without a command", i+1)
		case inside && strings.HasPrefix(line, "> ") && steps[len(steps)-1].from == steps[len(steps)-1].to:
			s := &steps[len(steps)-1]
			s.command += "\n" + line[2:]
			s.from, s.to = i+1, i+1
		case inside:
			s := &steps[len(steps)-1]
			s.output += line + "\n"
			s.to = i + 1
		case line == consoleBlock:
			inside = true
		case comment != nil:
			if until, err = regexp.Compile("(?m)" + comment[1]); err != nil {
				return nil, fmt.Errorf("line %d: %w", i+1, err)
			}
		}
	}
	if inside || len(steps) == 0 {
		return nil, fmt.Errorf("there is no command, or a block does not end")
	}
	return steps, nil
}

// writeTour returns the page with the outputs of steps.
func writeTour(page string, steps []tourStep) string {
	lines := strings.Split(page, "\n")
	for _, s := range slices.Backward(steps) {
		lines = slices.Replace(lines, s.from, s.to, strings.Split(strings.TrimSuffix(s.output, "\n"), "\n")...)
		if s.output == "" {
			lines = slices.Delete(lines, s.from, s.from+1)
		}
	}
	return strings.Join(lines, "\n")
}

// Forms of output that differ from run to run.
var (
	tourForms = []struct {
		form *regexp.Regexp
		word string
	}{
		{regexp.MustCompile(`\b[0-9a-f]{16,}\b`), "ID"},
		{regexp.MustCompile(`as node \d sees`), "as node N sees"},
		{regexp.MustCompile(`\b20\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\dZ?\b`), "TIME"},
		{regexp.MustCompile(`  \d+:\d+  `), " OWNER "},
		{regexp.MustCompile(`\b[0-9a-f]+\.[0-9a-f]+ +/`), "INODE  /"},
	}
	// statusRow is a line of the tables of "admin status": who leads what, and how full a disk is.
	statusRow = regexp.MustCompile(`(?m)^\d+ +127\.0\.0\.1:.* (alive|SILENT).*$|^(root|\d+)( +\d+){10}$`)
	statusVar = regexp.MustCompile(`127\.0\.0\.1:|root|never|\d+\.\d+ [KMGT]iB|\d+ ms ago|\d+s ago|\d+`)
	manyVars  = regexp.MustCompile(`#[# ]+`)
	// killed is the shell's word about its processes; a terminal shows another one.
	killed = regexp.MustCompile(`(?m)^bash: line \d+: +\d+ (Killed|Terminated).*\n`)
	spaces = regexp.MustCompile(` +`)
)

// normal returns an output without what differs from run to run.
func normal(s string) string {
	s = statusRow.ReplaceAllStringFunc(s, func(row string) string {
		return "ROW " + strings.Trim(manyVars.ReplaceAllString(statusVar.ReplaceAllString(row, "#"), "# "), "# ")
	})
	for _, f := range tourForms {
		s = f.form.ReplaceAllString(s, f.word)
	}
	return spaces.ReplaceAllString(s, " ")
}

// shell is one shell for a whole tour.
type shell struct {
	t     *testing.T
	in    io.Writer
	lines chan string
	end   <-chan time.Time
	ports string
}

const shellMark = "that is all of this command "

// newShell starts a shell in an empty folder. What it leaves running ends with it: when the test
// ends, by whatever, its standard input ends.
func newShell(t *testing.T) *shell {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("bash", "--noprofile", "--norc")
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + filepath.Dir(program) + string(filepath.ListSeparator) + os.Getenv("PATH"), "HOME=" + dir, "TZ=UTC", "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, seen, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = seen, seen
	if err := cmd.Start(); err != nil {
		t.Skipf("there is no bash: %v", err)
	}
	seen.Close()
	s := &shell{t: t, in: in, lines: make(chan string), end: time.After(tourMax), ports: tourFree(t)}
	ended := make(chan struct{})
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		close(ended)
		in.Close()
		_ = cmd.Wait()
		out.Close()
		if t.Failed() {
			showTourLogs(t, dir)
		}
	})
	go func() {
		defer close(s.lines)
		for r := bufio.NewReader(out); ; {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			select {
			case s.lines <- line:
			case <-ended:
				return
			}
		}
	}()
	fmt.Fprintln(in, "trap 'kill -KILL 0' EXIT")
	return s
}

// tourFree returns how addresses begin of which a hundred are free, as long as those on the page.
func tourFree(t *testing.T) string {
	t.Helper()
	for range 1000 {
		if first := 100 * (20 + rand.IntN(80)); free(first, 100) {
			return fmt.Sprintf("127.0.0.1:%d", first/100)
		}
	}
	t.Fatal("no free ports")
	return ""
}

// run carries out a step and returns its output.
func (s *shell) run(step *tourStep) string {
	s.t.Helper()
	for {
		out, code := s.once(step)
		switch {
		case step.until != nil && !step.until.MatchString(out):
			select {
			case <-time.After(100 * time.Millisecond):
			case <-s.end:
				s.t.Fatalf("%s, line %d: $ %s\nhas not come to match %q in %v, but is\n%s", tourPage, step.line, step.command, step.until, tourMax, out)
			}
			continue
		case code != 0:
			s.t.Fatalf("%s, line %d: $ %s\nended with exit code %d\n%s", tourPage, step.line, step.command, code, out)
		}
		return out
	}
}

// once runs a command and returns its output and exit code.
func (s *shell) once(step *tourStep) (output string, code int) {
	s.t.Helper()
	fmt.Fprintf(s.in, "%s\nprintf '%s%%d\\n' $?\n", strings.ReplaceAll(step.command, tourPorts, s.ports), shellMark)
	var b strings.Builder
	for {
		select {
		case line, ok := <-s.lines:
			if !ok {
				s.t.Fatalf("%s, line %d: $ %s\nhas ended the shell\n%s", tourPage, step.line, step.command, b.String())
			}
			before, last, done := strings.Cut(line, shellMark)
			b.WriteString(before)
			if !done {
				continue
			}
			code, err := strconv.Atoi(strings.TrimSpace(last))
			if err != nil {
				s.t.Fatal(err)
			}
			out := strings.ReplaceAll(b.String(), s.ports, tourPorts)
			return killed.ReplaceAllString(out, ""), code
		case <-s.end:
			s.t.Fatalf("%s, line %d: $ %s\ndoes not end\n%s", tourPage, step.line, step.command, b.String())
		}
	}
}

// showTourLogs prints the ends of the logs in the tour's folder.
func showTourLogs(t *testing.T, dir string) {
	logs, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	for _, name := range logs {
		if b, err := os.ReadFile(name); err == nil {
			t.Logf("--- %s\n%s", filepath.Base(name), b[max(0, len(b)-2000):])
		}
	}
}
