package test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTrashCommands is what people do who have removed the wrong file.
func TestTrashCommands(t *testing.T) {
	t.Parallel()
	c := newDev(t)
	dir, do := t.TempDir(), c.do
	is := func(path, want string) {
		t.Helper()
		if got := do(0, "", "cat", path); got != want {
			t.Errorf("%s has %q, not %q", path, got, want)
		}
	}
	local := filepath.Join(dir, "local")
	put := func(path, data string) {
		t.Helper()
		if err := os.WriteFile(local, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
		do(0, "", "put", local, path)
	}
	do(0, "", "mkdir", "-p", "/a/b")
	put("/a/b/f", "first")
	put("/a/b/f", "second")
	put("/a/g", strings.Repeat("g", 1<<20))
	do(0, "", "rm", "/a/b/f")
	list := do(0, "", "trash", "/a")
	if lines := strings.Split(strings.TrimSpace(list), "\n"); len(lines) != 3 || !strings.Contains(lines[0], "KEPT UNTIL") || !strings.HasSuffix(lines[2], "/a/b/f") || !strings.Contains(lines[2], "6 B") {
		t.Errorf("the trash is shown as\n%s", list)
	}
	var first struct{ Path, Inode, Until string }
	if err := json.Unmarshal([]byte(strings.Split(do(0, "", "trash", "--json", "/a/b/f"), "\n")[0]), &first); err != nil || first.Path != "/a/b/f" || first.Until == "" {
		t.Errorf("the trash as JSON: %+v, %v", first, err)
	}
	do(0, "", "undelete", "/a/b/f")
	is("/a/b/f", "second")
	if out := do(4, "", "undelete", "/a/b/f"); !strings.Contains(out, "file has this name") {
		t.Errorf("over a file: %s", out)
	}
	do(0, "", "undelete", "/a/b/f", "--inode", first.Inode, "--to", "/old/f", "--parents")
	is("/old/f", "first")
	if out := do(3, "", "undelete", "/a/b/f", "--to", "/x"); !strings.Contains(out, "quarry trash") {
		t.Errorf("what is not in the trash: %s", out)
	}
	do(2, "", "undelete", "/a/b/f", "--inode", "../7")
	do(2, "", "undelete", "-r", "/a", "--to", "/x")
	do(2, "", "undelete")
	do(3, "", "undelete", "-r", "/nothing")
	if out := do(3, "", "undelete", "-r", "--json", "/nothing"); !strings.Contains(out, `"back"`) {
		t.Errorf("nothing as JSON: %s", out)
	}

	do(0, "", "rm", "-r", "/a")
	c.kill()
	c.up()
	if out := do(0, "", "undelete", "-r", "/a"); !strings.Contains(out, "2 files are back") {
		t.Errorf("a tree: %s", out)
	}
	is("/a/b/f", "second")
	is("/a/g", strings.Repeat("g", 1<<20))

	do(0, "", "rm", "--now", "/old/f")
	put("/old/f", "once more")
	do(0, "", "rm", "/old/f")
	if out := do(0, "", "admin", "trash"); !strings.HasPrefix(out, "1 file, 9 B of one copy; ") {
		t.Errorf("one file in the trash: %s", out)
	}
	do(0, "", "undelete", "/old/f")
	do(0, "", "rm", "--now", "/a/g")
	do(3, "", "undelete", "/a/g")
	do(0, "", "admin", "trash", "--keep", "72h")
	if out := do(0, "", "admin", "trash"); !strings.HasPrefix(out, "0 files, ") || !strings.Contains(out, "72h0m0s") {
		t.Errorf("the trash in sum: %s", out)
	}
	if out := do(0, "", "admin", "trash", "--keep", "1s"); !strings.Contains(out, "1h0m0s") {
		t.Errorf("shorter than sessions live: %s", out)
	}
	do(2, "", "admin", "trash", "--keep", "0s")
	do(2, "", "admin", "trash", "--keep", "900000h")
	do(0, "", "rm", "/old/f")
	if out := c.healthy(); !strings.Contains(out, "The trash holds") {
		t.Errorf("the status: %s", out)
	}
}
