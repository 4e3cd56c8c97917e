package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
)

// description is a file or directory for programs.
type description struct {
	Path     string `json:"path"`
	Kind     string `json:"kind"`
	Size     int64  `json:"size"`
	Mode     string `json:"mode"`
	UID      uint32 `json:"uid"`
	GID      uint32 `json:"gid"`
	Modified string `json:"modified"`
	Inode    string `json:"inode"`
	Open     bool   `json:"open,omitempty"`
	Entries  int64  `json:"entries,omitempty"`
}

func describe(i client.Info) description {
	d := description{
		Path: i.Path, Kind: "file", Size: i.Size(), Mode: fmt.Sprintf("%04o", i.Attr.Mode), UID: i.Attr.UID, GID: i.Attr.GID,
		Modified: i.ModTime().UTC().Format(time.RFC3339Nano), Inode: i.Attr.Inode.String(), Open: i.Attr.Open,
	}
	if i.IsDir() {
		d.Kind, d.Size, d.Entries = "directory", 0, i.Attr.Entries
	}
	return d
}

func lsCommand(o *options) *cobra.Command {
	var l lister
	c := &cobra.Command{
		Use:   "ls [PATH…]",
		Short: "List directories",
		Long: `Lists the entries of directories in the order of their bytes, and files. With -l or --json the
size of a file that is being written is exact: what every replica has on disk at this moment.

` + globHelp,
		Example: "  quarry ls -l /logs\n  quarry ls '/logs/2026-*/*.gz'",
		Args:    args(0, -1, "paths"),
		RunE: func(c *cobra.Command, args []string) error {
			return o.withPaths(c, orRoot(args), func(ctx context.Context, fs *client.FS, paths []string) error {
				l.o, l.fs, l.out = o, fs, tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
				return l.list(ctx, paths)
			})
		},
	}
	c.Flags().BoolVarP(&l.long, "long", "l", false, "show mode, owner, group, size and time")
	c.Flags().BoolVarP(&l.itself, "directory", "d", false, "list directories themselves, not what is in them")
	return c
}

// lister lists paths.
type lister struct {
	o            *options
	fs           *client.FS
	out          *tabwriter.Writer
	long, itself bool
}

// list lists files first, then what is in directories.
func (l *lister) list(ctx context.Context, paths []string) error {
	var dirs []string
	for _, p := range paths {
		info, err := l.fs.Stat(ctx, p)
		switch {
		case err != nil:
			return err
		case info.IsDir() && !l.itself:
			dirs = append(dirs, p)
		default:
			if err := l.show(info, p); err != nil {
				return err
			}
		}
	}
	if err := l.out.Flush(); err != nil {
		return err
	}
	for i, p := range dirs {
		if len(paths) > 1 && !l.o.json {
			if i > 0 || len(dirs) < len(paths) {
				fmt.Println()
			}
			fmt.Println(dirName(p, false) + ":")
		}
		if err := l.dir(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// dir lists what is in a directory, page by page.
func (l *lister) dir(ctx context.Context, p string) error {
	for after, more := "", true; more; {
		entries, m, err := l.fs.List(ctx, p, after, quarry.ListMax)
		if err != nil {
			return err
		}
		more = m
		for _, e := range entries {
			after = e.Name()
			if e.Attr.Open && (l.long || l.o.json) {
				now, err := l.fs.Stat(ctx, path.Join(p, after))
				switch {
				case errors.Is(err, quarry.NotFound):
					continue // removed meanwhile
				case err != nil:
					return err
				}
				e.Attr = now.Attr
			}
			if err := l.show(e, after); err != nil {
				return err
			}
		}
		if err := l.out.Flush(); err != nil {
			return err
		}
	}
	return nil
}

func (l *lister) show(i client.Info, name string) error {
	if l.o.json {
		return printJSON(os.Stdout, describe(i))
	}
	name = dirName(name, i.IsDir())
	if !l.long {
		_, err := fmt.Fprintln(l.out, name)
		return err
	}
	_, err := fmt.Fprintf(l.out, "%s\t%s\t%s\t%s\t%s\n", i.Mode(), owner(i), bytesText(i.Size()), i.ModTime().Format("2006-01-02 15:04:05"), name)
	return err
}

// dirName shows a path; one of a directory ends with "/" and has a colour, on a terminal.
func dirName(name string, dir bool) string {
	name = printable(name)
	if !dir {
		return name
	}
	if !strings.HasSuffix(name, "/") {
		name += "/"
	}
	if !coloured(os.Stdout) {
		return name
	}
	return "\x1b[1;34m" + name + "\x1b[0m"
}

// coloured reports whether a file shows colours, and is to: no-color.org.
func coloured(f *os.File) bool {
	return onTerminal(f) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// owner shows whose something is, in numbers: each machine has its own names for them.
func owner(i client.Info) string { return fmt.Sprintf("%d:%d", i.Attr.UID, i.Attr.GID) }

// printable shows a name without what could disturb a terminal.
func printable(name string) string {
	if !onTerminal(os.Stdout) {
		return name
	}
	for _, r := range name {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return fmt.Sprintf("%q", name)
		}
	}
	return name
}

func statCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "stat PATH…",
		Short: "Describe files and directories",
		Long: `Describes files and directories. The size of a file that is being written is exact: it is what
every replica has on disk at this moment.

` + globHelp,
		Example: "  quarry stat /logs/today\n  quarry stat --json '/logs/*'",
		Args:    args(1, -1, "at least one path"),
		RunE: func(c *cobra.Command, args []string) error {
			return o.withPaths(c, args, func(ctx context.Context, fs *client.FS, paths []string) error {
				for _, p := range paths {
					info, err := fs.Stat(ctx, p)
					if err != nil {
						return err
					}
					if err := printStat(o, info); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func printStat(o *options, info client.Info) error {
	if o.json {
		return printJSON(os.Stdout, describe(info))
	}
	d := describe(info)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "path\t%s\nkind\t%s\n", printable(d.Path), d.Kind)
	if info.IsDir() {
		fmt.Fprintf(w, "entries\t%d\n", d.Entries)
	} else {
		fmt.Fprintf(w, "size\t%d bytes (%s)\nopen\t%v\n", d.Size, bytesText(d.Size), d.Open)
	}
	fmt.Fprintf(w, "mode\t%s\nowner\t%s\nmodified\t%s\ninode\t%s\n", info.Mode(), owner(info), info.ModTime().Format(time.RFC3339), d.Inode)
	return w.Flush()
}
