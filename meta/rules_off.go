//go:build !mutant

package meta

func off(Rule) bool { return false }
