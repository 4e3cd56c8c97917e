package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/quarryfs/quarry"
)

// Local is the file system of this machine.
type Local struct{}

var _ Tree = Local{}

// LocalError is the error of a local file, with the kind that fits.
func LocalError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	kind := quarry.Internal
	switch {
	case errors.Is(err, fs.ErrNotExist):
		kind = quarry.NotFound
	case errors.Is(err, fs.ErrPermission):
		kind = quarry.Permission
	case errors.Is(err, fs.ErrExist):
		kind = quarry.Exists
	case errors.Is(err, syscall.ENOTDIR):
		kind = quarry.NotDir
	case errors.Is(err, syscall.EISDIR):
		kind = quarry.IsDir
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		kind = quarry.NoSpace
	}
	var path *fs.PathError
	if errors.As(err, &path) { // it names the file once more
		err = path.Err
	}
	return &quarry.Error{Op: op, Kind: kind, Subject: "local file " + name, Err: err}
}

// Stat implements [Tree].
func (Local) Stat(_ context.Context, path string) (Entry, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Entry{}, LocalError("stat", path, err)
	}
	return localEntry(path, info), nil
}

func localEntry(path string, info fs.FileInfo) Entry {
	e := Entry{Path: path, Name: info.Name(), Kind: Other, Modified: info.ModTime(), Mode: info.Mode() &^ fs.ModeType}
	switch {
	case info.IsDir():
		e.Kind = Dir
	case info.Mode().IsRegular():
		e.Kind, e.Size = File, info.Size()
		e.ID = fmt.Sprintf("%d bytes of %d", info.Size(), info.ModTime().UnixNano())
	}
	return e
}

// List implements [Tree].
func (Local) List(_ context.Context, path string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		entries, err := os.ReadDir(path)
		if err != nil {
			yield(Entry{}, LocalError("list", path, err))
			return
		}
		for _, d := range entries {
			name := filepath.Join(path, d.Name())
			info, err := d.Info()
			if err == nil && info.Mode()&fs.ModeSymlink != 0 {
				info, err = followed(name, info)
			}
			if errors.Is(err, fs.ErrNotExist) {
				continue // removed meanwhile
			}
			if err != nil {
				yield(Entry{}, LocalError("list", name, err))
				return
			}
			e := localEntry(name, info)
			e.Name, e.Link = d.Name(), d.Type()&fs.ModeSymlink != 0
			if !yield(e, nil) {
				return
			}
		}
	}
}

// followed describes what a link leads to, if that is a regular file, and the link otherwise.
func followed(name string, link fs.FileInfo) (fs.FileInfo, error) {
	info, err := os.Stat(name)
	if err != nil || !info.Mode().IsRegular() {
		return link, nil
	}
	return info, nil
}

// Open implements [Tree].
func (Local) Open(_ context.Context, path string) (Source, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, LocalError("open", path, err)
	}
	if info, err := f.Stat(); err == nil && info.IsDir() {
		f.Close()
		return nil, quarry.Errorf("open", quarry.IsDir, "local file "+path, "a file is needed")
	}
	return f, nil
}

// Put implements [Tree].
func (Local) Put(ctx context.Context, path string, from Source, o PutOptions) error {
	if info, err := os.Lstat(path); err == nil {
		switch {
		case info.IsDir():
			return quarry.Errorf("write", quarry.IsDir, "local file "+path, "a directory has this name")
		case o.Keep:
			return exists(path)
		}
	}
	if o.Resume != "" {
		return Local{}.resume(ctx, path, from, o, syncEvery)
	}
	part, err := createPart(path)
	if err != nil {
		return LocalError("write", path, err)
	}
	err = fill(ctx, part, from, o)
	if closeErr := part.Close(); err == nil {
		err = LocalError("write", path, closeErr)
	}
	if err == nil {
		err = publish(part.Name(), path, o.Keep)
	}
	if err != nil {
		_ = os.Remove(part.Name())
	}
	return err
}

func exists(path string) error {
	return quarry.Errorf("write", quarry.Exists, "local file "+path, "give another name, or --force to replace it")
}

// createPart makes a hidden file beside a path, for its bytes while they come.
func createPart(path string) (*os.File, error) {
	dir, name := filepath.Split(path)
	name = name[:min(len(name), quarry.NameBytesMax-32)]
	for tries := 0; ; tries++ {
		part := fmt.Sprintf("%s.%s.part-%016x", dir, name, rand.Uint64())
		f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if err == nil || !errors.Is(err, fs.ErrExist) || tries > 16 {
			return f, err
		}
	}
}

// fill writes what is left of a source into a file.
func fill(ctx context.Context, f *os.File, from Source, o PutOptions) error {
	_, err := io.Copy(countedWriter{f, func(n int) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return o.Moved(n)
	}}, from)
	if err == nil && o.Preserve {
		err = os.Chmod(f.Name(), o.Mode.Perm())
	}
	if err == nil && !o.Modified.IsZero() {
		err = os.Chtimes(f.Name(), o.Modified, o.Modified)
	}
	var failed *fs.PathError
	if errors.As(err, &failed) {
		return LocalError("write", f.Name(), err)
	}
	return err
}

// publish gives a complete file its name.
func publish(part, path string, keep bool) error {
	if keep {
		err := os.Link(part, path)
		switch {
		case err == nil:
			return os.Remove(part)
		case errors.Is(err, fs.ErrExist):
			return exists(path)
		}
		if _, err := os.Lstat(path); err == nil { // this file system has no links
			return exists(path)
		}
	}
	return LocalError("write", path, os.Rename(part, path))
}

// Mkdir implements [Tree].
func (Local) Mkdir(_ context.Context, path string) error {
	err := os.Mkdir(path, 0o777)
	if errors.Is(err, fs.ErrExist) {
		info, statErr := os.Stat(path)
		if statErr == nil && info.IsDir() {
			return nil
		}
		return quarry.Errorf("mkdir", quarry.NotDir, "local file "+path, "a file has this name")
	}
	return LocalError("mkdir", path, err)
}

// MkdirAll implements [Tree].
func (Local) MkdirAll(_ context.Context, path string) error {
	return LocalError("mkdir", path, os.MkdirAll(path, 0o777))
}

// Remove implements [Tree].
func (Local) Remove(_ context.Context, path string) error {
	return LocalError("remove", path, os.RemoveAll(path))
}

// Join implements [Tree].
func (Local) Join(dir, name string) string { return filepath.Join(dir, name) }

// Name implements [Tree]. Of ".", ".." and "a/.." it is that of the directory they mean.
func (Local) Name(path string) string {
	name := filepath.Base(path)
	if name == "." || name == ".." {
		if whole, err := filepath.Abs(path); err == nil {
			name = filepath.Base(whole)
		}
	}
	return strings.Trim(name, "/")
}
