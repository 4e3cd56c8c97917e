package test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/crc32c"
)

// TestFirstMinutes is what README tells a newcomer, and then the power fails.
func TestFirstMinutes(t *testing.T) {
	t.Parallel()
	c := newDev(t)
	dir, do := t.TempDir(), c.do
	local := filepath.Join(dir, "file")
	data := make([]byte, 5<<20)
	rand.Read(data)
	if err := os.WriteFile(local, data, 0o644); err != nil {
		t.Fatal(err)
	}
	do(0, "", "put", local, "/file")
	do(0, "", "mkdir", "-p", "/a/b")
	do(0, "", "mv", "/file", "/a/b/")
	do(0, "hello\n", "append", "--create", "/log")
	if got := do(0, "world\n", "append", "/log"); got != "6\n" {
		t.Errorf("the second record begins at %q", got)
	}
	c.kill()
	c.up()
	do(0, "", "get", "/a/b/file", filepath.Join(dir, "copy"))
	if got, err := os.ReadFile(filepath.Join(dir, "copy")); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the file came back differently: %v", err)
	}
	if got := do(0, "", "cat", "/log"); got != "hello\nworld\n" {
		t.Errorf("the log has %q", got)
	}
	if got := do(0, "", "tail", "-c", "6", "/log"); got != "world\n" {
		t.Errorf("its tail is %q", got)
	}
	for _, wrong := range []struct {
		code int
		says string
		args []string
	}{
		{2, "needs a local file and a path", []string{"put", "x"}},
		{2, "quarry help", []string{"putt"}},
		{2, "unknown flag", []string{"ls", "--nothing"}},
		{2, `".." cannot be names`, []string{"mkdir", "/a/.."}},
		{3, "/nowhere", []string{"cat", "/nowhere"}},
		{3, "local file", []string{"put", "/no/such/file", "/x"}},
		{4, "not empty", []string{"rm", "/a"}},
		{4, "/a/b", []string{"cat", "/a/b"}},
		{4, "--force", []string{"get", "/log", local}},
	} {
		if out := do(wrong.code, "", wrong.args...); !strings.Contains(out, wrong.says) {
			t.Errorf("quarry %v says %q, without %q", wrong.args, out, wrong.says)
		}
	}
	do(0, "", "rm", "/a/b/file")
	do(3, "", "stat", "/a/b/file")
}

// put stores random bytes and returns their checksum.
func (s *system) put(path string, n int) [32]byte {
	s.t.Helper()
	data := make([]byte, n)
	rand.Read(data)
	if _, err := s.fs.Put(s.ctx, path, bytes.NewReader(data), client.PutOptions{Size: int64(n)}); err != nil {
		s.t.Fatal(err)
	}
	return sha256.Sum256(data)
}

func (s *system) check(path string, want [32]byte) {
	s.t.Helper()
	if sha256.Sum256(readAll(s.t, s, path)) != want {
		s.t.Errorf("%s reads back differently", path)
	}
}

// TestServerLosesItsFolder empties the folder of a chunk server: its replicas are made anew.
func TestServerLosesItsFolder(t *testing.T) {
	t.Parallel()
	s := newSystem(t, options{masterArgs: []string{"--dead-after", "3s"}})
	sum := s.put("/file", 150<<20)
	victim := s.servers[0]
	victim.kill()
	if err := os.RemoveAll(filepath.Join(s.dir, "s1")); err != nil {
		t.Fatal(err)
	}
	s.eventually("copies elsewhere", 90*time.Second, func() bool {
		out, _ := s.run("", "admin", "status", "--json")
		return strings.Contains(out, `"UnderCopied":0,"Repairing":0`) && !strings.Contains(out, `"Chunks":0,"OpenChunks":0,"Missing":0,"UnderCopied":0,"Repairing":0,"Suspect":0}]`)
	})
	s.check("/file", sum)
	victim.start()
	s.eventually("five servers, one of them gone for good", time.Minute, func() bool {
		out, _ := s.run("", "admin", "status")
		return strings.Count(out, "rack-1") == 2
	})
	s.check("/file", sum)
}

// TestFlippedBit breaks a bit in two of the three replicas of a chunk, while the third cannot
// be reached: no broken byte is returned, each is read from the other replica, and the
// broken replicas are reported and replaced.
func TestFlippedBit(t *testing.T) {
	t.Parallel()
	s := newSystem(t, options{})
	sum := s.put("/file", 60<<20)
	var holders []int
	for i := range s.servers {
		files, err := filepath.Glob(filepath.Join(s.dir, "s"+strconv.Itoa(i+1), "chunks", "*", "????????????????"))
		if err != nil {
			t.Fatal(err)
		}
		if len(files) != 1 {
			continue
		}
		holders = append(holders, i)
		if n := len(holders); n < 3 {
			flip(t, files[0], int64(n))
		}
	}
	if len(holders) != 3 {
		t.Fatalf("%d servers have a replica", len(holders))
	}
	good := s.servers[holders[2]]
	good.kill()
	s.check("/file", sum)
	good.start()
	s.eventually("the report of a corrupt replica", time.Minute, func() bool {
		for _, m := range s.masters {
			if b, err := os.ReadFile(m.log); err == nil && bytes.Contains(b, []byte("corrupt=true")) {
				return true
			}
		}
		return false
	})
	s.eventually("three copies again", 90*time.Second, func() bool {
		out, _ := s.run("", "admin", "status", "--json")
		return strings.Contains(out, `"Missing":0,"UnderCopied":0,"Repairing":0`)
	})
	s.healthy()
	s.check("/file", sum)
}

// flip changes one bit of a file, at so many quarters of it.
func flip(t *testing.T, name string, quarters int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	at := info.Size() * quarters / 4
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// TestFileLargerThanAnyDisk stores a file that no server could hold.
func TestFileLargerThanAnyDisk(t *testing.T) {
	t.Parallel()
	quota := 256 << 20
	s := newSystem(t, options{servers: 8, serverArgs: []string{"--quota", strconv.Itoa(quota)}})
	source, err := toolchain()
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(source); err != nil || info.Size() <= int64(quota) {
		t.Fatalf("the file is no larger than a disk: %v", err)
	}
	if out, code := s.run("", "put", source, "/large"); code != 0 {
		t.Fatalf("put: %s", out)
	}
	copied := filepath.Join(s.dir, "large")
	if out, code := s.run("", "get", "/large", copied); code != 0 {
		t.Fatalf("get: %s", out)
	}
	if fileSum(t, copied) != fileSum(t, source) {
		t.Error("it came back differently")
	}
}

func fileSum(t *testing.T, name string) [32]byte {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		t.Fatal(err)
	}
	return [32]byte(sum.Sum(nil))
}

// TestFullDisks fills all disks: the error says so, nothing is lost, and more servers help.
func TestFullDisks(t *testing.T) {
	t.Parallel()
	s := newSystem(t, options{servers: 3, serverArgs: []string{"--quota", strconv.Itoa(256 << 20)}})
	sum := s.put("/kept", 10<<20)
	source, err := toolchain()
	if err != nil {
		t.Fatal(err)
	}
	out, code := s.run("", "put", source, "/large")
	if code != 8 || !strings.Contains(out, "no space") || !strings.Contains(out, "add disks") {
		t.Errorf("exit code %d: %s", code, out)
	}
	if _, code := s.run("", "stat", "/large"); code != 3 {
		t.Errorf("a part of the file is visible: exit code %d", code)
	}
	s.check("/kept", sum)
	for n := 4; n <= 6; n++ {
		s.addServer(n)
	}
	s.healthy()
	if out, code := s.run("", "put", source, "/large"); code != 0 {
		t.Errorf("with more servers: %s", out)
	}
	s.check("/kept", sum)
}

// TestWipedMaster wipes a master: it is refused by name, and comes back under a new id.
func TestWipedMaster(t *testing.T) {
	t.Parallel()
	s := newSystem(t, options{servers: 3})
	sum := s.put("/file", 3<<20)
	victim := s.masters[1]
	victim.kill()
	if err := os.RemoveAll(filepath.Join(s.dir, "m2")); err != nil {
		t.Fatal(err)
	}
	victim.start()
	if out, code := s.run("", "mkdir", "/while-it-waits"); code != 0 {
		t.Errorf("mkdir with two masters: %s", out)
	}
	if out, code := s.run("", "admin", "status"); code == 0 || !strings.Contains(out, "SILENT") {
		t.Errorf("a wiped master counts as alive: %s", out)
	}
	out, code := s.run("", "admin", "master", "replace", "--gone", "2", "--by", victim.address)
	if code != 0 || !strings.Contains(out, "node 4") {
		t.Fatalf("replace: exit code %d: %s", code, out)
	}
	s.healthy()
	// The new one counts: with another master dead, the other two are a majority.
	s.masters[0].kill()
	s.eventually("a name while a master is dead", time.Minute, func() bool {
		_, code := s.run("", "mkdir", "-p", "/with-the-new-one")
		return code == 0
	})
	s.check("/file", sum)
}

// TestMistakes has operators do what must be refused by name.
func TestMistakes(t *testing.T) {
	t.Parallel()
	s := newSystem(t, options{masters: 1, servers: 1})
	other := newSystem(t, options{masters: 1, servers: 1})
	refused := func(what, says string, args ...string) {
		t.Helper()
		p := &process{t: t, name: what, args: args, log: filepath.Join(t.TempDir(), "log")}
		p.start()
		if out := p.ends(30 * time.Second); !strings.Contains(out, says) {
			t.Errorf("%s: it says %q, without %q", what, out, says)
		}
	}
	m, c := filepath.Join(s.dir, "m1"), filepath.Join(s.dir, "s1")
	refused("a second master on a folder", "another process", "master", "--dir", m, "--listen", freeAddress(t))
	refused("a second chunk server on a folder", c, "chunkserver", "--masters", s.addresses()[0], "--dir", c, "--listen", freeAddress(t))
	refused("an address in use", "is another process running there", "master", "--dir", t.TempDir(), "--listen", s.addresses()[0])
	s.servers[0].kill()
	refused("a chunk server of another cluster", "cluster", "chunkserver", "--masters", other.addresses()[0], "--dir", c, "--listen", freeAddress(t))
	edit(t, filepath.Join(c, "FORMAT"), "quarry disk format 1", "quarry disk format 2")
	refused("a disk of a newer format", "format 2", "chunkserver", "--masters", s.addresses()[0], "--dir", c, "--listen", freeAddress(t))
	if out, code := s.run("", "admin", "init"); code != 0 {
		t.Errorf("init again: %s", out)
	}
	both := s.addresses()[0] + "," + other.addresses()[0]
	if out, code := s.run("", "admin", "init", "--masters", both); code != 4 || !strings.Contains(out, "another cluster") && !strings.Contains(out, "other masters") {
		t.Errorf("init of masters of two clusters: exit code %d: %s", code, out)
	}
	s.masters[0].kill()
	newerMaster(t, filepath.Join(m, "cluster"))
	refused("a master's folder of a newer format", "format version 2", "master", "--dir", m, "--listen", freeAddress(t))
}

// newerMaster makes a master's file say that a later release wrote it; docs/formats.md has
// its bytes.
func newerMaster(t *testing.T, name string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(b, []byte("QUARRYCL\x08\x01")) {
		t.Fatalf("%s begins with %q", name, b[:10])
	}
	b[9] = 2
	end := len(b) - 4
	binary.LittleEndian.PutUint32(b[end:], crc32c.Checksum(b[:end]))
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func edit(t *testing.T, name, from, to string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, bytes.Replace(b, []byte(from), []byte(to), 1), 0o644); err != nil {
		t.Fatal(err)
	}
}
