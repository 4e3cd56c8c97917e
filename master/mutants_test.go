//go:build mutant

package master

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// mutants are the rules, each with the tests of this room that notice when it does not hold.
var mutants = []struct {
	rule  Rule
	tests string
}{
	{ToldBeforeLogged, "TestCrashesAcrossShards"},
	{IntentPassedOver, "TestReadersMeetIntents"},
	{MovedOutOfOrder, "TestDirectoriesMovedIntoEachOther"},
}

// TestMutants runs, for each rule, its tests in a process in which the rule does not hold:
// they must fail there, and pass where every rule holds.
func TestMutants(t *testing.T) {
	src, err := os.ReadFile("rules.go")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(regexp.MustCompile(`Rule = "`).FindAll(src, -1)); n != len(mutants) {
		t.Errorf("there are %d rules, and tests for %d", n, len(mutants))
	}
	run := func(rule Rule, tests string) (string, error) {
		cmd := exec.Command(os.Args[0], "-test.run", "^("+tests+")$", "-test.timeout", "100s")
		cmd.Env = append(os.Environ(), "QUARRY_OFF="+string(rule))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, m := range mutants {
		t.Run(string(m.rule), func(t *testing.T) {
			out, err := run(m.rule, m.tests)
			if err == nil {
				t.Errorf("%s pass without the rule", m.tests)
			} else if !strings.Contains(out, "--- FAIL") {
				t.Errorf("%s do not fail but break: %v\n%s", m.tests, err, out)
			}
		})
	}
	var all []string
	for _, m := range mutants {
		all = append(all, m.tests)
	}
	if out, err := run("", strings.Join(all, "|")); err != nil {
		t.Errorf("with every rule the tests fail, too: %v\n%s", err, out)
	}
}
