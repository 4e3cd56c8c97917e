package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
)

func appendCommand(o *options) *cobra.Command {
	var lines, create bool
	c := &cobra.Command{
		Use:   "append PATH [LOCAL]",
		Short: "Append a record to a file",
		Long: `Appends a local file, or standard input ("-", the default), as one record of up to 16 MiB
to the end of a file, and prints where it begins. The record is there once, whole, however
many others append at the same time and whatever fails meanwhile.

With --lines every line of the input is a record of its own.`,
		Example: "  echo hello | quarry append --create /log\n  quarry append /events event.bin",
		Args:    args(1, 2, "a path and perhaps a local file"),
		RunE: func(c *cobra.Command, args []string) error {
			local := "-"
			if len(args) == 2 {
				local = args[1]
			}
			return o.with(c, func(ctx context.Context, fs *client.FS) error {
				return appendFrom(ctx, o, fs, args[0], local, lines, create)
			})
		},
	}
	c.Flags().BoolVar(&lines, "lines", false, "append every line as a record")
	c.Flags().BoolVar(&create, "create", false, "make the file if it does not exist")
	return c
}

// appended is where a record stands, for programs.
type appended struct {
	Path   string `json:"path"`
	Offset int64  `json:"offset"`
	Length int    `json:"length"`
}

func appendFrom(ctx context.Context, o *options, fs *client.FS, to, local string, lines, create bool) error {
	in, _ := stdin(ctx)
	if local != "-" {
		f, err := os.Open(local)
		if err != nil {
			return localError("append", local, err)
		}
		defer f.Close()
		in = f
	}
	if create {
		if err := ensureFile(ctx, fs, to); err != nil {
			return err
		}
	}
	a, err := fs.Appender(ctx, to)
	if err != nil {
		return err
	}
	defer a.Close()
	one := func(record []byte) error {
		offset, err := a.Append(ctx, record)
		if err != nil {
			return err
		}
		if o.json {
			return printJSON(os.Stdout, appended{to, offset, len(record)})
		}
		_, err = fmt.Println(offset)
		return err
	}
	if !lines {
		record, err := io.ReadAll(io.LimitReader(in, quarry.RecordBytesMax+1))
		if err != nil {
			return localError("append", local, err)
		}
		return one(record)
	}
	scan := bufio.NewReaderSize(in, 64<<10)
	for {
		line, err := readLine(scan)
		if len(line) > 0 {
			if err := one(line); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// readLine reads a line with its end, as long as it is no longer than a record.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > quarry.RecordBytesMax {
			return nil, quarry.Errorf("append", quarry.TooLarge, "", "a line is longer than a record may be, %d bytes", quarry.RecordBytesMax)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// ensureFile makes an empty file if there is none.
func ensureFile(ctx context.Context, fs *client.FS, p string) error {
	w, err := fs.Create(ctx, p)
	if errors.Is(err, quarry.Exists) {
		return nil
	}
	if err != nil {
		return err
	}
	return w.Close()
}

func tailCommand(o *options) *cobra.Command {
	var t tailing
	c := &cobra.Command{
		Use:   "tail PATH",
		Short: "Show the end of a file, and follow it",
		Long: `Shows the last lines of a file, or its last bytes. With -f it goes on with what is appended, as
soon as every replica has it on disk: what is shown never changes and is never lost.`,
		Example: "  quarry tail -f /log\n  quarry tail -n 100 /log\n  quarry tail -c 4096 /log",
		Args:    args(1, 1, "a path"),
		RunE: func(c *cobra.Command, args []string) error {
			if t.lines < 0 {
				return usageError{errors.New("tail: the number of lines cannot be negative")}
			}
			t.inBytes = c.Flags().Changed("bytes")
			return o.with(c, func(ctx context.Context, fs *client.FS) error { return t.run(ctx, fs, args[0]) })
		},
	}
	c.Flags().BoolVarP(&t.follow, "follow", "f", false, "go on with what is appended, until interrupted")
	c.Flags().Int64VarP(&t.lines, "lines", "n", 10, "how many lines")
	c.Flags().Int64VarP(&t.bytes, "bytes", "c", 0, "begin so many bytes before the end, instead of lines; -1: at the beginning")
	return c
}

// tailing is what tail shows.
type tailing struct {
	follow, inBytes bool
	lines, bytes    int64
}

func (t tailing) run(ctx context.Context, fs *client.FS, p string) error {
	f, err := fs.Open(ctx, p)
	if err != nil {
		return err
	}
	defer f.Close()
	from, size := int64(0), f.Info().Size()
	switch {
	case !t.inBytes:
		from, err = lastLines(f, size, t.lines)
	case t.bytes >= 0:
		from = max(size-t.bytes, 0)
	}
	if err != nil {
		return err
	}
	if !t.follow {
		if _, err := f.Seek(from, io.SeekStart); err != nil {
			return err
		}
		_, err = f.WriteTo(os.Stdout)
		return err
	}
	follow, err := fs.Tail(ctx, p, from)
	if err != nil {
		return err
	}
	defer follow.Close()
	_, err = io.Copy(os.Stdout, follow)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
