package history

import (
	"bytes"
	"context"
	"io"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
)

// file returns the file to work on; its directory exists. "" if the worker is to stop.
func (w *worker) file() string {
	file := w.subject(ClassFile, w.onFiles, w.opts.Turn, w.opts.Files)
	w.onFiles++
	if !w.ensure(ClassFile, file) {
		return ""
	}
	return file
}

func (w *worker) putFile() {
	if file := w.file(); file != "" {
		w.put(w.op(KindPut, ClassFile, file), file)
	}
}

// put stores a file with a value of its own.
func (w *worker) put(op Op, path string) {
	length := w.length(w.opts.FileBytes)
	if op.Value = fileValue(w.id, w.onFiles); op.Class == ClassNames {
		op.Value, length = treeValue(w.id, w.onTrees), w.treeLength(length)
	}
	op.Length = int64(length)
	var r io.Reader = bytes.NewReader(FileBytes(op.Value, int(op.Length)))
	if w.rng.IntN(2) == 0 {
		r = io.MultiReader(r) // its length cannot be told beforehand
	}
	w.do(op, func(ctx context.Context, _ *Op) error {
		_, err := w.files.Put(ctx, path, r, client.PutOptions{})
		return err
	})
}

func (w *worker) readFile() {
	if file := w.file(); file != "" {
		w.do(w.op(KindRead, ClassFile, file), func(ctx context.Context, op *Op) error {
			return readWhole(ctx, w.files, op, file)
		})
	}
}

// readTries is how often a file is opened again that was replaced between being opened and
// being read.
const readTries = 3

// goneText is what a read says that found the name and then not the bytes.
const goneText = "the name was there, the bytes were not"

// readWhole reads a file and notes which value it has.
func readWhole(ctx context.Context, files client.FileSystem, op *Op, path string) error {
	for try := 1; ; try++ {
		f, err := files.Open(ctx, path)
		if err != nil {
			return err // NotFound tells that the name was absent
		}
		var b bytes.Buffer
		_, err = f.WriteTo(&b)
		_ = f.Close() // it has only read
		if err == nil {
			op.Length = int64(b.Len())
			op.Value, op.Bad = parseFile(b.Bytes())
			return nil
		}
		// A file that is replaced or removed takes its bytes along: that is no answer to
		// what the name has.
		if quarry.KindOf(err) != quarry.NotFound {
			return err
		}
		if try == readTries {
			op.Bad = goneText
			return err
		}
	}
}

func (w *worker) removeFile() {
	if file := w.file(); file != "" {
		w.do(w.op(KindRemove, ClassFile, file), func(ctx context.Context, _ *Op) error {
			return w.files.Remove(ctx, file)
		})
	}
}
