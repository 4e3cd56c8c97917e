package test

import (
	"strings"
	"testing"

	"github.com/quarryfs/quarry/chaos"
)

// TestSelftestFindsBrokenRules switches rules of the protocol off, each in a whole cluster of
// processes and its clients, and has a selftest find out: it shows a violation with a history of
// a few operations. A seed may miss it, most of all on a busy machine, six in a row do not.
func TestSelftestFindsBrokenRules(t *testing.T) {
	t.Parallel()
	rules := []struct{ rule, faults string }{{"next chunk without fate", "kill"}}
	if long() {
		rules = append(rules, struct{ rule, faults string }{"no dedup", "reset,partition"})
	}
	binary, err := mutant()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		t.Run(r.rule, func(t *testing.T) {
			for _, seed := range []string{"1", "2", "3", "4", "5", "6"} {
				report, page, code := selftest(t, binary, []string{"QUARRY_OFF=" + r.rule}, "--duration", "15s", "--seed", seed, "--faults", r.faults)
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
