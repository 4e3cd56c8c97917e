package test

import (
	"net"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// dev is a whole cluster in one process, as README starts it.
type dev struct {
	*process
	masters string // its first master's address
}

// newDev starts a cluster on an empty folder. It is killed when the test ends.
func newDev(t *testing.T) *dev {
	t.Helper()
	dir, port := t.TempDir(), freePorts(t, 7)
	d := &dev{
		process: &process{t: t, name: "dev", log: filepath.Join(dir, "dev.log"), args: []string{"dev", "--dir", filepath.Join(dir, "d"), "--port", strconv.Itoa(port)}},
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
		_, code := runBinary(d.t, d.masters, "", "ls", "/")
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
