package client

import (
	"context"
	"iter"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/quarryfs/quarry"
)

// List returns a page of a directory; see [FileSystem]. max is 1 to quarry.ListMax.
func (f *FS) List(ctx context.Context, path, after string, max int) ([]Info, bool, error) {
	dir, err := f.lookupDir(ctx, path)
	if err != nil {
		return nil, false, fail("list", path, err)
	}
	infos, more, err := f.list(ctx, path, dir, after, max)
	return infos, more, fail("list", path, err)
}

// Entries goes through a directory in the order of the names' bytes, page after page. An
// error ends it. Entries that come or go meanwhile may be seen or not.
func (f *FS) Entries(ctx context.Context, path string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		dir, err := f.lookupDir(ctx, path)
		for after, more := "", true; more && err == nil; {
			var page []Info
			if page, more, err = f.list(ctx, path, dir, after, quarry.ListMax); err != nil {
				break
			}
			for _, info := range page {
				if !yield(info, nil) {
					return
				}
				after = info.Name()
			}
		}
		if err != nil {
			yield(Info{}, fail("list", path, err))
		}
	}
}

func (f *FS) lookupDir(ctx context.Context, path string) (quarry.Inode, error) {
	attr, err := f.lookupPath(ctx, path)
	if err == nil && attr.Kind != quarry.KindDir {
		err = quarry.Errorf("lookup", quarry.NotDir, "", "a directory is needed")
	}
	return attr.Inode, err
}

func (f *FS) list(ctx context.Context, path string, dir quarry.Inode, after string, max int) ([]Info, bool, error) {
	if max < 1 || max > quarry.ListMax {
		return nil, false, quarry.Errorf("list", quarry.Invalid, "", "a page has 1 to %d entries, %d are asked for", quarry.ListMax, max)
	}
	reply, err := f.masters.List(ctx, &quarry.ListRequest{Dir: dir, After: after, Max: max})
	if err != nil {
		return nil, false, err
	}
	prefix := "/" + strings.Trim(path, "/")
	if prefix != "/" {
		prefix += "/"
	}
	if err := f.complete(ctx, dir, reply.Entries); err != nil {
		return nil, false, err
	}
	infos := make([]Info, len(reply.Entries))
	for i, e := range reply.Entries {
		infos[i] = Info{Path: prefix + e.Name, Attr: e.Attr}
	}
	if reply.More && len(infos) == 0 {
		return nil, false, quarry.Errorf("list", quarry.Internal, "", "the master gave an empty page and says there is more")
	}
	return infos, reply.More, nil
}

// listParallel is how many inodes of other shards one page is completed with at a time.
const listParallel = 16

// complete fetches the attributes of entries that lead to other shards. One that is gone meanwhile
// stays as it was seen.
func (f *FS) complete(ctx context.Context, dir quarry.Inode, entries []quarry.Entry) error {
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(listParallel)
	for i := range entries {
		e := &entries[i]
		if !e.Attr.Elsewhere {
			continue
		}
		work.Go(func() error {
			attr, err := f.walk(ctx, dir, e.Name)
			switch quarry.KindOf(err) {
			case 0:
				e.Attr = attr
			case quarry.NotFound:
			default:
				return err
			}
			return nil
		})
	}
	return work.Wait()
}
