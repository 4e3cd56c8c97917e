//go:build mutant

package master

import (
	"os"
	"slices"
	"strings"
)

// Off are the rules that do not hold: at first those that the variable QUARRY_OFF of the
// environment names, with semicolons between them. Only tests set it, and only while nothing
// runs.
var Off = rulesOff(os.Getenv("QUARRY_OFF"))

func rulesOff(list string) (rules []Rule) {
	for _, name := range strings.Split(list, ";") {
		rules = append(rules, Rule(name))
	}
	return rules
}

func off(r Rule) bool { return slices.Contains(Off, r) }
