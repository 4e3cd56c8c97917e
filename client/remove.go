package client

import (
	"context"

	"golang.org/x/sync/errgroup"

	"github.com/quarryfs/quarry"
)

// Remove removes a file or an empty directory. A file goes into the trash; see [FS.Undelete].
func (f *FS) Remove(ctx context.Context, path string) error { return f.remove(ctx, path, false) }

// RemoveNow is Remove for a file that is not to be kept: it cannot be brought back, and its space is
// free soon; that of a file that records were appended to, when no session lives any more that
// could ask for them.
func (f *FS) RemoveNow(ctx context.Context, path string) error { return f.remove(ctx, path, true) }

func (f *FS) remove(ctx context.Context, path string, now bool) error {
	parent, name, err := f.parent(ctx, path)
	if err != nil {
		return fail("remove", path, err)
	}
	r := removal{f: f, now: now}
	err = r.name(ctx, parent, name, cleanPath(path), false)
	if quarry.KindOf(err) == quarry.IsDir {
		err = r.name(ctx, parent, name, "", true)
	}
	return fail("remove", path, err)
}

// removal is how names are removed.
type removal struct {
	f   *FS
	now bool // files are not kept
}

// name removes a name of a file, or of an empty directory; path is what a file is found by in the
// trash.
func (r removal) name(ctx context.Context, parent quarry.Inode, name, path string, dir bool) error {
	_, err := mutate(ctx, r.f, parent.Slot(), func(op quarry.Op) (struct{}, error) {
		return struct{}{}, r.f.masters.Remove(ctx, &quarry.RemoveRequest{Op: op, Parent: parent, Name: name, Dir: dir, Path: path, Now: r.now})
	})
	return err
}

// removeParallel is how many names of one directory RemoveAll removes at a time.
const removeParallel = 16

// RemoveAll removes a file, or a directory and everything in it; a path that is not there is a
// success. It keeps one page of names for each level of directories in memory. Ended before it
// is done, by ctx or by an error, it has removed a part; said again it goes on with the rest.
// What is put into the directories meanwhile may be removed too, or make it fail with NotEmpty.
func (f *FS) RemoveAll(ctx context.Context, path string) error { return f.removeAll(ctx, path, false) }

// RemoveAllNow is RemoveAll for files that are not to be kept; see [FS.RemoveNow].
func (f *FS) RemoveAllNow(ctx context.Context, path string) error {
	return f.removeAll(ctx, path, true)
}

func (f *FS) removeAll(ctx context.Context, path string, now bool) error {
	parent, name, err := f.parent(ctx, path)
	switch {
	case quarry.KindOf(err) == quarry.NotFound:
		return nil
	case err != nil:
		return fail("remove", path, err)
	}
	attr, err := f.walk(ctx, parent, name)
	if err == nil {
		r := removal{f: f, now: now}
		err = r.all(ctx, parent, name, cleanPath(path), attr)
	}
	if quarry.KindOf(err) == quarry.NotFound {
		return nil
	}
	return fail("remove", path, err)
}

// all removes what a name leads to. Directories are emptied one after the other, the files of each
// in parallel.
func (r removal) all(ctx context.Context, parent quarry.Inode, name, path string, attr quarry.Attr) error {
	if attr.Kind == quarry.KindFile {
		return r.name(ctx, parent, name, path, false)
	}
	for more := true; more; {
		page, err := r.f.masters.List(ctx, &quarry.ListRequest{Dir: attr.Inode, Max: quarry.ListMax})
		if err != nil {
			return err
		}
		more = page.More
		work, together := errgroup.WithContext(ctx)
		work.SetLimit(removeParallel)
		for _, e := range page.Entries {
			if e.Attr.Kind == quarry.KindFile {
				work.Go(func() error { return gone(r.name(together, attr.Inode, e.Name, below(path, e.Name), false)) })
			}
		}
		if err := work.Wait(); err != nil {
			return err
		}
		for _, e := range page.Entries {
			if e.Attr.Kind == quarry.KindDir {
				if err := gone(r.dir(ctx, attr.Inode, e.Name, below(path, e.Name))); err != nil {
					return err
				}
			}
		}
	}
	return r.name(ctx, parent, name, "", true)
}

// below returns the path of an entry, as far as the masters keep it.
func below(path, name string) string {
	p := path + "/" + name
	return p[:min(len(p), quarry.PathBytesMax)]
}

// dir removes what a name of a page leads to now. The page may be old: what it led to then may have
// been moved out meanwhile, and must not be emptied where it is now.
func (r removal) dir(ctx context.Context, parent quarry.Inode, name, path string) error {
	attr, err := r.f.walk(ctx, parent, name)
	if err != nil {
		return err
	}
	return r.all(ctx, parent, name, path, attr)
}

// gone takes what is not there any more for removed.
func gone(err error) error {
	if quarry.KindOf(err) == quarry.NotFound {
		return nil
	}
	return err
}
