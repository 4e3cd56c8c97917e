package history

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
)

// Names of a tree: three on the first level, two in each directory there.
var (
	outerNames = []string{"a", "b", "c"}
	innerNames = []string{"x", "y"}
)

// path returns a random path in a tree.
func (w *worker) path() string {
	outer := outerNames[w.rng.IntN(len(outerNames))]
	if w.rng.IntN(5) < 2 {
		return outer
	}
	return outer + "/" + innerNames[w.rng.IntN(len(innerNames))]
}

// names does one operation in a tree.
func (w *worker) names() {
	tree := w.subject(ClassNames, w.onTrees, w.opts.Turn, w.opts.Trees)
	w.onTrees++
	if !w.ensure(ClassNames, tree) {
		return
	}
	kinds := []Kind{
		KindMkdir, KindMkdir, KindCreate, KindCreate, KindPut, KindRead, KindRename, KindRename, KindRename,
		KindRemove, KindRemove, KindList, KindList, KindStat, KindUndelete, KindUndelete,
	}
	op := w.op(kinds[w.rng.IntN(len(kinds))], ClassNames, tree)
	op.Path = w.path()
	switch op.Kind {
	case KindPut:
		w.put(op, tree+"/"+op.Path)
		return
	case KindUndelete:
		w.undelete(op)
		return
	case KindStat:
		if w.onTrees%2 == 0 {
			op.Kind, op.Mode = KindChmod, 1+uint32(w.id)*131%0o700+uint32(w.onTrees)%0o70*0o10
		}
	case KindRename:
		op.To = w.path()
	case KindRemove:
		op.Now = w.rng.IntN(4) == 0
	case KindList:
		if w.rng.IntN(2) == 0 {
			op.Path = ""
		} else {
			op.Path = op.Path[:1]
		}
	}
	w.do(op, func(ctx context.Context, op *Op) error { return doName(ctx, w.files, op) })
}

// doName carries out an operation on names, but for put.
func doName(ctx context.Context, files client.FileSystem, op *Op) error {
	path := op.Subject + "/" + op.Path
	switch op.Kind {
	case KindCreate:
		f, err := files.Create(ctx, path)
		if err == nil {
			_ = f.Close() // nothing was written
		}
		return err
	case KindMkdir:
		return files.Mkdir(ctx, path)
	case KindRename:
		return files.Rename(ctx, path, op.Subject+"/"+op.To)
	case KindRemove:
		if op.Now {
			return files.RemoveNow(ctx, path)
		}
		return files.Remove(ctx, path)
	case KindRead:
		return readWhole(ctx, files, op, path)
	case KindList:
		return listNames(ctx, files, op, path)
	case KindChmod:
		_, err := files.SetAttr(ctx, path, client.AttrChange{Mode: &op.Mode})
		return err
	}
	info, err := files.Stat(ctx, path)
	if err != nil {
		return err
	}
	op.Found, op.Mode = FoundFile, info.Attr.Mode
	if info.IsDir() {
		op.Found, op.Length = FoundDir, info.Attr.Entries
	}
	return nil
}

func listNames(ctx context.Context, files client.FileSystem, op *Op, path string) error {
	infos, more, err := files.List(ctx, path, "", quarry.ListMax)
	if err != nil {
		return err
	}
	for _, info := range infos {
		name := info.Name()
		if info.IsDir() {
			name += "/"
		}
		op.Names = append(op.Names, name)
	}
	if more {
		op.Bad = "more names than were ever made"
	}
	return nil
}

// The length of a file in a tree tells which value it has, because no two of one tree have the same:
// the trash shows lengths. A worker makes at most one file in each of its turns at a tree.

// treeLength returns a length near one for a file in the worker's tree.
func (w *worker) treeLength(near int) int {
	if w.span == 0 {
		return near
	}
	code := int(w.id)*w.opts.Turn + (w.onTrees-1)%w.opts.Turn
	rounds := (near - HeaderBytes) / w.span
	if HeaderBytes+rounds*w.span+code > w.opts.FileBytes {
		rounds = max(0, rounds-1)
	}
	return HeaderBytes + rounds*w.span + code
}

// treeValue returns the value of a file of the worker's tree that has a length.
func (w *worker) treeValue(length int64) uint64 {
	code := int(length-HeaderBytes) % w.span
	turn := (w.onTrees-1)/w.opts.Turn*w.opts.Turn + code%w.opts.Turn
	return treeValue(int32(code/w.opts.Turn), turn+1)
}

// undelete brings back one of the files that were put into a tree and are in the trash, if there is
// one, under any name.
func (w *worker) undelete(op Op) {
	if w.span == 0 {
		return
	}
	ctx, cancel := w.opts.Clock.WithTimeout(w.life, w.opts.Timeout)
	defer cancel()
	var removed []client.Removed
	for r, err := range w.files.Trash(ctx, op.Subject) {
		if err != nil || len(removed) == undeleteChoice {
			break // those that are known will do
		}
		if r.Size >= HeaderBytes {
			removed = append(removed, r)
		}
	}
	if len(removed) == 0 {
		return
	}
	file := removed[w.rng.IntN(len(removed))]
	if was, ok := strings.CutPrefix(file.Path, op.Subject+"/"); ok && w.rng.IntN(3) > 0 {
		op.Path = was // most other names are taken
	}
	if w.rng.IntN(4) == 0 && w.opts.Pause > 0 { // its time may be over then
		_ = w.opts.Clock.Sleep(w.life, time.Duration(w.rng.Int64N(20*int64(w.opts.Pause)))) // do looks whether life has ended
	}
	op.Value, op.Length, op.KeepNS = w.treeValue(file.Size), file.Size, int64(file.Until.Sub(file.Removed))
	w.do(op, func(ctx context.Context, op *Op) error {
		info, err := w.files.Undelete(ctx, file.Path, client.UndeleteOptions{To: op.Subject + "/" + op.Path, Inode: file.Inode})
		if err == nil && info.Attr.Length != file.Size {
			op.Bad = fmt.Sprintf("it came back with %d bytes, and had %d", info.Attr.Length, file.Size)
		}
		return err
	})
}

// undeleteChoice bounds the removed files that are looked at.
const undeleteChoice = 100
