package client

import (
	"context"
	"strings"

	"github.com/quarryfs/quarry"
)

// split checks a path and returns its names.
func split(path string) ([]string, error) {
	if len(path) > quarry.PathBytesMax {
		return nil, quarry.Errorf("path", quarry.TooLarge, "", "it has %d bytes, at most %d are allowed", len(path), quarry.PathBytesMax)
	}
	var names []string
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue
		}
		if err := quarry.CheckName(name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	if len(names) > quarry.PathPartsMax {
		return nil, quarry.Errorf("path", quarry.TooLarge, "", "it has %d parts, at most %d are allowed", len(names), quarry.PathPartsMax)
	}
	return names, nil
}

// lookup walks names from the root. Each call goes as far as one shard owns the directories.
func (f *FS) lookup(ctx context.Context, names []string) (quarry.Attr, error) {
	if f.ctx.Err() != nil {
		return quarry.Attr{}, errClosed
	}
	at, rest := quarry.RootInode, strings.Join(names, "/")
	for range quarry.PathPartsMax + 1 {
		reply, err := f.masters.Lookup(ctx, &quarry.LookupRequest{From: at, Path: rest})
		if err != nil {
			return quarry.Attr{}, err
		}
		if reply.Rest == "" {
			return reply.Attr, nil
		}
		if len(reply.Rest) >= len(rest) && reply.Attr.Inode == at {
			break
		}
		at, rest = reply.Attr.Inode, reply.Rest
	}
	return quarry.Attr{}, quarry.Errorf("lookup", quarry.Internal, rest, "the masters do not get on with the path")
}

// lookupPath walks a path.
func (f *FS) lookupPath(ctx context.Context, path string) (quarry.Attr, error) {
	names, err := split(path)
	if err != nil {
		return quarry.Attr{}, err
	}
	return f.lookup(ctx, names)
}

// lookupFile walks a path that must lead to a file.
func (f *FS) lookupFile(ctx context.Context, path string) (quarry.Attr, error) {
	attr, err := f.lookupPath(ctx, path)
	if err != nil {
		return attr, err
	}
	if attr.Kind != quarry.KindFile {
		return attr, quarry.Errorf("lookup", quarry.IsDir, "", "a file is needed")
	}
	return attr, nil
}

// parent returns the directory that a path's last name is in, and the name.
func (f *FS) parent(ctx context.Context, path string) (quarry.Inode, string, error) {
	names, err := split(path)
	if err != nil {
		return 0, "", err
	}
	if len(names) == 0 {
		return 0, "", quarry.Errorf("path", quarry.Invalid, "", "the root directory cannot be made, renamed or removed")
	}
	dir, name := names[:len(names)-1], names[len(names)-1]
	attr, err := f.lookup(ctx, dir)
	switch {
	case quarry.KindOf(err) == quarry.NotFound:
		return 0, "", quarry.Errorf("lookup", quarry.NotFound, "/"+strings.Join(dir, "/"), "make the directory first")
	case err != nil:
		return 0, "", err
	case attr.Kind != quarry.KindDir:
		return 0, "", quarry.Errorf("lookup", quarry.NotDir, "/"+strings.Join(dir, "/"), "a directory is needed")
	}
	return attr.Inode, name, nil
}
