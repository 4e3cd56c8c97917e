package raft

import (
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// guardFS keeps failures of the state's own log away from Pebble. When that log cannot be
// written, synced or begun anew, Pebble panics with a lock unlocked twice, which ends the
// process with a message that tells nothing. So whoever meets such a failure tells the host,
// and does not return: the host stops, and with it the process, in its own way. What is left
// of Pebble cannot be closed.
type guardFS struct {
	vfs.FS
	failed func(path string, err error)
}

func (g *guardFS) check(path string, err error) {
	if err != nil && strings.HasSuffix(path, ".log") {
		g.failed(path, err)
		select {} // Pebble must not go on, not even to unlock what it holds
	}
}

// Create implements vfs.FS.
func (g *guardFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := g.FS.Create(name, c)
	return g.guard(name, f, err)
}

// ReuseForWrite implements vfs.FS.
func (g *guardFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := g.FS.ReuseForWrite(oldname, newname, c)
	return g.guard(newname, f, err)
}

func (g *guardFS) guard(name string, f vfs.File, err error) (vfs.File, error) {
	g.check(name, err)
	if err != nil || !strings.HasSuffix(name, ".log") {
		return f, err
	}
	return &guardFile{f, g, name}, nil
}

// guardFile is a file of the state's own log.
type guardFile struct {
	vfs.File
	fs   *guardFS
	name string
}

// Write implements vfs.File.
func (f *guardFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	f.fs.check(f.name, err)
	return n, err
}

// Sync implements vfs.File.
func (f *guardFile) Sync() error {
	err := f.File.Sync()
	f.fs.check(f.name, err)
	return err
}

// SyncData implements vfs.File.
func (f *guardFile) SyncData() error {
	err := f.File.SyncData()
	f.fs.check(f.name, err)
	return err
}

// SyncTo implements vfs.File.
func (f *guardFile) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	f.fs.check(f.name, err)
	return full, err
}
