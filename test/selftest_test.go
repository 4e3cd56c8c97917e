package test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quarryfs/quarry/chaos"
)

// selftest runs "quarry selftest", with more in its environment, and returns its report, its page
// and its exit code.
func selftest(t *testing.T, binary string, env []string, args ...string) (report *chaos.Report, page string, code int) {
	t.Helper()
	dir := t.TempDir()
	page = filepath.Join(dir, "page.html")
	cmd := exec.CommandContext(t.Context(), binary, append([]string{"selftest", "--json", "--dir", filepath.Join(dir, "cluster"), "--html", page}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	var out, told bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &told
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	report = new(chaos.Report)
	if err := json.Unmarshal(out.Bytes(), report); err != nil {
		t.Fatalf("the report cannot be read: %v\n%s%s", err, out.String(), told.String())
	}
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	return report, string(b), cmd.ProcessState.ExitCode()
}

// wellFormed reads a page to its end, as strictly as HTML allows.
func wellFormed(t *testing.T, page string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(page))
	d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	open := 0
	for {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("the page is not well-formed: %v", err)
		}
		switch token.(type) {
		case xml.StartElement:
			open++
		case xml.EndElement:
			open--
		}
	}
	if open != 0 {
		t.Errorf("%d elements of the page are left open", open)
	}
	for _, far := range []string{"http://", "https://", "<script", "@import", "url("} {
		if strings.Contains(page, far) {
			t.Errorf("the page has %q: it must need nothing else", far)
		}
	}
}

// TestSelftest breaks a cluster in all ways for a quarter of a minute: no promise is broken,
// programs and people are told, and nothing is left behind.
func TestSelftest(t *testing.T) {
	t.Parallel()
	report, page, code := selftest(t, program, nil, "--duration", "15s", "--seed", "4711")
	for _, v := range report.ViolationList {
		t.Errorf("%s: %s: %s", v.Rule, v.Subject, v.Text)
	}
	for _, c := range report.Checks {
		if c.Verdict != chaos.Clean {
			t.Errorf("check %s: %s %s", c.Name, c.Verdict, c.Reasons)
		}
	}
	if code != 0 || report.Verdict != chaos.Clean || report.Seed != 4711 || report.Faults < 3 || report.Acknowledged < 100 || report.Interrupted {
		t.Errorf("exit code %d, %+v", code, report)
	}
	wellFormed(t, page)
	if !strings.Contains(page, "4711") || !strings.Contains(page, "Every promise was kept") {
		t.Error("the page does not tell the seed and the verdict")
	}
}

// TestSelftestInterrupted ends a run early: it is healed and judged all the same, and neither
// processes nor its folder stay.
func TestSelftestInterrupted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cluster := filepath.Join(dir, "cluster")
	cmd := exec.CommandContext(t.Context(), program, "selftest", "--duration", "10m", "--faults", "freeze,kill", "--dir", cluster, "--html", filepath.Join(dir, "page.html"))
	var out bytes.Buffer
	cmd.Stdout = &out
	told, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said []byte
	buf := make([]byte, 4096)
	for deadline := time.Now().Add(time.Minute); !strings.Contains(string(said), "operations"); {
		n, err := told.Read(buf)
		if said = append(said, buf[:n]...); err != nil || time.Now().After(deadline) {
			t.Fatalf("it does not begin: %v\n%s", err, said)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, told) // to its end
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if !strings.Contains(out.String(), "EVERY PROMISE WAS KEPT") {
		t.Errorf("it says\n%s", out.String())
	}
	if _, err := os.Stat(cluster); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its folder stays: %v", err)
	}
}

// TestSelftestRefusesNonsense: what cannot be run is refused before anything is begun.
func TestSelftestRefusesNonsense(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"there is no such fault":   {"--faults", "kill,earthquake"},
		"there can be 1, 3 or 5":   {"--masters-count", "2"},
		"1 to 16 chunk servers":    {"--servers-count", "0"},
		"it can be 1s to 24h":      {"--duration", "1ms"},
		"it must be empty":         {"--dir", full},
		"selftest takes no argume": {"now"},
	} {
		out, code := runBinary(t, "", "", append([]string{"selftest"}, args...)...)
		if code == 0 || !strings.Contains(out, want) {
			t.Errorf("%q: code %d, %s", args, code, out)
		}
	}
	if _, err := os.Stat(filepath.Join(full, "precious")); err != nil {
		t.Error(err)
	}
}
