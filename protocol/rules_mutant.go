//go:build mutant

package protocol

// Off are the rules that do not hold. Only tests set it, and only while no machine runs.
var Off []Rule

func off(r Rule) bool {
	for _, o := range Off {
		if o == r {
			return true
		}
	}
	return false
}
