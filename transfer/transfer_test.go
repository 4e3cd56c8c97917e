package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
	"github.com/quarryfs/quarry/clock"
)

// env is a cluster in memory, a client of it and a local folder, in a bubble.
type env struct {
	*testing.T
	c   *clienttest.Cluster
	q   Quarry
	dir string
}

func bubble(t *testing.T, test func(*env)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := clienttest.New(clienttest.Config{Delay: time.Millisecond})
		e := &env{t, c, Quarry{FS: c.Client(client.Options{})}, dir}
		test(e)
		e.must(e.q.FS.Close())
		c.Close()
	})
}

func (e *env) must(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

func (e *env) want(err error, kind error) {
	e.Helper()
	if !errors.Is(err, kind) {
		e.Errorf("got %v, want %v", err, kind)
	}
}

// local writes local files, name=content.
func (e *env) local(files ...string) {
	e.Helper()
	for _, f := range files {
		name, data, _ := strings.Cut(f, "=")
		name = filepath.Join(e.dir, name)
		e.must(os.MkdirAll(filepath.Dir(name), 0o755))
		e.must(os.WriteFile(name, []byte(data), 0o644))
		old := time.Now().Add(-time.Hour)
		e.must(os.Chtimes(name, old, old))
	}
}

// put stores files in the cluster, path=content.
func (e *env) put(files ...string) {
	e.Helper()
	for _, f := range files {
		p, data, _ := strings.Cut(f, "=")
		e.must(makeAbove(e.Context(), e.q, p))
		_, err := e.q.FS.Put(e.Context(), p, strings.NewReader(data), client.PutOptions{})
		e.must(err)
	}
}

func makeAbove(ctx context.Context, q Quarry, p string) error {
	return q.MkdirAll(ctx, p[:strings.LastIndexByte(p, '/')])
}

// all returns the paths below one, of files with their content.
func (e *env) all(t Tree, root string) (out []string) {
	e.Helper()
	e.must(Walk(e.Context(), t, root, func(x Entry, depth int) error {
		rel := strings.TrimPrefix(strings.TrimPrefix(x.Path, root), "/")
		if x.Kind == File {
			f, err := t.Open(e.Context(), x.Path)
			e.must(err)
			var b bytes.Buffer
			_, err = b.ReadFrom(f)
			e.must(err)
			e.must(f.Close())
			rel += "=" + b.String()
		}
		if depth > 0 {
			out = append(out, rel)
		}
		return nil
	}))
	return out
}

func (e *env) same(t Tree, root string, want ...string) {
	e.Helper()
	if got := e.all(t, root); !slices.Equal(got, want) {
		e.Errorf("%s has\n  %q, want\n  %q", root, got, want)
	}
}

// TestGlob goes through what patterns mean.
func TestGlob(t *testing.T) {
	bubble(t, func(e *env) {
		e.put("/a/one.log=1", "/a/two.log=2", "/a/.dot.log=3", "/a/b/three.log=4", "/a/b/c/four.txt=5", "/a/.h/five.log=6", "/a/*=7", "/ä=8", `/a/back\slash=9`)
		for _, c := range []struct{ pattern, want string }{
			{"/a/one.log", "/a/one.log"},
			{"/nothing/at/all", "/nothing/at/all"}, // no pattern: not looked for
			{"/a/*.log", "/a/one.log /a/two.log"},
			{"a//*.log/", "/a/one.log /a/two.log"},
			{"/a/*", "/a/*"}, // there is one of that name
			{"/a/[*]", "/a/*"},
			{"/a/.*", "/a/.dot.log /a/.h"},
			{"/a/.*/*", "/a/.h/five.log"},
			{"/*/[n-p]*", "/a/one.log"},
			{"/a/[!o]*.log", "/a/two.log"},
			{"/a/t?o.log", "/a/two.log"},
			{"/?", "/a /ä"},
			{"/a/**/*.log", "/a/one.log /a/two.log /a/b/three.log"},
			{"/**/**/four.*", "/a/b/c/four.txt"},
			{"/a/b/**", "/a/b/c /a/b/c/four.txt /a/b/three.log"},
			{"/**/b/**/f*", "/a/b/c/four.txt"},
			{`/a/back\slash`, `/a/back\slash`},
			{`/a/one\.log`, "/a/one.log"},
			{"/a/one.log/*", ""},
			{"/x/*", ""},
			{"/a/*/nothing", ""},
		} {
			got, err := Glob(e.Context(), e.q, c.pattern)
			if c.want == "" {
				e.want(err, quarry.NotFound)
				continue
			}
			e.must(err)
			if strings.Join(got, " ") != c.want {
				e.Errorf("%s means %q, want %q", c.pattern, got, c.want)
			}
		}
		for _, bad := range []string{"/a/[", "/a/[]", `/a/x\`, "/" + strings.Repeat("**/a/", 5), "/*" + strings.Repeat("/a", quarry.PathPartsMax)} {
			if _, err := Glob(e.Context(), e.q, bad); !errors.Is(err, quarry.Invalid) && !errors.Is(err, quarry.TooLarge) {
				e.Errorf("%.20s: %v", bad, err)
			}
		}
	})
}

// TestLimit keeps all files together below a rate.
func TestLimit(t *testing.T) {
	bubble(t, func(e *env) {
		for i := range 4 {
			e.local(fmt.Sprintf("d/%d=%s", i, strings.Repeat("x", 1<<20)))
		}
		began := clock.Simulated().Now()
		root, err := Local{}.Stat(e.Context(), filepath.Join(e.dir, "d"))
		e.must(err)
		o := Options{Clock: clock.Simulated(), Recursive: true, Limit: NewLimiter(clock.Simulated(), 1<<20)}
		sum, err := Copy(e.Context(), Local{}, e.q, []Pair{{root, "/d"}}, o)
		e.must(err)
		if took := clock.Simulated().Now().Sub(began); took < 3500*time.Millisecond || took > 6*time.Second || sum.Bytes != 4<<20 {
			e.Errorf("%d bytes at 1 MiB/s took %v", sum.Bytes, took)
		}
	})
}

// failing is a tree that fails at some paths.
type failing struct {
	Tree
	open func(path string) error
	list func([]Entry) []Entry
}

func (f failing) Open(ctx context.Context, path string) (Source, error) {
	if f.open != nil {
		if err := f.open(path); err != nil {
			return nil, err
		}
	}
	return f.Tree.Open(ctx, path)
}

func (f failing) List(ctx context.Context, path string) iter.Seq2[Entry, error] {
	if f.list == nil {
		return f.Tree.List(ctx, path)
	}
	return func(yield func(Entry, error) bool) {
		var all []Entry
		for e, err := range f.Tree.List(ctx, path) {
			if err != nil {
				yield(e, err)
				return
			}
			all = append(all, e)
		}
		for _, e := range f.list(all) {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// TestNothingHalf checks that a transfer that fails in the middle leaves nothing under the name,
// and nothing beside it, in both directions.
func TestNothingHalf(t *testing.T) {
	bubble(t, func(e *env) {
		e.local("big=" + strings.Repeat("b", 3<<20))
		e.put("/big=" + strings.Repeat("B", 3<<20))
		for _, c := range []struct {
			from, to Tree
			a, b     string
		}{
			{Local{}, e.q, filepath.Join(e.dir, "big"), "/got"},
			{e.q, Local{}, "/big", filepath.Join(e.dir, "got")},
			{e.q, e.q, "/big", "/got"},
		} {
			for _, stop := range []error{errors.New("stop"), context.Canceled} {
				in, err := c.from.Open(e.Context(), c.a)
				e.must(err)
				ctx, cancel := context.WithCancel(e.Context())
				var n atomic.Int64
				err = c.to.Put(ctx, c.b, in, PutOptions{Moved: func(k int) error {
					if n.Add(int64(k)) > 1<<20 {
						if stop == context.Canceled {
							cancel()
							return nil
						}
						return stop
					}
					return nil
				}})
				cancel()
				e.want(err, stop)
				e.must(in.Close())
				_, err = c.to.Stat(e.Context(), c.b)
				e.want(err, quarry.NotFound)
			}
		}
		if left, _ := os.ReadDir(e.dir); len(left) != 1 {
			e.Errorf("left behind: %v", left)
		}
	})
}

// TestKeep never replaces, also when the file comes while the bytes do.
func TestKeep(t *testing.T) {
	bubble(t, func(e *env) {
		e.put("/f=from")
		name := filepath.Join(e.dir, "f")
		for _, keep := range []bool{true, false} {
			in, err := e.q.Open(e.Context(), "/f")
			e.must(err)
			e.must(os.RemoveAll(name))
			err = Local{}.Put(e.Context(), name, in, PutOptions{Keep: keep, Moved: func(int) error {
				return os.WriteFile(name, []byte("other"), 0o644)
			}})
			e.must(in.Close())
			b, _ := os.ReadFile(name)
			if keep {
				e.want(err, quarry.Exists)
			} else {
				e.must(err)
			}
			if want := map[bool]string{true: "other", false: "from"}[keep]; string(b) != want {
				e.Errorf("keep %v: %q", keep, b)
			}
		}
		long := filepath.Join(e.dir, strings.Repeat("n", quarry.NameBytesMax))
		in, err := e.q.Open(e.Context(), "/f")
		e.must(err)
		e.must(Local{}.Put(e.Context(), long, in, PutOptions{Moved: func(int) error { return nil }}))
		e.must(in.Close())
	})
}

// waiting is a Progress in which the first file begins when so many files are known.
type waiting struct {
	nobody
	left atomic.Int64
	all  chan struct{}
}

func (w *waiting) Found(files, _ int64) {
	if w.left.Add(-files) == 0 {
		close(w.all)
	}
}

func (w *waiting) Begin(string, int64) Bar { <-w.all; return w }

// Who looks is told of everything before it is copied: a total that grows as it is reached says nothing.
func TestCountsAhead(t *testing.T) {
	bubble(t, func(e *env) {
		e.local("a/x=1", "a/b/y=2", "a/b/z=3", "c=4")
		a, err := Local{}.Stat(e.Context(), filepath.Join(e.dir, "a"))
		e.must(err)
		c, err := Local{}.Stat(e.Context(), filepath.Join(e.dir, "c"))
		e.must(err)
		w := &waiting{all: make(chan struct{})}
		w.left.Store(4)
		sum, err := Copy(e.Context(), Local{}, e.q, []Pair{{From: a, To: "/a"}, {From: c, To: "/c"}}, Options{Clock: clock.Simulated(), Recursive: true, Parallel: 1, Progress: w})
		e.must(err)
		if sum.Files != 4 || w.left.Load() != 0 {
			t.Errorf("%d files were copied; %d more were told of", sum.Files, -w.left.Load())
		}
	})
}

// TestGivesUp stops a tree when the cluster is gone, and goes on when only a file is.
func TestGivesUp(t *testing.T) {
	bubble(t, func(e *env) {
		for i := range 100 {
			e.local(fmt.Sprintf("d/%02d=x", i))
		}
		root, err := Local{}.Stat(e.Context(), filepath.Join(e.dir, "d"))
		e.must(err)
		for _, kind := range []quarry.Kind{quarry.Permission, quarry.Unavailable} {
			var opened atomic.Int64
			from := failing{Tree: Local{}, open: func(string) error {
				opened.Add(1)
				return kind
			}}
			var mu sync.Mutex
			told := 0
			sum, err := Copy(e.Context(), from, e.q, []Pair{{root, fmt.Sprintf("/%d", kind)}}, Options{Parallel: 4, Recursive: true, Report: func(ev Event) {
				mu.Lock()
				defer mu.Unlock()
				if ev.Err != nil {
					told++
				}
			}})
			e.want(err, kind)
			n, all := opened.Load(), kind == quarry.Permission
			if all != (n == 100) || !all && n > 10 || int64(told) != sum.Failed || all && told != 100 {
				e.Errorf("%v: %d were opened, %d failed, of %d it was told", kind, n, sum.Failed, told)
			}
		}
	})
}

// TestSyncDeletesOnlyWhatIsMissing: nothing is removed when something failed, or when a side does
// not keep the order in which it is compared.
func TestSyncDeletesOnlyWhatIsMissing(t *testing.T) {
	bubble(t, func(e *env) {
		e.local("d/a=1", "d/b=2", "d/c=3")
		src := filepath.Join(e.dir, "d")
		e.put("/d/a=1", "/d/extra=4")
		o := SyncOptions{Delete: true}
		_, err := Sync(e.Context(), failing{Tree: Local{}, open: func(p string) error {
			if strings.HasSuffix(p, "b") {
				return quarry.Permission
			}
			return nil
		}}, e.q, src, "/d", o)
		e.want(err, quarry.Permission)
		e.same(e.q, "/d", "a=1", "c=3", "extra=4")
		_, err = Sync(e.Context(), failing{Tree: Local{}, list: func(all []Entry) []Entry {
			slices.Reverse(all)
			return all
		}}, e.q, src, "/d", o)
		e.want(err, quarry.Internal)
		if got := e.all(e.q, "/d"); !slices.Contains(got, "extra=4") || !slices.Contains(got, "a=1") {
			e.Errorf("removed: %q", got)
		}
		sum, err := Sync(e.Context(), Local{}, e.q, src, "/d", o)
		e.must(err)
		e.same(e.q, "/d", "a=1", "b=2", "c=3")
		if sum.Deleted != 1 {
			e.Errorf("%+v", sum)
		}
		// Both sides have what the other does not: a tree in the place of a file and the reverse.
		e.local("d/x/y=5")
		e.put("/d/x=6", "/d/b2/z=7")
		e.must(os.Remove(filepath.Join(src, "b")))
		_, err = Sync(e.Context(), Local{}, e.q, src, "/d", o)
		e.must(err)
		e.same(e.q, "/d", "a=1", "c=3", "x", "x/y=5")
		_, err = Sync(e.Context(), Local{}, e.q, filepath.Join(e.dir, "none"), "/d", o)
		e.want(err, quarry.NotFound)
		e.same(e.q, "/d", "a=1", "c=3", "x", "x/y=5")
	})
}

// TestManyFiles has more files under way than one memory budget holds, and gets them all back.
func TestManyFiles(t *testing.T) {
	bubble(t, func(e *env) {
		var want []string
		for i := range 300 {
			f := fmt.Sprintf("%02d/%03d=%s", i%7, i, strings.Repeat("z", i*17))
			e.local("d/" + f)
			want = append(want, f)
		}
		for i := range 7 {
			want = append(want, fmt.Sprintf("%02d", i))
		}
		slices.SortFunc(want, func(a, b string) int {
			x, _, _ := strings.Cut(a, "=")
			y, _, _ := strings.Cut(b, "=")
			return strings.Compare(x, y)
		})
		src, back := filepath.Join(e.dir, "d"), filepath.Join(e.dir, "back")
		for range 2 {
			_, err := Sync(e.Context(), Local{}, e.q, src, "/d", SyncOptions{Options: Options{Parallel: 64}})
			e.must(err)
		}
		e.same(e.q, "/d", want...)
		_, err := Sync(e.Context(), e.q, Local{}, "/d", back, SyncOptions{Options: Options{Parallel: 64}})
		e.must(err)
		e.same(Local{}, back, want...)
	})
}
