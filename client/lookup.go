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

// lookup walks names from the root.
func (f *FS) lookup(ctx context.Context, names []string) (quarry.Attr, error) {
	return f.walk(ctx, quarry.RootInode, strings.Join(names, "/"))
}

// walkTries bounds how often a walk begins anew because what it came to was removed under it.
const walkTries = 16

// walk walks a path from a directory. Each call goes as far as one shard owns the directories; so
// a path that several shards own is found step by step, as it is in any file system, each step
// at an instant of its own.
func (f *FS) walk(ctx context.Context, from quarry.Inode, path string) (quarry.Attr, error) {
	if f.ctx.Err() != nil {
		return quarry.Attr{}, errClosed
	}
	for tries := 1; ; tries++ {
		attr, lost, err := f.walkOnce(ctx, from, path)
		if !lost || tries == walkTries {
			return attr, err
		}
	}
}

// walkOnce is walk; lost says that what an entry had led to was gone when its shard was asked:
// by then the entry may lead to something else.
func (f *FS) walkOnce(ctx context.Context, from quarry.Inode, path string) (attr quarry.Attr, lost bool, err error) {
	at, rest := from, path
	for range quarry.PathPartsMax + 1 {
		reply, err := f.masters.Lookup(ctx, &quarry.LookupRequest{From: at, Path: rest})
		if quarry.KindOf(err) == quarry.NotFound && at != from && rest != "" { // is it the directory, or the name in it?
			if _, err := f.masters.Lookup(ctx, &quarry.LookupRequest{From: at}); quarry.KindOf(err) == quarry.NotFound {
				return quarry.Attr{}, true, err
			}
		}
		if err != nil {
			return quarry.Attr{}, quarry.KindOf(err) == quarry.NotFound && at != from && rest == "", err
		}
		if reply.Rest == "" && !reply.Attr.Elsewhere {
			return reply.Attr, false, nil
		}
		if len(reply.Rest) >= len(rest) && reply.Attr.Inode == at {
			break
		}
		at, rest = reply.Attr.Inode, reply.Rest
	}
	return quarry.Attr{}, false, quarry.Errorf("lookup", quarry.Internal, path, "the masters do not get on with the path")
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
