package test

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// dev is a whole cluster in one process, as README starts it.
type dev struct {
	*process
	masters string   // its first master's address
	reach   []string // more arguments of commands
}

// newDev starts a cluster on an empty folder. It is killed when the test ends.
func newDev(t *testing.T) *dev { return startDev(t, nil) }

// startDev is newDev with more arguments, and those with which commands reach the cluster.
func startDev(t *testing.T, reach []string, more ...string) *dev {
	t.Helper()
	dir, port := t.TempDir(), freePorts(t, 7)
	d := &dev{
		process: &process{t: t, name: "dev", log: filepath.Join(dir, "dev.log"), args: append([]string{"dev", "--dir", filepath.Join(dir, "d"), "--port", strconv.Itoa(port)}, more...)},
		reach:   reach,
		masters: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
	}
	t.Cleanup(func() { d.kill() })
	d.up()
	return d
}

// up starts the process and waits until the cluster answers.
func (d *dev) up() {
	d.t.Helper()
	d.start()
	(&system{t: d.t}).eventually("the cluster", time.Minute, func() bool {
		_, code := runBinary(d.t, d.masters, "", append([]string{"ls", "/"}, d.reach...)...)
		return code == 0
	})
}

// do runs a command, which is to end with an exit code, and returns what it has written.
func (d *dev) do(want int, stdin string, args ...string) string {
	d.t.Helper()
	out, code := runBinary(d.t, d.masters, stdin, args...)
	if code != want {
		d.t.Errorf("quarry %v: exit code %d, want %d: %s", args, code, want, out)
	}
	return out
}

// healthy waits until nothing is missing, and returns what the status then is.
func (d *dev) healthy() (status string) {
	d.t.Helper()
	(&system{t: d.t}).eventually("a healthy cluster", time.Minute, func() bool {
		var code int
		status, code = runBinary(d.t, d.masters, "", append([]string{"admin", "status"}, d.reach...)...)
		return code == 0
	}, func() string { return status })
	return status
}

// TestDevFolders checks what dev keeps and what it deletes.
func TestDevFolders(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "d")
	run := func(args ...string) (dir string, servers int, stop func()) {
		t.Helper()
		temp := t.TempDir()
		port := freePorts(t, 8)
		out := filepath.Join(temp, "dev.log")
		p := &process{t: t, name: "dev", log: out, args: append([]string{"dev", "--json", "--port", strconv.Itoa(port)}, args...)}
		p.start()
		t.Cleanup(p.kill)
		var said struct{ Dir, Masters, Servers any }
		(&system{t: t}).eventually("the cluster", time.Minute, func() bool {
			b, err := os.ReadFile(out)
			return err == nil && json.Unmarshal(b, &said) == nil
		})
		servers = len(said.Servers.([]any))
		return said.Dir.(string), servers, func() {
			t.Helper()
			p.signal(syscall.SIGTERM)
			if err := p.cmd.Wait(); err != nil {
				b, _ := os.ReadFile(out)
				t.Errorf("dev %v ended with %v: %s", args, err, b)
			}
			p.cmd = nil
		}
	}
	dir, servers, stop := run("--nodes", "1", "--dir", folder)
	stop()
	if dir != folder || servers != 1 {
		t.Errorf("%d servers on %s", servers, dir)
	}
	mark := filepath.Join(folder, "server-1", "mark")
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, stop = run("--nodes", "1", "--dir", folder, "--fresh")
	stop()
	if _, err := os.Stat(mark); err == nil {
		t.Error("--fresh has left what was there")
	}
	if err := os.WriteFile(filepath.Join(folder, "thesis"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := runBinary(t, "", "", "dev", "--dir", folder, "--fresh"); code != 4 || !strings.Contains(out, "thesis") {
		t.Errorf("--fresh in somebody's folder: %d, %s", code, out)
	}
	if _, err := os.Stat(filepath.Join(folder, "master-1")); err != nil {
		t.Error("--fresh has deleted in somebody's folder")
	}
	dir, _, stop = run("--nodes", "1")
	stop()
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s is left", dir)
	}
	dir, _, stop = run("--nodes", "1", "--keep")
	stop()
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("--keep: %v", err)
	}
	os.RemoveAll(dir)
	for _, bad := range [][]string{{"--nodes", "0"}, {"--nodes", "65"}, {"--fresh"}} {
		if out, code := runBinary(t, "", "", append([]string{"dev"}, bad...)...); code != 2 {
			t.Errorf("dev %v: %d, %s", bad, code, out)
		}
	}
}
