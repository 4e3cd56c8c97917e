package client

import (
	"context"
	"io"
	"io/fs"
	"path"

	"github.com/quarryfs/quarry"
)

// View returns the files below a directory as a fs.FS, for code that only knows that. ctx
// bounds everything done through it.
func (f *FS) View(ctx context.Context, dir string) fs.FS { return &view{ctx, f, dir} }

type view struct {
	ctx context.Context
	f   *FS
	dir string
}

var _ interface {
	fs.StatFS
	fs.ReadDirFS
} = (*view)(nil)

// path returns where a name of the view is.
func (v *view) path(op, name string) (string, error) {
	if !fs.ValidPath(name) {
		return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return path.Join("/", v.dir, name), nil
}

// pathError gives an error the form that io/fs promises.
func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// Open implements fs.FS.
func (v *view) Open(name string) (fs.File, error) {
	info, err := v.Stat(name)
	if err != nil {
		return nil, err
	}
	p, _ := v.path("open", name)
	if info.IsDir() {
		return &viewDir{view: v, name: name, info: info}, nil
	}
	file, err := v.f.Open(v.ctx, p)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return &viewFile{file}, nil
}

// Stat implements fs.StatFS.
func (v *view) Stat(name string) (fs.FileInfo, error) {
	p, err := v.path("stat", name)
	if err != nil {
		return nil, err
	}
	info, err := v.f.Stat(v.ctx, p)
	if err != nil {
		return nil, pathError("stat", name, err)
	}
	if name == "." {
		info.Path = "." // the root of a fs.FS has this name
	}
	return info, nil
}

// ReadDir implements fs.ReadDirFS.
func (v *view) ReadDir(name string) ([]fs.DirEntry, error) {
	p, err := v.path("readdir", name)
	if err != nil {
		return nil, err
	}
	var entries []fs.DirEntry
	for info, err := range v.f.Entries(v.ctx, p) {
		if err != nil {
			return entries, pathError("readdir", name, err)
		}
		entries = append(entries, &viewEntry{v, path.Join(name, info.Name()), info})
	}
	return entries, nil
}

// viewFile is a File that can be asked what it is.
type viewFile struct{ *File }

// Stat implements fs.File, with the length at this moment.
func (f *viewFile) Stat() (fs.FileInfo, error) {
	info := f.Info()
	var err error
	info.Attr.Length, err = f.Size(f.ctx)
	return info, err
}

// viewDir is an open directory.
type viewDir struct {
	view  *view
	name  string
	info  fs.FileInfo
	after string
	over  bool
}

// Stat implements fs.File.
func (d *viewDir) Stat() (fs.FileInfo, error) { return d.info, nil }

// Read implements fs.File: a directory has no bytes.
func (d *viewDir) Read([]byte) (int, error) {
	return 0, pathError("read", d.name, quarry.Errorf("read", quarry.IsDir, d.name, "a directory has no bytes"))
}

// Close implements fs.File.
func (d *viewDir) Close() error { return nil }

// ReadDir implements fs.ReadDirFile.
func (d *viewDir) ReadDir(n int) ([]fs.DirEntry, error) {
	p, err := d.view.path("readdir", d.name)
	if err != nil {
		return nil, err
	}
	var out []fs.DirEntry
	for !d.over && (n <= 0 || len(out) < n) {
		most := quarry.ListMax
		if n > 0 {
			most = min(most, n-len(out))
		}
		page, more, err := d.view.f.List(d.view.ctx, p, d.after, most)
		if err != nil {
			return out, pathError("readdir", d.name, err)
		}
		for _, info := range page {
			out = append(out, &viewEntry{d.view, path.Join(d.name, info.Name()), info})
			d.after = info.Name()
		}
		d.over = !more
	}
	if n > 0 && len(out) == 0 {
		return nil, io.EOF
	}
	return out, nil
}

// viewEntry is an entry of a directory.
type viewEntry struct {
	view *view
	name string
	info Info
}

// Name implements fs.DirEntry.
func (e *viewEntry) Name() string { return e.info.Name() }

// IsDir implements fs.DirEntry.
func (e *viewEntry) IsDir() bool { return e.info.IsDir() }

// Type implements fs.DirEntry.
func (e *viewEntry) Type() fs.FileMode { return e.info.Mode().Type() }

// Info implements fs.DirEntry. It asks anew: a listing does not know the length of a file
// that is being written.
func (e *viewEntry) Info() (fs.FileInfo, error) { return e.view.Stat(e.name) }
