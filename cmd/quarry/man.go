package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/quarryfs/quarry/cluster"
)

const configHelp = `Where the masters are and a few defaults need not be said in each command. What is said in the
command line goes before a variable of the environment, and that goes before the config file.

  flag         variable          what
  --masters    QUARRY_MASTERS    addresses of masters, host:port,…
  --key-file   QUARRY_KEY_FILE   the file with the cluster key
  --tls-cert   QUARRY_TLS_CERT   the file with the certificate for TLS
  --tls-key    QUARRY_TLS_KEY    the file with its private key
  --tls-ca     QUARRY_TLS_CA     the file with the authority's certificates
  --parallel   QUARRY_PARALLEL   how many files are moved at a time
  --limit      QUARRY_LIMIT      the most bytes per second of transfers
  --timeout    QUARRY_TIMEOUT    how long servers may leave a command without an answer
               QUARRY_CONFIG     the config file
               NO_COLOR          anything: no colours, also on a terminal

The config file is quarry/config in the folder for settings ($XDG_CONFIG_HOME, or ~/.config). Its
lines are the names of the flags above and their values; lines that begin with # say nothing:

  # the cluster of the archive
  masters  = m1.example.org:7400,m2.example.org:7400,m3.example.org:7400
  key-file = /etc/quarry/key
  limit    = 200M

Completion of commands, flags and paths in the cluster, for bash (zsh, fish and powershell alike):

  source <(quarry completion bash)`

const pathsHelp = `A path is a list of names with "/" between them. It begins at the root of the cluster, with or
without a "/"; "." and ".." are not names. Which arguments are local files, the usage line says:
LOCAL is one, PATH is in the cluster. sync goes both ways, so there a path in the cluster is written
quarry:/path.

` + targetHelp + ` A "/" at the end of a source
means nothing.

` + globHelp + ` With \, the character behind it means itself. A pattern that
matches nothing is an error.

Patterns among local files are expanded by the shell.`

// topics are the pages that belong to no command.
func topics() []*cobra.Command {
	return []*cobra.Command{
		{Use: "exit-codes", Short: "What the exit codes mean", Long: exitCodesHelp},
		{Use: "configuration", Short: "The config file, variables and completion", Long: configHelp},
		{Use: "paths", Short: "Paths, targets and patterns", Long: pathsHelp},
	}
}

func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write the manual pages",
		Long: `Writes a manual page for each command and topic, the same text that --help shows, into a local
directory.`,
		Example: "  quarry man ~/.local/share/man/man1 && man quarry-put",
		Args:    args(1, 1, "a directory"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o777); err != nil {
				return localError("man", args[0], err)
			}
			c.Root().InitDefaultCompletionCmd()
			return writePages(args[0], c.Root())
		},
	}
}

// writePages writes the page of a command and those of the commands below it.
func writePages(dir string, c *cobra.Command) error {
	name := filepath.Join(dir, pageName(c)+".1")
	if err := os.WriteFile(name, []byte(page(c)), 0o666); err != nil {
		return localError("man", name, err)
	}
	for _, below := range c.Commands() {
		if below.Hidden || below.Name() == "help" {
			continue
		}
		if err := writePages(dir, below); err != nil {
			return err
		}
	}
	return nil
}

func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// page is a command's manual page.
func page(c *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %s 1 \"\" \"quarry %s\" \"Quarry\"\n.SH NAME\n%s \\- %s\n", strings.ToUpper(roff(pageName(c))), cluster.Release, roff(pageName(c)), roff(c.Short))
	if c.Runnable() {
		fmt.Fprintf(&b, ".SH SYNOPSIS\n%s\n", roff(c.UseLine()))
	}
	text := c.Long
	if text == "" {
		text = c.Short + "."
	}
	b.WriteString(".SH DESCRIPTION\n" + paragraphs(text))
	if c.HasExample() {
		b.WriteString(".SH EXAMPLES\n" + paragraphs(c.Example))
	}
	for _, part := range []struct {
		title string
		flags *pflag.FlagSet
	}{{"OPTIONS", c.NonInheritedFlags()}, {"OPTIONS OF ALL COMMANDS", c.InheritedFlags()}} {
		if part.flags.HasAvailableFlags() {
			fmt.Fprintf(&b, ".SH %s\n.nf\n%s\n.fi\n", part.title, roff(strings.TrimRight(part.flags.FlagUsages(), "\n")))
		}
	}
	if c.HasAvailableSubCommands() || c.HasHelpSubCommands() {
		b.WriteString(".SH COMMANDS AND TOPICS\n")
		for _, below := range c.Commands() {
			if !below.Hidden && below.Name() != "help" {
				fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(pageName(below)), roff(below.Short))
			}
		}
	}
	if c.HasParent() {
		fmt.Fprintf(&b, ".SH SEE ALSO\n%s(1)\n", roff(pageName(c.Parent())))
	}
	return b.String()
}

// paragraphs sets text: what is indented keeps its lines.
func paragraphs(text string) string {
	var b strings.Builder
	for para := range strings.SplitSeq(text, "\n\n") {
		if strings.HasPrefix(para, " ") || strings.Contains(para, "\n  ") {
			fmt.Fprintf(&b, ".PP\n.nf\n%s\n.fi\n", roff(para))
		} else {
			fmt.Fprintf(&b, ".PP\n%s\n", roff(para))
		}
	}
	return b.String()
}

// roff takes the meaning of all that roff would take for its own.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
