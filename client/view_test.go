package client_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/fstest"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
)

// tree makes files of all sorts below /top: with inline bytes, of several chunks, empty, open. fstest
// reads every byte at many places by itself, so they are small; only /large is not, of several packets.
func tree(e *env) (large []byte, log *client.Writer) {
	e.Helper()
	e.must(e.files.MkdirAll(e.Context(), "/top/a/b/empty"))
	e.put("/top/small", []byte("small"))
	e.put("/top/none", nil)
	e.put("/elsewhere", []byte("not below /top"))
	e.put("/top/a/pieces", clienttest.Bytes(2, 5000))
	for i := range 3 {
		_, err := e.files.Append(e.Context(), "/top/a/pieces", clienttest.Bytes(uint64(i), 2000))
		e.must(err)
		e.c.Seal("/top/a/pieces")
	}
	large = clienttest.Bytes(1, 700_000)
	e.must(e.files.Mkdir(e.Context(), "/large"))
	e.put("/large/file", large)
	log, err := e.files.Create(e.Context(), "/top/a/b/log")
	e.must(err)
	_, err = log.ReadFrom(bytes.NewReader(make([]byte, 9_000)))
	e.must(err)
	e.must(log.Sync())
	return large, log
}

func TestView(t *testing.T) {
	run(t, clienttest.Config{}, client.Options{}, func(e *env) {
		large, log := tree(e)
		defer log.Close()
		for _, dir := range []string{"/top", "top", "//top/", "/top//"} {
			view := e.files.View(e.Context(), dir)
			b, err := fs.ReadFile(view, "a/b/log")
			if len(b) != 9_000 || err != nil {
				e.Errorf("%s: %d bytes of an open log, %v", dir, len(b), err)
			}
		}
		if b, err := fs.ReadFile(e.files.View(e.Context(), "/"), "large/file"); !bytes.Equal(b, large) || err != nil {
			e.Errorf("%d bytes, %v", len(b), err)
		}
		e.must(fstest.TestFS(e.files.View(e.Context(), "/top"), "small", "none", "a/pieces", "a/b/log", "a/b/empty"))
	})
}

// Every error names what was asked for in the view, says what it is in the words of io/fs and in
// those of Quarry, and tells the path in the cluster.
func TestViewErrors(t *testing.T) {
	run(t, clienttest.Config{}, client.Options{}, func(e *env) {
		_, log := tree(e)
		e.must(log.Close())
		view := e.files.View(e.Context(), "/top")
		open := func(name string) fs.File {
			f, err := view.Open(name)
			e.must(err)
			return f
		}
		closed := open("small")
		e.must(closed.Close())
		for name, test := range map[string]struct {
			err     error
			path    string
			is      error
			subject string
		}{
			"open nothing":      {second(view.Open("nothing")), "nothing", fs.ErrNotExist, "/top/nothing"},
			"stat nothing":      {second(fs.Stat(view, "a/nothing")), "a/nothing", fs.ErrNotExist, "/top/a/nothing"},
			"list nothing":      {second(fs.ReadDir(view, "nothing")), "nothing", fs.ErrNotExist, "/top/nothing"},
			"list a file":       {second(fs.ReadDir(view, "small")), "small", quarry.NotDir, "/top/small"},
			"below a file":      {second(view.Open("small/x")), "small/x", quarry.NotDir, "/top/small/x"},
			"read a directory":  {second(fs.ReadFile(view, "a")), "a", quarry.IsDir, ""},
			"read an open one":  {second(open("a").Read(make([]byte, 1))), "a", quarry.IsDir, ""},
			"read closed":       {second(closed.Read(make([]byte, 1))), "small", quarry.Invalid, "/top/small"},
			"seek closed":       {second(closed.(io.Seeker).Seek(0, io.SeekStart)), "small", quarry.Invalid, "/top/small"},
			"read before":       {second(open("small").(io.ReaderAt).ReadAt(make([]byte, 1), -1)), "small", quarry.Invalid, "/top/small"},
			"close twice":       {closed.Close(), "small", quarry.Invalid, "/top/small"},
			"leave the view":    {second(view.Open("../elsewhere")), "../elsewhere", fs.ErrInvalid, ""},
			"sub of the parent": {second(fs.Sub(view, "../top")), "../top", fs.ErrInvalid, ""},
			"rooted":            {second(view.Open("/small")), "/small", fs.ErrInvalid, ""},
		} {
			var pathErr *fs.PathError
			if !errors.As(test.err, &pathErr) || pathErr.Path != test.path || !errors.Is(test.err, test.is) {
				e.Errorf("%s: got %v, want %v of %q", name, test.err, test.is, test.path)
			}
			var own *quarry.Error
			if test.subject != "" && (!errors.As(test.err, &own) || own.Subject != test.subject) {
				e.Errorf("%s: %v does not tell where in the cluster that is", name, test.err)
			}
		}
		// A view of a directory that cannot be does not lead anywhere else.
		if _, err := fs.Stat(e.files.View(e.Context(), "/top/../elsewhere"), "."); !errors.Is(err, quarry.Invalid) {
			e.Errorf("a view of \"..\": %v", err)
		}
		e.must(e.files.Close())
		if _, err := view.Open("small"); !errors.Is(err, quarry.Unavailable) {
			e.Errorf("when the client is closed: %v", err)
		}
	})
}

func second[T any](_ T, err error) error { return err }

func TestViewIsServedByHTTP(t *testing.T) {
	run(t, clienttest.Config{}, client.Options{}, func(e *env) {
		large, log := tree(e)
		e.must(log.Close())
		server := http.FileServerFS(e.files.View(e.Context(), "/"))
		get := func(path, bytes string) *http.Response {
			r := httptest.NewRequestWithContext(e.Context(), "GET", path, nil)
			if bytes != "" {
				r.Header.Set("Range", "bytes="+bytes)
			}
			w := httptest.NewRecorder()
			server.ServeHTTP(w, r)
			return w.Result()
		}
		body := func(r *http.Response) []byte {
			b, err := io.ReadAll(r.Body)
			e.must(err)
			return b
		}
		if r := get("/large/file", ""); r.StatusCode != http.StatusOK || !bytes.Equal(body(r), large) {
			e.Errorf("the whole file: %v, %v", r.Status, r.Header)
		}
		if r := get("/large/file", "300000-600000"); r.StatusCode != http.StatusPartialContent || !bytes.Equal(body(r), large[300_000:600_001]) {
			e.Errorf("a range: %v", r.Status)
		}
		if r := get("/large/file", "-5"); r.StatusCode != http.StatusPartialContent || !bytes.Equal(body(r), large[len(large)-5:]) {
			e.Errorf("the last bytes: %v", r.Status)
		}
		if r := get("/large/file", "700000-"); r.StatusCode != http.StatusRequestedRangeNotSatisfiable {
			e.Errorf("beyond the end: %v", r.Status)
		}
		if r := get("/nothing", ""); r.StatusCode != http.StatusNotFound {
			e.Errorf("nothing: %v", r.Status)
		}
		if r := get("/top/a/b/", ""); r.StatusCode != http.StatusOK || !bytes.Contains(body(r), []byte("log")) {
			e.Errorf("a directory: %v", r.Status)
		}
	})
}
