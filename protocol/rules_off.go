//go:build !mutant

package protocol

func off(Rule) bool { return false }
