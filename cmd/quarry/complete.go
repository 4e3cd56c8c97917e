package main

import (
	"context"
	"path"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/clock"
)

const (
	completeWait  = 2 * time.Second // for the cluster, while somebody looks at a prompt
	completeMax   = 1000            // paths that are offered
	completePages = 20              // of a directory that are looked at
)

// completion completes the arguments of a command.
type completion = func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective)

// paths completes arguments that are paths in the cluster, behind so many that are local files.
func (o *options) paths(behind int) completion {
	return func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) < behind {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return o.complete(c, word, "")
	}
}

// sides completes the arguments of sync.
func (o *options) sides(c *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	if p, ok := strings.CutPrefix(word, "quarry:"); ok {
		return o.complete(c, p, "quarry:")
	}
	return nil, cobra.ShellCompDirectiveDefault
}

// complete offers the paths of the cluster that begin with a word. Where there is none the shell
// offers local files.
func (o *options) complete(c *cobra.Command, word, prefix string) ([]string, cobra.ShellCompDirective) {
	ctx := c.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := clock.System().WithTimeout(ctx, completeWait)
	defer cancel()
	fs, err := o.open(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	defer fs.Close()
	found, dirs := pathsWith(ctx, fs, word)
	for i := range found {
		found[i] = prefix + found[i]
	}
	switch {
	case len(found) == 0:
		return nil, cobra.ShellCompDirectiveDefault
	case dirs:
		return found, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}

// pathsWith returns paths that begin with a word, as far as an error lets them be found, and
// whether there are directories among them.
func pathsWith(ctx context.Context, fs *client.FS, word string) (found []string, dirs bool) {
	base, start := "/", word
	if i := strings.LastIndexByte(word, '/'); i >= 0 {
		base, start = word[:i+1], word[i+1:]
	}
	after := ""
	for range completePages {
		page, more, err := fs.List(ctx, path.Clean("/"+base), after, quarry.ListMax)
		if err != nil {
			return found, dirs
		}
		for _, e := range page {
			name := e.Name()
			after = name
			switch {
			case !strings.HasPrefix(name, start) && name > start || len(found) == completeMax:
				return found, dirs
			case !strings.HasPrefix(name, start) || start == "" && strings.HasPrefix(name, "."):
			case e.IsDir():
				dirs = true
				found = append(found, base+name+"/")
			default:
				found = append(found, base+name)
			}
		}
		if !more {
			break
		}
	}
	return found, dirs
}

// completePaths gives commands the completion of their paths.
func completePaths(o *options, root *cobra.Command) {
	for _, c := range root.Commands() {
		switch c.Name() {
		case "put":
			c.ValidArgsFunction = o.paths(1)
		case "sync":
			c.ValidArgsFunction = o.sides
		case "get", "cat", "head", "tail", "append", "ls", "tree", "find", "du", "stat", "wc", "checksum", "mkdir", "cp", "mv", "rm":
			c.ValidArgsFunction = o.paths(0)
		}
	}
}
