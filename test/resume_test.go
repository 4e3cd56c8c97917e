package test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestPutResume kills a put of a large file in the middle, by SIGKILL, and says the same again: it
// sends only what is missing, and the file has the bytes that it should have.
func TestPutResume(t *testing.T) {
	const chunk, size = 64 << 20, 3*64<<20 + 40<<20
	c := newDev(t)
	dir := t.TempDir()
	local, state := filepath.Join(dir, "local"), filepath.Join(dir, "state")
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	if err := os.WriteFile(local, data, 0o644); err != nil {
		t.Fatal(err)
	}
	c.do(0, "", "mkdir", "/d")
	(&system{t: t}).eventually("a cluster that knows all it can", time.Minute, func() bool {
		_, code := runBinary(t, c.masters, "", "chmod", "700", "/d")
		return code == 0
	})
	start := func() (cmd *exec.Cmd, out *bytes.Buffer) {
		t.Helper()
		cmd, out = exec.Command(program, "put", "--resume", "--json", local, "/d/big"), new(bytes.Buffer)
		cmd.Env = append(os.Environ(), "QUARRY_MASTERS="+c.masters, "XDG_STATE_HOME="+state)
		cmd.Stdout, cmd.Stderr = out, os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, out
	}
	ledgers := func() []string {
		found, _ := filepath.Glob(filepath.Join(state, "quarry", "put-*"))
		return found
	}
	noted := func() int {
		lines := -1
		for _, name := range ledgers() {
			text, _ := os.ReadFile(name)
			lines += bytes.Count(text, []byte("\n"))
		}
		return lines
	}
	first, _ := start()
	(&system{t: t}).eventually("a part", 5*time.Minute, func() bool { return noted() > 0 })
	second, _ := start() // while the first one is at it
	_ = second.Wait()
	if code := second.ProcessState.ExitCode(); code == 0 {
		t.Error("two puts of a file to a path go on at the same time")
	}
	_ = first.Process.Signal(syscall.SIGKILL)
	_ = first.Wait()
	c.do(3, "", "stat", "/d/big")
	parts, before := noted(), stored(t, c)

	last, out := start()
	if err := last.Wait(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var did struct {
		Action string
		Size   int64
	}
	if err := json.Unmarshal(out.Bytes(), &did); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	most, least := int64(size-parts*chunk), int64(size-parts*chunk)
	if parts > 0 && parts < 4 { // which parts they were is not known: the last one is smaller
		most = size - int64(parts-1)*chunk - 40<<20
	}
	t.Logf("%d of 4 parts were there; %d of %d bytes were sent by the second put", parts, did.Size, int64(size))
	if did.Size < max(least, 0) || did.Size > most {
		t.Errorf("%d bytes were sent, want %d to %d", did.Size, least, most)
	}
	if grown := stored(t, c) - before; grown > did.Size*3+3<<20 {
		t.Errorf("the disks of three servers have %d bytes more, though %d were sent", grown, did.Size)
	}
	if left := ledgers(); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	c.do(0, "", "get", "/d/big", filepath.Join(dir, "got"))
	got, err := os.ReadFile(filepath.Join(dir, "got"))
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("other bytes came back: %d, %v", len(got), err)
	}
}

// stored counts the bytes of chunks on the disks of a cluster, dropped ones included.
func stored(t *testing.T, c *dev) (n int64) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(filepath.Dir(c.log), "d"), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !bytes.Contains([]byte(p), []byte("chunks")) {
			return nil //nolint:nilerr // it was removed meanwhile
		}
		if info, err := d.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
