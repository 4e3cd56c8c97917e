package clienttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
)

// Run tests a FileSystem; it leaves everything below "/suite". It may run in a testing/synctest
// bubble.
func Run(t *testing.T, files client.FileSystem) {
	ctx := t.Context()
	must(t, files.Mkdir(ctx, "/suite"))
	for _, test := range []struct {
		name string
		run  func(*testing.T, context.Context, client.FileSystem)
	}{
		{"names", testNames}, {"create", testCreate}, {"put", testPut}, {"read", testRead}, {"append", testAppend}, {"tail", testTail},
		{"outgrown", testOutgrown}, {"attributes", testAttributes},
	} {
		must(t, files.Mkdir(ctx, "/suite/"+test.name))
		test.run(t, ctx, files)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// want fails unless err is of a kind.
func want(t *testing.T, err error, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("got %v, want %v", err, kind)
	}
}

// Bytes returns n bytes that depend on the seed.
func Bytes(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1], key[2] = byte(seed), byte(seed>>8), byte(seed>>16)
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b)
	return b
}

// ReadAll opens a file and reads all of it.
func ReadAll(t *testing.T, files client.FileSystem, path string) []byte {
	t.Helper()
	f, err := files.Open(t.Context(), path)
	must(t, err)
	defer f.Close()
	b, err := io.ReadAll(f)
	must(t, err)
	return b
}

func testNames(t *testing.T, ctx context.Context, files client.FileSystem) {
	const dir = "/suite/names"
	want(t, files.Mkdir(ctx, dir), fs.ErrExist)
	want(t, files.Mkdir(ctx, dir+"/a/b"), fs.ErrNotExist)
	must(t, files.MkdirAll(ctx, dir+"/a/b/c"))
	must(t, files.MkdirAll(ctx, dir+"/a/b/c"))
	for _, name := range []string{"z", "y", "x"} {
		if _, err := files.Put(ctx, dir+"/"+name, bytes.NewReader([]byte(name)), client.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	entries, more, err := files.List(ctx, dir, "a", 2)
	must(t, err)
	if !more || len(entries) != 2 || entries[0].Name() != "x" || entries[1].Path != dir+"/y" {
		t.Errorf("listed %v, more %v", entries, more)
	}
	entries, more, err = files.List(ctx, dir, "y", 2)
	must(t, err)
	if more || len(entries) != 1 || entries[0].Size() != 1 {
		t.Errorf("listed %v, more %v", entries, more)
	}
	must(t, files.Rename(ctx, dir+"/x", dir+"/a/b/c/w"))
	must(t, files.Rename(ctx, dir+"/y", dir+"/z")) // replaces it
	if got := ReadAll(t, files, dir+"/z"); string(got) != "y" {
		t.Errorf("z has %q", got)
	}
	want(t, files.Rename(ctx, dir+"/nothing", dir+"/z"), fs.ErrNotExist)
	want(t, files.Rename(ctx, dir+"/a", dir+"/z"), quarry.NotDir)
	want(t, files.Rename(ctx, dir+"/z", dir+"/a"), quarry.IsDir)
	want(t, files.Rename(ctx, dir+"/a", dir+"/a/b/d"), quarry.Invalid)
	must(t, files.Rename(ctx, dir+"/a", dir+"/a"))
	want(t, files.Remove(ctx, dir+"/a/b"), quarry.NotEmpty)
	want(t, files.Remove(ctx, dir+"/nothing"), fs.ErrNotExist)
	must(t, files.Remove(ctx, dir+"/a/b/c/w"))
	must(t, files.Remove(ctx, dir+"/a/b/c"))
	info, err := files.Stat(ctx, dir+"//a/b/")
	must(t, err)
	if !info.IsDir() || info.Name() != "b" || info.Attr.Entries != 0 {
		t.Errorf("stat: %+v", info)
	}
	root, err := files.Stat(ctx, "/")
	must(t, err)
	if !root.IsDir() || root.Name() != "/" || root.Attr.Inode != quarry.RootInode {
		t.Errorf("stat of the root: %+v", root)
	}
	want(t, files.Remove(ctx, "/"), fs.ErrInvalid)
	testTrash(t, ctx, files, dir)
	for _, bad := range []string{dir + "/..", dir + "/.", dir + "/a\x00b", dir + "/" + string(make([]byte, 256))} {
		want(t, files.Mkdir(ctx, bad), fs.ErrInvalid)
	}
	want(t, files.Mkdir(ctx, string(bytes.Repeat([]byte("/a"), 3000))), quarry.TooLarge)
	_, err = files.Open(ctx, dir)
	want(t, err, quarry.IsDir)
	_, err = files.Open(ctx, dir+"/z/below")
	want(t, err, quarry.NotDir)
	_, err = files.Open(ctx, dir+"/nothing")
	want(t, err, fs.ErrNotExist)
	var e *quarry.Error
	if !errors.As(err, &e) || e.Subject != dir+"/nothing" || e.Op != "open" {
		t.Errorf("the error does not name operation and path: %#v", err)
	}
	_, _, err = files.List(ctx, dir+"/z", "", 10)
	want(t, err, quarry.NotDir)
}

// testOutgrown appends to files that are in the layout until they do not fit in it, and reads them by
// files that were opened at each step; then something small is put in their place.
func testOutgrown(t *testing.T, ctx context.Context, files client.FileSystem) {
	for _, n := range []int{1, quarry.InlineBytesMax - 1, quarry.InlineBytesMax} {
		path := fmt.Sprintf("/suite/outgrown/%d", n)
		data := Bytes(uint64(n), n)
		_, err := files.Put(ctx, path, bytes.NewReader(data), client.PutOptions{})
		must(t, err)
		for i, more := range []int{1, quarry.InlineBytesMax, 3} {
			f, err := files.Open(ctx, path)
			must(t, err)
			record := Bytes(uint64(i), more)
			at, err := files.Append(ctx, path, record)
			must(t, err)
			if at != int64(len(data)) {
				t.Errorf("%d bytes, outgrown: a record is at %d of %d", n, at, len(data))
			}
			before := make([]byte, len(data))
			if _, err := f.ReadAt(before, 0); err != nil && err != io.EOF || !bytes.Equal(before, data) {
				t.Errorf("%d bytes, outgrown: what was opened before the append differs, %v", n, err)
			}
			must(t, f.Close())
			data = append(data, record...)
			info, err := files.Stat(ctx, path)
			must(t, err)
			if got := ReadAll(t, files, path); !bytes.Equal(got, data) || info.Size() != int64(len(data)) {
				t.Errorf("%d bytes, outgrown: %d can be read, %d are told, want %d", n, len(got), info.Size(), len(data))
			}
		}
		_, err = files.Put(ctx, path, bytes.NewReader(data[:n]), client.PutOptions{})
		must(t, err)
		if got := ReadAll(t, files, path); !bytes.Equal(got, data[:n]) {
			t.Errorf("%d bytes, put over what was outgrown: %d can be read", n, len(got))
		}
	}
}

// Attributes are what they were set to, each by itself, also across renames and the trash.
func testAttributes(t *testing.T, ctx context.Context, files client.FileSystem) {
	const path, moved = "/suite/attributes/file", "/suite/attributes/dir/file"
	must(t, files.Mkdir(ctx, "/suite/attributes/dir"))
	at := time.Date(1969, 7, 20, 20, 17, 40, 999, time.UTC)
	info, err := files.Put(ctx, path, bytes.NewReader([]byte("x")), client.PutOptions{Mode: new(uint32(0o640)), Modified: at})
	must(t, err)
	uid, gid, mode, later := uint32(1<<32-1), uint32(77), uint32(0o4701), at.Add(time.Hour)
	shown := info.Attr
	if shown.Mode != 0o640 || !info.ModTime().Equal(at) {
		t.Errorf("put: %+v", shown)
	}
	for _, step := range []struct {
		change client.AttrChange
		set    func()
	}{
		{client.AttrChange{}, func() {}},
		{client.AttrChange{Mode: &mode}, func() { shown.Mode = mode }},
		{client.AttrChange{UID: &uid}, func() { shown.UID = uid }},
		{client.AttrChange{GID: &gid}, func() { shown.GID = gid }},
		{client.AttrChange{Modified: &later}, func() { shown.Modified = later.UnixNano() }},
	} {
		step.set()
		if info, err = files.SetAttr(ctx, path, step.change); err != nil || info.Attr != shown {
			t.Errorf("%+v: %+v, %v; want %+v", step.change, info.Attr, err, shown)
		}
	}
	must(t, files.Rename(ctx, path, moved))
	must(t, files.Remove(ctx, moved))
	info, err = files.Undelete(ctx, moved, client.UndeleteOptions{To: path})
	must(t, err)
	if info.Attr != shown {
		t.Errorf("renamed, removed and brought back: %+v, want %+v", info.Attr, shown)
	}
	if info, err = files.Stat(ctx, path); err != nil || info.Attr != shown || info.Mode() != fs.ModeSetuid|0o701 {
		t.Errorf("stat: %+v, %v; want %+v", info.Attr, err, shown)
	}
	bad := uint32(0o10000)
	_, err = files.SetAttr(ctx, path, client.AttrChange{Mode: &bad})
	want(t, err, fs.ErrInvalid)
	_, err = files.SetAttr(ctx, path+"/x", client.AttrChange{Mode: &mode})
	want(t, err, quarry.NotDir)
	_, err = files.SetAttr(ctx, path+"x", client.AttrChange{Mode: &mode})
	want(t, err, fs.ErrNotExist)
	info, err = files.SetAttr(ctx, "/suite/attributes/dir", client.AttrChange{Mode: &mode, Modified: new(time.Time)})
	must(t, err)
	if !info.IsDir() || info.Attr.Mode != mode || info.Attr.Modified <= later.UnixNano() {
		t.Errorf("a directory: %+v", info.Attr)
	}
}

// testTrash wants y in z, in the place of the one that had z, and in a/b/c/w what is gone.
func testTrash(t *testing.T, ctx context.Context, files client.FileSystem, dir string) {
	must(t, files.Remove(ctx, dir+"/z")) // it has replaced another one
	for _, was := range []string{"y", "z"} {
		back, err := files.Undelete(ctx, dir+"/z", client.UndeleteOptions{})
		must(t, err)
		if got := ReadAll(t, files, dir+"/z"); string(got) != was || back.Attr.Length != 1 {
			t.Errorf("%q, %d bytes, came back from the trash, want %q", got, back.Attr.Length, was)
		}
		_, err = files.Undelete(ctx, dir+"/a/b/c/w", client.UndeleteOptions{To: dir + "/z"})
		want(t, err, fs.ErrExist)
		must(t, files.RemoveNow(ctx, dir+"/z"))
	}
	for r, err := range files.Trash(ctx, dir) {
		must(t, err)
		if r.Path != dir+"/a/b/c/w" {
			t.Errorf("%s is in the trash", r.Path)
		}
	}
	_, err := files.Put(ctx, dir+"/z", bytes.NewReader([]byte("y")), client.PutOptions{})
	must(t, err)
}

func testCreate(t *testing.T, ctx context.Context, files client.FileSystem) {
	const path = "/suite/create/file"
	w, err := files.Create(ctx, path)
	must(t, err)
	_, err = files.Create(ctx, path)
	want(t, err, fs.ErrExist)
	data := Bytes(1, 3*quarry.PacketBytes+12345)
	if _, err := w.Write(data[:100]); err != nil {
		t.Fatal(err)
	}
	must(t, w.Sync())
	if got := ReadAll(t, files, path); !bytes.Equal(got, data[:100]) {
		t.Errorf("%d bytes can be read, want the 100 that were written", len(got))
	}
	n, err := w.ReadFrom(bytes.NewReader(data[100:]))
	must(t, err)
	if n != int64(len(data)-100) || w.Written() != int64(len(data)) {
		t.Errorf("wrote %d of %d", n, w.Written())
	}
	must(t, w.Close())
	info, err := files.Stat(ctx, path)
	must(t, err)
	if got := ReadAll(t, files, path); !bytes.Equal(got, data) || info.Size() != int64(len(data)) {
		t.Errorf("%d bytes can be read, %d are told, want %d", len(got), info.Size(), len(data))
	}
	if _, err := w.Write(data); err == nil {
		t.Error("a closed writer writes")
	}
}

func testPut(t *testing.T, ctx context.Context, files client.FileSystem) {
	const path = "/suite/put/file"
	for i, n := range []int{0, 1, quarry.InlineBytesMax, quarry.InlineBytesMax + 1, quarry.PacketBytes, 5<<20 + 7} {
		for _, stream := range []bool{false, true} {
			data := Bytes(uint64(i), n)
			var r io.Reader = bytes.NewReader(data)
			if stream {
				r = io.MultiReader(r)
			}
			mode := uint32(0o600 * (i % 2)) // 0 is a mode, too
			info, err := files.Put(ctx, path, r, client.PutOptions{Mode: &mode})
			must(t, err)
			if got := ReadAll(t, files, path); !bytes.Equal(got, data) || info.Size() != int64(n) || info.Mode() != fs.FileMode(mode) {
				t.Errorf("%d bytes, stream %v: read %d, told %d, mode %v", n, stream, len(got), info.Size(), info.Mode())
			}
		}
	}
	_, err := files.Put(ctx, path, bytes.NewReader(nil), client.PutOptions{Keep: true})
	want(t, err, fs.ErrExist)
	_, err = files.Put(ctx, "/suite/put", bytes.NewReader(nil), client.PutOptions{})
	if err == nil {
		t.Error("a directory was replaced")
	}
	broken := errors.New("the source broke")
	_, err = files.Put(ctx, "/suite/put/other", io.MultiReader(bytes.NewReader(Bytes(7, 1<<20)), &failing{broken}), client.PutOptions{})
	want(t, err, broken)
	_, err = files.Stat(ctx, "/suite/put/other")
	want(t, err, fs.ErrNotExist)
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

func testRead(t *testing.T, ctx context.Context, files client.FileSystem) {
	const path = "/suite/read/file"
	data := Bytes(2, 6<<20+999)
	_, err := files.Put(ctx, path, bytes.NewReader(data), client.PutOptions{})
	must(t, err)
	f, err := files.Open(ctx, path)
	must(t, err)
	defer f.Close()
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		at, n := r.IntN(len(data)+100), 1+r.IntN(1<<r.IntN(23))
		p := make([]byte, n)
		got, err := f.ReadAt(p, int64(at))
		expect := data[min(at, len(data)):min(at+n, len(data))]
		if !bytes.Equal(p[:got], expect) || (got < n) != (err == io.EOF) || err != nil && err != io.EOF {
			t.Fatalf("ReadAt %d bytes at %d: %d, %v", n, at, got, err)
		}
	}
	for range 20 {
		at := r.IntN(len(data))
		if _, err := f.Seek(int64(at), io.SeekStart); err != nil {
			t.Fatal(err)
		}
		p := make([]byte, r.IntN(300_000))
		got, err := io.ReadFull(f, p)
		if !bytes.Equal(p[:got], data[at:min(at+len(p), len(data))]) {
			t.Fatalf("read %d bytes at %d: %d, %v", len(p), at, got, err)
		}
	}
	if at, err := f.Seek(-10, io.SeekEnd); at != int64(len(data)-10) || err != nil {
		t.Errorf("seek: %d, %v", at, err)
	}
	if rest, err := io.ReadAll(f); !bytes.Equal(rest, data[len(data)-10:]) || err != nil {
		t.Errorf("the last bytes: %d, %v", len(rest), err)
	}
	_, err = f.Seek(0, io.SeekStart)
	must(t, err)
	var all bytes.Buffer
	if n, err := f.WriteTo(&all); n != int64(len(data)) || err != nil || !bytes.Equal(all.Bytes(), data) {
		t.Errorf("WriteTo: %d, %v", n, err)
	}
	if _, err := f.ReadAt(make([]byte, 1), -1); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a negative offset: %v", err)
	}
}

func testAppend(t *testing.T, ctx context.Context, files client.FileSystem) {
	const path = "/suite/append/file"
	w, err := files.Create(ctx, path)
	must(t, err)
	must(t, w.Close())
	_, err = files.Append(ctx, "/suite/append/nothing", []byte("x"))
	want(t, err, fs.ErrNotExist)
	_, err = files.Append(ctx, path, nil)
	want(t, err, quarry.TooLarge)
	_, err = files.Append(ctx, path, make([]byte, quarry.RecordBytesMax+1))
	want(t, err, quarry.TooLarge)

	a, err := files.Appender(ctx, path)
	must(t, err)
	var mu sync.Mutex
	offsets := map[string]int64{}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 25 {
				record := fmt.Sprintf("record %d of goroutine %d\n", i, g)
				offset, err := a.Append(ctx, []byte(record))
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				offsets[record] = offset
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	must(t, a.Close())
	all := ReadAll(t, files, path)
	total := 0
	for record, offset := range offsets {
		total += len(record)
		if !bytes.HasPrefix(all[offset:], []byte(record)) {
			t.Errorf("%q is not at %d", record, offset)
		}
	}
	if total != len(all) {
		t.Errorf("the file has %d bytes, the records %d", len(all), total)
	}
	if _, err := a.Append(ctx, []byte("x")); err == nil {
		t.Error("a closed appender appends")
	}
}

func testTail(t *testing.T, ctx context.Context, files client.FileSystem) {
	const path = "/suite/tail/file"
	w, err := files.Create(ctx, path)
	must(t, err)
	tail, err := files.Tail(ctx, path, 0)
	must(t, err)
	data := Bytes(3, 900_000)
	done := make(chan error, 1)
	go func() {
		got := make([]byte, len(data))
		_, err := io.ReadFull(tail, got)
		if err == nil && !bytes.Equal(got, data) {
			err = errors.New("the tail shows other bytes")
		}
		done <- err
	}()
	for part := data; len(part) > 0; {
		n := min(len(part), 100_000)
		if _, err := w.Write(part[:n]); err != nil {
			t.Fatal(err)
		}
		must(t, w.Sync())
		part = part[n:]
	}
	must(t, <-done)
	if at := tail.Offset(); at != int64(len(data)) {
		t.Errorf("the tail stands at %d", at)
	}
	go func() {
		_, err := tail.Read(make([]byte, 1))
		done <- err
	}()
	must(t, tail.Close())
	if err := <-done; err == nil {
		t.Error("a closed tail reads")
	}
	must(t, w.Close())
	_, err = files.Tail(ctx, path, int64(len(data))+1)
	want(t, err, fs.ErrInvalid)
}
