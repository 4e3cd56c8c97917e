package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
)

func putCommand(o *options) *cobra.Command {
	var keep, parents bool
	c := &cobra.Command{
		Use:   "put LOCAL PATH",
		Short: "Store a local file",
		Long: `Stores a local file, or standard input ("-"), under a path. The file appears under its
name whole, when all of it is on the disks of every replica, and replaces an old file of
that name in the same step; until then nothing is to be seen.

If PATH ends with "/", the file keeps its local name in that directory.`,
		Example: "  quarry put big.tar /archive/\n  tar c . | quarry put - /archive/src.tar",
		Args:    args(2, 2, "a local file and a path"),
		RunE: func(c *cobra.Command, args []string) error {
			return o.with(c, func(ctx context.Context, fs *client.FS) error {
				return put(ctx, o, fs, args[0], args[1], keep, parents)
			})
		},
	}
	c.Flags().BoolVarP(&keep, "no-clobber", "n", false, "fail if the path exists")
	c.Flags().BoolVarP(&parents, "parents", "p", false, "make missing directories")
	return c
}

func put(ctx context.Context, o *options, fs *client.FS, local, to string, keep, parents bool) error {
	in, size, name := os.Stdin, int64(0), ""
	if local != "-" {
		f, err := os.Open(local)
		if err != nil {
			return localError("put", local, err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return localError("put", local, err)
		}
		if info.IsDir() {
			return quarry.Errorf("put", quarry.IsDir, local, "only single files can be stored; pack the directory: tar c %s | quarry put - PATH", local)
		}
		in, size, name = f, info.Size(), path.Base(local)
	}
	if strings.HasSuffix(to, "/") {
		if name == "" {
			return usageError{fmt.Errorf("put: standard input has no name: give the whole path, not the directory %s", to)}
		}
		to = path.Join(to, name)
	}
	if parents {
		if err := fs.MkdirAll(ctx, path.Dir("/"+to)); err != nil {
			return err
		}
	}
	bar := newProgress(o, to, size)
	info, err := fs.Put(ctx, to, bar.reader(in), client.PutOptions{Size: size, Keep: keep})
	bar.finish(err)
	if err != nil {
		return err
	}
	return printDone(o, info)
}

// printDone prints what was stored, for programs.
func printDone(o *options, info client.Info) error {
	if !o.json {
		return nil
	}
	return printJSON(os.Stdout, describe(info))
}

// localError is the error of a local file.
func localError(op, name string, err error) error {
	kind := quarry.Internal
	switch {
	case os.IsNotExist(err):
		kind = quarry.NotFound
	case os.IsPermission(err):
		kind = quarry.Permission
	case os.IsExist(err):
		kind = quarry.Exists
	}
	return &quarry.Error{Op: op, Kind: kind, Subject: "local file " + name, Err: err}
}

func getCommand(o *options) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "get PATH [LOCAL]",
		Short: "Read a file into a local one",
		Long: `Reads a file into a local file, or to standard output ("-"). Every byte is compared with
its checksum; a broken or missing replica is replaced by another one on the way.

Without LOCAL the file gets the last name of PATH in the present directory. The local
file appears when it is complete.`,
		Example: "  quarry get /archive/big.tar\n  quarry get /archive/src.tar - | tar x",
		Args:    args(1, 2, "a path and perhaps a local file"),
		RunE: func(c *cobra.Command, args []string) error {
			local := path.Base("/" + args[0])
			if len(args) == 2 {
				local = args[1]
			}
			return o.with(c, func(ctx context.Context, fs *client.FS) error { return get(ctx, o, fs, args[0], local, force) })
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "replace a local file that exists")
	return c
}

func get(ctx context.Context, o *options, fs *client.FS, from, local string, force bool) error {
	f, err := fs.Open(ctx, from)
	if err != nil {
		return err
	}
	defer f.Close()
	if local == "-" {
		_, err := f.WriteTo(os.Stdout)
		return err
	}
	if info, err := os.Stat(local); err == nil && info.IsDir() {
		local = path.Join(local, path.Base("/"+from))
	}
	if _, err := os.Lstat(local); err == nil && !force {
		return quarry.Errorf("get", quarry.Exists, "local file "+local, "give another name, or --force to replace it")
	}
	out, err := os.CreateTemp(path.Dir(local), "."+path.Base(local)+".part-*")
	if err != nil {
		return localError("get", local, err)
	}
	defer os.Remove(out.Name())
	bar := newProgress(o, from, f.Info().Size())
	_, err = f.WriteTo(bar.writer(out))
	bar.finish(err)
	if err == nil {
		err = out.Chmod(0o666 &^ umask())
	}
	if e := out.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	if err := os.Rename(out.Name(), local); err != nil {
		return localError("get", local, err)
	}
	return printDone(o, f.Info())
}

func catCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "cat PATH…",
		Short: "Write files to standard output",
		Args:  args(1, -1, "at least one path"),
		RunE: func(c *cobra.Command, args []string) error {
			return o.with(c, func(ctx context.Context, fs *client.FS) error {
				for _, p := range args {
					if err := cat(ctx, fs, p); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func cat(ctx context.Context, fs *client.FS, p string) error {
	f, err := fs.Open(ctx, p)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(os.Stdout, f)
	return err
}
