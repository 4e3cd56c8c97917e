package client

import (
	"context"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/quarryfs/quarry"
)

// View returns the files below a directory as a fs.FS, for code that only knows that: the
// standard library's http.FileServerFS, template.ParseFS, fs.WalkDir. ctx bounds everything done
// through it. It is also a fs.ReadDirFS, fs.ReadFileFS, fs.StatFS and fs.SubFS, and its files are
// io.ReaderAt, io.Seeker and io.WriterTo.
//
// Its errors are *fs.PathError with the name in the view, around those of this package, so that
// errors.Is knows the words of io/fs and the kinds of package quarry. A name that is not UTF-8 is
// listed but cannot be opened: io/fs has no such names.
func (f *FS) View(ctx context.Context, dir string) fs.FS { return &view{ctx, f, dir} }

type view struct {
	ctx context.Context
	f   *FS
	dir string
}

var _ interface {
	fs.ReadDirFS
	fs.ReadFileFS
	fs.StatFS
	fs.SubFS
} = (*view)(nil)

// path returns where a name of the view is.
func (v *view) path(op, name string) (string, error) {
	switch {
	case !fs.ValidPath(name):
		return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	case name == ".":
		return v.dir, nil
	}
	return strings.TrimRight(v.dir, "/") + "/" + name, nil
}

// inView returns the name in the view of an entry of a directory.
func inView(dir, entry string) string {
	if dir == "." {
		return entry
	}
	return dir + "/" + entry
}

// pathError gives an error the form that io/fs promises; the end of a file has none.
func pathError(op, name string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// Open implements fs.FS.
func (v *view) Open(name string) (fs.File, error) {
	p, err := v.path("open", name)
	if err != nil {
		return nil, err
	}
	attr, err := v.f.lookupPath(v.ctx, p)
	if err != nil {
		return nil, pathError("open", name, fail("open", p, err))
	}
	if attr.Kind == quarry.KindDir {
		return &viewDir{view: v, name: name, info: v.info(name, p, attr)}, nil
	}
	file, err := v.f.openInode(v.ctx, p, attr)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return &viewFile{file, name}, nil
}

// info describes what a name of the view leads to; the root of a fs.FS is called ".".
func (v *view) info(name, p string, attr quarry.Attr) Info {
	if name == "." {
		p = name
	}
	return Info{Path: p, Attr: attr}
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
	return v.info(name, p, info.Attr), nil
}

// Sub implements fs.SubFS. That it is a directory is not looked at before it is used.
func (v *view) Sub(name string) (fs.FS, error) {
	p, err := v.path("sub", name)
	if err != nil {
		return nil, err
	}
	return &view{v.ctx, v.f, p}, nil
}

// growBytes is what ReadFile makes room for at a time: memory follows the bytes that came, not
// the length that was told.
const growBytes = 64 << 20

// ReadFile implements fs.ReadFileFS. The parts of a large file are fetched from several chunks at
// the same time.
func (v *view) ReadFile(name string) ([]byte, error) {
	f, err := v.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	file, ok := f.(*viewFile)
	if !ok {
		return nil, pathError("read", name, errNoBytes)
	}
	size := file.Info().Size()
	b := []byte{}
	for done := int64(0); done < size; {
		n := min(size-done, growBytes)
		b = slices.Grow(b, int(n))[:done+n]
		got, err := file.ReadAt(b[done:], done)
		if err != nil {
			return b[:done+int64(got)], err
		}
		done += n
	}
	return b, nil
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
		entries = append(entries, &viewEntry{v, inView(name, info.Name()), info})
	}
	return entries, nil
}

// viewFile is a File of a view. Errors of its WriteTo, which may be the writer's, are as they are.
type viewFile struct {
	*File
	name string
}

var _ interface {
	fs.File
	io.ReadSeekCloser
	io.ReaderAt
	io.WriterTo
} = (*viewFile)(nil)

// Stat implements fs.File, with the length at this moment.
func (f *viewFile) Stat() (fs.FileInfo, error) {
	info := f.Info()
	var err error
	if info.Attr.Length, err = f.Size(f.ctx); err != nil {
		return nil, pathError("stat", f.name, err)
	}
	return info, nil
}

// Read implements fs.File.
func (f *viewFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	return n, pathError("read", f.name, err)
}

// ReadAt implements io.ReaderAt.
func (f *viewFile) ReadAt(p []byte, offset int64) (int, error) {
	n, err := f.File.ReadAt(p, offset)
	return n, pathError("read", f.name, err)
}

// Seek implements io.Seeker.
func (f *viewFile) Seek(offset int64, whence int) (int64, error) {
	n, err := f.File.Seek(offset, whence)
	return n, pathError("seek", f.name, err)
}

// Close implements fs.File.
func (f *viewFile) Close() error { return pathError("close", f.name, f.File.Close()) }

// viewDir is an open directory. Like a File that reads, it has one position.
type viewDir struct {
	view  *view
	name  string
	info  fs.FileInfo
	after string
	over  bool
}

var _ fs.ReadDirFile = (*viewDir)(nil)

// errNoBytes is what reading a directory gives.
var errNoBytes = &quarry.Error{Op: "read", Kind: quarry.IsDir}

// Stat implements fs.File.
func (d *viewDir) Stat() (fs.FileInfo, error) { return d.info, nil }

// Read implements fs.File: a directory has no bytes.
func (d *viewDir) Read([]byte) (int, error) { return 0, pathError("read", d.name, errNoBytes) }

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
			out = append(out, &viewEntry{d.view, inView(d.name, info.Name()), info})
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

// Info implements fs.DirEntry. Only of a file that was being written when it was listed it asks
// anew: a listing does not know its length.
func (e *viewEntry) Info() (fs.FileInfo, error) {
	if e.info.Attr.Open {
		return e.view.Stat(e.name)
	}
	return e.info, nil
}

// String shows the entry as a listing does.
func (e *viewEntry) String() string { return fs.FormatDirEntry(e) }
