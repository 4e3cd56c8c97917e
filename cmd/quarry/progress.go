package main

import (
	"io"
	"os"
	"path"
	"syscall"
	"time"

	"github.com/schollz/progressbar/v3"
)

// progress shows how far a transfer is, on a terminal, and nothing anywhere else.
type progress struct{ bar *progressbar.ProgressBar }

// newProgress begins to show a transfer; size 0 is not known.
func newProgress(o *options, name string, size int64) *progress {
	if o.json || !onTerminal(os.Stderr) {
		return &progress{}
	}
	if size == 0 {
		size = -1
	}
	return &progress{progressbar.NewOptions64(size,
		progressbar.OptionSetWriter(os.Stderr), progressbar.OptionSetDescription(path.Base("/"+name)),
		progressbar.OptionShowBytes(true), progressbar.OptionUseIECUnits(true), progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSetWidth(30), progressbar.OptionFullWidth(), progressbar.OptionSetPredictTime(true),
		progressbar.OptionOnCompletion(func() { os.Stderr.WriteString("\n") }),
	)}
}

// reader counts what is read. A local file stays one, so that it can be read at several
// places at the same time.
func (p *progress) reader(f *os.File) io.Reader {
	if p.bar == nil {
		return f
	}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		return &countedFile{f, p.bar}
	}
	r := progressbar.NewReader(f, p.bar)
	return &r
}

// countedFile is a local file whose bytes are counted.
type countedFile struct {
	*os.File
	bar *progressbar.ProgressBar
}

func (c *countedFile) Read(b []byte) (int, error) {
	n, err := c.File.Read(b)
	_ = c.bar.Add(n)
	return n, err
}

func (c *countedFile) ReadAt(b []byte, off int64) (int, error) {
	n, err := c.File.ReadAt(b, off)
	_ = c.bar.Add(n)
	return n, err
}

// writer counts what is written.
func (p *progress) writer(w io.Writer) io.Writer {
	if p.bar == nil {
		return w
	}
	return io.MultiWriter(w, p.bar)
}

// finish ends the line.
func (p *progress) finish(err error) {
	if p.bar == nil {
		return
	}
	if err != nil {
		_ = p.bar.Exit()
		os.Stderr.WriteString("\n")
		return
	}
	_ = p.bar.Finish()
}

// umask returns the process's file mode creation mask.
func umask() os.FileMode {
	mask := syscall.Umask(0)
	syscall.Umask(mask)
	return os.FileMode(mask)
}
