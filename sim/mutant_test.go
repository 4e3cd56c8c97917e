//go:build mutant

package sim

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var rulesFlag = flag.String("rules", "", `the rules to switch off, each by itself, with semicolons between them; "all": every one; none: those that a few seeds catch`)

// offVariable names the rules that do not hold in a sub-process; each room reads it.
const offVariable = "QUARRY_OFF"

// quick are the rules that the simulation must catch within quickSeeds seeds: the default run.
var quick = []string{
	"majority", "next chunk without fate", "ack before sync", "uncommitted read",
	"state without the applied index", "handle range reused", "CREATE after logged",
}

const quickSeeds = 6

// hangs is how much processor time a seed must use, many times what it needs, before it is said
// not to end.
const hangs = 40 * time.Second

// mutant is a rule of a room, and what became of the seeds that ran without it.
type mutant struct {
	rule, room string
	tests      []string // what else notices

	seeds  int      // how many were without a violation
	caught []string // the checkers that noticed in the next one; none: not caught
	text   string   // the first violation
}

// TestMutants runs seed after seed without a rule until a checker notices. A seed in which one
// does although every rule holds is left out. All rules have had a seed before one gets the next.
func TestMutants(t *testing.T) {
	if *seedFlag != 0 || os.Getenv(seedVariable) != "" {
		t.Skip("one seed is run by TestOneSeed")
	}
	mutants, seeds := chosen(t), *seedsFlag
	if *rulesFlag == "" {
		seeds = min(seeds, quickSeeds)
	}
	end := time.Now().Add(time.Duration(*minutesFlag * float64(time.Minute)))
	open := slices.Clone(mutants)
	for seed := *fromFlag; seed < *fromFlag+uint64(seeds) && len(open) > 0 && time.Now().Before(end); seed++ {
		if by, text, err := runWithout(t, "", seed); err != nil || by != nil {
			t.Logf("seed %d is left out, it fails when every rule holds, too: %s %v", seed, text, err)
			continue
		}
		each(open, func(m *mutant) {
			if time.Now().After(end) {
				return
			}
			by, text, err := runWithout(t, m.rule, seed)
			switch {
			case err != nil:
				t.Logf("seed %d without %q has no result: %v", seed, m.rule, err)
			case by == nil:
				m.seeds++
			default:
				m.caught, m.text = by, text
			}
		})
		open = slices.DeleteFunc(open, func(m *mutant) bool { return m.caught != nil })
	}
	tell(mutants)
	for _, m := range open {
		if *rulesFlag == "" {
			t.Errorf("%d seeds do not notice that %q does not hold", m.seeds, m.rule)
		}
	}
}

// each calls f for all mutants, some at a time.
func each(mutants []*mutant, f func(*mutant)) {
	next := make(chan *mutant)
	var pool sync.WaitGroup
	for range runtime.NumCPU() {
		pool.Go(func() {
			for m := range next {
				f(m)
			}
		})
	}
	for _, m := range mutants {
		next <- m
	}
	close(next)
	pool.Wait()
}

// runWithout runs a seed without a rule and returns which checkers noticed, and the first of
// what they found; nil if none did. An error is no verdict.
func runWithout(t *testing.T, rule string, seed uint64) (by []string, text string, err error) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	o, processor, err := child(ctx, t.TempDir(), seed, offVariable+"="+rule)
	if err == nil {
		for _, v := range o.Violations {
			if c := checker(v); !slices.Contains(by, c) {
				by, text = append(by, c), cmp.Or(text, v)
			}
		}
		return by, text, nil
	}
	if ctx.Err() != nil {
		if processor > hangs {
			return []string{"it does not end"}, err.Error(), nil
		}
		return nil, "", err
	}
	for _, how := range []string{"panic: ", "fatal error: ", "--- FAIL"} { // the first says most
		for line := range strings.Lines(err.Error()) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, how) {
				return []string{"the process: " + line[:min(len(line), 80)]}, err.Error(), nil
			}
		}
	}
	return nil, "", err
}

var historyChecker = regexp.MustCompile(`^VIOLATION \(([^)]*)\)`)

// checker returns the name of the checker that a violation is from.
func checker(violation string) string {
	if m := historyChecker.FindStringSubmatch(violation); m != nil {
		return "history: " + m[1]
	}
	name, _, _ := strings.Cut(violation, ":")
	return name[:min(len(name), 60)]
}

// tell prints the table of docs/testing.md.
func tell(mutants []*mutant) {
	slices.SortStableFunc(mutants, func(a, b *mutant) int {
		if (a.caught == nil) != (b.caught == nil) {
			return cmp.Compare(len(b.caught), len(a.caught))
		}
		return cmp.Compare(a.seeds, b.seeds)
	})
	fmt.Println("| without the rule | room | seeds until caught | by |\n|---|---|---|---|")
	for _, m := range mutants {
		seed, by := fmt.Sprintf("not in %d", m.seeds), "elsewhere: "+strings.Join(m.tests, ", ")
		switch {
		case m.caught != nil:
			seed, by = strconv.Itoa(m.seeds+1), strings.Join(m.caught, "; ")
		case m.seeds == 0:
			seed = "not run"
		}
		fmt.Printf("| %s | `%s` | %s | %s |\n", m.rule, m.room, seed, by)
	}
	if !testing.Verbose() {
		return
	}
	for _, m := range mutants {
		if m.caught != nil {
			fmt.Printf("\nwithout %q: %s\n", m.rule, m.text[:min(len(m.text), 1500)])
		}
	}
}

// chosen returns the rules that the flag names.
func chosen(t *testing.T) (mutants []*mutant) {
	t.Helper()
	all := protocolRules(t)
	for _, room := range []string{"meta", "raft", "master/chunks"} {
		all = append(all, masterRules(t, room)...)
	}
	names := quick
	switch *rulesFlag {
	case "":
	case "all":
		return all
	default:
		names = strings.Split(*rulesFlag, ";")
	}
	for _, name := range names {
		i := slices.IndexFunc(all, func(m *mutant) bool { return m.rule == strings.TrimSpace(name) })
		if i < 0 {
			t.Fatalf("there is no rule %q", name)
		}
		mutants = append(mutants, all[i])
	}
	return mutants
}

// constants returns the rules of a room by the names of their constants, and in their order.
func constants(t *testing.T, room string) (rules map[string]*mutant, order []*mutant) {
	t.Helper()
	rules = map[string]*mutant{}
	ast.Inspect(parse(t, filepath.Join("..", room, "rules.go")), func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Values) == 1 {
			m := &mutant{rule: text(t, spec.Values[0]), room: room}
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

// masterRules returns the rules of a room of the masters, with the tests that its mutants_test.go
// has for them.
func masterRules(t *testing.T, room string) []*mutant {
	t.Helper()
	rules, order := constants(t, room)
	ast.Inspect(parse(t, filepath.Join("..", room, "mutants_test.go")), func(n ast.Node) bool {
		pair, ok := n.(*ast.CompositeLit)
		if !ok || len(pair.Elts) != 2 {
			return true
		}
		if id, ok := pair.Elts[0].(*ast.Ident); ok && rules[id.Name] != nil {
			rules[id.Name].tests = append(rules[id.Name].tests, text(t, pair.Elts[1]))
		}
		return true
	})
	return allTested(t, order)
}

// protocolRules returns the rules of the protocol, with the scripts that name them and the
// model's random schedules.
func protocolRules(t *testing.T) []*mutant {
	t.Helper()
	rules, order := constants(t, "protocol")
	for _, dir := range []string{"protocol/testdata", "protocol/model/testdata"} {
		paths, err := filepath.Glob(filepath.Join("..", dir, "*.txt"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			script, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range order {
				if strings.Contains(string(script), "without: "+m.rule+"\n") {
					m.tests = append(m.tests, dir+"/"+filepath.Base(path))
				}
			}
		}
	}
	ast.Inspect(parse(t, "../protocol/model/mutant_test.go"), func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if f, ok := call.Fun.(*ast.Ident); !ok || f.Name != "without" {
			return true
		}
		for _, arg := range call.Args {
			if id, ok := arg.(*ast.Ident); ok && rules[id.Name] != nil {
				rules[id.Name].tests = append(rules[id.Name].tests, "protocol/model")
			}
		}
		return true
	})
	return allTested(t, order)
}

// allTested wants a test beside the simulation for each rule.
func allTested(t *testing.T, mutants []*mutant) []*mutant {
	t.Helper()
	for _, m := range mutants {
		if len(m.tests) == 0 {
			t.Errorf("no test is found that notices without %q of %s", m.rule, m.room)
		}
	}
	return mutants
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
