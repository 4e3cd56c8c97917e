package mutanttest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Rule is a rule of a room that can be switched off, and which tests notice.
type Rule struct {
	Name, Room string
	Tests      []string
}

// constants returns the rules of a room by the names of their constants, and in their order.
func constants(t *testing.T, root, room string) (rules map[string]*Rule, order []*Rule) {
	t.Helper()
	rules = map[string]*Rule{}
	ast.Inspect(parse(t, filepath.Join(root, room, "rules.go")), func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Values) == 1 {
			m := &Rule{Name: text(t, spec.Values[0]), Room: room}
			rules[spec.Names[0].Name] = m
			order = append(order, m)
		}
		return true
	})
	if len(order) == 0 {
		t.Fatalf("room %s has no rules", room)
	}
	return rules, order
}

// Room returns the rules of a room, with the tests that its mutants_test.go has for them. root
// is the module's folder.
func Room(t *testing.T, root, room string) []*Rule {
	t.Helper()
	rules, order := constants(t, root, room)
	ast.Inspect(parse(t, filepath.Join(root, room, "mutants_test.go")), func(n ast.Node) bool {
		pair, ok := n.(*ast.KeyValueExpr)
		if !ok {
			return true
		}
		if id, ok := pair.Key.(*ast.Ident); ok && rules[id.Name] != nil {
			rules[id.Name].Tests = append(rules[id.Name].Tests, text(t, pair.Value))
		}
		return true
	})
	return allTested(t, order)
}

// Protocol returns the rules of the chunk protocol, with the scripts that name them and the
// model's random schedules. root is the module's folder.
func Protocol(t *testing.T, root string) []*Rule {
	t.Helper()
	rules, order := constants(t, root, "protocol")
	for _, dir := range []string{"protocol/testdata", "protocol/model/testdata"} {
		paths, err := filepath.Glob(filepath.Join(root, dir, "*.txt"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			script, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range order {
				if strings.Contains(string(script), "without: "+m.Name+"\n") {
					m.Tests = append(m.Tests, dir+"/"+filepath.Base(path))
				}
			}
		}
	}
	ast.Inspect(parse(t, filepath.Join(root, "protocol/model/mutant_test.go")), func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if f, ok := call.Fun.(*ast.Ident); !ok || f.Name != "without" {
			return true
		}
		for _, arg := range call.Args {
			if id, ok := arg.(*ast.Ident); ok && rules[id.Name] != nil {
				rules[id.Name].Tests = append(rules[id.Name].Tests, "protocol/model")
			}
		}
		return true
	})
	return allTested(t, order)
}

// allTested wants a test beside the simulation for each rule.
func allTested(t *testing.T, rules []*Rule) []*Rule {
	t.Helper()
	for _, m := range rules {
		if len(m.Tests) == 0 {
			t.Errorf("no test is found that notices without %q of %s", m.Name, m.Room)
		}
	}
	return rules
}

func parse(t *testing.T, path string) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// text is the string that a literal is.
func text(t *testing.T, e ast.Expr) string {
	t.Helper()
	lit, ok := e.(*ast.BasicLit)
	if !ok {
		t.Fatalf("%T is no literal", e)
	}
	s, err := strconv.Unquote(lit.Value)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
