package test

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/quarryfs/quarry/rpc/rpctest"
)

// TestTLS runs a whole cluster under TLS: who has a certificate works as ever, who has none is told
// what is missing, and the cluster is measured.
func TestTLS(t *testing.T) {
	t.Parallel()
	authority := rpctest.NewAuthority(t)
	server, own := authority.Issue(t.TempDir(), "127.0.0.1", time.Hour), authority.Issue(t.TempDir(), "anybody", time.Hour)
	flags := func(c, k, a string) []string { return []string{"--tls-cert", c, "--tls-key", k, "--tls-ca", a} }
	client := flags(own.Certificate, own.Key, own.Authority)
	d := startDev(t, client, flags(server.Certificate, server.Key, server.Authority)...)
	do := func(want int, stdin string, args ...string) string {
		return d.do(want, stdin, append(args, client...)...)
	}
	content := strings.Repeat("a line of a file\n", 1<<16)
	do(0, content, "put", "-", "/a")
	if got := do(0, "", "cat", "/a"); got != content {
		t.Errorf("%d bytes came back of %d", len(got), len(content))
	}
	d.healthy()
	if out, code := runBinary(t, d.masters, "", "ls", "/"); code == 0 || !strings.Contains(out, "under TLS only") {
		t.Errorf("without a certificate: exit code %d, %s", code, out)
	}
	args := append([]string{"bench", "write", "--bytes", "100000", "--runs", "1", "--processes", "2", "--dir", t.TempDir()}, flags(server.Certificate, server.Key, server.Authority)...)
	if out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil {
		t.Errorf("bench: %v: %s", err, out)
	}
}
