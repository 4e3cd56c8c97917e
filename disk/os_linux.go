package disk

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Sync implements File.
func (f *osFile) Sync() error { return f.control("fdatasync", unix.Fdatasync) }

// Allocate implements File.
func (f *osFile) Allocate(off, n int64) error {
	err := f.control("fallocate", func(fd int) error { return unix.Fallocate(fd, 0, off, n) })
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	size, err := f.Size()
	if err != nil || size >= off+n {
		return err
	}
	return f.Truncate(off + n)
}

// StartWriteback implements File.
func (f *osFile) StartWriteback(off, n int64) {
	// An error here is no loss: Sync meets it again.
	_ = f.control("sync_file_range", func(fd int) error {
		return unix.SyncFileRange(fd, off, n, unix.SYNC_FILE_RANGE_WRITE)
	})
}
