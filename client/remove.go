package client

import (
	"context"

	"golang.org/x/sync/errgroup"

	"github.com/quarryfs/quarry"
)

// Remove removes a file or an empty directory.
func (f *FS) Remove(ctx context.Context, path string) error {
	parent, name, err := f.parent(ctx, path)
	if err != nil {
		return fail("remove", path, err)
	}
	err = f.removeName(ctx, parent, name, false)
	if quarry.KindOf(err) == quarry.IsDir {
		err = f.removeName(ctx, parent, name, true)
	}
	return fail("remove", path, err)
}

// removeName removes a name of a file, or of an empty directory.
func (f *FS) removeName(ctx context.Context, parent quarry.Inode, name string, dir bool) error {
	_, err := mutate(ctx, f, parent.Slot(), func(op quarry.Op) (struct{}, error) {
		return struct{}{}, f.masters.Remove(ctx, &quarry.RemoveRequest{Op: op, Parent: parent, Name: name, Dir: dir})
	})
	return err
}

// removeParallel is how many names of one directory RemoveAll removes at a time.
const removeParallel = 16

// RemoveAll removes a file, or a directory and everything in it; a path that is not there is a
// success. It keeps one page of names for each level of directories in memory. Ended before it
// is done, by ctx or by an error, it has removed a part; said again it goes on with the rest.
// What is put into the directories meanwhile may be removed too, or make it fail with NotEmpty.
func (f *FS) RemoveAll(ctx context.Context, path string) error {
	parent, name, err := f.parent(ctx, path)
	switch {
	case quarry.KindOf(err) == quarry.NotFound:
		return nil
	case err != nil:
		return fail("remove", path, err)
	}
	attr, err := f.walk(ctx, parent, name)
	if err == nil {
		err = f.removeAll(ctx, parent, name, attr)
	}
	if quarry.KindOf(err) == quarry.NotFound {
		return nil
	}
	return fail("remove", path, err)
}

// removeAll removes what a name leads to. Directories are emptied one after the other, the files
// of each in parallel.
func (f *FS) removeAll(ctx context.Context, parent quarry.Inode, name string, attr quarry.Attr) error {
	if attr.Kind == quarry.KindFile {
		return f.removeName(ctx, parent, name, false)
	}
	for more := true; more; {
		page, err := f.masters.List(ctx, &quarry.ListRequest{Dir: attr.Inode, Max: quarry.ListMax})
		if err != nil {
			return err
		}
		more = page.More
		work, together := errgroup.WithContext(ctx)
		work.SetLimit(removeParallel)
		for _, e := range page.Entries {
			if e.Attr.Kind == quarry.KindFile {
				work.Go(func() error { return gone(f.removeName(together, attr.Inode, e.Name, false)) })
			}
		}
		if err := work.Wait(); err != nil {
			return err
		}
		for _, e := range page.Entries {
			if e.Attr.Kind == quarry.KindDir {
				if err := gone(f.removeDir(ctx, attr.Inode, e.Name)); err != nil {
					return err
				}
			}
		}
	}
	return f.removeName(ctx, parent, name, true)
}

// removeDir removes what a name of a page leads to now. The page may be old: what it led to then
// may have been moved out meanwhile, and must not be emptied where it is now.
func (f *FS) removeDir(ctx context.Context, parent quarry.Inode, name string) error {
	attr, err := f.walk(ctx, parent, name)
	if err != nil {
		return err
	}
	return f.removeAll(ctx, parent, name, attr)
}

// gone takes what is not there any more for removed.
func gone(err error) error {
	if quarry.KindOf(err) == quarry.NotFound {
		return nil
	}
	return err
}
