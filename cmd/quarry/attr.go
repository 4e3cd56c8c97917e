package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
)

const notEnforced = `
Quarry keeps it and shows it; nobody is refused anything because of it.`

func chmodCommand(o *options) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "chmod MODE PATH…",
		Short: "Set the permission bits of files and directories",
		Long: `Sets the permission bits: as an octal number, or as changes like u+rwx,go-w.
` + notEnforced,
		Example: "  quarry chmod 640 /logs/today\n  quarry chmod -r go-w /logs",
		Args:    args(2, -1, "a mode and at least one path"),
		RunE: func(c *cobra.Command, args []string) error {
			mode, err := parseMode(args[0])
			if err != nil {
				return usageError{err}
			}
			return o.set(c, args[1:], all, func(info client.Info) client.AttrChange {
				m := mode(info.Attr.Mode)
				return client.AttrChange{Mode: &m}
			})
		},
	}
	c.Flags().BoolVarP(&all, "recursive", "r", false, "and everything in directories")
	return c
}

// set sets attributes of paths, and of what is in them if all is set.
func (o *options) set(c *cobra.Command, paths []string, all bool, change func(client.Info) client.AttrChange) error {
	one := func(ctx context.Context, fs *client.FS, info client.Info) error {
		info, err := fs.SetAttr(ctx, info.Path, change(info))
		if err != nil || !o.json {
			return err
		}
		return printJSON(os.Stdout, describe(info))
	}
	return o.with(c, func(ctx context.Context, fs *client.FS) error {
		for _, p := range paths {
			info, err := fs.Stat(ctx, p)
			if err != nil {
				return err
			}
			if err := one(ctx, fs, info); err != nil {
				return err
			}
			if all && info.IsDir() {
				if err := below(ctx, fs, p, one); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// below does something to everything in a directory, at whatever depth. What is removed meanwhile
// is passed over.
func below(ctx context.Context, fs *client.FS, dir string, do func(context.Context, *client.FS, client.Info) error) error {
	for info, err := range fs.Entries(ctx, dir) {
		if err == nil {
			err = do(ctx, fs, info)
		}
		if err == nil && info.IsDir() {
			err = below(ctx, fs, info.Path, do)
		}
		if err != nil && !errors.Is(err, quarry.NotFound) {
			return err
		}
	}
	return nil
}

// parseMode reads an octal mode, or changes of one.
func parseMode(s string) (func(uint32) uint32, error) {
	if n, err := strconv.ParseUint(s, 8, 32); err == nil && n <= 0o7777 {
		return func(uint32) uint32 { return uint32(n) }, nil
	}
	wrong := fmt.Errorf("%q is no mode: say an octal number up to 7777, or changes like u+rwx,go-w", s)
	var changes []func(uint32) uint32
	for part := range strings.SplitSeq(s, ",") {
		at := strings.IndexAny(part, "+-=")
		if at < 0 || strings.Trim(part[:at], "ugoa") != "" || strings.Trim(part[at+1:], "rwxst") != "" {
			return nil, wrong
		}
		spoken, bits := modeOf(part[:at], "rwxst"), modeOf(part[:at], part[at+1:])
		changes = append(changes, map[byte]func(uint32) uint32{
			'+': func(m uint32) uint32 { return m | bits },
			'-': func(m uint32) uint32 { return m &^ bits },
			'=': func(m uint32) uint32 { return m&^spoken | bits },
		}[part[at]])
	}
	return func(mode uint32) uint32 {
		for _, change := range changes {
			mode = change(mode)
		}
		return mode
	}, nil
}

// modeOf returns the bits of letters of rwxst, for the classes of who, letters of ugoa; none: all.
func modeOf(who, letters string) (bits uint32) {
	for _, class := range []struct {
		name          string
		r, w, x, s, t uint32
	}{{"u", 0o400, 0o200, 0o100, 0o4000, 0}, {"g", 0o040, 0o020, 0o010, 0o2000, 0}, {"o", 0o004, 0o002, 0o001, 0, 0o1000}} {
		if who != "" && !strings.ContainsAny(who, class.name+"a") {
			continue
		}
		for _, letter := range letters {
			bits |= map[rune]uint32{'r': class.r, 'w': class.w, 'x': class.x, 's': class.s, 't': class.t}[letter]
		}
	}
	return bits
}

func chownCommand(o *options) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "chown OWNER[:GROUP] PATH…",
		Short: "Set whose files and directories are",
		Long: `Sets the owner, the group (:GROUP) or both: as numbers, or as names that this machine knows.
` + notEnforced,
		Example: "  quarry chown 1000:1000 /home/anna\n  quarry chown -r :staff /shared",
		Args:    args(2, -1, "an owner and at least one path"),
		RunE: func(c *cobra.Command, args []string) error {
			change, err := parseOwner(args[0])
			if err != nil {
				return usageError{err}
			}
			return o.set(c, args[1:], all, func(client.Info) client.AttrChange { return change })
		},
	}
	c.Flags().BoolVarP(&all, "recursive", "r", false, "and everything in directories")
	return c
}

func parseOwner(s string) (change client.AttrChange, err error) {
	owner, group, _ := strings.Cut(s, ":")
	if owner != "" {
		change.UID, err = parseID("user", owner, func(name string) (string, error) {
			u, err := user.Lookup(name)
			if err != nil {
				return "", err
			}
			return u.Uid, nil
		})
	}
	if err == nil && group != "" {
		change.GID, err = parseID("group", group, func(name string) (string, error) {
			g, err := user.LookupGroup(name)
			if err != nil {
				return "", err
			}
			return g.Gid, nil
		})
	}
	if err == nil && owner == "" && group == "" {
		err = fmt.Errorf("%q names neither an owner nor a group: say OWNER, OWNER:GROUP or :GROUP", s)
	}
	return change, err
}

// parseID reads the number of a user or group, or finds it by its name.
func parseID(what, s string, lookup func(string) (string, error)) (*uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		number, lookupErr := lookup(s)
		if lookupErr != nil {
			return nil, fmt.Errorf("this machine knows no %s %q: say its number, 0 to 4294967295", what, s)
		}
		if n, err = strconv.ParseUint(number, 10, 32); err != nil {
			return nil, fmt.Errorf("%s %q has no number that can be kept", what, s)
		}
	}
	id := uint32(n)
	return &id, nil
}

func touchCommand(o *options) *cobra.Command {
	var date string
	var noCreate bool
	c := &cobra.Command{
		Use:   "touch PATH…",
		Short: "Set when files and directories were changed",
		Long: `Sets when files and directories were changed to the present, by the masters' clocks, or to --date.
A file that is not there is made, empty. The next change of the file sets its time anew.`,
		Example: "  quarry touch /jobs/done\n  quarry touch --date 2024-05-01T12:00:00Z /archive/may",
		Args:    args(1, -1, "at least one path"),
		RunE: func(c *cobra.Command, args []string) error {
			var at time.Time
			if date != "" {
				var err error
				if at, err = parseTime(date); err != nil {
					return usageError{err}
				}
			}
			return o.with(c, func(ctx context.Context, fs *client.FS) error {
				for _, p := range args {
					if err := touch(ctx, o, fs, p, at, noCreate); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	c.Flags().StringVarP(&date, "date", "d", "", "the time, as 2024-05-01T12:00:00Z, \"2024-05-01 12:00:00\" or 2024-05-01 here")
	c.Flags().BoolVarP(&noCreate, "no-create", "c", false, "make no files")
	return c
}

func parseTime(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, time.DateTime, time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time: say 2024-05-01T12:00:00Z, \"2024-05-01 12:00:00\" or 2024-05-01", s)
}

func touch(ctx context.Context, o *options, fs *client.FS, p string, at time.Time, noCreate bool) error {
	info, err := fs.SetAttr(ctx, p, client.AttrChange{Modified: &at})
	if errors.Is(err, quarry.NotFound) {
		if noCreate {
			return nil
		}
		w, createErr := fs.Create(ctx, path.Join("/", p))
		if createErr == nil {
			createErr = w.Close()
		}
		if createErr != nil && !errors.Is(createErr, quarry.Exists) { // somebody else has made it
			return createErr
		}
		info, err = fs.SetAttr(ctx, p, client.AttrChange{Modified: &at})
	}
	if err != nil || !o.json {
		return err
	}
	return printJSON(os.Stdout, describe(info))
}
