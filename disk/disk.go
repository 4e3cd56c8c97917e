// Package disk is the seam to files that must survive a crash. It has a real form
// ([Open]), a form in memory that can be crashed with any subset of unsynced writes
// ([NewMem]), and wrappers that inject faults ([NewFaulty]) and set a size ([WithQuota]);
// the suite in disktest holds for all of them.
//
// What a crash may take: bytes written since the file's last Sync, in any part and any
// order; names made, renamed or removed since the directory's last SyncDir. Nothing else.
// After a Sync that failed the file's unsynced bytes are suspect for ever: the caller stops
// using the disk and never repeats the Sync.
package disk

import "io"

// FS is a tree of files below one folder. Names are slash-separated paths relative to it,
// as fs.ValidPath has them. Errors are those of package os; a full disk is ENOSPC. Safe for
// use by many goroutines.
type FS interface {
	// Create makes an empty file for reading and writing; fs.ErrExist if the name is taken.
	Create(name string) (File, error)
	// Open opens an existing file for reading and writing; fs.ErrNotExist if there is none.
	Open(name string) (File, error)
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// Rename renames a file and replaces a file that had the new name, in one step.
	Rename(oldName, newName string) error
	// MkdirAll makes a directory and its parents, and syncs the parents of those it made.
	MkdirAll(name string) error
	// List returns the names in a directory, sorted; fs.ErrNotExist if there is none.
	List(dir string) ([]string, error)
	// Size returns the length of a file in bytes; fs.ErrNotExist if there is none.
	Size(name string) (int64, error)
	// SyncDir makes the names in a directory durable.
	SyncDir(dir string) error
	// Usage returns the bytes of the file system (or of the quota) in all and still free.
	Usage() (total, free int64, err error)
	// Lock takes an exclusive lock on the named file, which it creates; an error that names
	// the folder if another process, or this one, holds it. Closing releases it.
	Lock(name string) (io.Closer, error)
}

// File is an open file. Safe for use by many goroutines, as pread and pwrite are.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Size returns the file's length in bytes.
	Size() (int64, error)
	// Truncate sets the length.
	Truncate(size int64) error
	// Sync makes all bytes written, and the length, durable (fdatasync).
	Sync() error
	// Allocate reserves space for [off, off+n) and extends the length if it must; what was
	// not written reads as zero. Best effort where the file system cannot.
	Allocate(off, n int64) error
	// StartWriteback asks the system to begin writing [off, off+n) to the disk, without
	// waiting and without any promise; it shortens a later Sync.
	StartWriteback(off, n int64)
	// Fd returns the operating system's file descriptor for sendfile; false if there is none.
	Fd() (uintptr, bool)
}
