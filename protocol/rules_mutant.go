//go:build mutant

package protocol

import (
	"os"
	"strings"
)

// Off are the rules that do not hold: at first those that the variable QUARRY_OFF of the
// environment names, with semicolons between them. Only tests set it, and only while no machine
// runs.
var Off = rulesOff(os.Getenv("QUARRY_OFF"))

func rulesOff(list string) (rules []Rule) {
	for name := range strings.SplitSeq(list, ";") {
		rules = append(rules, Rule(name))
	}
	return rules
}

func off(r Rule) bool {
	for _, o := range Off {
		if o == r {
			return true
		}
	}
	return false
}
