package client

import (
	"context"
	"io"
	"sync"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client/lent"
	"github.com/quarryfs/quarry/client/waiting"
)

// File reads a file. It may be used by many goroutines; Read, Seek and WriteTo share one
// position and wait for each other. A file that grows shows its new bytes to every read that
// begins after they were acknowledged.
type File struct {
	f      *FS
	path   string
	layout *layout
	ctx    context.Context
	cancel context.CancelFunc

	mu     sync.Mutex
	info   Info
	known  int64 // bytes that are known to be there
	closed bool

	reading  waiting.Gate // guards what follows; held while Read waits
	position int64
	ahead    ahead
	row      lent.Row // of Read, from lent files
}

var _ interface {
	io.ReadSeekCloser
	io.ReaderAt
	io.WriterTo
} = (*File)(nil)

// Open returns a file for reading. It asks the masters for the path and the layout, and for
// a file that is being written the primary of its last chunk for its length. ctx bounds the
// life of the file, its reads included.
func (f *FS) Open(ctx context.Context, path string) (*File, error) {
	attr, err := f.lookupFile(ctx, path)
	if err != nil {
		return nil, fail("open", path, err)
	}
	return f.openInode(ctx, path, attr)
}

// openInode opens a file that was looked up.
func (f *FS) openInode(ctx context.Context, path string, attr quarry.Attr) (file *File, err error) {
	file = &File{f: f, path: path, reading: waiting.NewGate(), layout: f.layout(attr.Inode), info: Info{Path: path, Attr: attr}, known: attr.Length}
	if attr.Open {
		if file.known, err = file.layout.end(ctx); err != nil {
			return nil, fail("open", path, err)
		}
		file.info.Attr.Length = file.known
	}
	file.ctx, file.cancel = f.bound(ctx)
	file.ahead.init(file)
	return file, nil
}

// Info returns what was known of the file when it was opened, with its length at that moment.
func (file *File) Info() Info { return file.info }

// Size asks for the length at this moment.
func (file *File) Size(ctx context.Context) (int64, error) {
	n, err := file.end(ctx)
	return n, fail("size", file.path, err)
}

// end asks for the length and keeps it.
func (file *File) end(ctx context.Context) (int64, error) {
	n, err := file.layout.end(ctx)
	if err != nil {
		return 0, err
	}
	file.learn(n)
	return n, nil
}

// learn keeps that the file has at least n bytes.
func (file *File) learn(n int64) {
	file.mu.Lock()
	defer file.mu.Unlock()
	file.known = max(file.known, n)
}

func (file *File) knownEnd() int64 {
	file.mu.Lock()
	defer file.mu.Unlock()
	return file.known
}

// within returns how many of n bytes from offset are in the file; the end is asked for only
// if they reach beyond what is known.
func (file *File) within(ctx context.Context, offset, n int64) (int64, error) {
	end := file.knownEnd()
	if offset+n > end || offset+n < 0 {
		var err error
		if end, err = file.end(ctx); err != nil {
			return 0, err
		}
	}
	return max(0, min(n, end-offset)), nil
}

// ReadAt implements io.ReaderAt. Long reads fetch from several chunks at the same time,
// straight into p.
func (file *File) ReadAt(p []byte, offset int64) (int, error) {
	return file.ReadAtContext(file.ctx, p, offset)
}

// ReadAtContext is ReadAt for as long as ctx lasts; the file's own context does not end it.
func (file *File) ReadAtContext(ctx context.Context, p []byte, offset int64) (int, error) {
	if err := file.check(offset); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := file.within(ctx, offset, int64(len(p)))
	if err != nil {
		return 0, fail("read", file.path, err)
	}
	if err := file.layout.read(ctx, p[:n], offset); err != nil {
		return 0, fail("read", file.path, err)
	}
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

func (file *File) check(offset int64) error {
	file.mu.Lock()
	defer file.mu.Unlock()
	if file.closed {
		return quarry.Errorf("read", quarry.Invalid, file.path, "the file is closed")
	}
	if offset < 0 {
		return quarry.Errorf("read", quarry.Invalid, file.path, "the offset %d is negative", offset)
	}
	return nil
}

// Read implements io.Reader. It fetches ahead.
func (file *File) Read(p []byte) (int, error) {
	file.reading.Take()
	defer file.reading.Unlock()
	if err := file.check(file.position); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if int64(len(p)) >= directBytes { // as parallel as reading ahead, and without a copy
		n, err := file.ReadAtContext(file.ctx, p, file.position)
		file.position += int64(n)
		if n > 0 && err == io.EOF {
			err = nil
		}
		return n, err
	}
	if n := file.readLocal(p); n > 0 {
		file.position += int64(n)
		return n, nil
	}
	if n, err := file.ahead.direct(file.position, p); n > 0 || err != nil {
		file.position += int64(n)
		return n, file.readError(err)
	}
	s, err := file.ahead.get(file.position, p)
	if err != nil {
		return 0, file.readError(err)
	}
	n := s.n
	if s.whole != nil {
		n = copy(p, s.rest(file.position))
	}
	file.position += int64(n)
	file.ahead.release(file.position)
	return n, nil
}

func (file *File) readError(err error) error {
	if err == io.EOF {
		return io.EOF
	}
	return fail("read", file.path, err)
}

// WriteTo implements io.WriterTo: it writes what is left of the file to w, fetching ahead.
func (file *File) WriteTo(w io.Writer) (int64, error) {
	file.reading.Take()
	defer file.reading.Unlock()
	var written int64
	for {
		if err := file.check(file.position); err != nil {
			return written, err
		}
		s, err := file.ahead.get(file.position, nil)
		if err == io.EOF {
			return written, nil
		}
		if err != nil {
			return written, fail("read", file.path, err)
		}
		n, err := w.Write(s.rest(file.position))
		written += int64(n)
		file.position += int64(n)
		file.ahead.release(file.position)
		if err != nil {
			return written, err
		}
	}
}

// Seek implements io.Seeker. From the end it asks where that is.
func (file *File) Seek(offset int64, whence int) (int64, error) {
	file.reading.Take()
	defer file.reading.Unlock()
	if err := file.check(0); err != nil {
		return 0, err
	}
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += file.position
	case io.SeekEnd:
		end, err := file.end(file.ctx)
		if err != nil {
			return 0, fail("seek", file.path, err)
		}
		offset += end
	default:
		return 0, quarry.Errorf("seek", quarry.Invalid, file.path, "whence %d", whence)
	}
	if offset < 0 {
		return 0, quarry.Errorf("seek", quarry.Invalid, file.path, "the position %d is negative", offset)
	}
	file.position = offset
	return offset, nil
}

// Close ends the file and whatever it fetches, and with that a Read that waits.
func (file *File) Close() error {
	file.mu.Lock()
	was := file.closed
	file.closed = true
	file.mu.Unlock()
	if was {
		return quarry.Errorf("close", quarry.Invalid, file.path, "the file is closed")
	}
	file.cancel()
	file.reading.Take()
	defer file.reading.Unlock()
	file.ahead.drop()
	return nil
}
