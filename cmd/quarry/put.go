package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/transfer"
)

// targetHelp is the rule that put, get, cp and mv share.
const targetHelp = `If the target ends with "/" or is a directory, each source keeps its last name in it; otherwise the
target is the new name. Several sources need a directory.`

func putCommand(o *options) *cobra.Command {
	var t transfers
	var parents bool
	c := &cobra.Command{
		Use:   "put LOCAL… PATH",
		Short: "Store local files and trees",
		Long: `Stores local files, or standard input ("-"), in the cluster; with --recursive, directories
and everything in them. A file appears under its name whole, when all of it is on the disks of
every replica, and replaces an old file of that name in the same step; until then, or if it is
interrupted, nothing is to be seen.

` + targetHelp + `

Many files are stored at a time, and many parts of a large one. A file that fails does not
keep the others from being stored. Links to files are followed; links to directories, sockets,
pipes and devices inside of a tree are passed over with a warning.

With --resume, what was stored of a file of 64 MiB and more is kept when that is interrupted or
fails, even by the end of this machine, and the same command goes on with it: with the parts of
64 MiB that are whole, as long as the local file is the same one and its session lives, an hour from its last
sign of life unless the cluster is set otherwise. Nothing is to be seen of it before it is whole. The parts are noted in
$XDG_STATE_HOME/quarry (~/.local/state/quarry).`,
		Example: `  quarry put big.tar /archive/
  quarry put -r photos /archive/
  quarry put *.log /logs/2026/
  tar c . | quarry put - /archive/src.tar`,
		Args: args(2, -1, "a local file and a path"),
		RunE: func(c *cobra.Command, args []string) error {
			locals, to := args[:len(args)-1], args[len(args)-1]
			input := len(locals) == 1 && locals[0] == "-"
			switch {
			case input && t.resume:
				return usageError{errors.New("put: standard input cannot be gone on with: give a file, or do without --resume")}
			case input && strings.HasSuffix(to, "/"):
				return usageError{errors.New("put: standard input has no name: give the whole path, not the directory " + to)}
			}
			return o.with(c, func(ctx context.Context, fs *client.FS) error {
				if parents {
					if err := makeParents(ctx, fs, to); err != nil {
						return err
					}
				}
				if input {
					return putStdin(ctx, o, &t, fs, to)
				}
				q, err := t.inCluster(fs)
				if err != nil {
					return err
				}
				return t.copy(ctx, o, transfer.Local{}, locals, q, to)
			})
		},
	}
	t.register(c, o)
	t.registerResume(c)
	c.Flags().BoolVarP(&t.keep, "no-clobber", "n", false, "fail if the path exists")
	c.Flags().BoolVarP(&parents, "parents", "p", false, "make missing directories")
	return c
}

// makeParents makes the directories that a target needs.
func makeParents(ctx context.Context, fs *client.FS, to string) error {
	if strings.HasSuffix(to, "/") {
		return fs.MkdirAll(ctx, to)
	}
	return fs.MkdirAll(ctx, path.Dir("/"+to))
}

// putStdin stores standard input under a path.
func putStdin(ctx context.Context, o *options, t *transfers, fs *client.FS, to string) error {
	in, size := stdin(ctx)
	return t.run(ctx, o, true, func(opts transfer.Options) (transfer.Summary, error) {
		return transfer.Stream(ctx, transfer.Quarry{FS: fs}, in, size, to, opts)
	})
}

// stdin returns standard input and, if it is a file, how much is left of it. A read that waits for
// a terminal or a pipe ends with ctx.
func stdin(ctx context.Context) (io.Reader, int64) {
	if info, err := os.Stdin.Stat(); err == nil && info.Mode().IsRegular() {
		at, _ := os.Stdin.Seek(0, io.SeekCurrent)
		return os.Stdin, max(info.Size()-at, 0)
	}
	r, w := io.Pipe()
	context.AfterFunc(ctx, func() { r.CloseWithError(context.Cause(ctx)) })
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{os.Stdin}, make([]byte, 256<<10))
		w.CloseWithError(err)
	}()
	return r, 0
}
