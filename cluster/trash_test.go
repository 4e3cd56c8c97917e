package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
)

// trashed returns the paths of what is in the trash.
func trashed(ctx context.Context, t *testing.T, f *client.FS, path string) (paths []string) {
	t.Helper()
	for r, err := range f.Trash(ctx, path) {
		if err != nil {
			t.Fatal(err)
		}
		if !r.Until.After(r.Removed) || r.Inode == 0 {
			t.Errorf("the trash has %+v", r)
		}
		paths = append(paths, r.Path)
	}
	slices.Sort(paths)
	return paths
}

// TestTrash removes and replaces files of every sort, wherever they live, and brings them back.
func TestTrash(t *testing.T) {
	t.Parallel()
	_, f, ctx := dev(t, 3)
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	put := func(path string, data []byte) quarry.Inode {
		t.Helper()
		info, err := f.Put(ctx, path, bytes.NewReader(data), client.PutOptions{})
		ok(err)
		return info.Attr.Inode
	}
	is := func(path string, data []byte) {
		t.Helper()
		if !bytes.Equal(readBack(ctx, t, f, path), data) {
			t.Errorf("%s reads back differently", path)
		}
	}
	near, far := "/near", "/far"
	ok(f.MkdirIn(ctx, near, 1))
	ok(f.MkdirIn(ctx, far, 4000))
	small, large := []byte("small"), randomBytes(3<<20, 1)
	first := put("/near/f", small)
	put("//near/f", large) // replaces it
	ok(f.Rename(ctx, "/near/f", "/far/f"))
	ok(f.Remove(ctx, "far/f"))
	_, err := f.Append(ctx, "/far/f", small)
	if !errors.Is(err, quarry.NotFound) {
		t.Errorf("append to a removed file: %v", err)
	}
	w, err := f.Create(ctx, "/far/log")
	ok(err)
	ok(w.Close())
	_, err = f.Append(ctx, "/far/log", small)
	ok(err)
	ok(f.Remove(ctx, "/far/log")) // its tail is open
	if got := trashed(ctx, t, f, "/far"); !slices.Contains(got, "/far/log") {
		t.Errorf("the trash has %q", got)
	}
	info, err := f.Undelete(ctx, "/far/log", client.UndeleteOptions{})
	ok(err)
	if info.Attr.Links != 1 {
		t.Errorf("it is back as %+v", info)
	}
	_, err = f.Append(ctx, "/far/log", []byte(" world"))
	ok(err)
	is("/far/log", []byte("small world"))

	_, err = f.Undelete(ctx, "/far/f", client.UndeleteOptions{To: "/near/new/f"})
	if !errors.Is(err, quarry.NotFound) {
		t.Errorf("into a directory that is missing: %v", err)
	}
	_, err = f.Undelete(ctx, "/far/f", client.UndeleteOptions{To: "/far/log"})
	if !errors.Is(err, quarry.Exists) {
		t.Errorf("over a file: %v", err)
	}
	_, err = f.Undelete(ctx, "/far/f", client.UndeleteOptions{To: "/near/new/f", Parents: true})
	ok(err)
	is("/near/new/f", large)
	_, err = f.Undelete(ctx, "/far/f", client.UndeleteOptions{})
	if !errors.Is(err, quarry.NotFound) {
		t.Errorf("a second time: %v", err)
	}
	_, err = f.Undelete(ctx, "/near/f", client.UndeleteOptions{Inode: first, To: "/far/f"})
	ok(err)
	is("/far/f", small)

	ok(f.RemoveNow(ctx, "/far/f"))
	ok(f.RemoveNow(ctx, "/near/new/f"))
	if got := trashed(ctx, t, f, "/"); len(got) != 0 {
		t.Errorf("the trash has %q", got)
	}
}

// TestUndeleteJustRemoved brings files back at once whose removal another shard has yet to hear of.
func TestUndeleteJustRemoved(t *testing.T) {
	t.Parallel()
	_, f, ctx := dev(t, 1)
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ok(f.MkdirIn(ctx, "/near", 1))
	ok(f.MkdirIn(ctx, "/far", 4000))
	for i := range 20 {
		name := fmt.Sprint("/file", i)
		_, err := f.Put(ctx, "/near"+name, strings.NewReader(name), client.PutOptions{})
		ok(err)
		ok(f.Rename(ctx, "/near"+name, "/far"+name))
		ok(f.Remove(ctx, "/far"+name))
		_, err = f.Undelete(ctx, "/far"+name, client.UndeleteOptions{})
		ok(err)
	}
}

// TestUndeleteAll removes a tree and brings it back, as it was last.
func TestUndeleteAll(t *testing.T) {
	t.Parallel()
	_, f, ctx := dev(t, 3)
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	files := map[string][]byte{}
	for i := range 300 {
		dir := fmt.Sprintf("/tree/%d/%d", i%5, i%7)
		ok(f.MkdirAll(ctx, dir))
		path := fmt.Sprintf("%s/file %d", dir, i)
		for n := range 1 + i%2 {
			data := []byte(fmt.Sprint(path, n))
			_, err := f.Put(ctx, path, bytes.NewReader(data), client.PutOptions{})
			ok(err)
			files[path] = data
		}
	}
	ok(f.MkdirAll(ctx, "/treehouse"))
	_, err := f.Put(ctx, "/treehouse/f", bytes.NewReader(nil), client.PutOptions{})
	ok(err)
	ok(f.RemoveAll(ctx, "/tree"))
	ok(f.RemoveAll(ctx, "/treehouse"))
	if n := len(trashed(ctx, t, f, "/tree")); n != 450 {
		t.Errorf("%d files are in the trash", n)
	}
	ok(f.MkdirAll(ctx, "/tree/0/0"))
	_, err = f.Put(ctx, "/tree/0/0/file 0", bytes.NewReader([]byte("another")), client.PutOptions{})
	ok(err)
	files["/tree/0/0/file 0"] = []byte("another")
	back, left, err := f.UndeleteAll(ctx, "/tree/")
	if err != nil || back != 299 || left != 1 {
		t.Errorf("%d are back, %d are not, %v", back, left, err)
	}
	for path, data := range files {
		if got := readBack(ctx, t, f, path); !bytes.Equal(got, data) {
			t.Errorf("%s has %q, not %q", path, got, data)
		}
	}
	if _, err := f.Stat(ctx, "/treehouse"); !errors.Is(err, quarry.NotFound) {
		t.Errorf("the treehouse: %v", err)
	}
}

// TestUndeleteAllOfALongPath removes a tree in which a path is longer than the trash keeps: that
// file does not come back under a part of its path, but when its number is named.
func TestUndeleteAllOfALongPath(t *testing.T) {
	t.Parallel()
	_, f, ctx := dev(t, 1)
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	half := strings.Repeat("/"+strings.Repeat("n", quarry.NameBytesMax), quarry.PathBytesMax/2/(quarry.NameBytesMax+1))
	for _, dir := range []string{"/upper" + half, "/lower" + half} {
		ok(f.MkdirAll(ctx, dir))
		_, err := f.Put(ctx, dir+"/file", strings.NewReader(dir[:6]), client.PutOptions{})
		ok(err)
	}
	ok(f.Rename(ctx, "/lower", "/upper"+half+"/lower"))
	ok(f.RemoveAll(ctx, "/upper"))
	back, left, err := f.UndeleteAll(ctx, "/upper")
	if err != nil || back != 1 || left != 1 {
		t.Errorf("%d files are back, %d are not, %v", back, left, err)
	}
	for r, err := range f.Trash(ctx, "/upper") {
		ok(err)
		_, err = f.Undelete(ctx, "/whole", client.UndeleteOptions{Inode: r.Inode})
		ok(err)
	}
	if got := readBack(ctx, t, f, "/whole"); string(got) != "/lower" {
		t.Errorf("the file with the long path has %q", got)
	}
}
