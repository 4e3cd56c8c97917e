package transfer

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"strings"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
)

// Quarry is the tree of a cluster.
type Quarry struct {
	FS *client.FS
	// State is the local folder in which it is noted what is stored of large files that are to be gone
	// on with; "": they are not.
	State string
}

var _ Tree = Quarry{}

// Stat implements [Tree].
func (q Quarry) Stat(ctx context.Context, path string) (Entry, error) {
	info, err := q.FS.Stat(ctx, path)
	if err != nil {
		return Entry{}, err
	}
	return quarryEntry(info), nil
}

func quarryEntry(info client.Info) Entry {
	e := Entry{Path: info.Path, Name: info.Name(), Kind: File, Size: info.Size(), Modified: info.ModTime(), Mode: info.Mode() &^ fs.ModeDir}
	e.ID = fmt.Sprintf("%v.%d", info.Attr.Inode, info.Attr.TruncateVersion) // a file only grows
	if info.IsDir() {
		e.Kind, e.Size = Dir, 0
	}
	return e
}

// List implements [Tree]. The length of a file that is being written is that of the moment.
func (q Quarry) List(ctx context.Context, dir string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for info, err := range q.FS.Entries(ctx, dir) {
			if err == nil {
				err = quarry.CheckName(info.Name()) // it becomes the name of a local file
			}
			if err == nil && info.Attr.Open {
				switch now, statErr := q.FS.Stat(ctx, info.Path); quarry.KindOf(statErr) {
				case 0:
					info = now
				case quarry.NotFound:
					continue // removed meanwhile
				default:
					err = statErr
				}
			}
			if err != nil {
				yield(Entry{}, err)
				return
			}
			if !yield(quarryEntry(info), nil) {
				return
			}
		}
	}
}

// Open implements [Tree].
func (q Quarry) Open(ctx context.Context, path string) (Source, error) {
	f, err := q.FS.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Put implements [Tree].
func (q Quarry) Put(ctx context.Context, path string, from Source, o PutOptions) error {
	opts := client.PutOptions{Size: o.Size, Keep: o.Keep}
	if o.Preserve {
		opts.Mode, opts.Modified = new(client.ModeBits(o.Mode)), o.Modified
	}
	l, err := q.ledger(ctx, path, from, o)
	if err != nil {
		return err
	}
	if l != nil {
		defer l.f.Close() // which gives the lock back
		opts.Ledger = l
	}
	_, err = q.FS.Put(ctx, path, counted{from, o.Moved}, opts)
	return err
}

// Mkdir implements [Tree].
func (q Quarry) Mkdir(ctx context.Context, path string) error {
	err := q.FS.Mkdir(ctx, path)
	if kind := quarry.KindOf(err); kind != quarry.Exists && kind != quarry.Invalid { // Invalid: the root
		return err
	}
	e, statErr := q.Stat(ctx, path)
	switch {
	case statErr != nil:
		return err
	case e.Kind != Dir:
		return quarry.Errorf("mkdir", quarry.NotDir, path, "a file has this name")
	}
	return nil
}

// MkdirAll implements [Tree].
func (q Quarry) MkdirAll(ctx context.Context, path string) error { return q.FS.MkdirAll(ctx, path) }

// Remove implements [Tree].
func (q Quarry) Remove(ctx context.Context, path string) error { return q.FS.RemoveAll(ctx, path) }

// Join implements [Tree].
func (Quarry) Join(dir, name string) string { return path.Join("/"+dir, name) }

// Name implements [Tree].
func (Quarry) Name(p string) string { return strings.Trim(path.Base("/"+p), "/") }

// Clean returns a path of a cluster as it is shown: "/" before each name, and nothing else.
func Clean(p string) string {
	var b strings.Builder
	for name := range strings.SplitSeq(p, "/") {
		if name != "" {
			b.WriteString("/" + name)
		}
	}
	if b.Len() == 0 {
		return "/"
	}
	return b.String()
}
