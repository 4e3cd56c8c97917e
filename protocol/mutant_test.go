//go:build mutant

package protocol

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMutantScripts plays each script without the rules it names: something else must
// happen.
func TestMutantScripts(t *testing.T) {
	defer func() { Off = nil }()
	for _, path := range scripts(t) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			rule, ok := strings.CutPrefix(strings.TrimSpace(line), "without: ")
			if !ok {
				continue
			}
			Off = []Rule{Rule(rule)}
			if play(string(data)) == string(data) {
				t.Errorf("%s: nothing else happens without %q", filepath.Base(path), rule)
			}
		}
	}
}
