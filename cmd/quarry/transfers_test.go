package main

import (
	"errors"
	"strings"
	"testing"
)

// TestMistakesComeFirst: a mistake in the command line is told before a cluster is looked for, and before
// directories are made.
func TestMistakesComeFirst(t *testing.T) {
	t.Setenv("QUARRY_CONFIG", "")
	for command, words := range map[string]string{
		"put -p --limit fast a /d/a":   "no number of bytes",
		"put -p --parallel 0 a /d/a":   "--parallel can be",
		"put -p --resume - /d/a":       "cannot be gone on with",
		"put -p - /d/":                 "has no name",
		"get --limit fast /a b":        "no number of bytes",
		"cp --parallel 1000000 /a /b":  "--parallel can be",
		"sync --parallel 0 quarry:/ .": "--parallel can be",
	} {
		c := rootCommand()
		c.SetArgs(append(strings.Fields(command), "--masters", "127.0.0.1:1", "--timeout", "1s"))
		err := c.Execute()
		var usage usageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", command, err)
		}
	}
}
