//go:build mutant

package model

import (
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	. "github.com/quarryfs/quarry/protocol"
)

var each = flag.Duration("each", 20*time.Second, "time limit of one mutant")

// mutant is a set of rules without which random schedules find a violation. The rules that
// need more than some hundred of them have scripts instead, here or beside the machines.
type mutant struct {
	rules []Rule
	fresh func(*rand.Rand) *world
}

func without(rules ...Rule) mutant { return mutant{rules, fresh} }

var mutants = []mutant{
	without(NoDedup), without(DuplicateAckedEarly), without(AckBeforeSync), without(Majority), without(UncommittedRead),
	without(GapAccepted), without(FenceReportsUnsynced), without(PromiseNotDurable), without(RoleKeptAtFence),
	without(RoleTakenTwice, RestartedMemberStays),
	without(FateBeforeSeal), without(FateFromShort), without(CopyWithoutRecords), without(OldPrepareAccepted),
	without(AnySequenceFirst), without(SequenceGap), without(PublishEarly), without(NoLeaseCheck),
	without(RestartedCounted), without(RestartedAloneDecides), without(NextWithoutFate),
	without(NoClockMargin), without(FailoverWithoutWait), without(RegisterEndsLease),
	{[]Rule{HandleTakenTwice}, freshHandles}, {[]Rule{OwnRangeJudged}, freshHandles}, {[]Rule{JudgedEarly}, freshHandles},
	without(EntryUsedEarly),
	{[]Rule{ReopenUnconfirmed}, freshReopen},
}

func TestMutants(t *testing.T) {
	defer func() { Off = nil }()
	for _, m := range mutants {
		Off = m.rules
		res := random(limit(t, *each), m.fresh, options{seed: *seed, schedules: 20000, steps: 300})
		first, _, _ := strings.Cut(res.violation, "\n")
		if res.violation == "" {
			t.Errorf("nothing is found without %q in %d schedules", m.rules, res.schedules)
		}
		t.Logf("%-60q %5d %s", m.rules, res.schedules, first)
	}
}

// TestMutantScripts runs each script without the rules it names: it must end in a violation.
func TestMutantScripts(t *testing.T) {
	defer func() { Off = nil }()
	for _, path := range scripts(t) {
		for _, rule := range rulesOf(t, path) {
			Off = []Rule{rule}
			s := runScript(t, path, false)
			first, _, _ := strings.Cut(s.ended, "\n")
			if s.ended == "" {
				t.Errorf("%s: nothing is violated without %q\n%s", path, rule, s.out.String())
			}
			t.Logf("%-30s %-45q %s", filepath.Base(path), rule, first)
		}
	}
}

// rulesOf reads the "without" lines of a script.
func rulesOf(t *testing.T, path string) (rules []Rule) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if r, ok := strings.CutPrefix(strings.TrimSpace(line), "without: "); ok {
			rules = append(rules, Rule(r))
		}
	}
	return rules
}

// TestEveryRule: no rule can be added that no test misses.
func TestEveryRule(t *testing.T) {
	var tested []Rule
	for _, m := range mutants {
		tested = append(tested, m.rules...)
	}
	beside, err := filepath.Glob("../testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(scripts(t), beside...) {
		tested = append(tested, rulesOf(t, path)...)
	}
	var all []Rule
	for _, file := range []string{"../rules.go", "rules.go"} {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if s, err := strconv.Unquote(lit.Value); err == nil && !strings.Contains(s, "/") {
					all = append(all, Rule(s))
				}
			}
			return true
		})
	}
	for _, r := range all {
		if !slices.Contains(tested, r) {
			t.Errorf("no test notices that %q does not hold", r)
		}
	}
	for _, r := range tested {
		if !slices.Contains(all, r) {
			t.Errorf("there is no rule %q", r)
		}
	}
}
