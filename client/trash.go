package client

import (
	"context"
	"iter"
	pathpkg "path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client/waiting"
)

// Removed is a file in the trash: it was removed, or replaced by another one of its name.
type Removed struct {
	Path    string // what it was called by whoever removed or replaced it
	Inode   quarry.Inode
	Size    int64     // bytes, without what has yet to be sealed
	Removed time.Time // by the masters' clocks
	Until   time.Time // how long it is kept at least, unless all disks are full
}

// clean returns a path as the masters keep it with removed files.
func clean(names []string) string {
	p := "/" + strings.Join(names, "/")
	return p[:min(len(p), quarry.PathBytesMax)]
}

// cleanPath is clean for a path that was checked before.
func cleanPath(path string) string {
	names, err := split(path)
	if err != nil {
		return ""
	}
	return clean(names)
}

// Trash returns the files in the trash that were called so, or were below it ("/": all), in the
// order in which they were removed, by the clocks of the masters. It keeps one page of each shard
// in memory. Files that come into the trash or leave it meanwhile may be seen or not.
func (f *FS) Trash(ctx context.Context, path string) iter.Seq2[Removed, error] {
	return func(yield func(Removed, error) bool) {
		names, err := split(path)
		if err != nil {
			yield(Removed{}, fail("trash", path, err))
			return
		}
		lists, err := f.trashLists(ctx, clean(names))
		for err == nil {
			var first *trashList
			for _, l := range lists {
				if len(l.page) > 0 && (first == nil || l.page[0].RemovedNS < first.page[0].RemovedNS) {
					first = l
				}
			}
			if first == nil {
				return
			}
			file := first.page[0]
			removed := Removed{Path: file.Path, Inode: file.Inode, Size: file.Length, Removed: time.Unix(0, file.RemovedNS)}
			removed.Until = removed.Removed.Add(time.Duration(first.keepMS) * time.Millisecond)
			if !yield(removed, nil) {
				return
			}
			first.page = first.page[1:]
			err = first.fill(ctx)
		}
		yield(Removed{}, fail("trash", path, err))
	}
}

// trashList is a walk through the trash of one shard.
type trashList struct {
	f      *FS
	next   quarry.RemovedRequest
	more   bool
	page   []quarry.RemovedFile
	keepMS int64
}

// trashParallel is how many shards are asked for their trash at a time.
const trashParallel = 16

// trashLists returns a walk for each shard, with its first page.
func (f *FS) trashLists(ctx context.Context, path string) ([]*trashList, error) {
	if f.ctx.Err() != nil {
		return nil, errClosed
	}
	topology, err := f.masters.Topology(ctx)
	if err != nil {
		return nil, err
	}
	var lists []*trashList
	work, together := errgroup.WithContext(ctx)
	work.SetLimit(trashParallel)
	for _, s := range topology.Shards {
		if s.Shard == quarry.RootShard {
			continue
		}
		l := &trashList{f: f, more: true, next: quarry.RemovedRequest{Shard: s.Shard, Path: path, Max: quarry.RemovedMax}}
		lists = append(lists, l)
		work.Go(func() error { return l.fill(together) })
	}
	return lists, work.Wait()
}

// fill fetches pages until there is a file, or the walk has ended.
func (l *trashList) fill(ctx context.Context) error {
	for len(l.page) == 0 && l.more {
		reply, err := l.f.masters.Removed(ctx, &l.next)
		switch {
		case err != nil:
			return err
		case reply.More && reply.After == l.next.After && reply.AfterFile == l.next.AfterFile:
			return quarry.Errorf("trash", quarry.Internal, "", "the master gave the same page and says there is more")
		}
		l.page, l.more, l.keepMS = reply.Files, reply.More, reply.KeepMS
		l.next.After, l.next.AfterFile = reply.After, reply.AfterFile
	}
	return nil
}

// UndeleteOptions say which file is brought back, and where to. The zero value is right for most.
type UndeleteOptions struct {
	To      string       // the name it gets; "": the one it had
	Inode   quarry.Inode // which of several files that had the name; 0: the one that was removed last
	Parents bool         // make the directories above it that are missing
}

// Undelete brings a file back that was removed or replaced: whole, and in one step. Of several that
// had the path, it is the one that was removed last, by the masters' clocks, unless the options
// name one. NotFound: it is not in the trash (any more), or the directory is gone. Exists: the name
// is taken; nothing is overwritten.
func (f *FS) Undelete(ctx context.Context, path string, opts UndeleteOptions) (Info, error) {
	to := opts.To
	if to == "" {
		to = path
	}
	id := opts.Inode
	if id == 0 {
		was, err := f.lastRemoved(ctx, path)
		if err != nil {
			return Info{}, fail("undelete", path, err)
		}
		id = was.Inode
	}
	return f.undelete(ctx, to, id, opts.Parents)
}

// trashAgain is for how long a file is looked for that is not in the trash: its shard may not have
// heard of its removal yet, or its slot may move from a shard that is asked late to one that was
// asked early.
const trashAgain = time.Second

// lastRemoved returns the file in the trash that had a path last.
func (f *FS) lastRemoved(ctx context.Context, path string) (Removed, error) {
	names, err := split(path)
	if err != nil {
		return Removed{}, err
	}
	name := clean(names)
	for start, pause := f.clock.Now(), waiting.PauseMin; ; pause *= 2 {
		last := newest{}
		for r, err := range f.Trash(ctx, path) {
			if err != nil {
				return Removed{}, err
			}
			if r.Path == name {
				last.add(r)
			}
		}
		if r, ok := last[name]; ok {
			return r, nil
		}
		if f.clock.Now().Sub(start) >= trashAgain {
			return Removed{}, quarry.Errorf("trash", quarry.NotFound, "", "no file that was called so is in the trash (any more)")
		}
		if err := f.clock.Sleep(ctx, pause); err != nil {
			return Removed{}, waiting.Ended(context.Cause(ctx), nil)
		}
	}
}

// newest has, of several removed files that had a name, the one that was removed last. That need
// not be the last in the trash: one that was nearly brought back stands behind it again.
type newest map[string]Removed

func (n newest) add(r Removed) {
	if was, ok := n[r.Path]; !ok || !r.Removed.Before(was.Removed) {
		n[r.Path] = r
	}
}

// undelete gives a file in the trash a name.
func (f *FS) undelete(ctx context.Context, to string, id quarry.Inode, parents bool) (Info, error) {
	if parents {
		if err := f.MkdirAll(ctx, pathpkg.Dir(cleanPath(to))); err != nil {
			return Info{}, err
		}
	}
	parent, name, err := f.parent(ctx, to)
	if err != nil {
		return Info{}, fail("undelete", to, err)
	}
	reply, err := mutate(ctx, f, parent.Slot(), func(op quarry.Op) (*quarry.AttrReply, error) {
		return f.masters.Undelete(ctx, &quarry.UndeleteRequest{Op: op, Parent: parent, Name: name, Inode: id})
	})
	if err != nil {
		return Info{}, fail("undelete", to, err)
	}
	return Info{Path: to, Attr: reply.Attr}, nil
}

const (
	// undeleteMax is the most files that one UndeleteAll brings back.
	undeleteMax = 1 << 20
	// undeleteParallel is how many of them it brings back at a time.
	undeleteParallel = 16
)

// UndeleteAll brings back every file that was called path, or was below it, under the name that it
// had; directories that are missing are made. Of several files that had a name it is the one that
// was removed last. It returns how many came back, and how many did not because their name is taken
// or their time was over, or their path was so long that the trash has only a part of it. Ended before it is done, it has brought back a part; said again it goes on
// with the rest. TooLarge: more than 1,048,576 names are in the trash there.
func (f *FS) UndeleteAll(ctx context.Context, path string) (back, left int, err error) {
	last := newest{}
	for r, err := range f.Trash(ctx, path) {
		if err != nil {
			return 0, 0, fail("undelete", path, err)
		}
		if len(r.Path) >= quarry.PathBytesMax { // see clean
			left++
			continue
		}
		if last.add(r); len(last) > undeleteMax {
			return 0, 0, fail("undelete", path, quarry.Errorf("trash", quarry.TooLarge, "", "more than %d files were below it; name a directory further down", undeleteMax))
		}
	}
	names := make([]string, 0, len(last))
	for name := range last {
		names = append(names, name)
	}
	slices.Sort(names)
	kinds := make([]quarry.Kind, len(names))
	work, together := errgroup.WithContext(ctx)
	work.SetLimit(undeleteParallel)
	for i, name := range names {
		work.Go(func() error {
			_, err := f.undelete(together, name, last[name].Inode, true)
			switch kinds[i] = quarry.KindOf(err); kinds[i] {
			case 0, quarry.Exists, quarry.NotFound, quarry.NotDir, quarry.Invalid, quarry.TooLarge:
				return nil // paths are what the clients said that removed the files
			}
			kinds[i] = quarry.Unknown
			return err
		})
	}
	err = work.Wait()
	for _, k := range kinds {
		switch k {
		case 0:
			back++
		case quarry.Unknown:
		default:
			left++
		}
	}
	return back, left, err
}
