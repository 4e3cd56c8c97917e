package transfer

import (
	"context"
	"io"
	"io/fs"
	"iter"
	"time"
)

// Kind says what an entry is.
type Kind uint8

// The kinds of entries.
const (
	File  Kind = 1
	Dir   Kind = 2
	Other Kind = 3 // not followed and not copied: a link to a directory, a socket, a pipe, a device
)

// String names the kind for people and programs.
func (k Kind) String() string {
	switch k {
	case File:
		return "file"
	case Dir:
		return "directory"
	}
	return "special"
}

// Entry is a file or directory of a tree.
type Entry struct {
	Path     string
	Name     string // the last part of the path
	Kind     Kind
	Size     int64 // bytes; 0 for directories
	Modified time.Time
	Mode     fs.FileMode // the permissions, and whether it is set-user, set-group or sticky
	Link     bool        // a symbolic link, described by what it leads to
	ID       string      // of a file: names its bytes, as far as they were seen; others have another one
}

// Source is a file that is read. [os.File] and [client.File] are ones.
type Source interface {
	io.ReadSeekCloser
	io.ReaderAt
}

// PutOptions are the settings of one [Tree] Put.
type PutOptions struct {
	Size     int64     // how many bytes will come, as far as it is known
	Modified time.Time // the time that a local file gets; zero: the present
	Keep     bool      // refuse, with Exists, to replace a file that has the name
	// Preserve has a file of the cluster get the time, too, and either one Mode; a local file gets
	// no more than the permissions, because it does not keep its owner.
	Preserve bool
	Mode     fs.FileMode
	// Moved is told of every few bytes that were moved, by several goroutines, and may wait. An
	// error ends the transfer. Not nil.
	Moved func(n int) error
	// Resume is the ID of the source if the file is to go on with what an earlier Put of it has left,
	// and to leave something when it fails: a local file a part under a hidden name beside it, a cluster
	// what is noted in [Quarry].State, of a local source. Skipped is told how many bytes were there
	// already, Anew why what was left is of no use. Both are called by several goroutines.
	Resume  string
	Skipped func(n int64)
	Anew    func(why string)
}

// Tree is one side of a transfer. There are two, [Local] and [Quarry], and the four directions
// between them are one piece of code because of it. Safe for use by many goroutines. Errors are
// of the kinds of package quarry, with the path as subject.
type Tree interface {
	// Stat describes what a path leads to.
	Stat(ctx context.Context, path string) (Entry, error)
	// List goes through a directory in the order of the names' bytes. An error ends it.
	List(ctx context.Context, path string) iter.Seq2[Entry, error]
	// Open returns a file for reading.
	Open(ctx context.Context, path string) (Source, error)
	// Put stores a file under a name, whole; on an error nothing is to be seen, unless it is Unknown.
	Put(ctx context.Context, path string, from Source, o PutOptions) error
	// Mkdir makes a directory; one that exists is a success.
	Mkdir(ctx context.Context, path string) error
	// MkdirAll makes a directory and those above it, as far as they are missing.
	MkdirAll(ctx context.Context, path string) error
	// Remove removes a file, or a directory with everything in it. What is not there is a success.
	Remove(ctx context.Context, path string) error
	// Join returns the path of a name in a directory.
	Join(dir, name string) string
	// Name returns the last part of a path; "" if it has none, as the root.
	Name(path string) string
}

// counted is a source of which is told what is read.
type counted struct {
	Source
	moved func(n int) error
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Source.Read(p)
	return c.count(n, err)
}

func (c counted) ReadAt(p []byte, offset int64) (int, error) {
	n, err := c.Source.ReadAt(p, offset)
	return c.count(n, err)
}

func (c counted) count(n int, err error) (int, error) {
	if n > 0 {
		if stop := c.moved(n); stop != nil {
			return 0, stop // io.ReadFull forgets an error that comes with all the bytes
		}
	}
	return n, err
}

// countedWriter is a writer of which is told what is written.
type countedWriter struct {
	io.Writer
	moved func(n int) error
}

func (c countedWriter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	if err == nil {
		err = c.moved(n)
	}
	return n, err
}
