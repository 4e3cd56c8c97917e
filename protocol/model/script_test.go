package model

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write the scripts anew with what happens")

// script is a file of testdata: a head of "key: value" lines and the acts.
type script struct {
	rules []string // without each of which it must end in a violation
	cfg   config
	out   bytes.Buffer // the file as it should be
	ended string       // violation
}

// runScript runs a script; strict says that every act must be possible.
func runScript(t *testing.T, path string, strict bool) *script {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := &script{}
	var w *world
	for i, line := range strings.Split(strings.TrimSuffix(string(data), "\n"), "\n") {
		if line != "" && line[0] == ' ' {
			continue // what it caused the last time
		}
		fmt.Fprintln(&s.out, line)
		if line == "" || line[0] == '#' {
			continue
		}
		if key, value, ok := strings.Cut(line, ": "); ok {
			s.head(t, key, value)
			continue
		}
		if w == nil {
			w = s.begin()
		}
		act, try := strings.CutPrefix(line, "try ")
		v, err := w.script(act)
		switch {
		case err != nil && try:
			fmt.Fprintln(&s.out, "    (not possible)")
		case err != nil && strict:
			t.Fatalf("%s:%d: %v", path, i+1, err)
		case v != "":
			s.ended = v
			return s
		}
	}
	return s
}

func (s *script) head(t *testing.T, key, value string) {
	t.Helper()
	switch key {
	case "without":
		s.rules = append(s.rules, value)
	case "cluster":
		length := ""
		if _, err := fmt.Sscanf(value, "%d servers, %d replicas, %d clients, window %d, %s records",
			&s.cfg.servers, &s.cfg.replicas, &s.cfg.clients, &s.cfg.window, &length); err != nil {
			t.Fatal(err)
		}
		s.cfg.length = map[string]int64{"big": big, "mid": mid, "small": small}[length]
	default:
		t.Fatalf("no such key: %s", key)
	}
}

// begin makes the world with budgets that never end.
func (s *script) begin() *world {
	const lots = 1000
	w := newWorld(s.cfg, budgets{lots, lots, lots, lots, lots, lots, lots, lots, lots, lots, lots, lots, lots, lots, lots, lots, lots, lots})
	w.log = func(line string) { fmt.Fprintf(&s.out, "    %s\n", line) }
	return w
}

func scripts(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatal("no scripts", err)
	}
	return paths
}

// TestScripts runs every script with all rules in force: nothing is violated, and exactly
// what the script says happens.
func TestScripts(t *testing.T) {
	for _, path := range scripts(t) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			s := runScript(t, path, true)
			if s.ended != "" {
				t.Fatalf("violated: %s\n%s", s.ended, s.out.String())
			}
			if *rewrite {
				if err := os.WriteFile(path, s.out.Bytes(), 0o666); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, _ := os.ReadFile(path)
			if !bytes.Equal(want, s.out.Bytes()) {
				t.Errorf("%s: something else happened (accept it with -rewrite):\n%s", path, s.out.String())
			}
		})
	}
}
