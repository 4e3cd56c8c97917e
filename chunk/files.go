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
// by many goroutines. Its mutex is not held while a file is opened or closed: a disk that
// hangs there does not keep others from files that are open.
type fileCache struct {
	fs  disk.FS
	max int

	mu    sync.Mutex
	files map[quarry.Handle]*openFile // also those that are being opened
	idle  list.List                   // of *openFile that nobody uses, the one used last in front
}

// openFile is a file in the cache. fileCache.mu guards everything but the methods of the File.
type openFile struct {
	disk.File // nil while it is being opened
	handle    quarry.Handle
	users     int
	idle      *list.Element
	gone      bool          // not in the cache any more
	opened    chan struct{} // closed when the open is over; nil if the file came open
	err       error         // why it could not be opened; set before opened is closed
}

func newFileCache(fsys disk.FS, max int) *fileCache {
	return &fileCache{fs: fsys, max: max, files: map[quarry.Handle]*openFile{}}
}

// get opens a chunk's file; put gives it back. Who comes while another one opens the file
// waits for that. The file is the one that had the chunk's name at some time since get was
// called, or one that has not been forgotten since.
func (c *fileCache) get(h quarry.Handle) (*openFile, error) {
	c.mu.Lock()
	f, ok := c.files[h]
	if !ok {
		f = &openFile{handle: h, users: 1, opened: make(chan struct{})}
		c.files[h] = f
		c.mu.Unlock()
		return c.open(f)
	}
	if f.users == 0 {
		c.idle.Remove(f.idle)
	}
	f.users++
	ready := f.File != nil
	c.mu.Unlock()
	if !ready {
		<-f.opened
	}
	if f.err != nil {
		return nil, f.err
	}
	return f, nil
}

// open opens the file of an entry for all who wait for it. The entry is in the cache
// meanwhile, so that forget finds it: a file that was opened before its name came to stand
// for something else is not kept.
func (c *fileCache) open(f *openFile) (*openFile, error) {
	file, err := c.fs.Open(chunkName(f.handle))
	if errors.Is(err, fs.ErrNotExist) {
		err = quarry.Errorf("open", quarry.Corrupt, f.handle.String(), "the file of the chunk's bytes is gone")
	} else if err != nil {
		err = disk.Wrap("open", f.handle.String(), err)
	}
	c.mu.Lock()
	if f.err = err; err == nil {
		f.File = file
	} else {
		c.remove(f)
	}
	c.mu.Unlock()
	close(f.opened)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// add takes a file that has just been made, as get would have opened it, in the place of
// one that somebody opened before it was made.
func (c *fileCache) add(h quarry.Handle, file disk.File) *openFile {
	f := &openFile{File: file, handle: h, users: 1}
	c.mu.Lock()
	unused := c.take(h)
	c.files[h] = f
	c.mu.Unlock()
	closeFiles(unused)
	return f
}

// put gives a file back.
func (c *fileCache) put(f *openFile) {
	c.mu.Lock()
	unused := c.release(f)
	c.mu.Unlock()
	closeFiles(unused) // their bytes were synced, or nobody wants them
}

// release is put with mu held. It returns the files that are to be closed.
func (c *fileCache) release(f *openFile) (unused []*openFile) {
	if f.users--; f.users > 0 {
		return nil
	}
	if f.gone {
		return []*openFile{f}
	}
	f.idle = c.idle.PushFront(f)
	for c.idle.Len() > 0 && len(c.files) > c.max {
		oldest := c.idle.Back().Value.(*openFile)
		c.remove(oldest)
		unused = append(unused, oldest)
	}
	return unused
}

// forget takes a chunk's file out of the cache, because its name stands for something else.
func (c *fileCache) forget(h quarry.Handle) {
	c.mu.Lock()
	unused := c.take(h)
	c.mu.Unlock()
	closeFiles(unused)
}

// take is forget with mu held. It returns the file if it is to be closed: nobody uses it.
func (c *fileCache) take(h quarry.Handle) []*openFile {
	f, ok := c.files[h]
	if !ok {
		return nil
	}
	c.remove(f)
	if f.users > 0 {
		return nil
	}
	return []*openFile{f}
}

// remove takes a file out of the cache, if it is there. mu is held.
func (c *fileCache) remove(f *openFile) {
	if f.gone {
		return
	}
	f.gone = true
	delete(c.files, f.handle)
	if f.users == 0 {
		c.idle.Remove(f.idle)
	}
}

// close closes all files; those that are still being opened are closed by who opens them.
func (c *fileCache) close() {
	c.mu.Lock()
	var open []*openFile
	for _, f := range c.files {
		c.remove(f)
		if f.File != nil {
			open = append(open, f)
		}
	}
	c.mu.Unlock()
	closeFiles(open)
}

func closeFiles(files []*openFile) {
	for _, f := range files {
		f.Close()
	}
}
