package client_test

import (
	"bytes"
	"errors"
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
)

func TestView(t *testing.T) {
	run(t, clienttest.Config{}, client.Options{}, func(e *env) {
		e.must(e.files.MkdirAll(e.Context(), "/top/a/b"))
		e.put("/top/small", []byte("small"))
		// fstest reads every byte by itself, so the files are small.
		e.put("/top/a/large", clienttest.Bytes(1, 10_000))
		w, err := e.files.Create(e.Context(), "/top/a/b/growing")
		e.must(err)
		_, err = w.ReadFrom(bytes.NewReader(make([]byte, 9_000)))
		e.must(err)
		e.must(w.Close())
		view := e.files.View(e.Context(), "/top")
		e.must(fstest.TestFS(view, "small", "a/large", "a/b/growing"))
		b, err := fs.ReadFile(view, "a/b/growing")
		if len(b) != 9_000 || err != nil {
			e.Errorf("%d bytes, %v", len(b), err)
		}
		_, err = view.Open("nothing")
		var pathErr *fs.PathError
		if !errors.As(err, &pathErr) || !errors.Is(err, fs.ErrNotExist) {
			e.Errorf("got %v", err)
		}
	})
}
