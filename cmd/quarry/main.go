// Command quarry is Quarry: a distributed file system for huge files. One binary holds the
// servers, the tools for files and the tools for operators; "quarry help" lists them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry"
)

func main() { os.Exit(run(os.Args[1:])) }

// run carries out one command line and returns the exit code.
func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	root := rootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var verdict verdictError
	switch {
	case errors.As(err, &verdict):
		return verdict.code
	case err == nil:
		return exitOK
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "quarry: interrupted")
		return exitInterrupted
	}
	var usage usageError
	if !errors.As(err, &usage) && strings.HasPrefix(err.Error(), "unknown command") { // cobra has no type for it
		err = usageError{fmt.Errorf("%w; \"quarry help\" lists the commands", err)}
	}
	fmt.Fprintf(os.Stderr, "quarry: %s\n", oneLine(err.Error()))
	return exitCode(err)
}

// oneLine keeps an error on one line, whatever names stand in it.
func oneLine(s string) string {
	return strings.NewReplacer("\n", `\n`, "\r", `\r`, "\x1b", `\x1b`).Replace(s)
}

// The exit codes, which "quarry help exit-codes" explains.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitConflict    = 4
	exitUnavailable = 5
	exitPermission  = 6
	exitDamaged     = 7
	exitNoSpace     = 8
	exitInterrupted = 130
)

// usageError is a mistake in the command line.
type usageError struct{ error }

// exitCode returns the exit code of an error.
func exitCode(err error) int {
	var usage usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	switch quarry.KindOf(err) {
	case quarry.Invalid, quarry.TooLarge, quarry.Unsupported:
		return exitUsage
	case quarry.NotFound:
		return exitNotFound
	case quarry.Exists, quarry.NotDir, quarry.IsDir, quarry.NotEmpty:
		return exitConflict
	case quarry.Unavailable, quarry.Busy, quarry.NotLeader, quarry.Unknown, quarry.SessionExpired:
		return exitUnavailable
	case quarry.Permission, quarry.WrongCluster:
		return exitPermission
	case quarry.Corrupt:
		return exitDamaged
	case quarry.NoSpace:
		return exitNoSpace
	}
	return exitFailed
}

const exitCodesHelp = `Every command ends with one of these codes:

  0    it is done
  1    it failed for a reason that has no code of its own
  2    the command line or a name is wrong; nothing was done
  3    a file, directory or chunk does not exist
  4    a name is taken, a directory is not empty, or a file is where a directory is needed
  5    the cluster cannot be reached, or the outcome is not known: look, then try again
  6    the cluster key is missing or wrong, or this is another cluster
  7    data is damaged and no good replica was found
  8    the disks are full
  9    selftest, drill: a promise was broken
  10   selftest: nothing was found, but not everything could be checked
  130  it was interrupted`

const rootHelp = `Quarry is a distributed file system for huge files and logs that many machines write
and read. It starts from the design of the Google File System and removes its known
flaws: replicas are byte-identical, record append is exactly once, every read is
linearizable, and a failed master is replaced by itself within seconds.

A first try, in two terminals:

  quarry dev --dir /tmp/quarry               a whole cluster in one process
  quarry put big.tar /big.tar                store a file
  quarry get /big.tar copy.tar               read it back
  echo hello | quarry append --create /log   append a record, once
  quarry tail -f /log                        follow it

Where the cluster is, a file can say: "quarry help configuration".`

// rootCommand returns the tree of all commands.
func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "quarry",
		Short:         "A distributed file system for huge files",
		Long:          rootHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.DisableSuggestions = true
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see %q", err, c.CommandPath()+" --help")}
	})
	root.AddGroup(
		&cobra.Group{ID: "files", Title: "Files:"},
		&cobra.Group{ID: "servers", Title: "Servers:"},
		&cobra.Group{ID: "operators", Title: "Operators:"},
	)
	o := &options{}
	settings, badSetting := loadSettings()
	o.settings = settings
	o.register(root)
	root.PersistentPreRunE = func(c *cobra.Command, _ []string) error {
		if err := c.ValidateRequiredFlags(); err != nil {
			return usageError{fmt.Errorf("%w; see %q", err, c.CommandPath()+" --help")}
		}
		if badSetting != nil && c.Name() != "help" {
			return usageError{fmt.Errorf("%w; see \"quarry help configuration\"", badSetting)}
		}
		if o.timeout < 0 || o.timeout == 0 && root.PersistentFlags().Changed("timeout") {
			return usageError{fmt.Errorf("--timeout: %v is no time to wait; write 500ms, 30s or 5m", o.timeout)}
		}
		return nil
	}
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("files", putCommand(o), getCommand(o), syncCommand(o), catCommand(o), headCommand(o), tailCommand(o), appendCommand(o),
		lsCommand(o), treeCommand(o), findCommand(o), duCommand(o), statCommand(o), wcCommand(o), checksumCommand(o),
		mkdirCommand(o), cpCommand(o), mvCommand(o), rmCommand(o), chmodCommand(o), chownCommand(o), touchCommand(o),
		trashCommand(o), undeleteCommand(o))
	add("servers", devCommand(o), masterCommand(o), chunkServerCommand(o))
	add("operators", adminCommand(o), drillCommand(o), selftestCommand(o), benchCommand(o), versionCommand(o))
	completePaths(o, root)
	root.AddCommand(append(topics(), manCommand())...)
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	for _, c := range root.Commands() {
		refuseUnknown(c)
	}
	return root
}

// refuseUnknown has commands that only have others below them, and help, refuse what is none of these; else
// they would show their help, and succeed.
func refuseUnknown(c *cobra.Command) {
	if c.Name() == "help" && c.Run != nil {
		show := c.Run
		c.Run, c.RunE = nil, func(c *cobra.Command, args []string) error {
			if _, _, err := c.Root().Find(args); err != nil {
				return usageError{fmt.Errorf("unknown help topic %q; see %q", strings.Join(args, " "), "quarry help")}
			}
			show(c, args)
			return nil
		}
		return
	}
	for _, below := range c.Commands() {
		refuseUnknown(below)
	}
	if !c.HasSubCommands() || c.Runnable() {
		return
	}
	c.DisableFlagsInUseLine = true
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		return usageError{fmt.Errorf("unknown command %q for %q; see %q", args[0], c.CommandPath(), c.CommandPath()+" --help")}
	}
}

// args checks the number of arguments and names what is missing.
func args(least, most int, names string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usageError{fmt.Errorf("%s needs %s; see %q", c.CommandPath(), names, c.CommandPath()+" --help")}
		case most >= 0 && len(args) > most:
			return usageError{fmt.Errorf("%s takes %s, not %d arguments; see %q", c.CommandPath(), names, len(args), c.CommandPath()+" --help")}
		}
		return nil
	}
}
