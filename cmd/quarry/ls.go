package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
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
	Modified string `json:"modified"`
	Inode    string `json:"inode"`
	Open     bool   `json:"open,omitempty"`
	Entries  int64  `json:"entries,omitempty"`
}

func describe(i client.Info) description {
	d := description{
		Path: i.Path, Kind: "file", Size: i.Size(), Mode: fmt.Sprintf("%04o", i.Attr.Mode),
		Modified: i.ModTime().UTC().Format(time.RFC3339Nano), Inode: i.Attr.Inode.String(), Open: i.Attr.Open,
	}
	if i.IsDir() {
		d.Kind, d.Size, d.Entries = "directory", 0, i.Attr.Entries
	}
	return d
}

func lsCommand(o *options) *cobra.Command {
	var long bool
	c := &cobra.Command{
		Use:   "ls [PATH]",
		Short: "List a directory",
		Long: `Lists the entries of a directory in the order of their bytes, or one file. With -l or
--json the size of a file that is being written is exact: what every replica has on disk at
this moment.`,
		Args: args(0, 1, "at most one path"),
		RunE: func(c *cobra.Command, args []string) error {
			p := "/"
			if len(args) == 1 {
				p = args[0]
			}
			return o.with(c, func(ctx context.Context, fs *client.FS) error { return ls(ctx, o, fs, p, long) })
		},
	}
	c.Flags().BoolVarP(&long, "long", "l", false, "show mode, size and time")
	return c
}

func ls(ctx context.Context, o *options, fs *client.FS, p string, long bool) error {
	info, err := fs.Stat(ctx, p)
	if err != nil {
		return err
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	show := func(i client.Info, name string) error {
		switch {
		case o.json:
			return printJSON(os.Stdout, describe(i))
		case i.IsDir():
			name += "/"
		}
		if !long {
			_, err := fmt.Fprintln(out, printable(name))
			return err
		}
		_, err := fmt.Fprintf(out, "%s\t%s\t%s\t%s\n", i.Mode(), bytesText(i.Size()), i.ModTime().Format("2006-01-02 15:04:05"), printable(name))
		return err
	}
	if !info.IsDir() {
		if err := show(info, p); err != nil {
			return err
		}
		return out.Flush()
	}
	for after, more := "", true; more; {
		var entries []client.Info
		if entries, more, err = fs.List(ctx, p, after, quarry.ListMax); err != nil {
			return err
		}
		for _, e := range entries {
			after = e.Name()
			if e.Attr.Open && (long || o.json) {
				now, err := fs.Stat(ctx, path.Join(p, after))
				switch {
				case errors.Is(err, quarry.NotFound):
					continue // removed meanwhile
				case err != nil:
					return err
				}
				e.Attr = now.Attr
			}
			if err := show(e, after); err != nil {
				return err
			}
		}
		if err := out.Flush(); err != nil {
			return err
		}
	}
	return nil
}

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
		Long:  `Describes files and directories. The size of a file that is being written is exact: it is what every replica has on disk at this moment.`,
		Args:  args(1, -1, "at least one path"),
		RunE: func(c *cobra.Command, args []string) error {
			return o.with(c, func(ctx context.Context, fs *client.FS) error {
				for _, p := range args {
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
	fmt.Fprintf(w, "mode\t%s\nmodified\t%s\ninode\t%s\n", info.Mode(), info.ModTime().Format(time.RFC3339), d.Inode)
	return w.Flush()
}
