// Package mutanttest runs the tests of a room without one of its rules, to show that they
// notice. A room has its rules in rules.go, as constants of a type of its own; under the build
// tag "mutant" the variable QUARRY_OFF says which of them do not hold in a process. [Run] is
// the whole test of a room that knows which of its tests notice; [Protocol] and [Room] list the
// rules with those tests, for whoever asks others.
package mutanttest

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Off is the variable of a process's environment that names the rules that do not hold in it.
const Off = "QUARRY_OFF"

// Run runs, for each rule, its tests in a process in which the rule does not hold: they must
// fail there, not hang, and pass where every rule holds. tests names for each rule of the room
// the tests of its package that notice, as -run takes them. A rule that is missing fails t.
func Run[R ~string](t *testing.T, tests map[R]string) {
	src, err := os.ReadFile("rules.go")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(regexp.MustCompile(`Rule = "`).FindAll(src, -1)); n != len(tests) {
		t.Errorf("there are %d rules, and tests for %d", n, len(tests))
	}
	var rules []R
	var all []string
	for rule, names := range tests {
		rules = append(rules, rule)
		all = append(all, names)
	}
	slices.Sort(rules)
	slices.Sort(all)
	for _, rule := range rules {
		t.Run(string(rule), func(t *testing.T) {
			out, err := without(string(rule), tests[rule])
			if err == nil {
				t.Fatalf("%s did not notice", tests[rule])
			}
			if strings.Contains(out, "test timed out") {
				t.Errorf("it hangs: that is no verdict\n%s", out)
			}
		})
	}
	if out, err := without("", strings.Join(slices.Compact(all), "|")); err != nil {
		t.Errorf("with every rule the tests fail, too: %v\n%s", err, out)
	}
}

// without runs tests of this binary in a process without a rule.
func without(rule, tests string) (string, error) {
	cmd := exec.Command(os.Args[0], "-test.run", "^("+tests+")$", "-test.timeout", "100s")
	cmd.Env = append(os.Environ(), Off+"="+rule)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
