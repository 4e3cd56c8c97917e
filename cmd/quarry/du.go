package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/transfer"
)

func duCommand(o *options) *cobra.Command {
	var depth int
	var exact bool
	c := &cobra.Command{
		Use:   "du [PATH…]",
		Short: "Show how much is below directories",
		Long: `Adds up the files at and below each PATH (default: the root): their bytes, once and not for each
replica, and how many they are. With --depth, also of the directories so many levels below it.

` + globHelp,
		Example: "  quarry du '/logs/*'\n  quarry du --depth 1 /",
		Args:    args(0, -1, "paths"),
		RunE: func(c *cobra.Command, args []string) error {
			return o.withPaths(c, orRoot(args), func(ctx context.Context, fs *client.FS, paths []string) error {
				q := transfer.Quarry{FS: fs}
				d := du{o: o, q: q, depth: depth, exact: exact}
				for _, p := range paths {
					e, err := q.Stat(ctx, p)
					if err != nil {
						return err
					}
					if _, err := d.add(ctx, e, 0); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	c.Flags().IntVarP(&depth, "depth", "d", 0, "show directories so many levels down")
	c.Flags().BoolVarP(&exact, "bytes", "b", false, "show sizes in bytes")
	return c
}

// orRoot is the root where no path is given.
func orRoot(args []string) []string {
	if len(args) == 0 {
		return []string{"/"}
	}
	return args
}

// usage is what lies at and below a path.
type usage struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
	Files int64  `json:"files"`
	Dirs  int64  `json:"directories"` // below the path
}

// du adds up what lies below paths, and shows it.
type du struct {
	o     *options
	q     transfer.Quarry
	depth int
	exact bool
}

func (d *du) add(ctx context.Context, e transfer.Entry, level int) (usage, error) {
	u := usage{Path: e.Path}
	if e.Kind == transfer.File {
		u.Bytes, u.Files = e.Size, 1
	} else {
		for below, err := range d.q.List(ctx, e.Path) {
			if err != nil {
				return u, err
			}
			if below.Kind == transfer.File {
				u.Bytes, u.Files = u.Bytes+below.Size, u.Files+1
				continue
			}
			v, err := d.add(ctx, below, level+1)
			if err != nil {
				return u, err
			}
			u.Bytes, u.Files, u.Dirs = u.Bytes+v.Bytes, u.Files+v.Files, u.Dirs+v.Dirs+1
		}
	}
	if level > d.depth {
		return u, nil
	}
	if d.o.json {
		return u, printJSON(os.Stdout, u)
	}
	size := bytesText(u.Bytes)
	if d.exact {
		size = fmt.Sprint(u.Bytes)
	}
	_, err := fmt.Printf("%10s  %14s  %s\n", size, counted(u.Files, "file"), printable(u.Path))
	return u, err
}

func treeCommand(o *options) *cobra.Command {
	var t tree
	c := &cobra.Command{
		Use:   "tree [PATH]",
		Short: "Draw a directory and what is below it",
		Long: `Draws a directory (default: the root) and everything below it, and counts what it has drawn.
With --json it prints an object for each file and directory instead.`,
		Example: "  quarry tree /logs\n  quarry tree --directories --depth 2",
		Args:    args(0, 1, "at most one path"),
		RunE: func(c *cobra.Command, args []string) error {
			if t.depth < 0 {
				return usageError{errors.New("--depth can be 1 and more")}
			}
			return o.with(c, func(ctx context.Context, fs *client.FS) error {
				t.o, t.q = o, transfer.Quarry{FS: fs}
				return t.draw(ctx, orRoot(args)[0])
			})
		},
	}
	c.Flags().IntVarP(&t.depth, "depth", "d", 0, "go so many levels down; 0: all the way")
	c.Flags().BoolVar(&t.dirs, "directories", false, "leave files out")
	return c
}

// tree draws a tree.
type tree struct {
	o     *options
	q     transfer.Quarry
	depth int
	dirs  bool

	dirsSeen, filesSeen int64
}

func (t *tree) draw(ctx context.Context, p string) error {
	e, err := t.q.Stat(ctx, p)
	if err != nil {
		return err
	}
	if !t.o.json {
		fmt.Println(dirName(p, e.Kind == transfer.Dir))
	}
	if e.Kind == transfer.Dir {
		if err := t.below(ctx, e.Path, "", 1); err != nil {
			return err
		}
	}
	if t.o.json {
		return nil
	}
	what := counted(t.dirsSeen, "directory")
	if t.dirsSeen != 1 {
		what = fmt.Sprintf("%d directories", t.dirsSeen)
	}
	if !t.dirs {
		what += ", " + counted(t.filesSeen, "file")
	}
	_, err = fmt.Printf("\n%s\n", what)
	return err
}

// below draws the entries of a directory. One is drawn when it is known whether another follows.
func (t *tree) below(ctx context.Context, dir, indent string, level int) error {
	var waiting *transfer.Entry
	for e, err := range t.q.List(ctx, dir) {
		switch {
		case err != nil:
			return err
		case t.dirs && e.Kind != transfer.Dir:
			continue
		case waiting != nil:
			if err := t.entry(ctx, *waiting, indent, "├── ", "│   ", level); err != nil {
				return err
			}
		}
		waiting = &e
	}
	if waiting == nil {
		return nil
	}
	return t.entry(ctx, *waiting, indent, "└── ", "    ", level)
}

func (t *tree) entry(ctx context.Context, e transfer.Entry, indent, branch, deeper string, level int) error {
	dir := e.Kind == transfer.Dir
	var err error
	if t.o.json {
		err = printJSON(os.Stdout, found(e))
	} else {
		_, err = fmt.Println(indent + branch + dirName(e.Name, dir))
	}
	if dir {
		t.dirsSeen++
	} else {
		t.filesSeen++
	}
	if err != nil || !dir || t.depth > 0 && level >= t.depth {
		return err
	}
	return t.below(ctx, e.Path, indent+deeper, level+1)
}
