package history

import (
	"context"

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
		KindRemove, KindRemove, KindList, KindList, KindStat,
	}
	op := w.op(kinds[w.rng.IntN(len(kinds))], ClassNames, tree)
	op.Path = w.path()
	switch op.Kind {
	case KindPut:
		w.put(op, tree+"/"+op.Path)
		return
	case KindRename:
		op.To = w.path()
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
		return files.Remove(ctx, path)
	case KindRead:
		return readWhole(ctx, files, op, path)
	case KindList:
		return listNames(ctx, files, op, path)
	}
	info, err := files.Stat(ctx, path)
	if err != nil {
		return err
	}
	op.Found = FoundFile
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
