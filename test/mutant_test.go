package test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/quarryfs/quarry/chaos"
)

// brokenBuild returns a binary in which rules can be switched off.
func brokenBuild(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "quarry")
	if out, err := exec.Command("go", "build", "-tags", "mutant", "-o", name, "github.com/quarryfs/quarry/cmd/quarry").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return name
}

// TestSelftestFindsBrokenRules switches rules of the protocol off, each in a whole cluster of
// processes and its clients, and has a selftest find out: it shows a violation with a history of
// a few operations. A seed may miss it, three in a row do not.
func TestSelftestFindsBrokenRules(t *testing.T) {
	rules := []struct{ rule, faults string }{{"next chunk without fate", "kill"}}
	if long() {
		rules = append(rules, struct{ rule, faults string }{"no dedup", "reset,partition"})
	}
	binary := brokenBuild(t)
	for _, r := range rules {
		t.Run(r.rule, func(t *testing.T) {
			t.Setenv("QUARRY_OFF", r.rule)
			for _, seed := range []string{"1", "2", "3"} {
				report, page, code := selftest(t, binary, "--duration", "15s", "--seed", seed, "--faults", r.faults)
				if report.Verdict != chaos.Violated {
					t.Logf("seed %s does not find it", seed)
					continue
				}
				if code != 9 || report.Violations == 0 || len(report.ViolationList) != report.Violations {
					t.Errorf("exit code %d, %d violations, %d listed", code, report.Violations, len(report.ViolationList))
				}
				v := report.ViolationList[0]
				t.Logf("seed %s: %s: %s (%d operations)", seed, v.Rule, v.Text, len(v.Ops))
				if n := len(v.Ops); n < 1 || n > 8 {
					t.Errorf("it shows %d operations", n)
				}
				wellFormed(t, page)
				if !strings.Contains(page, "A promise was broken") {
					t.Error("the page does not say so")
				}
				return
			}
			t.Errorf("nothing is found without %q", r.rule)
		})
	}
}
