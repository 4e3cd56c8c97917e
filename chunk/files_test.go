package chunk

import (
	"errors"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// heldFS opens files named hold, and then hangs until the test lets it go on.
type heldFS struct {
	disk.FS
	hold   string
	opened chan disk.File // one for each file that was opened, nil if there was none
	goOn   chan error     // if not nil, the open fails so
}

func newHeldFS(fsys disk.FS, h quarry.Handle) *heldFS {
	return &heldFS{FS: fsys, hold: chunkName(h), opened: make(chan disk.File, 8), goOn: make(chan error)}
}

func (d *heldFS) Open(name string) (disk.File, error) {
	f, err := d.FS.Open(name)
	if name != d.hold {
		return f, err
	}
	f = &watchedFile{File: f, closed: make(chan struct{})}
	d.opened <- f
	if err := <-d.goOn; err != nil {
		return nil, err
	}
	return f, err
}

// watchedFile tells that it was closed; a second time panics.
type watchedFile struct {
	disk.File
	closed chan struct{}
}

func (f *watchedFile) Close() error {
	close(f.closed)
	return f.File.Close()
}

func isClosed(f disk.File) bool {
	select {
	case <-f.(*watchedFile).closed:
		return true
	default:
		return false
	}
}

// soon returns what comes out of c, and fails if nothing does.
func soon[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s: no answer", what)
	}
	return v
}

// got is what a get returned.
type got struct {
	file *openFile
	err  error
}

// begin calls get, and returns when so many are waiting for the file.
func begin(t *testing.T, c *fileCache, h quarry.Handle, users int) <-chan got {
	t.Helper()
	answer := make(chan got, 1)
	go func() {
		f, err := c.get(h)
		answer <- got{f, err}
	}()
	there := make(chan struct{})
	go func() {
		defer close(there)
		for n := 0; n < users; {
			c.mu.Lock()
			if f := c.files[h]; f != nil {
				n = f.users
			}
			c.mu.Unlock()
		}
	}()
	soon(t, "get", there)
	return answer
}

// fileOf makes a chunk's file with some bytes.
func fileOf(t *testing.T, fsys disk.FS, h quarry.Handle, content string) disk.File {
	t.Helper()
	if err := fsys.MkdirAll(chunkDir(h)); err != nil {
		t.Fatal(err)
	}
	f, err := createNew(fsys, chunkName(h))
	if err == nil {
		_, err = f.WriteAt([]byte(content), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func wantContent(t *testing.T, f disk.File, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := f.ReadAt(b, 0); string(b) != want {
		t.Fatalf("the file holds %q, want %q (%v)", b, want, err)
	}
}

// TestReadWhileAnOpenHangs: a disk that hangs when it opens one chunk's file keeps nobody from the others.
func TestReadWhileAnOpenHangs(t *testing.T) {
	d := newHeldFS(disk.NewMem(), 1)
	opts := testOptions()
	opts.FilesMax = 2
	s := open(t, d, opts)
	goOn := sync.OnceFunc(func() { close(d.goOn) })
	defer goOn() // so that Close ends
	data := pattern(1, 100_000)
	for h := range quarry.Handle(4) {
		create(t, s, h+1)
		write(t, s, h+1, 0, 1, data)
		syncChunk(t, s, h+1)
	}
	hangs := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := tryRead(s, 1, 0, 1<<20)
			hangs <- err
		}()
	}
	soon(t, "open of chunk 1", d.opened)
	over := make(chan struct{})
	go func() {
		defer close(over)
		for h := range quarry.Handle(3) { // with one file open, and with one that must be opened
			if b, err := tryRead(s, h+2, 0, 1<<20); err != nil || len(b) != len(data) {
				t.Errorf("chunk %v: %d bytes, %v", h+2, len(b), err)
			}
			if err := s.Write(h+2, 100_000, []quarry.RecordHeader{header(9, 2, data)}, data); err != nil {
				t.Error(err)
			}
			if err := wait(func(done func(error)) { s.Seal(sealRequest(h+2, 200_000), done) }); err != nil {
				t.Error(err)
			}
		}
		if err := wait(func(done func(error)) { s.Drop(2, 9, testNow, done) }); err != nil {
			t.Error(err)
		}
	}()
	soon(t, "work with the other chunks", over)
	goOn()
	for range 2 {
		if err := soon(t, "read of chunk 1", hangs); err != nil {
			t.Error(err)
		}
	}
}

// TestOneOpenForAll: who asks for a file that is being opened waits, gets the same one, or the same error.
func TestOneOpenForAll(t *testing.T) {
	d := newHeldFS(disk.NewMem(), 1)
	c := newFileCache(d, 1)
	fileOf(t, d, 1, "a").Close()
	first, second := begin(t, c, 1, 1), begin(t, c, 1, 2)
	d.goOn <- syscall.EIO
	for _, answer := range []<-chan got{first, second} {
		if g := soon(t, "get", answer); !errors.Is(g.err, syscall.EIO) || g.file != nil {
			t.Fatalf("%v, %v", g.file, g.err)
		}
	}
	if len(c.files) != 0 {
		t.Fatal("a file that could not be opened is in the cache")
	}
	<-d.opened
	first, second = begin(t, c, 1, 1), begin(t, c, 1, 2)
	d.goOn <- nil
	a, b := soon(t, "get", first), soon(t, "get", second)
	if a.err != nil || a.file != b.file || len(d.opened) != 1 {
		t.Fatalf("%v, %v, %d opens", a, b, len(d.opened))
	}
	wantContent(t, a.file, "a")
	c.put(a.file)
	if c.idle.Len() != 0 {
		t.Fatal("a file that is in use is idle")
	}
	c.put(b.file)
	if f := <-d.opened; c.idle.Len() != 1 || isClosed(f) {
		t.Fatal("the file does not stay open")
	}
	c.close()
}

// TestForgottenWhileOpened: a file whose name came to stand for another one, or for none, while it was being opened is
// not served to those who come later, and closed when those who have it have put it back.
func TestForgottenWhileOpened(t *testing.T) {
	replace := func(t *testing.T, d disk.FS, c *fileCache) {
		fileOf(t, d, 2, "b").Close()
		if err := d.Rename(chunkName(2), chunkName(1)); err != nil {
			t.Fatal(err)
		}
		c.forget(1)
	}
	made := func(t *testing.T, d disk.FS, c *fileCache) { c.put(c.add(1, fileOf(t, d, 1, "b"))) }
	for name, change := range map[string]func(*testing.T, disk.FS, *fileCache){"copied": replace, "made": made} {
		t.Run(name, func(t *testing.T) {
			d := newHeldFS(disk.NewMem(), 1)
			c := newFileCache(d, 4)
			fileOf(t, d, 1, "a").Close()
			first := begin(t, c, 1, 1)
			old := soon(t, "open", d.opened)
			change(t, d.FS, c)
			var later <-chan got
			if name == "copied" {
				later = begin(t, c, 1, 1)
				soon(t, "open", d.opened)
				d.goOn <- nil
			}
			d.goOn <- nil // one of them first
			f := soon(t, "get", first)
			if f.err != nil {
				t.Fatal(f.err)
			}
			wantContent(t, f.file, "a")
			c.put(f.file)
			if !isClosed(old) {
				t.Fatal("the other file stays open")
			}
			if later != nil {
				g := soon(t, "get", later)
				wantContent(t, g.file, "b")
				c.put(g.file)
			}
			g, err := c.get(1)
			if err != nil {
				t.Fatal(err)
			}
			wantContent(t, g, "b")
			c.put(g)
			if len(c.files) != 1 || c.idle.Len() != 1 {
				t.Fatalf("%d files, %d idle", len(c.files), c.idle.Len())
			}
			c.close()
		})
	}
	t.Run("dropped", func(t *testing.T) {
		d := newHeldFS(disk.NewMem(), 1)
		c := newFileCache(d, 4)
		fileOf(t, d, 1, "a").Close()
		first := begin(t, c, 1, 1)
		old := soon(t, "open", d.opened)
		if err := d.Remove(chunkName(1)); err != nil {
			t.Fatal(err)
		}
		c.forget(1)
		later := begin(t, c, 1, 1)
		soon(t, "open", d.opened)
		d.goOn <- nil
		d.goOn <- nil
		f, g := soon(t, "get", first), soon(t, "get", later)
		wantContent(t, f.file, "a")
		c.put(f.file)
		wantKind(t, g.err, quarry.Corrupt)
		if !isClosed(old) || len(c.files) != 0 || c.idle.Len() != 0 {
			t.Fatalf("%d files, %d idle", len(c.files), c.idle.Len())
		}
	})
	t.Run("made, and not opened", func(t *testing.T) {
		d := newHeldFS(disk.NewMem(), 1)
		c := newFileCache(d, 4)
		fileOf(t, d, 1, "a").Close()
		first := begin(t, c, 1, 1)
		soon(t, "open", d.opened)
		made(t, d.FS, c)
		d.goOn <- syscall.EIO
		if f := soon(t, "get", first); f.err == nil {
			t.Fatal("no error")
		}
		close(d.goOn)
		g, err := c.get(1)
		if err != nil {
			t.Fatal(err)
		}
		wantContent(t, g, "b")
		if len(d.opened) != 0 {
			t.Fatal("the file that was made was not kept")
		}
	})
	t.Run("closed", func(t *testing.T) {
		d := newHeldFS(disk.NewMem(), 1)
		c := newFileCache(d, 4)
		fileOf(t, d, 1, "a").Close()
		first := begin(t, c, 1, 1)
		c.close()
		d.goOn <- nil
		f := soon(t, "get", first)
		c.put(f.file)
		if !isClosed(<-d.opened) || len(c.files) != 0 || c.idle.Len() != 0 {
			t.Fatal("the file stays open")
		}
	})
}
