package chunk

import (
	"container/list"
	"errors"
	"io/fs"
	"sync"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// fileCache keeps chunks' files open, at most max of them beside those in use. Safe for use
// by many goroutines.
type fileCache struct {
	fs  disk.FS
	max int

	mu    sync.Mutex
	files map[quarry.Handle]*openFile
	idle  list.List // of *openFile that nobody uses, the one used last in front
}

// openFile is a file in the cache. fileCache.mu guards everything but the File.
type openFile struct {
	disk.File
	handle quarry.Handle
	users  int
	idle   *list.Element
	gone   bool // not in the cache any more
}

func newFileCache(fsys disk.FS, max int) *fileCache {
	return &fileCache{fs: fsys, max: max, files: map[quarry.Handle]*openFile{}}
}

// get opens a chunk's file; put gives it back.
func (c *fileCache) get(h quarry.Handle) (*openFile, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f, ok := c.files[h]; ok {
		if f.users == 0 {
			c.idle.Remove(f.idle)
		}
		f.users++
		return f, nil
	}
	file, err := c.fs.Open(chunkName(h))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, quarry.Errorf("open", quarry.Corrupt, h.String(), "the file of the chunk's bytes is gone")
	}
	if err != nil {
		return nil, disk.Wrap("open", h.String(), err)
	}
	return c.insert(h, file), nil
}

// add takes a file that has just been made, as get would have opened it.
func (c *fileCache) add(h quarry.Handle, file disk.File) *openFile {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.insert(h, file)
}

func (c *fileCache) insert(h quarry.Handle, file disk.File) *openFile {
	f := &openFile{File: file, handle: h, users: 1}
	c.files[h] = f
	return f
}

// put gives a file back.
func (c *fileCache) put(f *openFile) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.users--; f.users > 0 {
		return
	}
	if f.gone {
		f.Close() // its bytes were synced, or nobody wants them
		return
	}
	f.idle = c.idle.PushFront(f)
	for c.idle.Len() > 0 && len(c.files) > c.max {
		oldest := c.idle.Remove(c.idle.Back()).(*openFile)
		delete(c.files, oldest.handle)
		oldest.Close()
	}
}

// forget takes a chunk's file out of the cache, because its name stands for something else.
func (c *fileCache) forget(h quarry.Handle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f, ok := c.files[h]
	if !ok {
		return
	}
	delete(c.files, h)
	f.gone = true
	if f.users == 0 {
		c.idle.Remove(f.idle)
		f.Close()
	}
}

// close closes all files.
func (c *fileCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for h, f := range c.files {
		f.Close()
		delete(c.files, h)
	}
	c.idle.Init()
}
