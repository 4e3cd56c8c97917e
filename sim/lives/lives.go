// Package lives makes one file system of the lives of a client that is killed and started again:
// what is asked goes to the one that runs.
package lives

import (
	"context"
	"errors"
	"io"
	"iter"
	"sync"

	"github.com/quarryfs/quarry/client"
)

// FileSystem is a client that has lived several times. Its zero value has not lived yet: Begin
// comes first. Safe for use by many goroutines.
type FileSystem struct {
	mu    sync.Mutex
	lives []*client.FS // the last is the one that runs
}

// Begin has everything that is asked from here on go to another client.
func (l *FileSystem) Begin(fs *client.FS) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lives = append(l.lives, fs)
}

// now is the client that runs.
func (l *FileSystem) now() *client.FS {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lives[len(l.lives)-1]
}

// Close ends all that was opened, in any life.
func (l *FileSystem) Close() error {
	l.mu.Lock()
	lives := l.lives
	l.mu.Unlock()
	var all []error
	for _, fs := range lives {
		all = append(all, fs.Close())
	}
	return errors.Join(all...)
}

var _ client.FileSystem = (*FileSystem)(nil)

// Create implements client.FileSystem.
func (l *FileSystem) Create(ctx context.Context, path string) (*client.Writer, error) {
	return l.now().Create(ctx, path)
}

// Put implements client.FileSystem.
func (l *FileSystem) Put(ctx context.Context, path string, r io.Reader, opts client.PutOptions) (client.Info, error) {
	return l.now().Put(ctx, path, r, opts)
}

// Open implements client.FileSystem.
func (l *FileSystem) Open(ctx context.Context, path string) (*client.File, error) {
	return l.now().Open(ctx, path)
}

// Append implements client.FileSystem.
func (l *FileSystem) Append(ctx context.Context, path string, record []byte) (int64, error) {
	return l.now().Append(ctx, path, record)
}

// Appender implements client.FileSystem.
func (l *FileSystem) Appender(ctx context.Context, path string) (*client.Appender, error) {
	return l.now().Appender(ctx, path)
}

// Tail implements client.FileSystem.
func (l *FileSystem) Tail(ctx context.Context, path string, from int64) (*client.Tail, error) {
	return l.now().Tail(ctx, path, from)
}

// Stat implements client.FileSystem.
func (l *FileSystem) Stat(ctx context.Context, path string) (client.Info, error) {
	return l.now().Stat(ctx, path)
}

// List implements client.FileSystem.
func (l *FileSystem) List(ctx context.Context, path, after string, most int) ([]client.Info, bool, error) {
	return l.now().List(ctx, path, after, most)
}

// Mkdir implements client.FileSystem.
func (l *FileSystem) Mkdir(ctx context.Context, path string) error { return l.now().Mkdir(ctx, path) }

// MkdirAll implements client.FileSystem.
func (l *FileSystem) MkdirAll(ctx context.Context, path string) error {
	return l.now().MkdirAll(ctx, path)
}

// Rename implements client.FileSystem.
func (l *FileSystem) Rename(ctx context.Context, from, to string) error {
	return l.now().Rename(ctx, from, to)
}

// Remove implements client.FileSystem.
func (l *FileSystem) Remove(ctx context.Context, path string) error { return l.now().Remove(ctx, path) }

// RemoveNow implements client.FileSystem.
func (l *FileSystem) RemoveNow(ctx context.Context, path string) error {
	return l.now().RemoveNow(ctx, path)
}

// Trash implements client.FileSystem.
func (l *FileSystem) Trash(ctx context.Context, path string) iter.Seq2[client.Removed, error] {
	return l.now().Trash(ctx, path)
}

// SetAttr implements client.FileSystem.
func (l *FileSystem) SetAttr(ctx context.Context, path string, change client.AttrChange) (client.Info, error) {
	return l.now().SetAttr(ctx, path, change)
}

// Undelete implements client.FileSystem.
func (l *FileSystem) Undelete(ctx context.Context, path string, opts client.UndeleteOptions) (client.Info, error) {
	return l.now().Undelete(ctx, path, opts)
}
