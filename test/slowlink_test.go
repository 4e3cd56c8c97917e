package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/quarryfs/quarry/chaos"
	"github.com/quarryfs/quarry/clock"
)

// TestSlowLink puts many files at a time over a link that takes far longer for them than a server may be silent, and
// gets them again: as many bytes are carried as the files have, and not several times as many, because what
// waits in the link is taken for lost and sent once more.
func TestSlowLink(t *testing.T) {
	t.Parallel()
	if !isolated(t, unix.CLONE_NEWNET, "ip", "tc", "nft") {
		return
	}
	network, err := newNamespaces()
	if err != nil {
		t.Skipf("the network cannot be made: %v", err)
	}
	files, size, rate := 64, 256<<10, int64(1e6)
	if long() {
		size, rate = 4<<20, 2e6
	}
	dir := t.TempDir()
	c, err := chaos.StartCluster(t.Context(), chaos.ClusterConfig{
		Program: program, Dir: dir, Network: network, Clock: clock.System(), Key: []byte("a key of this test's cluster"),
		Masters: 1, ServerArgs: []string{"--idle-seal", "1m"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, _, err := network.Add("user"); err != nil {
		t.Fatal(err)
	}
	cable := network.nodes["user"].cable()
	for _, end := range [][]string{{"tc", "qdisc", "%", "dev", cable, "root"}, {"tc", "-netns", "user", "qdisc", "%", "dev", "eth0", "root"}} {
		if err := throttle(rate, end); err != nil {
			t.Fatal(err)
		}
	}
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range files {
		if err := os.WriteFile(filepath.Join(tree, fmt.Sprintf("f%d", i)), noise(i, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) {
		args = append([]string{"--masters", strings.Join(c.Addresses(), ","), "--key-file", filepath.Join(dir, "cluster.key")}, args...)
		got, given := carried(t, cable)
		began := time.Now()
		if out, err := network.Command("user", program, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", args[4], err, out)
		}
		gotNow, givenNow := carried(t, cable)
		n, all := max(gotNow-got, givenNow-given), int64(files)*int64(size)
		t.Logf("%s: %d bytes carried for %d, %v where they take %v", args[4], n, all,
			time.Since(began).Round(100*time.Millisecond), time.Duration(float64(all)/float64(rate)*1e9).Round(100*time.Millisecond))
		if n > all*5/4 {
			t.Errorf("%s: %d bytes were carried for %d", args[4], n, all)
		}
	}
	back := filepath.Join(dir, "back")
	run("put", "--recursive", tree, "/tree")
	run("get", "--recursive", "/tree", back)
	for i := range files {
		got, err := os.ReadFile(filepath.Join(back, fmt.Sprintf("f%d", i)))
		if err != nil || !bytes.Equal(got, noise(i, size)) {
			t.Errorf("f%d came back with other bytes (%v)", i, err)
		}
	}
}

// noise is the bytes of a file, which nothing can shorten.
func noise(file, size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(file)}).Read(b)
	return b
}

// carried returns how many bytes the bridge's end of a cable has got and given.
func carried(t *testing.T, cable string) (got, given int64) {
	t.Helper()
	text, err := exec.Command("ip", "-json", "-statistics", "link", "show", "dev", cable).Output()
	var links []struct {
		Stats64 struct{ RX, TX struct{ Bytes int64 } }
	}
	if err == nil {
		err = json.Unmarshal(text, &links)
	}
	if err != nil || len(links) != 1 {
		t.Fatalf("%v: %s", err, text)
	}
	return links[0].Stats64.RX.Bytes, links[0].Stats64.TX.Bytes
}
