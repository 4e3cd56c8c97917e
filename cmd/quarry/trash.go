package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
)

// removedFile is a file in the trash, for programs.
type removedFile struct {
	Path    string `json:"path"`
	Inode   string `json:"inode"`
	Size    int64  `json:"size"`
	Removed string `json:"removed"`
	Until   string `json:"until"`
}

func trashCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "trash [PATH]",
		Short: "List files that were removed and can be brought back",
		Long: `Lists the files in the trash that were called PATH or were below it, or all of them: those
that "rm" has removed, and those that "put" or "mv" has replaced. The oldest come first. Each
has a number, which "undelete --inode" takes. The times are those of the masters' clocks;
"kept until" is when a file is freed at the earliest, unless all disks are full.`,
		Example: "  quarry trash\n  quarry trash /logs",
		Args:    args(0, 1, "at most one path"),
		RunE: func(c *cobra.Command, args []string) error {
			p := "/"
			if len(args) == 1 {
				p = args[0]
			}
			return o.with(c, func(ctx context.Context, fs *client.FS) error { return printTrash(ctx, o, fs, p) })
		},
	}
}

func printTrash(ctx context.Context, o *options, fs *client.FS, p string) error {
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	const layout = "2006-01-02 15:04:05"
	lines := 0
	for r, err := range fs.Trash(ctx, p) {
		if err != nil {
			return errors.Join(out.Flush(), err)
		}
		if o.json {
			err = printJSON(os.Stdout, removedFile{
				Path: r.Path, Inode: r.Inode.String(), Size: r.Size,
				Removed: r.Removed.UTC().Format(time.RFC3339Nano), Until: r.Until.UTC().Format(time.RFC3339Nano),
			})
		} else {
			if lines == 0 {
				fmt.Fprintln(out, "REMOVED\tKEPT UNTIL\tSIZE\tINODE\tPATH")
			}
			_, err = fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\n", r.Removed.Format(layout), r.Until.Format(layout), bytesText(r.Size), r.Inode, printable(r.Path))
		}
		if err != nil {
			return err
		}
		if lines++; lines%quarry.ListMax == 0 {
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
	return out.Flush()
}

func undeleteCommand(o *options) *cobra.Command {
	var opts client.UndeleteOptions
	var inode string
	var all bool
	c := &cobra.Command{
		Use:   "undelete PATH…",
		Short: "Bring removed files back",
		Long: `Brings files back that were removed, or replaced by others, with all their bytes: under the
name that they had, or another one (--to). Of several files that had the name it is the one
that was removed last; --inode brings back another one, by the number that "quarry trash"
shows. What has the name meanwhile is not overwritten.

With --recursive, all files come back that were PATH or below it, and directories that are
missing are made; those whose names are taken stay in the trash. Interrupted, that has brought
back a part; said again it goes on. Empty directories are not kept in the trash.`,
		Example: `  quarry undelete /logs/today
  quarry undelete /logs/today --to /logs/yesterday
  quarry undelete --recursive /logs`,
		Args: args(1, -1, "at least one path"),
		RunE: func(c *cobra.Command, args []string) error {
			if (opts.To != "" || inode != "") && (len(args) > 1 || all) {
				return usageError{errors.New("--to and --inode are for one file")}
			}
			if inode != "" {
				id, err := parseInode(inode)
				if err != nil {
					return usageError{err}
				}
				opts.Inode = id
			}
			return o.with(c, func(ctx context.Context, fs *client.FS) error {
				for _, p := range args {
					if err := undelete(ctx, o, fs, p, opts, all); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	c.Flags().StringVar(&opts.To, "to", "", "the name that the file gets")
	c.Flags().StringVar(&inode, "inode", "", "the number of the file, as \"quarry trash\" shows it")
	c.Flags().BoolVarP(&opts.Parents, "parents", "p", false, "make missing directories above it")
	c.Flags().BoolVarP(&all, "recursive", "r", false, "bring back all files that were below it")
	return c
}

func undelete(ctx context.Context, o *options, fs *client.FS, p string, opts client.UndeleteOptions, all bool) error {
	if !all {
		info, err := fs.Undelete(ctx, p, opts)
		switch {
		case err != nil && quarry.KindOf(err) == quarry.NotFound && !opts.Parents:
			return fmt.Errorf("%w; \"quarry trash\" lists what can be brought back, --recursive takes what was below a directory, --parents makes those that are missing", err)
		case err != nil:
			return err
		case o.json:
			return printJSON(os.Stdout, describe(info))
		}
		return nil
	}
	back, left, err := fs.UndeleteAll(ctx, p)
	if err == nil && back+left == 0 {
		err = quarry.Errorf("undelete", quarry.NotFound, p, "no file that was below it is in the trash (any more)")
	}
	if o.json {
		return errors.Join(printJSON(os.Stdout, map[string]any{"path": p, "back": back, "left": left}), err)
	}
	if err == nil || back > 0 {
		fmt.Printf("%s: %d files are back", printable(p), back)
		if left > 0 {
			fmt.Printf(", %d are not: their names are taken, their time was over, or the trash has only a part of their path (\"quarry undelete --inode\")", left)
		}
		fmt.Println()
	}
	return err
}

// parseInode reads the number of a file as commands show it.
func parseInode(s string) (quarry.Inode, error) {
	slot, number, ok := strings.Cut(s, ".")
	n, err := strconv.ParseUint(slot, 10, 16)
	id, err2 := strconv.ParseUint(number, 16, 64)
	if !ok || err != nil || err2 != nil || n >= quarry.Slots || id == 0 || id > quarry.NumberMax {
		return 0, fmt.Errorf("%q is no number of a file; \"quarry trash\" shows them", s)
	}
	return quarry.MakeInode(quarry.Slot(n), id), nil
}

func adminTrashCommand(o *options) *cobra.Command {
	var keep time.Duration
	c := &cobra.Command{
		Use:   "trash [--keep TIME]",
		Short: "Show how much the trash holds, or set how long it keeps files",
		Long: `Shows how many removed files all shards hold together, and how long they are kept; and how many
are being freed, which cannot be brought back (of "rm --now", or freed in part). With --keep, sets
that time for the whole cluster, for files that are in the trash already as well.
Until it is set it is what the masters were started with (24 hours, unless --trash-keep said
otherwise).

Files are kept at least as long as a client's session lives without a sign of life (1 hour,
unless --session-expiry said otherwise), because until then a client may ask what became of
what it has written. When no server has room for another chunk, files are kept only so long
and ten minutes more.`,
		Example: "  quarry admin trash --keep 72h",
		Args:    args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, args []string) error {
			ctx := c.Context()
			masters, end, err := o.route()
			if err != nil {
				return err
			}
			defer end()
			if c.Flags().Changed("keep") {
				if keep < time.Millisecond || keep.Milliseconds() > quarry.TrashKeepMax {
					return usageError{fmt.Errorf("files can be kept from 1ms to %v", time.Duration(quarry.TrashKeepMax)*time.Millisecond)}
				}
				if err := masters.KeepTrash(ctx, &quarry.TrashRequest{KeepMS: keep.Milliseconds()}); err != nil {
					return err
				}
			}
			st, err := masters.Status(ctx)
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(os.Stdout, trashTotals(st))
			}
			t := trashTotals(st)
			fmt.Printf("%s; removed files are kept for %v%s\n", filesText(t.Files, t.Bytes), time.Duration(t.KeepMS)*time.Millisecond, t.freeing())
			return nil
		},
	}
	c.Flags().DurationVar(&keep, "keep", 0, "how long removed files are kept from now on")
	return c
}

// trashSum is what the whole trash holds, for programs.
type trashSum struct {
	Files        int64 `json:"files"`
	Bytes        int64 `json:"bytes"`
	KeepMS       int64 `json:"keepMS"`
	Freeing      int64 `json:"freeing"`
	FreeingBytes int64 `json:"freeingBytes"`
}

// freeing tells of the files that cannot be brought back, if there are any.
func (t *trashSum) freeing() string {
	if t.Freeing == 0 {
		return ""
	}
	return fmt.Sprintf("; being freed: %s", filesText(t.Freeing, t.FreeingBytes))
}

// filesText tells of n files with some bytes together.
func filesText(n, bytes int64) string {
	if n == 1 {
		return fmt.Sprintf("1 file, %s of one copy", bytesText(bytes))
	}
	return fmt.Sprintf("%d files, %s of one copy each", n, bytesText(bytes))
}

func trashTotals(st *quarry.StatusReply) (t trashSum) {
	t.KeepMS = st.TrashMS
	for _, s := range st.Shards {
		t.Files += s.Removed
		t.Bytes += s.RemovedSize
		t.Freeing += s.Freeing
		t.FreeingBytes += s.FreeingSize
	}
	return t
}
