package test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestCommands runs the scripts of testdata/cli against one cluster: what people type, and all
// that they see. Each script has a directory of the cluster to itself, which has its name.
// -rewrite writes what was seen into the scripts.
func TestCommands(t *testing.T) {
	t.Parallel()
	c := newDev(t)
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "cli"),
		RequireExplicitExec: true,
		UpdateScripts:       *rewrite,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", filepath.Dir(program)+string(filepath.ListSeparator)+os.Getenv("PATH"))
			e.Setenv("QUARRY_MASTERS", c.masters)
			e.Setenv("TZ", "UTC")
			e.Setenv("XDG_CONFIG_HOME", e.WorkDir)
			e.Setenv("XDG_STATE_HOME", filepath.Join(e.WorkDir, "state"))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"fails": fails,
		},
	})
}

// fails runs a command that is to end with an exit code other than 0: fails CODE PROGRAM ARGUMENT…
func fails(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: fails CODE PROGRAM ARGUMENT…")
	}
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	code := 0
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("the exit code is %d, not %s", code, args[0])
	}
}

// TestInterrupt ends transfers by a signal: at once, with nothing under the name and nothing beside
// it, but what --resume keeps.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	c := newDev(t)
	dir := t.TempDir()
	start := func(args ...string) (*exec.Cmd, io.WriteCloser) {
		t.Helper()
		cmd := exec.Command(program, args...)
		cmd.Env = append(os.Environ(), "QUARRY_MASTERS="+c.masters)
		cmd.Dir = dir
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, in
	}
	interrupt := func(cmd *exec.Cmd) {
		t.Helper()
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 130 {
			t.Errorf("%v: exit code %d", cmd.Args, code)
		}
	}
	cmd, in := start("put", "-", "/stdin")
	if _, err := in.Write(make([]byte, 1<<20)); err != nil { // more than a pipe holds: somebody reads
		t.Fatal(err)
	}
	interrupt(cmd) // though its input goes on
	in.Close()
	c.do(3, "", "stat", "/stdin")

	local := filepath.Join(dir, "local")
	if err := os.WriteFile(local, make([]byte, 65<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	c.do(0, "", "put", local, "/big")
	parts := func() []string {
		found, _ := filepath.Glob(filepath.Join(dir, ".got.part-*"))
		return found
	}
	for _, flags := range [][]string{nil, {"--resume"}} {
		cmd, in := start(append([]string{"get", "--limit", "1M", "/big", "got"}, flags...)...)
		(&system{t: t}).eventually("a part", time.Minute, func() bool {
			p := parts()
			if len(p) == 0 {
				return false
			}
			info, err := os.Stat(p[0])
			return err == nil && info.Size() > 0
		})
		interrupt(cmd)
		in.Close()
		if got := len(parts()); got != len(flags) {
			t.Errorf("%v: %d parts are left", flags, got)
		}
		if _, err := os.Stat(filepath.Join(dir, "got")); err == nil {
			t.Errorf("%v: it is there in part", flags)
		}
	}
	c.do(0, "", "get", "--resume", "/big", filepath.Join(dir, "got"))
	if info, err := os.Stat(filepath.Join(dir, "got")); err != nil || info.Size() != 65<<20 || len(parts()) != 0 {
		t.Errorf("%v, %v; left: %v", info, err, parts())
	}
}
