package disk

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/quarryfs/quarry"
)

// OS is a folder of the operating system's file system. No name, and no symbolic link,
// leads out of it.
type OS struct {
	root *os.Root
	path string
}

var _ FS = (*OS)(nil)

// Open opens the folder, which it makes, durably, if there is none.
func Open(folder string) (*OS, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return nil, err
	}
	if err := makeFolder(folder); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	return &OS{root: root, path: folder}, nil
}

// makeFolder makes a folder and its parents and syncs the parents of those it made.
func makeFolder(folder string) error {
	err := os.Mkdir(folder, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeFolder(filepath.Dir(folder)); err != nil {
			return err
		}
		err = os.Mkdir(folder, 0o700)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil // if it is a file, OpenRoot says so
	}
	if err != nil {
		return err
	}
	parent, err := os.Open(filepath.Dir(folder))
	if err != nil {
		return err
	}
	defer parent.Close()
	return parent.Sync()
}

// Close releases the folder. Open files stay open.
func (d *OS) Close() error { return d.root.Close() }

func pathError(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// check refuses names that are not valid paths.
func check(op, name string) error {
	if !fs.ValidPath(name) || strings.Contains(name, "\x00") {
		return pathError(op, name, fs.ErrInvalid)
	}
	return nil
}

// Create implements FS.
func (d *OS) Create(name string) (File, error) {
	return d.open("create", name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

// Open implements FS.
func (d *OS) Open(name string) (File, error) { return d.open("open", name, os.O_RDWR) }

func (d *OS) open(op, name string, flags int) (File, error) {
	if err := check(op, name); err != nil {
		return nil, err
	}
	f, err := d.root.OpenFile(name, flags, 0o600)
	if err != nil {
		return nil, err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &osFile{File: f, raw: raw}, nil
}

// Remove implements FS.
func (d *OS) Remove(name string) error {
	if err := check("remove", name); err != nil {
		return err
	}
	return d.root.Remove(name)
}

// Rename implements FS.
func (d *OS) Rename(oldName, newName string) error {
	if err := errors.Join(check("rename", oldName), check("rename", newName)); err != nil {
		return err
	}
	return d.root.Rename(oldName, newName)
}

// MkdirAll implements FS.
func (d *OS) MkdirAll(name string) error {
	if err := check("mkdir", name); err != nil {
		return err
	}
	if name == "." {
		return nil
	}
	err := d.root.Mkdir(name, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		if err := d.MkdirAll(path.Dir(name)); err != nil {
			return err
		}
		err = d.root.Mkdir(name, 0o700)
	}
	if errors.Is(err, fs.ErrExist) {
		info, statErr := d.root.Stat(name)
		if statErr != nil {
			return statErr
		}
		if !info.IsDir() {
			return pathError("mkdir", name, syscall.ENOTDIR)
		}
		return nil
	}
	if err != nil {
		return err
	}
	return d.SyncDir(path.Dir(name))
}

// List implements FS.
func (d *OS) List(dir string) ([]string, error) {
	f, err := d.openDir("list", dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// openDir opens a directory to read or sync it.
func (d *OS) openDir(op, dir string) (*os.File, error) {
	if err := check(op, dir); err != nil {
		return nil, err
	}
	return d.root.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY, 0)
}

// Size implements FS.
func (d *OS) Size(name string) (int64, error) {
	if err := check("size", name); err != nil {
		return 0, err
	}
	info, err := d.root.Stat(name)
	if err != nil {
		return 0, err
	}
	if info.IsDir() {
		return 0, pathError("size", name, syscall.EISDIR)
	}
	return info.Size(), nil
}

// SyncDir implements FS.
func (d *OS) SyncDir(dir string) error {
	f, err := d.openDir("sync", dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// Usage implements FS.
func (d *OS) Usage() (total, free int64, err error) {
	var s unix.Statfs_t
	for {
		err = unix.Statfs(d.path, &s)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return 0, 0, pathError("statfs", d.path, err)
	}
	return int64(s.Blocks) * int64(s.Bsize), int64(s.Bavail) * int64(s.Bsize), nil
}

// Lock implements FS.
func (d *OS) Lock(name string) (io.Closer, error) {
	if err := check("lock", name); err != nil {
		return nil, err
	}
	f, err := d.root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	// The lock belongs to this opening of the file: a second one, of this process or of
	// another, does not get it, and it ends with the process at the latest.
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	err = errors.Join(pathError("lock", name, err), f.Close())
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, inUse(d.path)
	}
	return nil, err
}

// inUse is the error for a folder whose lock is held.
func inUse(folder string) error {
	return quarry.Errorf("lock", quarry.Busy, folder, "the folder is in use by another server; each server needs a folder of its own")
}

// osFile is an open file. ReadAt, WriteAt, Truncate and Close are those of os.File.
type osFile struct {
	*os.File
	raw syscall.RawConn
}

// Size implements File.
func (f *osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Fd implements File.
func (f *osFile) Fd() (uintptr, bool) { return f.File.Fd(), true }

// control calls a function of the system with the file's descriptor, which stays open
// meanwhile, again when a signal interrupts it.
func (f *osFile) control(op string, call func(fd int) error) error {
	var err error
	outer := f.raw.Control(func(fd uintptr) {
		for {
			if err = call(int(fd)); err != unix.EINTR {
				return
			}
		}
	})
	if err == nil {
		err = outer
	}
	if err != nil {
		return pathError(op, f.Name(), err)
	}
	return nil
}
