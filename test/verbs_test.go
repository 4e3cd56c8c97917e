package test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkVerbs is how long commands take from their start to their end, against a cluster of three
// masters and four chunk servers that are processes of their own.
func BenchmarkVerbs(b *testing.B) {
	s := newSystem(b, options{})
	file := filepath.Join(b.TempDir(), "small")
	if err := os.WriteFile(file, make([]byte, 3000), 0o600); err != nil {
		b.Fatal(err)
	}
	n := 0
	for _, args := range [][]string{{"version"}, {"put", file}, {"stat", "/verbs/1"}, {"ls", "/verbs/1"}, {"cat", "/verbs/1"}} {
		if out, code := s.run("", "mkdir", "-p", "/verbs"); code != 0 {
			b.Fatal(out)
		}
		b.Run(args[0], func(b *testing.B) {
			for b.Loop() {
				say := args
				if args[0] == "put" {
					n++
					say = append(say[:len(say):len(say)], fmt.Sprintf("/verbs/%d", n))
				}
				if out, code := s.run("", say...); code != 0 {
					b.Fatalf("%v: %s", say, out)
				}
			}
		})
	}
}
