package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/cluster"
	"github.com/quarryfs/quarry/cluster/clustertest"
)

func TestModes(t *testing.T) {
	for _, test := range []struct {
		mode      string
		from, got uint32
	}{
		{"644", 0o777, 0o644}, {"0", 0o777, 0}, {"07777", 0, 0o7777}, {"4755", 0, 0o4755},
		{"u+x", 0o644, 0o744}, {"+x", 0o644, 0o755}, {"a-w", 0o666, 0o444}, {"go=", 0o777, 0o700}, {"go=r", 0o4770, 0o4744},
		{"u=rw,g=r,o=", 0o7777, 0o640}, {"u+s", 0o755, 0o4755}, {"g+s", 0o755, 0o2755}, {"+t", 0o777, 0o1777}, {"ug-s,o-t", 0o7777, 0o777},
		{"u-x,u+x", 0o100, 0o100}, {"o+t,u+t", 0, 0o1000},
	} {
		change, err := parseMode(test.mode)
		if err != nil {
			t.Errorf("%s: %v", test.mode, err)
			continue
		}
		if got := change(test.from); got != test.got {
			t.Errorf("%s of %#o is %#o, want %#o", test.mode, test.from, got, test.got)
		}
	}
	for _, bad := range []string{"", "8", "17777", "-1", "x", "u", "u+q", "z+r", "u+r,", "u+r g+r", "+-r", "0x1ff", "99999999999999999999"} {
		if _, err := parseMode(bad); err == nil {
			t.Errorf("%q is a mode", bad)
		}
	}
}

func TestOwners(t *testing.T) {
	text := func(id *uint32) string {
		if id == nil {
			return "-"
		}
		return fmt.Sprint(*id)
	}
	for s, want := range map[string]string{"7": "7 -", "7:8": "7 8", ":8": "- 8", "7:": "7 -", "4294967295:0": "4294967295 0", "root:root": "0 0"} {
		got, err := parseOwner(s)
		if err != nil || text(got.UID)+" "+text(got.GID) != want {
			t.Errorf("%s is %s %s, %v", s, text(got.UID), text(got.GID), err)
		}
	}
	for _, bad := range []string{"", ":", "-1", "4294967296", "nobody-has-this-name", "0:nobody-has-this-name", "0:0:0"} {
		if got, err := parseOwner(bad); err == nil {
			t.Errorf("%q is %+v", bad, got)
		}
	}
}

func TestTimes(t *testing.T) {
	want := time.Date(2024, 5, 1, 12, 0, 0, 0, time.Local)
	for _, s := range []string{want.Format(time.RFC3339), "2024-05-01 12:00:00"} {
		if got, err := parseTime(s); err != nil || !got.Equal(want) {
			t.Errorf("%s is %v, %v", s, got, err)
		}
	}
	if got, err := parseTime("2024-05-01"); err != nil || !got.Equal(want.Add(-12*time.Hour)) {
		t.Errorf("a day is %v, %v", got, err)
	}
	for _, bad := range []string{"", "yesterday", "2024-13-01", "1714564800"} {
		if _, err := parseTime(bad); err == nil {
			t.Errorf("%q is a time", bad)
		}
	}
}

// The commands on a cluster, one after the other.
func TestAttributes(t *testing.T) {
	c := clustertest.StartWith(t, cluster.DevOptions{Masters: 1, Servers: 1, Shards: 2})
	run := func(code int, args ...string) {
		t.Helper()
		root := rootCommand()
		root.SetArgs(append([]string{"--masters", strings.Join(c.Masters, ",")}, args...))
		if err := root.ExecuteContext(t.Context()); code == 0 && err != nil || code != 0 && exitCode(err) != code {
			t.Errorf("quarry %v: %v", args, err)
		}
	}
	is := func(path string, mode, uid, gid uint32, at time.Time) {
		t.Helper()
		info, err := c.Stat(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if a := info.Attr; a.Mode != mode || a.UID != uid || a.GID != gid || !at.IsZero() && !info.ModTime().Equal(at) {
			t.Errorf("%s: %o, of %d:%d, %v; want %o, %d:%d, %v", path, a.Mode, a.UID, a.GID, info.ModTime(), mode, uid, gid, at)
		}
	}
	uid, gid := uint32(os.Getuid()), uint32(os.Getgid())
	at := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	run(0, "mkdir", "-p", "/a/b")
	run(0, "touch", "--date", at.Format(time.RFC3339), "/a/b/f", "/a/b/g", "/a")
	is("/a/b/f", 0o644, uid, gid, at)
	run(0, "touch", "-c", "/a/none")
	run(3, "stat", "/a/none")
	run(0, "chmod", "-r", "o+w,g-r", "/a")
	is("/a", 0o717, uid, gid, at)
	is("/a/b", 0o717, uid, gid, time.Time{})
	is("/a/b/f", 0o606, uid, gid, at)
	run(0, "chown", "12:34", "/a/b/f")
	run(0, "chown", "-r", ":56", "/a/b")
	is("/a/b/f", 0o606, 12, 56, at)
	is("/a/b/g", 0o606, uid, 56, at)
	run(0, "touch", "/a/b/f")
	if info, err := c.Stat(t.Context(), "/a/b/f"); err != nil || info.ModTime().Year() < 2020 {
		t.Errorf("touched, it is of %v, %v", info.ModTime(), err)
	}

	dir := t.TempDir()
	local, copied := filepath.Join(dir, "local"), filepath.Join(dir, "copied")
	if err := os.WriteFile(local, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(local, os.ModeSetuid|0o751); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(local, at, at); err != nil {
		t.Fatal(err)
	}
	run(0, "put", "--preserve", local, "/kept")
	is("/kept", 0o4751, uid, gid, at)
	run(0, "get", "--preserve", "/kept", copied)
	if info, err := os.Stat(copied); err != nil || info.Mode() != 0o751 || !info.ModTime().Equal(at) {
		t.Errorf("it came back as %v, %v", info, err)
	}
	for _, wrong := range [][]string{{"chmod", "999", "/a"}, {"chown", "", "/a"}, {"touch", "-d", "never", "/a"}, {"chmod", "644"}} {
		run(2, wrong...)
	}
	for _, missing := range [][]string{{"chmod", "644", "/none"}, {"chown", "1", "/none"}, {"touch", "/none/x"}} {
		run(3, missing...)
	}
	if _, err := c.SetAttr(t.Context(), "/a", client.AttrChange{}); err != nil {
		t.Errorf("nothing set: %v", err)
	}
}
