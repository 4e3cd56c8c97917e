package client

import (
	"context"
	"io/fs"
	"path"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client/attr"
)

// Info describes a file or directory. It is a fs.FileInfo.
type Info struct {
	Path string // as the caller gave it, or below the directory that was listed
	Attr quarry.Attr
}

var _ fs.FileInfo = Info{}

// Name returns the last name of the path; "/" for the root.
func (i Info) Name() string { return path.Base("/" + i.Path) }

// Size returns the length in bytes.
func (i Info) Size() int64 { return i.Attr.Length }

// Mode returns the permission bits and whether it is a directory; they are kept, not enforced.
func (i Info) Mode() fs.FileMode {
	mode := attr.Mode(i.Attr.Mode)
	if i.IsDir() {
		mode |= fs.ModeDir
	}
	return mode
}

// ModTime returns when the layout or the entries last changed, or what that was set to since.
func (i Info) ModTime() time.Time { return time.Unix(0, i.Attr.Modified) }

// IsDir reports whether it is a directory.
func (i Info) IsDir() bool { return i.Attr.Kind == quarry.KindDir }

// Sys returns the quarry.Attr.
func (i Info) Sys() any { return i.Attr }

// Stat describes a file, with its length at this moment, or a directory.
func (f *FS) Stat(ctx context.Context, path string) (Info, error) {
	attr, err := f.lookupPath(ctx, path)
	if err != nil {
		return Info{}, fail("stat", path, err)
	}
	if attr.Open {
		if attr.Length, err = f.layout(attr.Inode).end(ctx); err != nil {
			return Info{}, fail("stat", path, err)
		}
	}
	return Info{Path: path, Attr: attr}, nil
}
